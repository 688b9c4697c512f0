// RaftLog: hard state, entries and snapshots on disk, sealed. append() resolves after one fdatasync of the batch.
// Files in the directory: "<number>.log" segments in order, "<index>.snap" snapshots (written aside, synced, renamed).
// Damage that is not an unfinished last write is refused with RaftLogDamaged: nothing is dropped silently. segment.ts
// says how the two are told apart. What cannot be seen locally: the loss of the whole newest segment; and damage to the
// very last batch when the power also failed before the note of its sync reached the disk.

import { randomBytes } from 'node:crypto';
import { mkdir, open as openFile, readFile, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { assert } from '../../lib/assert.js';
import {
  EntryKind as WireKind, LogBatchSchema, LogRecordSchema, SnapshotFileSchema, type LogRecord, type SnapshotFile,
} from '../../model/proto/skein_pb.js';
import type { Entry, HardState } from '../../core/raft/raft.js';
import { SALT_BYTES, TAG_BYTES, fileKey, open, seal } from './seal.js';
import { HEADER_BYTES, NOTE_OFFSET, encodeBatch, encodeHeader, encodeNote, readSegment } from './segment.js';

const SEGMENT_BYTES_MAX = 64 * 1024 * 1024;
/** An append of more becomes several batches, each with its own sync. */
const BATCH_BYTES = 16 * 1024 * 1024;
const RECORD_OVERHEAD = 64;
const SNAPSHOT_MAGIC = Buffer.from('SKNSNP01', 'latin1');
const ZERO_TAG = Buffer.alloc(TAG_BYTES);

export class RaftLogDamaged extends Error {
  constructor(file: string, reason: string) {
    super(`raft log ${file} is damaged: ${reason}. Restore this manager from a backup, or remove it from the swarm and join it again`);
    this.name = 'RaftLogDamaged';
  }
}

export interface LoadedLog {
  readonly snapshot: SnapshotFile | undefined;
  readonly hardState: HardState;
  /** After the snapshot, contiguous. */
  readonly entries: readonly Entry[];
  /** Bytes of an unfinished last write that were cut off. */
  readonly tornBytes: number;
}

interface Segment {
  readonly number: number;
  readonly file: string;
  /** Highest entry index inside; 0 when none. */
  lastIndex: bigint;
}

export class RaftLog {
  private segments: Segment[] = [];
  private current: FileHandle | undefined;
  private currentBytes = 0;
  private key: Buffer = Buffer.alloc(0);
  private sequence = 0n;
  private tag: Buffer = ZERO_TAG;
  private busy = false;
  private readonly directory: string;
  private readonly dek: Uint8Array;

  constructor(directory: string, dek: Uint8Array) {
    assert(dek.length === 32, 'a data key of 32 bytes');
    this.directory = directory;
    this.dek = dek;
  }

  async load(): Promise<LoadedLog> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    const snapshot = await this.loadSnapshot();
    const records = await this.loadSegments();
    const { hardState, entries } = replay(records.records, snapshot);
    await this.openSegment();
    return { snapshot, hardState, entries, tornBytes: records.tornBytes };
  }

  /** Appends and syncs. One call at a time. */
  async append(hardState: HardState | undefined, entries: readonly Entry[]): Promise<void> {
    assert(!this.busy, 'one append at a time');
    this.busy = true;
    const records = entries.map(entryRecord);
    if (hardState !== undefined) records.push(hardRecord(hardState));
    for (const batch of inBatches(records)) await this.writeBatch(batch);
    const segment = this.segments.at(-1);
    const last = entries.at(-1);
    if (segment !== undefined && last !== undefined) segment.lastIndex = last.index;
    if (this.currentBytes > SEGMENT_BYTES_MAX) await this.openSegment();
    this.busy = false;
  }

  private async writeBatch(records: readonly LogRecord[]): Promise<void> {
    assert(this.current !== undefined, 'append before load');
    const plain = toBinary(LogBatchSchema, create(LogBatchSchema, { records: [...records] }));
    const { bytes, tag } = encodeBatch(this.key, this.sequence, this.tag, plain);
    await writeAll(this.current, bytes, this.currentBytes);
    await this.current.datasync();
    this.sequence += 1n;
    this.tag = tag;
    this.currentBytes += bytes.length;
    // Not synced: it reaches the disk with the next batch, or by itself a little later.
    await writeAll(this.current, encodeNote(this.key, this.currentBytes), NOTE_OFFSET);
  }

  /** Stores a snapshot and drops the segments and snapshots it replaces. The hard state is written anew. */
  async saveSnapshot(snapshot: SnapshotFile, hardState: HardState): Promise<void> {
    assert(!this.busy, 'no append while saving a snapshot');
    const salt = randomBytes(SALT_BYTES);
    const sealed = seal(fileKey(this.dek, salt, 'raft snapshot'), 0n, ZERO_TAG, toBinary(SnapshotFileSchema, snapshot));
    const name = `${snapshot.index.toString(16).padStart(16, '0')}.snap`;
    const temporary = path.join(this.directory, `${name}.tmp`);
    const handle = await openFile(temporary, 'w', 0o600);
    await writeAll(handle, Buffer.concat([SNAPSHOT_MAGIC, salt, sealed.data, sealed.tag]), 0);
    await handle.sync();
    await handle.close();
    await rename(temporary, path.join(this.directory, name));
    await this.syncDirectory();
    await this.openSegment();
    await this.append(hardState, []);
    await this.compact(snapshot.index, name);
  }

  async close(): Promise<void> {
    await this.current?.datasync();
    await this.current?.close();
    this.current = undefined;
  }

  private async compact(index: bigint, keep: string): Promise<void> {
    // A segment may go when it and every one before it hold nothing after the snapshot; the newest stays.
    while (this.segments.length > 1 && (this.segments[0] as Segment).lastIndex <= index) {
      await rm(path.join(this.directory, (this.segments.shift() as Segment).file));
    }
    for (const file of await readdir(this.directory)) {
      if ((file.endsWith('.snap') && file < keep) || file.endsWith('.tmp')) await rm(path.join(this.directory, file));
    }
  }

  private async loadSnapshot(): Promise<SnapshotFile | undefined> {
    const files = (await readdir(this.directory)).filter((file) => file.endsWith('.snap')).sort();
    const newest = files.at(-1);
    if (newest === undefined) return undefined;
    const bytes = await readFile(path.join(this.directory, newest));
    if (bytes.length < 8 + SALT_BYTES + TAG_BYTES || !bytes.subarray(0, 8).equals(SNAPSHOT_MAGIC)) {
      throw new RaftLogDamaged(newest, 'not a snapshot');
    }
    const key = fileKey(this.dek, bytes.subarray(8, 8 + SALT_BYTES), 'raft snapshot');
    const plain = open(key, 0n, ZERO_TAG, bytes.subarray(8 + SALT_BYTES, -TAG_BYTES), bytes.subarray(-TAG_BYTES));
    if (plain === undefined) throw new RaftLogDamaged(newest, 'snapshot does not match its authentication tag');
    return fromBinary(SnapshotFileSchema, plain);
  }

  private async loadSegments(): Promise<{ records: LogRecord[]; tornBytes: number }> {
    const files = (await readdir(this.directory)).filter((file) => file.endsWith('.log')).sort();
    const records: LogRecord[] = [];
    let tornBytes = 0;
    for (const [position, file] of files.entries()) {
      const bytes = await readFile(path.join(this.directory, file));
      const contents = readSegment(bytes, this.dek);
      if ('reason' in contents) throw new RaftLogDamaged(file, `${contents.reason} at byte ${contents.offset}`);
      if (contents.tornBytes > 0) {
        if (position !== files.length - 1) throw new RaftLogDamaged(file, 'it ends inside a batch but is not the newest segment');
        await cutTo(path.join(this.directory, file), bytes.length - contents.tornBytes);
        tornBytes = contents.tornBytes;
        if (bytes.length - contents.tornBytes < HEADER_BYTES) {
          // Not even a header: the segment never began.
          await rm(path.join(this.directory, file));
          break;
        }
      }
      if (position > 0 && !contents.previousTag.equals(this.tag)) {
        throw new RaftLogDamaged(file, 'it does not continue the segment before it');
      }
      this.tag = contents.lastTag;
      const decoded = contents.batches.flatMap((batch) => fromBinary(LogBatchSchema, batch).records);
      const indexes = decoded.map(({ record }) => (record.case === 'entry' ? record.value.index : 0n));
      const lastIndex = indexes.reduce((max, index) => (index > max ? index : max), 0n);
      // Read from the cache of a process that was killed, it may not be on disk: what follows builds on it.
      if (position === files.length - 1) await syncFile(path.join(this.directory, file));
      this.segments.push({ number: Number.parseInt(file, 16), file, lastIndex });
      records.push(...decoded);
    }
    return { records, tornBytes };
  }

  private async openSegment(): Promise<void> {
    await this.current?.close();
    const number = (this.segments.at(-1)?.number ?? 0) + 1;
    const file = `${number.toString(16).padStart(16, '0')}.log`;
    const salt = randomBytes(SALT_BYTES);
    const handle = await openFile(path.join(this.directory, file), 'w', 0o600);
    await writeAll(handle, encodeHeader(this.dek, salt, this.tag), 0);
    await handle.datasync();
    await this.syncDirectory();
    this.segments.push({ number, file, lastIndex: 0n });
    this.current = handle;
    this.currentBytes = HEADER_BYTES;
    this.sequence = 0n;
    this.key = fileKey(this.dek, salt, 'raft log');
  }

  private async syncDirectory(): Promise<void> {
    const handle = await openFile(this.directory, 'r');
    await handle.sync();
    await handle.close();
  }
}

