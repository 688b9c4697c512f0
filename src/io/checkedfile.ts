// Contents of files that are written without a sync, because they can be made again: a checksum in front tells what a
// power loss has left of one (nothing, zeros, a part) from what was written.

import { createHash } from 'node:crypto';

const MAGIC = Buffer.from('SKNFILE1', 'latin1');
const SUM_BYTES = 16;

function sumOf(content: Uint8Array): Buffer {
  return createHash('sha256').update(content).digest().subarray(0, SUM_BYTES);
}

export function withChecksum(content: Uint8Array): Uint8Array {
  return Buffer.concat([MAGIC, sumOf(content), content]);
}

/** The content; undefined when it is not whole. */
export function checkedContent(bytes: Buffer): Uint8Array | undefined {
  const start = MAGIC.length + SUM_BYTES;
  if (bytes.length < start || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const content = bytes.subarray(start);
  return bytes.subarray(MAGIC.length, start).equals(sumOf(content)) ? content : undefined;
}
