// RaftLog: hard state, entries and snapshots on disk, sealed. append() resolves after one fdatasync of the batch.
// Files in the directory: "<number>.log" segments in order, "<index>.snap" snapshots (written aside, synced, renamed).
// Damage that is not an unfinished last write is refused with RaftLogDamaged: nothing is dropped silently. segment.ts
// says how the two are told apart. The data key may be replaced: files are read with either key and written with the new
// one; the old one is needed until the last file of its is gone. What cannot be seen locally: the loss of the whole
// newest segment; and damage to the
// very last batch when the power also failed before the note of its sync reached the disk.

import { randomBytes } from 'node:crypto';
import { fdatasync, writeSync } from 'node:fs';
import { mkdir, open as openFile, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { toBinary } from '@bufbuild/protobuf';
import { assert } from '../../lib/assert.js';
import { SnapshotFileSchema, type LogRecord, type SnapshotFile } from '../../model/proto/skein_pb.js';
import type { Entry, HardState } from '../../core/raft/types.js';
import { readSegmentAt, readSnapshot, readWhole } from './files.js';
import { encodeRecords, type RecordOut } from './records.js';
import { RaftLogDamaged, replay, type LoadedLog } from './replay.js';
import { SALT_BYTES, TAG_BYTES, fileKey, sealSnapshot } from './seal.js';
import { HEADER_BYTES, NOTE_OFFSET, encodeBatch, encodeHeader, encodeNote, isSealedWith } from './segment.js';

const SEGMENT_BYTES_MAX = 64 * 1024 * 1024;
/** An append of more becomes several batches, each with its own sync. */
const BATCH_BYTES = 16 * 1024 * 1024;
const RECORD_OVERHEAD = 64;
/** More is written by another thread. */
const WRITE_HERE_BYTES = 256 * 1024;
const DEK_BYTES = 32;
const ZERO_TAG = Buffer.alloc(TAG_BYTES);

export { RaftLogDamaged };
export type { LoadedLog };

interface Segment {
  readonly number: number;
  readonly file: string;
  /** Highest entry index inside; 0 when none. */
  lastIndex: bigint;
  /** Sealed with the key that new files are sealed with. */
  newKey: boolean;
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
  /** Of new files. */
  private dek: Uint8Array;
  /** Files of before its replacement may have this one. */
  private oldDek: Uint8Array | undefined;
  private hasSnapshot = false;
  private snapshotNewKey = true;

  /** `pending` replaces `dek`: a replacement that began in an earlier life of the process. */
  constructor(directory: string, dek: Uint8Array, pending?: Uint8Array) {
    assert(dek.length === DEK_BYTES && (pending === undefined || pending.length === DEK_BYTES), 'data keys of 32 bytes');
    this.directory = directory;
    this.dek = pending ?? dek;
    this.oldDek = pending === undefined ? undefined : dek;
  }

  /** Whether a file is left that only the key before the newest opens. */
  get oldKeyNeeded(): boolean {
    return !this.snapshotNewKey || this.segments.some(({ newKey }) => !newKey);
  }

  /** What is written from now on is sealed with this key. A snapshot of everything makes the old key unneeded. */
  async rekey(dek: Uint8Array): Promise<void> {
    assert(dek.length === DEK_BYTES, 'a data key of 32 bytes');
    assert(!this.busy, 'no append while the key changes');
    if (Buffer.compare(dek, this.dek) === 0) return;
    assert(!this.oldKeyNeeded, 'one replacement at a time');
    this.oldDek = this.dek;
    this.dek = dek;
    this.snapshotNewKey = !this.hasSnapshot;
    for (const segment of this.segments) segment.newKey = false;
    await this.openSegment();
  }

  async load(): Promise<LoadedLog> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    // A snapshot that was never finished, perhaps because the disk was full: its room is needed to begin at all.
    for (const file of await readdir(this.directory)) if (file.endsWith('.tmp')) await rm(path.join(this.directory, file));
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
    const records: RecordOut[] = entries.map((entry) => ({ kind: 'entry', entry }));
    if (hardState !== undefined) records.push({ kind: 'hardState', hardState });
    for (const batch of inBatches(records)) await this.writeBatch(batch);
    const segment = this.segments.at(-1);
    const last = entries.at(-1);
    if (segment !== undefined && last !== undefined) segment.lastIndex = last.index;
    if (this.currentBytes > SEGMENT_BYTES_MAX) await this.openSegment();
    this.busy = false;
  }

  private async writeBatch(records: readonly RecordOut[]): Promise<void> {
    assert(this.current !== undefined, 'append before load');
    const { bytes, tag } = encodeBatch(this.key, this.sequence, this.tag, encodeRecords(records));
    // Into the page cache, which takes less time than to ask another thread for it; the sync is what takes long.
    if (bytes.length <= WRITE_HERE_BYTES) writeHere(this.current, bytes, this.currentBytes);
    else await writeAll(this.current, bytes, this.currentBytes);
    await datasync(this.current);
    this.sequence += 1n;
    this.tag = tag;
    this.currentBytes += bytes.length;
    // Not synced: it reaches the disk with the next batch, or by itself a little later.
    writeHere(this.current, encodeNote(this.key, this.currentBytes), NOTE_OFFSET);
  }

  /**
   * Stores a snapshot and drops the segments it replaces, and the snapshots but for the newest `keepOld`. The hard state is
   * written anew.
   */
  async saveSnapshot(snapshot: SnapshotFile, hardState: HardState, keepOld = 0): Promise<void> {
    // Those that the key before opens are not kept: it is to be forgotten.
    const kept = this.oldKeyNeeded ? 0 : keepOld;
    const name = await this.writeSnapshot(snapshot);
    await this.openSegment();
    await this.append(hardState, []);
    await this.compact(snapshot.index, name, kept);
  }

  /** Written aside, synced, renamed; resolves with its name. */
  private async writeSnapshot(snapshot: SnapshotFile): Promise<string> {
    assert(!this.busy, 'no append while saving a snapshot');
    const sealed = sealSnapshot(this.dek, randomBytes(SALT_BYTES), toBinary(SnapshotFileSchema, snapshot));
    const name = `${snapshot.index.toString(16).padStart(16, '0')}.snap`;
    const temporary = path.join(this.directory, `${name}.tmp`);
    const handle = await openFile(temporary, 'w', 0o600);
    await writeAll(handle, sealed, 0);
    await handle.sync();
    await handle.close();
    await rename(temporary, path.join(this.directory, name));
    await this.syncDirectory();
    this.hasSnapshot = true;
    this.snapshotNewKey = true;
    return name;
  }

  /**
   * Stores a snapshot of the leader, which takes the place of the whole log: entries after it are other ones, or none. Of the
   * hard state it keeps the term and the vote: what is committed beyond the snapshot is said with its entries.
   */
  async installSnapshot(snapshot: SnapshotFile, { term, vote }: Omit<HardState, 'commit'>): Promise<void> {
    const name = await this.writeSnapshot(snapshot);
    await this.openSegment();
    await this.writeBatch([
      { kind: 'reset', index: snapshot.index, term: snapshot.term }, { kind: 'hardState', hardState: { term, vote, commit: snapshot.index } },
    ]);
    for (const segment of this.segments) segment.lastIndex = 0n;
    await this.compact(snapshot.index, name, 0);
  }

  async close(): Promise<void> {
    await this.current?.datasync();
    await this.current?.close();
    this.current = undefined;
  }

  private async compact(index: bigint, newest: string, keepOld: number): Promise<void> {
    // A segment may go when it and every one before it hold nothing after the snapshot; the newest stays.
    while (this.segments.length > 1 && (this.segments[0] as Segment).lastIndex <= index) {
      await rm(path.join(this.directory, (this.segments.shift() as Segment).file));
    }
    const files = (await readdir(this.directory)).sort();
    const old = files.filter((file) => file.endsWith('.snap') && file < newest);
    for (const file of [...old.slice(0, Math.max(old.length - keepOld, 0)), ...files.filter((name) => name.endsWith('.tmp'))]) {
      await rm(path.join(this.directory, file));
    }
    // Their key may be forgotten next: what came back after a power failure would be taken for damage.
    if (this.oldDek !== undefined) await this.syncDirectory();
  }

  private async loadSnapshot(): Promise<SnapshotFile | undefined> {
    const files = (await readdir(this.directory)).filter((file) => file.endsWith('.snap')).sort();
    const newest = files.at(-1);
    if (newest === undefined) return undefined;
    const { file, dek } = readSnapshot(newest, await readWhole(path.join(this.directory, newest)), this.deks);
    this.hasSnapshot = true;
    this.snapshotNewKey = dek === this.dek;
    return file;
  }

  private get deks(): readonly Uint8Array[] {
    return this.oldDek === undefined ? [this.dek] : [this.dek, this.oldDek];
  }

  private async loadSegments(): Promise<{ records: LogRecord[]; tornBytes: number }> {
    const files = (await readdir(this.directory)).filter((file) => file.endsWith('.log')).sort();
    const records: LogRecord[] = [];
    let tornBytes = 0;
    for (const [position, file] of files.entries()) {
      const bytes = await readWhole(path.join(this.directory, file));
      const newKey = this.oldDek === undefined || !isSealedWith(bytes, this.oldDek);
      const last = position === files.length - 1;
      const segment = readSegmentAt(file, bytes, this.deks, { first: position === 0, last, tag: this.tag });
      tornBytes = segment.tornBytes;
      if (!segment.begun) {
        await rm(path.join(this.directory, file));
        break;
      }
      if (tornBytes > 0) await cutTo(path.join(this.directory, file), bytes.length - tornBytes);
      this.tag = segment.tag;
      const decoded = segment.records;
      const indexes = decoded.map(({ record }) => (record.case === 'entry' ? record.value.index : 0n));
      const lastIndex = indexes.reduce((max, index) => (index > max ? index : max), 0n);
      // Read from the cache of a process that was killed, it may not be on disk: what follows builds on it.
      if (last) await syncFile(path.join(this.directory, file));
      this.segments.push({ number: Number.parseInt(file, 16), file, lastIndex, newKey });
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
    this.segments.push({ number, file, lastIndex: 0n, newKey: true });
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

function writeHere(handle: FileHandle, bytes: Buffer, position: number): void {
  let offset = 0;
  while (offset < bytes.length) offset += writeSync(handle.fd, bytes, offset, bytes.length - offset, position + offset);
}

function datasync(handle: FileHandle): Promise<void> {
  return new Promise((resolve, reject) => {
    fdatasync(handle.fd, (error) => (error === null ? resolve() : reject(error)));
  });
}

async function writeAll(handle: FileHandle, bytes: Buffer, position: number): Promise<void> {
  let offset = 0;
  while (offset < bytes.length) {
    const { bytesWritten } = await handle.write(bytes, offset, bytes.length - offset, position + offset);
    offset += bytesWritten;
  }
}

function inBatches(records: readonly RecordOut[]): RecordOut[][] {
  const batches: RecordOut[][] = [];
  let bytes = Infinity;
  for (const record of records) {
    const size = RECORD_OVERHEAD + (record.kind === 'entry' ? record.entry.data.length : 0);
    if (bytes + size > BATCH_BYTES) {
      batches.push([]);
      bytes = 0;
    }
    batches.at(-1)?.push(record);
    bytes += size;
  }
  return batches;
}
