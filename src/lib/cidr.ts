// IPv4 addresses and prefixes as numbers. Text in, text out; bad text is undefined, never a guess.

export interface Prefix {
  /** Network address. */
  readonly base: number;
  readonly bits: number;
}

const [DOT, ZERO, NINE] = [0x2e, 0x30, 0x39];

export function parseAddress(text: string): number | undefined {
  let value = 0;
  let dots = 0;
  let byte = -1;
  // By hand: every address of the swarm is read on every pass.
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === DOT) {
      if (byte < 0) return undefined;
      value = value * 256 + byte;
      byte = -1;
      dots += 1;
    } else {
      // No leading zeros: to some they mean octal.
      if (code < ZERO || code > NINE || byte === 0) return undefined;
      byte = Math.max(byte, 0) * 10 + code - ZERO;
      if (byte > 255) return undefined;
    }
  }
  return dots === 3 && byte >= 0 ? value * 256 + byte : undefined;
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
