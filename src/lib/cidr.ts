// IPv4 addresses and prefixes as numbers. Text in, text out; bad text is undefined, never a guess.

export interface Prefix {
  /** Network address. */
  readonly base: number;
  readonly bits: number;
}

export function parseAddress(text: string): number | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    if (!/^(0|[1-9]\d{0,2})$/.test(part)) return undefined;
    const byte = Number(part);
    if (byte > 255) return undefined;
    value = value * 256 + byte;
  }
  return value;
}

/** An address that one host may have: not of this network, loopback, multicast, reserved or broadcast. */
export function isUnicast(text: string): boolean {
  const address = parseAddress(text);
  if (address === undefined) return false;
  const first = Math.floor(address / 2 ** 24);
  return first !== 0 && first !== 127 && first < 224;
}

export function formatAddress(value: number): string {
  return [value / 2 ** 24, value / 2 ** 16, value / 2 ** 8, value].map((x) => Math.floor(x) % 256).join('.');
}

/** "10.0.1.7/24" is the prefix 10.0.1.0/24. */
export function parsePrefix(text: string): Prefix | undefined {
  const [address, bits, more] = text.split('/');
  if (address === undefined || bits === undefined || more !== undefined || !/^\d{1,2}$/.test(bits)) return undefined;
  const value = parseAddress(address);
  const length = Number(bits);
  if (value === undefined || length > 32) return undefined;
  return { base: value - (value % sizeOf(length)), bits: length };
}

function sizeOf(bits: number): number {
  return 2 ** (32 - bits);
}

export function prefixSize(prefix: Prefix): number {
  return sizeOf(prefix.bits);
}

export function formatPrefix(prefix: Prefix): string {
  return `${formatAddress(prefix.base)}/${prefix.bits}`;
}

export function contains(prefix: Prefix, address: number): boolean {
  return address >= prefix.base && address < prefix.base + prefixSize(prefix);
}

export function overlaps(a: Prefix, b: Prefix): boolean {
  return a.base < b.base + prefixSize(b) && b.base < a.base + prefixSize(a);
}
