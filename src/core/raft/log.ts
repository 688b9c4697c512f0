// EntryLog: the entries since the compaction point, and how far they are on disk, committed and applied.
// Invariants: base <= applied <= committed <= last and stable <= last, except that applied is behind base from the
// arrival of a snapshot until the shell has restored it. Entries up to `committed` are never replaced.

import { assert } from '../../lib/assert.js';
import type { Entry, EntryKind } from './types.js';

/** Entries handed out for application at once; at least one always is. */
const COMMITTED_BYTES_MAX = 16 * 1024 * 1024;

export interface Position {
  readonly index: bigint;
  readonly term: bigint;
}

/**
 * This member's log is older than what it vouched for to others, or went on differently: it was put back from a copy, or its
 * disk lost writes. No bug; but it can take no part in its group any more.
 */
export class StaleLog extends Error {
  override readonly name = 'StaleLog';
}

export class EntryLog {
  /** The entry before the first one held: compacted, or the snapshot's. */
  private base: Position;
  private entries: Entry[];
  private stableIndex: bigint;
  private committedIndex: bigint;
  private appliedIndex: bigint;

  constructor(base: Position, entries: readonly Entry[], committed: bigint) {
    this.base = base;
    this.entries = [...entries];
    for (const [position, entry] of entries.entries()) {
      assert(entry.index === base.index + BigInt(position) + 1n, `entry ${entry.index} does not continue the log`);
    }
    this.stableIndex = this.last;
    this.committedIndex = committed > base.index ? committed : base.index;
    this.appliedIndex = base.index;
    assert(this.committedIndex <= this.last, `commit ${committed} is past the log's end ${this.last}`);
  }

  get first(): bigint {
    return this.base.index + 1n;
  }

  get last(): bigint {
    return this.base.index + BigInt(this.entries.length);
  }

  get lastTerm(): bigint {
    return this.entries.at(-1)?.term ?? this.base.term;
  }

  get committed(): bigint {
    return this.committedIndex;
  }

  get applied(): bigint {
    return this.appliedIndex;
  }

  get stable(): bigint {
    return this.stableIndex;
  }

  /** Undefined where it is not known: compacted, or not there yet. */
  term(index: bigint): bigint | undefined {
    if (index === this.base.index) return this.base.term;
    if (index < this.base.index) return undefined;
    return this.entries[Number(index - this.first)]?.term;
  }

  kind(index: bigint): EntryKind | undefined {
    return this.entries[Number(index - this.first)]?.kind;
  }

  matches(index: bigint, term: bigint): boolean {
    return this.term(index) === term;
  }

  /** A log that ends with this entry is at least as good as ours (paper, 5.4.1). */
  upToDate(index: bigint, term: bigint): boolean {
    return term > this.lastTerm || (term === this.lastTerm && index >= this.last);
  }

  /** From `from` on, as many as fit, at least one. */
  slice(from: bigint, to: bigint, bytesMax: number): Entry[] {
    assert(from >= this.first, 'entries that were not compacted');
    const start = Number(from - this.first);
    const end = Number(to - this.first) + 1;
    let bytes = 0;
    let count = start;
    while (count < end && count < this.entries.length) {
      bytes += (this.entries[count] as Entry).data.length;
      if (count > start && bytes > bytesMax) break;
      count += 1;
    }
    return this.entries.slice(start, count);
  }

  /** The first of the entries that the log does not have; undefined if it has all. */
  findConflict(entries: readonly Entry[]): bigint | undefined {
    return entries.find((entry) => !this.matches(entry.index, entry.term))?.index;
  }

  /**
   * The last index, not after `index`, whose term is `term` or lower: where a log that has `term` at `index` may still
   * agree with ours (thesis, 5.3: a term at a time instead of an entry at a time). Term 0 where ours was compacted.
   */
  findConflictByTerm(index: bigint, term: bigint): Position {
    for (let at = index; at > this.base.index; at -= 1n) {
      const own = this.term(at);
      if (own !== undefined && own <= term) return { index: at, term: own };
    }
    return index < this.base.index ? { index, term: 0n } : this.base;
  }

  /** Replaces what is there from the first entry's index on. */
  append(entries: readonly Entry[]): void {
    const from = entries[0]?.index;
    if (from === undefined) return;
    if (from <= this.committedIndex) throw this.otherThanCommitted(from);
    const { last } = this;
    assert(from <= last + 1n, 'no entries are missing');
    if (from <= last) this.entries.length = Number(from - this.first);
    for (const entry of entries) this.entries.push(entry);
    if (this.stableIndex >= from) this.stableIndex = from - 1n;
  }

