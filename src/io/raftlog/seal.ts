// Sealing of raft records and snapshots: AES-256-GCM under keys derived from the node's data key (DEK).
// Every file has its own random salt, hence its own key, so that nonces may simply count. A batch's associated data
// holds its sequence number and the previous batch's tag: batches cannot be dropped, swapped or repeated unnoticed.
// Checks of what is not sealed (headers, marks) are parts of HMACs under the same key, each with its own purpose.

import { createCipheriv, createDecipheriv, createHmac, hkdfSync } from 'node:crypto';

export const SALT_BYTES = 32;
export const TAG_BYTES = 16;
export const LENGTH_CHECK_BYTES = 4;
/** Found by searching a whole segment: long enough not to come up by chance. */
export const MARK_BYTES = 8;
export const CHECK_BYTES = 16;

export function fileKey(dek: Uint8Array, salt: Uint8Array, purpose: string): Buffer {
  return Buffer.from(hkdfSync('sha256', dek, salt, `skein ${purpose} v1`, 32));
}

function nonce(sequence: bigint): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeBigUInt64BE(sequence, 4);
  return bytes;
}

function associated(sequence: bigint, previousTag: Uint8Array): Buffer {
  const bytes = Buffer.alloc(8 + previousTag.length);
  bytes.writeBigUInt64BE(sequence, 0);
  bytes.set(previousTag, 8);
  return bytes;
}

function check(key: Uint8Array, purpose: string, numbers: readonly bigint[], bytes: Uint8Array, length: number): Buffer {
  const encoded = Buffer.alloc(8 * numbers.length);
  for (const [i, value] of numbers.entries()) encoded.writeBigUInt64BE(value, 8 * i);
  return createHmac('sha256', key).update(`skein ${purpose}\0`).update(encoded).update(bytes).digest().subarray(0, length);
}

const NOTHING = new Uint8Array(0);

/** Ties a batch's length to its place in the file, before any of its data has to be there. */
export function lengthCheck(key: Uint8Array, sequence: bigint, length: number): Buffer {
  return check(key, 'length', [sequence, BigInt(length)], NOTHING, LENGTH_CHECK_BYTES);
}

export function batchMark(key: Uint8Array, sequence: bigint): Buffer {
  return check(key, 'mark', [sequence], NOTHING, MARK_BYTES);
}

export function headerCheck(key: Uint8Array, previousTag: Uint8Array): Buffer {
  return check(key, 'header', [], previousTag, CHECK_BYTES);
}

export function noteCheck(key: Uint8Array, synced: number): Buffer {
  return check(key, 'synced', [BigInt(synced)], NOTHING, CHECK_BYTES);
}

export function seal(key: Uint8Array, sequence: bigint, previousTag: Uint8Array, plain: Uint8Array): { data: Buffer; tag: Buffer } {
  const cipher = createCipheriv('aes-256-gcm', key, nonce(sequence));
  cipher.setAAD(associated(sequence, previousTag));
  const data = Buffer.concat([cipher.update(plain), cipher.final()]);
  return { data, tag: cipher.getAuthTag() };
}

/** Undefined when the bytes are not what was sealed at this place. */
export function open(key: Uint8Array, sequence: bigint, previousTag: Uint8Array, data: Uint8Array, tag: Uint8Array): Buffer | undefined {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce(sequence), { authTagLength: TAG_BYTES });
  decipher.setAAD(associated(sequence, previousTag));
  decipher.setAuthTag(tag);
  try {
    return Buffer.concat([decipher.update(data), decipher.final()]);
  } catch {
    // GCM's only failure here is a tag that does not match; the caller turns it into a typed refusal.
    return undefined;
  }
}

export const SNAPSHOT_MAGIC = Buffer.from('SKNSNP01', 'latin1');
const NO_TAG = Buffer.alloc(TAG_BYTES);
const SNAPSHOT_START = SNAPSHOT_MAGIC.length + SALT_BYTES;

export function isSnapshot(bytes: Buffer): boolean {
  return bytes.length >= SNAPSHOT_START + TAG_BYTES && bytes.subarray(0, SNAPSHOT_MAGIC.length).equals(SNAPSHOT_MAGIC);
}

/** A snapshot's file. */
export function sealSnapshot(dek: Uint8Array, salt: Uint8Array, plain: Uint8Array): Buffer {
  const { data, tag } = seal(fileKey(dek, salt, 'raft snapshot'), 0n, NO_TAG, plain);
  return Buffer.concat([SNAPSHOT_MAGIC, salt, data, tag]);
}

/** The contents of a snapshot's file; undefined when they are not what was sealed with this key. */
export function openSnapshot(bytes: Buffer, dek: Uint8Array): Buffer | undefined {
  if (!isSnapshot(bytes)) return undefined;
  const key = fileKey(dek, bytes.subarray(SNAPSHOT_MAGIC.length, SNAPSHOT_START), 'raft snapshot');
  return open(key, 0n, NO_TAG, bytes.subarray(SNAPSHOT_START, -TAG_BYTES), bytes.subarray(-TAG_BYTES));
}
