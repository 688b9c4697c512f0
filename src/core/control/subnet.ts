// Subnets as text in a request: parsed to a range of addresses, so that containment and overlap can be checked.
// Not the allocator's address arithmetic.

export interface AddressRange {
  readonly family: 4 | 6;
  readonly first: bigint;
  readonly last: bigint;
  readonly prefix: number;
  /** The address had no bits set behind the prefix. */
  readonly canonical: boolean;
}

export function parseAddress(text: string): { readonly family: 4 | 6; readonly value: bigint } | undefined {
  return text.includes(':') ? parseV6(text) : parseV4(text);
}

function parseV4(text: string): { family: 4; value: bigint } | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  let value = 0n;
  for (const part of parts) {
    if (!/^(0|[1-9][0-9]{0,2})$/.test(part) || Number(part) > 255) return undefined;
    value = (value << 8n) | BigInt(part);
  }
  return { family: 4, value };
}

function parseV6(text: string): { family: 6; value: bigint } | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const groups = (half: string | undefined): string[] => (half === undefined || half === '' ? [] : half.split(':'));
  const head = groups(halves[0]);
  const tail = groups(halves[1]);
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  let value = 0n;
  for (const group of [...head, ...new Array<string>(halves.length === 2 ? missing : 0).fill('0'), ...tail]) {
    if (!/^[0-9a-fA-F]{1,4}$/.test(group)) return undefined;
    value = (value << 16n) | BigInt(`0x${group}`);
  }
  return { family: 6, value };
}

export function parseSubnet(text: string): AddressRange | undefined {
  const slash = text.indexOf('/');
  if (slash < 0) return undefined;
  const address = parseAddress(text.slice(0, slash));
  const prefixText = text.slice(slash + 1);
  if (address === undefined || !/^[0-9]{1,3}$/.test(prefixText)) return undefined;
  const bits = address.family === 4 ? 32 : 128;
  const prefix = Number(prefixText);
  if (prefix > bits) return undefined;
  const size = 1n << BigInt(bits - prefix);
  const first = address.value - (address.value % size);
  return { family: address.family, first, last: first + size - 1n, prefix, canonical: first === address.value };
}

export function overlaps(a: AddressRange, b: AddressRange): boolean {
  return a.family === b.family && a.first <= b.last && b.first <= a.last;
}

export function containsAddress(range: AddressRange, text: string): boolean {
  const address = parseAddress(text);
  return address !== undefined && address.family === range.family
    && address.value >= range.first && address.value <= range.last;
}

export function containsRange(outer: AddressRange, inner: AddressRange): boolean {
  return outer.family === inner.family && inner.first >= outer.first && inner.last <= outer.last;
}

/** The address as text; IPv6 without compression of zero groups. */
export function addressText(family: 4 | 6, value: bigint): string {
  const groups = family === 4 ? 4 : 8;
  const bits = family === 4 ? 8n : 16n;
  const mask = (1n << bits) - 1n;
  const parts = Array.from({ length: groups }, (_, i) => (value >> (bits * BigInt(groups - 1 - i))) & mask);
  return family === 4 ? parts.join('.') : parts.map((part) => part.toString(16)).join(':');
}
