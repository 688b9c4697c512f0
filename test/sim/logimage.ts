// The bytes that a member's log has on its simulated disk, as io/raftlog writes them, made only where something is wrong
// with them: the real code then says what it reads in them, what it cuts off, and what it refuses.

import { create, toBinary } from '@bufbuild/protobuf';
import type { Snapshot } from '../../src/core/raft/types.js';
import type { LogFiles, readLog } from '../../src/io/raftlog/check.js';
import { encodeRecords, type RecordOut } from '../../src/io/raftlog/records.js';
import { SALT_BYTES, TAG_BYTES, fileKey, sealSnapshot } from '../../src/io/raftlog/seal.js';
import { HEADER_BYTES, NOTE_OFFSET, encodeBatch, encodeHeader, encodeNote } from '../../src/io/raftlog/segment.js';
import type { Prng } from '../../src/lib/prng.js';
import { SnapshotFileSchema } from '../../src/model/proto/skein_pb.js';

export type ReadLog = typeof readLog;
/** What one sync makes durable, all of it. */
export type Batch = readonly RecordOut[];

export interface Segment {
  readonly batches: Batch[];
  /** Highest entry index inside; 0 when none. */
  lastIndex: bigint;
}

export interface Log {
  /** Undefined before the first. */
  readonly snapshot: Snapshot | undefined;
  readonly segments: readonly Segment[];
}

export const DEK = new Uint8Array(32).fill(5);
/** What a disk writes as a whole. */
const SECTOR_BYTES = 512;

interface Image {
  readonly files: Map<string, Buffer>;
  /** The newest segment, where its last batch begins, and what a batch written to it next is sealed with. */
  readonly newest: string;
  readonly lastBatch: number;
  readonly key: Buffer;
  readonly sequence: bigint;
  readonly tag: Buffer;
}

const nameOf = (number: number | bigint, ending: string): string => `${number.toString(16).padStart(16, '0')}.${ending}`;

/** `noteBehind`: the note of the last sync, which is not synced itself, is not on disk yet. */
function imageOf({ snapshot, segments }: Log, noteBehind: boolean): Image {
  const files = new Map<string, Buffer>();
  if (snapshot !== undefined) {
    const { index, term, confState: { voters, learners }, data } = snapshot;
    const file = create(SnapshotFileSchema, { index, term, voters: [...voters], learners: [...learners], data: new Uint8Array(data) });
    files.set(nameOf(index, 'snap'), sealSnapshot(DEK, saltOf(0), toBinary(SnapshotFileSchema, file)));
  }
  let tag: Buffer = Buffer.alloc(TAG_BYTES);
  let key: Buffer = Buffer.alloc(0);
  let lastBatch = 0;
  for (const [position, { batches }] of segments.entries()) {
    const salt = saltOf(position + 1);
    key = fileKey(DEK, salt, 'raft log');
    const parts: Buffer[] = [encodeHeader(DEK, salt, tag)];
    for (const [sequence, batch] of batches.entries()) {
      const sealed = encodeBatch(key, BigInt(sequence), tag, encodeRecords(batch));
      tag = sealed.tag;
      parts.push(sealed.bytes);
    }
    const bytes = Buffer.concat(parts);
    lastBatch = bytes.length - (parts.at(-1) as Buffer).length;
    const noted = noteBehind && position === segments.length - 1 ? lastBatch : bytes.length;
    if (noted > HEADER_BYTES) encodeNote(key, noted).copy(bytes, NOTE_OFFSET);
    files.set(nameOf(position + 1, 'log'), bytes);
  }
  return { files, newest: nameOf(segments.length, 'log'), lastBatch, key, sequence: BigInt(segments.at(-1)?.batches.length ?? 0), tag };
}

function saltOf(number: number): Buffer {
  const salt = Buffer.alloc(SALT_BYTES);
  salt.writeUInt32LE(number + 1);
  return salt;
}

/**
 * A power loss while `batch` was written behind what is synced: of its sectors some arrived, in any order, and what arrived
 * may be garbage. Sometimes all of it is there after all: `whole`.
 */
export function withUnfinished(log: Log, batch: Batch, random: Prng): { readonly files: LogFiles; readonly whole: boolean } {
  const { files, newest, key, sequence, tag } = imageOf(log, random.chance(0.5));
  const { bytes } = encodeBatch(key, sequence, tag, encodeRecords(batch));
  const before = files.get(newest) as Buffer;
  const arrived = Buffer.alloc(bytes.length);
  for (let at = -(before.length % SECTOR_BYTES); at < bytes.length; at += SECTOR_BYTES) {
    if (random.chance(0.6)) bytes.copy(arrived, Math.max(at, 0), Math.max(at, 0), at + SECTOR_BYTES);
  }
  if (random.chance(0.5)) flip(arrived, random);
  const length = random.chance(0.3) ? random.below(arrived.length + 1) : arrived.length;
  files.set(newest, Buffer.concat([before, arrived.subarray(0, length)]));
  return { files, whole: length === bytes.length && arrived.equals(bytes) };
}

/** A power loss while a new segment was begun: it has no header yet, or a part of one. */
export function withSegmentBegun(log: Log, random: Prng): LogFiles {
  const { files, tag } = imageOf(log, false);
  const header = encodeHeader(DEK, saltOf(log.segments.length + 1), tag);
  const bytes = random.pick([Buffer.alloc(0), Buffer.alloc(header.length), header.subarray(0, random.below(header.length)), header]);
  return files.set(nameOf(log.segments.length + 1, 'log'), bytes);
}

/**
 * One bit of what was synced is another one, anywhere: in a batch, a header, a note, the snapshot. The notes are there: without
 * the last one, damage to the last batch is taken for an unfinished write, a limit that docs/architecture.md tells of.
 */
export function withDamage(log: Log, random: Prng): { readonly files: LogFiles; readonly where: string } {
  const { files, newest, lastBatch } = imageOf(log, false);
  const name = random.chance(0.6) ? newest : random.pick([...files.keys()]);
  const bytes = files.get(name) as Buffer;
  const inBatches = bytes.length > HEADER_BYTES && name.endsWith('.log') && random.chance(0.8);
  const from = !inBatches ? 0 : name === newest && random.chance(0.7) ? lastBatch : HEADER_BYTES;
  const at = from + flip(bytes.subarray(from), random);
  return { files, where: `byte ${at} of ${bytes.length} of ${name}` };
}

function flip(bytes: Buffer, random: Prng): number {
  const at = random.below(bytes.length);
  bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << random.below(8)), at);
  return at;
}
