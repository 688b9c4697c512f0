// Identifiers as SwarmKit makes them: 25 lower-case base36 characters out of 17 random bytes.

/** Source of random bytes; the daemon passes crypto, a simulation passes its PRNG. */
export type RandomBytes = (length: number) => Uint8Array;
/** Makes a fresh identifier. */
export type NewId = () => string;

export function bytesToBase36(bytes: Uint8Array): string {
  let value = 0n;
  // Four at a time: work on large numbers is slow.
  let at = bytes.length % 4;
  for (let i = 0; i < at; i++) value = (value << 8n) | BigInt(bytes[i] as number);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (; at < bytes.length; at += 4) value = (value << 32n) | BigInt(view.getUint32(at));
  return value.toString(36);
}

export function newId(random: RandomBytes): string {
  const bytes = random(17).slice();
  bytes[0] = (bytes[0] ?? 0) | 0x80;
  // 17 bytes with the top bit set are 27 base36 digits; the first carries little entropy and is dropped.
  return bytesToBase36(bytes).slice(1, 26);
}

/** 16 random bytes in base36, left padded to 25 characters: the secret of a join token. */
export function newTokenSecret(random: RandomBytes): string {
  return bytesToBase36(random(16)).padStart(25, '0');
}
