// Address choice inside prefixes: lowest free, deterministic.

import { formatAddress, overlaps, parseAddress, prefixSize, type Prefix } from '../../lib/cidr.js';

/** Lowest free host address of the prefix; undefined when it is full. Network and broadcast addresses are never given. */
export function freeAddress(prefix: Prefix, used: ReadonlySet<number>, range: Prefix = prefix): number | undefined {
  const first = Math.max(prefix.base + 1, range.base);
  const last = Math.min(prefix.base + prefixSize(prefix) - 2, range.base + prefixSize(range) - 1);
  for (let address = first; address <= last; address++) if (!used.has(address)) return address;
  return undefined;
}

/** Next free subnet of the pools, in order. */
export function freeSubnet(pools: readonly Prefix[], bits: number, used: readonly Prefix[]): Prefix | undefined {
  for (const pool of pools) {
    const size = 2 ** (32 - bits);
    for (let base = pool.base; base + size <= pool.base + prefixSize(pool);) {
      const subnet: Prefix = { base, bits };
      const clash = used.find((other) => overlaps(other, subnet));
      if (clash === undefined) return subnet;
      // Behind what is in the way, on the next boundary.
      const after = clash.base + prefixSize(clash);
      base = Math.max(base + size, Math.ceil(after / size) * size);
    }
  }
  return undefined;
}

export function withBits(address: number, bits: number): string {
  return `${formatAddress(address)}/${bits}`;
}

/** The number in "a.b.c.d" or "a.b.c.d/len". */
export function numberOf(text: string): number | undefined {
  const slash = text.indexOf('/');
  return parseAddress(slash < 0 ? text : text.slice(0, slash));
}