  /**
   * What a leader sent: the entries after (prevIndex, prevTerm). Undefined if the log does not have that entry;
   * else the index of the last one, and the entries that were new.
   */
  maybeAppend(prev: Position, entries: readonly Entry[]): { readonly lastNew: bigint; readonly added: readonly Entry[] } | undefined {
    if (prev.index < this.base.index) {
      // Compacted, so it was committed. From the base on it can be compared again.
      const base = entries.findIndex(({ index }) => index === this.base.index);
      if (base !== -1) return this.maybeAppend(entries[base] as Entry, entries.slice(base + 1));
      const { index: lastNew, term } = entries.at(-1) ?? prev;
      this.compareCommitted({ index: lastNew, term });
      return { lastNew, added: [] };
    }
    if (!this.matches(prev.index, prev.term)) {
      this.compareCommitted(prev);
      return undefined;
    }
    const conflict = this.findConflict(entries);
    const added = conflict === undefined ? [] : entries.slice(Number(conflict - prev.index) - 1);
    this.append(added);
    return { lastNew: prev.index + BigInt(entries.length), added };
  }

  /**
   * What a leader has at this index. It has every committed entry (paper, 5.4.3): where another one is here, this log is not
   * of its group. Of what was compacted no more is known than that terms never fall along a log.
   */
  compareCommitted({ index, term }: Position): void {
    if (index > this.committedIndex) return;
    const same = index < this.base.index ? term <= this.base.term : this.matches(index, term);
    if (!same) throw this.otherThanCommitted(index);
  }

  private otherThanCommitted(index: bigint): StaleLog {
    return new StaleLog(`entry ${index} is another one elsewhere, though ${this.committedIndex} are committed here`);
  }

  commitTo(index: bigint): void {
    if (index <= this.committedIndex) return;
    const { last } = this;
    if (index > last) throw new StaleLog(`commit of ${index}, but the log ends at ${last}: acknowledged entries were lost`);
    this.committedIndex = index;
  }

  appliedTo(index: bigint): void {
    if (index <= this.appliedIndex) return;
    assert(index <= this.committedIndex, 'applied is committed');
    this.appliedIndex = index;
  }

  /** This entry and all before are on disk; void if it was replaced while it was being written. */
  stableTo(index: bigint, term: bigint): void {
    if (index > this.stableIndex && this.matches(index, term)) this.stableIndex = index;
  }

  unstable(): readonly Entry[] {
    return this.stableIndex === this.last ? [] : this.entries.slice(Number(this.stableIndex - this.base.index));
  }

  get hasNextCommitted(): boolean {
    return this.appliedIndex >= this.base.index && this.appliedIndex < this.committedIndex && this.appliedIndex < this.stableIndex;
  }

  /** Committed, on disk, and not applied yet. */
  nextCommitted(): readonly Entry[] {
    if (!this.hasNextCommitted) return [];
    const to = this.committedIndex < this.stableIndex ? this.committedIndex : this.stableIndex;
    return this.slice(this.appliedIndex + 1n, to, COMMITTED_BYTES_MAX);
  }

  /** Bytes of the entries after `after`, up to `to`. */
  bytesBetween(after: bigint, to: bigint): number {
    let bytes = 0;
    for (let at = Number(after - this.base.index); at < Number(to - this.base.index); at++) bytes += this.entries[at]?.data.length ?? 0;
    return bytes;
  }

  /** Forgets the entries before `keepFrom`, which a snapshot holds. */
  compact(keepFrom: bigint): void {
    if (keepFrom <= this.first) return;
    assert(keepFrom <= this.appliedIndex + 1n, `compaction up to ${keepFrom} past the applied ${this.appliedIndex}`);
    const term = this.term(keepFrom - 1n);
    assert(term !== undefined, 'compaction within the log');
    this.entries = this.entries.slice(Number(keepFrom - this.first));
    this.base = { index: keepFrom - 1n, term };
  }

  /** Starts anew after a snapshot. */
  restore(snapshot: Position): void {
    assert(snapshot.index > this.committedIndex, 'a snapshot newer than what is committed');
    this.base = { index: snapshot.index, term: snapshot.term };
    this.entries = [];
    this.stableIndex = snapshot.index;
    this.committedIndex = snapshot.index;
  }
}
