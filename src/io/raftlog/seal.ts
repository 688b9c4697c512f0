// Sealing of raft records and snapshots: AES-256-GCM under keys derived from the node's data key (DEK).
// Every file has its own random salt, hence its own key, so that nonces may simply count. A record's associated data
// holds its sequence number and the previous record's tag: records cannot be dropped, swapped or repeated unnoticed.

import { createCipheriv, createDecipheriv, createHmac, hkdfSync } from 'node:crypto';

export const SALT_BYTES = 32;
export const TAG_BYTES = 16;
export const LENGTH_CHECK_BYTES = 4;

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

/** Ties a record's length to its place in the file, before any of its data has to be there. */
export function lengthCheck(key: Uint8Array, sequence: bigint, length: number): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeBigUInt64BE(sequence, 0);
  bytes.writeUInt32BE(length, 8);
  return createHmac('sha256', key).update(bytes).digest().subarray(0, LENGTH_CHECK_BYTES);
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
