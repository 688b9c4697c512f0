// Seeded randomness for tests: the same seed, the same test.

export interface Random {
  /** At least 0, below 1. */
  unit(): number;
  /** A whole number below n. */
  below(n: number): number;
  pick<T>(list: readonly T[]): T;
  bytes(length: number): Buffer;
  chance(probability: number): boolean;
}

/** mulberry32. */
export function seeded(seed: number): Random {
  let state = seed >>> 0;
  const unit = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (n: number): number => Math.floor(unit() * n);
  return {
    unit,
    below,
    pick: (list) => list[below(list.length)] as (typeof list)[number],
    bytes: (length) => Buffer.from(Array.from({ length }, () => below(256))),
    chance: (probability) => unit() < probability,
  };
}
