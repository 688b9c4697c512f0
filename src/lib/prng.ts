// Prng: seeded random numbers (sfc32, from PractRand by Chris Doty-Humphrey). The same seed, the same numbers, on every
// machine. Not for secrets.

import { assert } from './assert.js';

/** Numbers thrown away at the start, so that seeds which differ in few bits differ in all numbers. */
const WARM_UP = 12;

export class Prng {
  private a: number;
  private b: number;
  private c = 0;
  private counter = 1;

  constructor(seed: bigint) {
    this.a = Number(BigInt.asUintN(32, seed)) | 0;
    this.b = Number(BigInt.asUintN(32, seed >> 32n)) | 0;
    for (let i = 0; i < WARM_UP; i++) this.uint32();
  }

  /** 32 random bits. */
  uint32(): number {
    const sum = (this.a + this.b + this.counter) | 0;
    this.counter = (this.counter + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = (((this.c << 21) | (this.c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** At least 0, below 1. */
  unit(): number {
    return this.uint32() / 2 ** 32;
  }

  /** A whole number of at least 0, below `n`. */
  below(n: number): number {
    assert(Number.isInteger(n) && n > 0 && n <= 2 ** 32, `below ${n}`);
    return Math.floor(this.unit() * n);
  }

  /** From `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  chance(probability: number): boolean {
    return this.unit() < probability;
  }

  pick<T>(list: readonly T[]): T {
    assert(list.length > 0, 'pick from nothing');
    return list[this.below(list.length)] as T;
  }

  /** 63 random bits. */
  uint63(): bigint {
    return (BigInt(this.uint32() >>> 1) << 32n) | BigInt(this.uint32());
  }
}
