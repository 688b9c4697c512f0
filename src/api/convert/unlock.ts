// The managers' unlock key as people see it: SWMKEY-1- and base64 without padding.

const PREFIX = 'SWMKEY-1-';

export function unlockKeyText(key: Uint8Array): string {
  return PREFIX + Buffer.from(key).toString('base64').replace(/=+$/, '');
}

/** Undefined when the text is no such key. Whether it is the right one, the node finds out. */
export function parseUnlockKey(text: string): Uint8Array | undefined {
  const base64 = text.startsWith(PREFIX) ? text.slice(PREFIX.length) : undefined;
  if (base64 === undefined || !/^[A-Za-z0-9+/]*$/.test(base64) || base64.length % 4 === 1) return undefined;
  return new Uint8Array(Buffer.from(base64, 'base64'));
}
