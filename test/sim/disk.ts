// A member's simulated disk: what is durable, a write on its way, and a hard state that was not synced. A crash keeps
// what is durable, and by chance a part of the rest: the first records of the write, as after a torn one.

import type { Prng } from '../../src/lib/prng.js';
import type { ConfState, Entry, HardState, Ready, Snapshot } from '../../src/core/raft/types.js';

type Record =
  | { readonly kind: 'snapshot'; readonly snapshot: Snapshot }
  | { readonly kind: 'entry'; readonly entry: Entry }
  | { readonly kind: 'hardState'; readonly hardState: HardState };

export class SimDisk {
  hardState: HardState = { term: 0n, vote: 0n, commit: 0n };
  snapshot: Snapshot;
  /** After the snapshot. */
  entries: Entry[] = [];
  /** Durations of writes: the disk is slow for a while when this is high. */
  writeMsMax = 5;
  private writing: readonly Record[] = [];
  private unsynced: HardState | undefined;

  constructor(confState: ConfState) {
    this.snapshot = { index: 0n, term: 0n, confState, data: new Uint8Array(0) };
  }

  /** Begins to write what must be durable. */
  begin(ready: Ready): void {
    this.writing = [
      ...(ready.snapshot === undefined ? [] : [{ kind: 'snapshot', snapshot: ready.snapshot } as const]),
      ...ready.entries.map((entry) => ({ kind: 'entry', entry }) as const),
      ...(ready.hardState === undefined ? [] : [{ kind: 'hardState', hardState: ready.hardState } as const]),
    ];
  }

  /** The write is durable. */
  end(): void {
    this.writing.forEach((record) => this.keep(record));
    this.writing = [];
    this.unsynced = undefined;
  }

  /** Written, but not synced: a crash may lose it. */
  note(hardState: HardState): void {
    this.unsynced = hardState;
  }

  /** A snapshot of its own: written aside and renamed, then the log goes on after it. */
  saveSnapshot(snapshot: Snapshot): void {
    this.snapshot = snapshot;
    this.dropUpTo(snapshot.index);
  }

  dropUpTo(index: bigint): void {
    this.entries = this.entries.filter((entry) => entry.index > index);
  }

  /** True if a write was cut in its middle. */
  crash(random: Prng): boolean {
    if (this.unsynced !== undefined && random.chance(0.5)) this.hardState = this.unsynced;
    const kept = random.chance(0.5) ? this.writing.slice(0, random.below(this.writing.length + 1)) : [];
    kept.forEach((record) => this.keep(record));
    const torn = kept.length > 0 && kept.length < this.writing.length;
    this.writing = [];
    this.unsynced = undefined;
    return torn;
  }

  term(index: bigint): bigint | undefined {
    if (index === this.snapshot.index) return this.snapshot.term;
    return this.entries[Number(index - this.snapshot.index) - 1]?.term;
  }

  get last(): bigint {
    return this.snapshot.index + BigInt(this.entries.length);
  }

  private keep(record: Record): void {
    if (record.kind === 'hardState') this.hardState = record.hardState;
    else if (record.kind === 'entry') {
      const { entry } = record;
      if (entry.index <= this.snapshot.index) return;
      const at = Number(entry.index - this.snapshot.index) - 1;
      if (at > this.entries.length) throw new Error(`entry ${entry.index} written after ${this.last}: the log has a hole`);
      this.entries.length = at;
      this.entries.push(entry);
    } else {
      // What the log held goes with it in one step: entries behind the snapshot may belong to another history.
      this.snapshot = record.snapshot;
      this.entries = [];
    }
  }
}