/** On disk before a newer segment exists: behind one, an unfinished record counts as damage. */
async function cutTo(file: string, size: number): Promise<void> {
  const handle = await openFile(file, 'r+');
  await handle.truncate(size);
  await handle.sync();
  await handle.close();
}

async function syncFile(file: string): Promise<void> {
  const handle = await openFile(file, 'r+');
  await handle.sync();
  await handle.close();
}

async function writeAll(handle: FileHandle, bytes: Buffer, position: number): Promise<void> {
  let offset = 0;
  while (offset < bytes.length) {
    const { bytesWritten } = await handle.write(bytes, offset, bytes.length - offset, position + offset);
    offset += bytesWritten;
  }
}

function inBatches(records: readonly LogRecord[]): LogRecord[][] {
  const batches: LogRecord[][] = [];
  let bytes = Infinity;
  for (const record of records) {
    const size = RECORD_OVERHEAD + (record.record.case === 'entry' ? record.record.value.data.length : 0);
    if (bytes + size > BATCH_BYTES) {
      batches.push([]);
      bytes = 0;
    }
    batches.at(-1)?.push(record);
    bytes += size;
  }
  return batches;
}

function entryRecord(entry: Entry): LogRecord {
  const kind = entry.kind === 'normal' ? WireKind.NORMAL : WireKind.CONF_CHANGE;
  return create(LogRecordSchema, {
    record: { case: 'entry', value: { $typeName: 'skein.v1.Entry', index: entry.index, term: entry.term, kind, data: entry.data } },
  });
}

