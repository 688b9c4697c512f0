// Canonical string maps: sorted key/value pairs, as the wire and the store keep them.

import { create } from '@bufbuild/protobuf';
import { PairSchema, type Pair } from './proto/swarmkit_pb.js';

/** Compares by code unit: the same order on every replica, whatever the locale. */
export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

export function toPairs(record: Readonly<Record<string, string>> | undefined | null): Pair[] {
  return Object.entries(record ?? {})
    .sort(([a], [b]) => compareText(a, b))
    .map(([key, value]) => create(PairSchema, { key, value }));
}

export function toRecord(pairs: readonly Pair[] | undefined): Record<string, string> {
  // Not by assignment: a key may be called __proto__.
  return Object.fromEntries((pairs ?? []).map((pair) => [pair.key, pair.value]));
}

export function pairValue(pairs: readonly Pair[] | undefined, key: string): string | undefined {
  return pairs?.find((pair) => pair.key === key)?.value;
}
