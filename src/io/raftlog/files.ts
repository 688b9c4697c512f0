// The rules by which the files of a raft log become its records: which end is an unfinished write and is cut off, and what
// is damage and refused (RaftLogDamaged). They change nothing: raftlog.ts does as they say, check.ts reads a copy by them.

import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { fromBinary } from '@bufbuild/protobuf';
import { LogBatchSchema, SnapshotFileSchema, type LogRecord, type SnapshotFile } from '../../model/proto/skein_pb.js';
import { RaftLogDamaged } from './replay.js';
import { isSnapshot, openSnapshot } from './seal.js';
import { HEADER_BYTES, isSealedWith, readSegment } from './segment.js';

/** A file of the log. What the disk cannot read is damage like any other; without memory or descriptors the file may be well. */
export async function readWhole(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EIO') throw new RaftLogDamaged(path.basename(file), 'the disk cannot read it');
    throw error;
  }
}

/** The newest snapshot's file, and which of the keys opened it. */
export function readSnapshot(name: string, bytes: Buffer, deks: readonly Uint8Array[]): { file: SnapshotFile; dek: Uint8Array } {
  if (!isSnapshot(bytes)) throw new RaftLogDamaged(name, 'not a snapshot');
  for (const dek of deks) {
    const plain = openSnapshot(bytes, dek);
    if (plain !== undefined) return { file: fromBinary(SnapshotFileSchema, plain), dek };
  }
  throw new RaftLogDamaged(name, 'snapshot does not match its authentication tag');
}

export interface SegmentPlace {
  readonly first: boolean;
  /** The newest one. */
  readonly last: boolean;
  /** Of the last batch before it. */
  readonly tag: Buffer;
}

export interface SegmentRead {
  readonly records: readonly LogRecord[];
  readonly tag: Buffer;
  /** At its end, of an unfinished write. */
  readonly tornBytes: number;
  /** False: it has not even a header, and holds nothing. */
  readonly begun: boolean;
}

/** The segment at its place among the others. */
export function readSegmentAt(name: string, bytes: Buffer, deks: readonly Uint8Array[], place: SegmentPlace): SegmentRead {
  const dek = deks.find((one) => isSealedWith(bytes, one)) ?? deks[0];
  if (dek === undefined) throw new RaftLogDamaged(name, 'there is no key');
  const contents = readSegment(bytes, dek);
  if ('reason' in contents) throw new RaftLogDamaged(name, `${contents.reason} at byte ${contents.offset}`);
  const { tornBytes, previousTag, lastTag } = contents;
  // An empty file: killed between its creation and its header.
  if ((tornBytes > 0 || bytes.length === 0) && !place.last) {
    throw new RaftLogDamaged(name, 'it ends inside a batch but is not the newest segment');
  }
  if (bytes.length - tornBytes < HEADER_BYTES) return { records: [], tag: place.tag, tornBytes, begun: false };
  if (!place.first && !previousTag.equals(place.tag)) throw new RaftLogDamaged(name, 'it does not continue the segment before it');
  return { records: contents.batches.flatMap((batch) => fromBinary(LogBatchSchema, batch).records), tag: lastTag, tornBytes, begun: true };
}
