// A segment: header page, note page, then batches; little endian. A batch is what one call of append wrote and synced.
//   page 0    magic "SKNLOG02", salt (32), tag of the last batch of the segment before (16), check of these (16), zeros
//   page 1    note: the offset up to which everything was synced (8), check (16), zeros; all zeros before the first
//   batches   mark of the batch's number (8), u32 length of the sealed data, check of number and length (4), data, tag (16)
//
// A power loss may leave any pages of the last, not yet synced batch and none of the others. It is told from damage so: a
// batch is written only after the one before was synced, so a later batch behind a bad one proves that the bad one was
// synced. The note proves it for the last batch as well; it is written after each sync and not synced itself, so that
// it survives a crash of the process for sure and a power loss a few seconds later. A bad end that neither proves is an
// unfinished write. The marks make a later batch findable when the header of the bad one is lost.
// A segment is appended to by one process life only: a restart opens a new one, so that a nonce is never used twice.

import {
  CHECK_BYTES, LENGTH_CHECK_BYTES, MARK_BYTES, SALT_BYTES, TAG_BYTES,
  batchMark, fileKey, headerCheck, lengthCheck, noteCheck, open, seal,
} from './seal.js';

export const SEGMENT_MAGIC = Buffer.from('SKNLOG02', 'latin1');
/** Pages of their own: a rewrite of the note harms neither the header nor the batches. */
const PAGE_BYTES = 4096;
export const NOTE_OFFSET = PAGE_BYTES;
export const HEADER_BYTES = 2 * PAGE_BYTES;
const BATCH_HEADER_BYTES = MARK_BYTES + 4 + LENGTH_CHECK_BYTES;
const TAG_OFFSET = SEGMENT_MAGIC.length + SALT_BYTES;
const CHECK_OFFSET = TAG_OFFSET + TAG_BYTES;
/** A batch above this is a bug or garbage: append splits far below. */
const BATCH_BYTES_MAX = 64 * 1024 * 1024;
/** Batches that may be damaged in a row and still be told from an unfinished write by one behind them. */
const LOOK_AHEAD = 16n;

export interface SegmentContents {
  readonly batches: readonly Buffer[];
  readonly lastTag: Buffer;
  readonly previousTag: Buffer;
  /** Bytes at the end that are an unfinished write; 0 when the file ends cleanly. */
  readonly tornBytes: number;
}

export type SegmentDamage = { readonly offset: number; readonly reason: string };

export function encodeHeader(dek: Uint8Array, salt: Uint8Array, previousTag: Uint8Array): Buffer {
  const check = headerCheck(fileKey(dek, salt, 'raft log'), previousTag);
  return Buffer.concat([SEGMENT_MAGIC, salt, previousTag, check, Buffer.alloc(HEADER_BYTES - CHECK_OFFSET - CHECK_BYTES)]);
}

export function encodeNote(key: Uint8Array, synced: number): Buffer {
  const offset = Buffer.alloc(8);
  offset.writeBigUInt64LE(BigInt(synced));
  return Buffer.concat([offset, noteCheck(key, synced)]);
}

export function encodeBatch(
  key: Uint8Array, sequence: bigint, previousTag: Uint8Array, plain: Uint8Array,
): { bytes: Buffer; tag: Buffer } {
  const { data, tag } = seal(key, sequence, previousTag, plain);
  const length = Buffer.allocUnsafe(4);
  length.writeUInt32LE(data.length);
  return { bytes: Buffer.concat([batchMark(key, sequence), length, lengthCheck(key, sequence, data.length), data, tag]), tag };
}

/** Reads a whole segment. Damage other than an unfinished last write is reported, never skipped. */
export function readSegment(bytes: Buffer, dek: Uint8Array): SegmentContents | SegmentDamage {
  // A crash while the segment was made leaves a short header, or one that was never written (zeros).
  if (bytes.length < HEADER_BYTES || isZero(bytes, 0)) {
    return { batches: [], lastTag: Buffer.alloc(TAG_BYTES), previousTag: Buffer.alloc(TAG_BYTES), tornBytes: bytes.length };
  }
  const header = readHeader(bytes, dek);
  if ('reason' in header) return header;
  const { key, previousTag, synced } = header;
  const batches: Buffer[] = [];
  let tag: Buffer = previousTag;
  let offset = HEADER_BYTES;
  while (offset < bytes.length) {
    const sequence = BigInt(batches.length);
    const read = readBatch(bytes, offset, key, sequence, tag);
    if ('reason' in read) {
      const proof = provenSynced(bytes, offset, key, sequence, synced, read.end);
      if (proof !== undefined) return { offset, reason: `${read.reason}, and ${proof}` };
      return { batches, lastTag: tag, previousTag, tornBytes: bytes.length - offset };
    }
    batches.push(read.plain);
    tag = read.tag;
    offset = read.end;
  }
  if (offset < synced) return { offset, reason: `it ends here, but was written and synced up to byte ${synced}` };
  return { batches, lastTag: tag, previousTag, tornBytes: 0 };
}

