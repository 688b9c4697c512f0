// A segment: header, then sealed records. File: magic "SKNLOG01", salt (32), tag of the last record of the segment
// before (16); record: u32 length of the sealed data, check of the length (4), data, tag (16). Little endian. The check
// tells a record that was cut off by a crash from one whose length was damaged: only the former may be dropped.
// A segment is appended to by one process life only: a restart opens a new one, so that a nonce is never used twice.

import { LENGTH_CHECK_BYTES, SALT_BYTES, TAG_BYTES, fileKey, lengthCheck, open } from './seal.js';

export const SEGMENT_MAGIC = Buffer.from('SKNLOG01', 'latin1');
export const HEADER_BYTES = SEGMENT_MAGIC.length + SALT_BYTES + TAG_BYTES;
const RECORD_HEADER_BYTES = 4 + LENGTH_CHECK_BYTES;
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
  // A crash while the segment was made leaves a short header, or one that was never written (zeros).
  if (bytes.length < HEADER_BYTES || isZero(bytes, 0)) {
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
    if (rest < RECORD_HEADER_BYTES || isZero(bytes, offset)) return { records, lastTag: tag, previousTag, tornBytes: rest };
    const length = bytes.readUInt32LE(offset);
    const sequence = BigInt(records.length);
    const check = bytes.subarray(offset + 4, offset + RECORD_HEADER_BYTES);
    if (!check.equals(lengthCheck(key, sequence, length))) return { offset, reason: 'record length does not match its check' };
    if (length > RECORD_BYTES_MAX) return { offset, reason: `record length ${length} is out of range` };
    const end = offset + RECORD_HEADER_BYTES + length + TAG_BYTES;
    if (bytes.length < end) return { records, lastTag: tag, previousTag, tornBytes: rest };
    const data = bytes.subarray(offset + RECORD_HEADER_BYTES, end - TAG_BYTES);
    const newTag = Buffer.from(bytes.subarray(end - TAG_BYTES, end));
    const plain = open(key, sequence, tag, data, newTag);
    if (plain === undefined) return { offset, reason: 'record does not match its authentication tag' };
    records.push(plain);
    tag = newTag;
    offset = end;
  }
  return { records, lastTag: tag, previousTag, tornBytes: 0 };
}

function isZero(bytes: Buffer, from: number): boolean {
  for (let i = from; i < bytes.length; i++) if (bytes[i] !== 0) return false;
  return true;
}
