// A segment: header, then sealed records. File: magic "SKNLOG01", salt (32), tag of the last record of the segment
// before (16); record: u32 length of the sealed data, data, tag (16). Little endian.
// A segment is appended to by one process life only: a restart opens a new one, so that a nonce is never used twice.

import { TAG_BYTES, SALT_BYTES, fileKey, open } from './seal.js';

export const SEGMENT_MAGIC = Buffer.from('SKNLOG01', 'latin1');
export const HEADER_BYTES = SEGMENT_MAGIC.length + SALT_BYTES + TAG_BYTES;
/** A record above this is a bug or garbage: proposals are bounded far below. */
export const RECORD_BYTES_MAX = 64 * 1024 * 1024;

export interface SegmentContents {
  readonly records: readonly Buffer[];
  readonly lastTag: Buffer;
  readonly previousTag: Buffer;
  /** Bytes at the end that are an unfinished write; 0 when the file ends cleanly. */
  readonly tornBytes: number;
}

export type SegmentDamage = { readonly offset: number; readonly reason: string };

/** Reads a whole segment. Damage other than an unfinished last write is reported, never skipped. */
export function readSegment(bytes: Buffer, dek: Uint8Array): SegmentContents | SegmentDamage {
  if (bytes.length < HEADER_BYTES) {
    return { records: [], lastTag: Buffer.alloc(TAG_BYTES), previousTag: Buffer.alloc(TAG_BYTES), tornBytes: bytes.length };
  }
  if (!bytes.subarray(0, 8).equals(SEGMENT_MAGIC)) return { offset: 0, reason: 'not a raft log segment' };
  const key = fileKey(dek, bytes.subarray(8, 8 + SALT_BYTES), 'raft log');
  const previousTag = Buffer.from(bytes.subarray(8 + SALT_BYTES, HEADER_BYTES));
  const records: Buffer[] = [];
  let tag: Buffer = previousTag;
  let offset = HEADER_BYTES;
  while (offset < bytes.length) {
    const rest = bytes.length - offset;
    // A crash leaves a short record, or a file that grew and was never written (zeros).
    if (rest < 4 || isZero(bytes, offset)) return { records, lastTag: tag, previousTag, tornBytes: rest };
    const length = bytes.readUInt32LE(offset);
    if (length > RECORD_BYTES_MAX) return { offset, reason: `record length ${length} is out of range` };
    if (rest < 4 + length + TAG_BYTES) return { records, lastTag: tag, previousTag, tornBytes: rest };
    const data = bytes.subarray(offset + 4, offset + 4 + length);
    const newTag = Buffer.from(bytes.subarray(offset + 4 + length, offset + 4 + length + TAG_BYTES));
    const plain = open(key, BigInt(records.length), tag, data, newTag);
    if (plain === undefined) return { offset, reason: 'record does not match its authentication tag' };
    records.push(plain);
    tag = newTag;
    offset += 4 + length + TAG_BYTES;
  }
  return { records, lastTag: tag, previousTag, tornBytes: 0 };
}

function isZero(bytes: Buffer, from: number): boolean {
  for (let i = from; i < bytes.length; i++) if (bytes[i] !== 0) return false;
  return true;
}