function hardRecord(state: HardState): LogRecord {
  return create(LogRecordSchema, {
    record: { case: 'hardState', value: { $typeName: 'skein.v1.HardState', term: state.term, vote: state.vote, commit: state.commit } },
  });
}

/** Later records win: an entry replaces what was at its index and everything after it. */
function replay(records: readonly LogRecord[], snapshot: SnapshotFile | undefined): { hardState: HardState; entries: Entry[] } {
  const base = snapshot?.index ?? 0n;
  let hardState: HardState = { term: snapshot?.term ?? 0n, vote: 0n, commit: base };
  const entries: Entry[] = [];
  for (const { record } of records) {
    if (record.case === 'hardState') {
      hardState = { term: record.value.term, vote: record.value.vote, commit: record.value.commit };
    } else if (record.case === 'entry') {
      const { index, term, data } = record.value;
      if (index <= base) continue;
      const at = Number(index - base - 1n);
      if (at > entries.length) throw new RaftLogDamaged('', `entries are missing before index ${index}`);
      entries.length = at;
      entries.push({ index, term, kind: record.value.kind === WireKind.NORMAL ? 'normal' : 'confChange', data });
    }
  }
  if (hardState.commit < base) hardState = { ...hardState, commit: base };
  return { hardState, entries };
}