/** Whether a segment's header was written under this data key. One without a whole header is nobody's. */
export function isSealedWith(bytes: Buffer, dek: Uint8Array): boolean {
  return bytes.length >= HEADER_BYTES && !('reason' in readHeader(bytes, dek));
}

interface Header {
  readonly key: Buffer;
  readonly previousTag: Buffer;
  /** What the note says; 0 without one. */
  readonly synced: number;
}

function readHeader(bytes: Buffer, dek: Uint8Array): Header | SegmentDamage {
  if (!bytes.subarray(0, SEGMENT_MAGIC.length).equals(SEGMENT_MAGIC)) {
    return { offset: 0, reason: 'not a raft log segment, or one of another version of this program' };
  }
  const key = fileKey(dek, bytes.subarray(SEGMENT_MAGIC.length, TAG_OFFSET), 'raft log');
  const previousTag = Buffer.from(bytes.subarray(TAG_OFFSET, CHECK_OFFSET));
  const rest = CHECK_OFFSET + CHECK_BYTES;
  if (!bytes.subarray(CHECK_OFFSET, rest).equals(headerCheck(key, previousTag)) || !isZero(bytes.subarray(rest, NOTE_OFFSET), 0)) {
    return { offset: 0, reason: 'its header does not match its check, or it was sealed with another key' };
  }
  const note = bytes.subarray(NOTE_OFFSET, HEADER_BYTES);
  if (isZero(note, 0)) return { key, previousTag, synced: 0 };
  const synced = Number(note.readBigUInt64LE(0));
  // Its few bytes are written in one piece: other bytes are no unfinished write.
  if (!note.subarray(8, 8 + CHECK_BYTES).equals(noteCheck(key, synced)) || !isZero(note, 8 + CHECK_BYTES)) {
    return { offset: NOTE_OFFSET, reason: 'its note of what was synced does not match its check' };
  }
  return { key, previousTag, synced };
}

type BadBatch = { readonly reason: string; readonly end: number | undefined };

/** The batch at an offset. `end` of a bad one is where it would end, when its header can be read. */
function readBatch(
  bytes: Buffer, offset: number, key: Buffer, sequence: bigint, tag: Buffer,
): { plain: Buffer; tag: Buffer; end: number } | BadBatch {
  const head = readBatchHeader(bytes, offset, key, sequence);
  if ('reason' in head) return head;
  const { end } = head;
  if (bytes.length < end) return { reason: 'the last batch is cut off', end };
  const newTag = Buffer.from(bytes.subarray(end - TAG_BYTES, end));
  const plain = open(key, sequence, tag, bytes.subarray(offset + BATCH_HEADER_BYTES, end - TAG_BYTES), newTag);
  return plain === undefined ? { reason: 'a batch does not match its authentication tag', end } : { plain, tag: newTag, end };
}

function readBatchHeader(bytes: Buffer, offset: number, key: Buffer, sequence: bigint): { end: number } | BadBatch {
  const data = offset + BATCH_HEADER_BYTES;
  if (bytes.length < data) return { reason: 'the header of a batch is cut off', end: undefined };
  const length = bytes.readUInt32LE(offset + MARK_BYTES);
  const check = bytes.subarray(offset + MARK_BYTES + 4, data);
  const matches = bytes.subarray(offset, offset + MARK_BYTES).equals(batchMark(key, sequence))
    && check.equals(lengthCheck(key, sequence, length));
  if (!matches || length > BATCH_BYTES_MAX) return { reason: 'the header of a batch does not match its check', end: undefined };
  return { end: data + length + TAG_BYTES };
}

/** Why the bad batch at an offset must once have been whole; undefined when it may be an unfinished write. */
function provenSynced(
  bytes: Buffer, offset: number, key: Buffer, sequence: bigint, synced: number, end: number | undefined,
): string | undefined {
  if (offset < synced) return `it was written and synced up to byte ${synced}`;
  // A batch is synced before anything is written behind it.
  if (end !== undefined && end < bytes.length && !isZero(bytes, end)) return `something was written behind it at byte ${end}`;
  for (let later = sequence + 1n; later <= sequence + LOOK_AHEAD; later += 1n) {
    const mark = batchMark(key, later);
    for (let at = bytes.indexOf(mark, offset); at >= 0; at = bytes.indexOf(mark, at + 1)) {
      if (!('reason' in readBatchHeader(bytes, at, key, later))) return `a later batch stands behind it at byte ${at}`;
    }
  }
  return undefined;
}

function isZero(bytes: Buffer, from: number): boolean {
  for (let i = from; i < bytes.length; i++) if (bytes[i] !== 0) return false;
  return true;
}
