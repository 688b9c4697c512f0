// A member's simulated disk: its log as io/raftlog keeps it (segments of batches, the newest snapshot), and what a start
// finds in it, kept along. A crash keeps what was synced, and by chance a part of the rest: of a write the first batches (here
// each record is one, as if no more than that fitted into a batch), and of the batch behind them any sectors, perhaps damaged.
// Where bytes are missing or wrong, they are made and read by the real code (logimage.ts), which must find what was synced,
// or refuse it if that is what was damaged.

import type { Prng } from '../../src/lib/prng.js';
import type { ConfState, Entry, HardState, Ready, Snapshot } from '../../src/core/raft/types.js';
import type { LogFiles } from '../../src/io/raftlog/check.js';
import type { LoadedLog } from '../../src/io/raftlog/replay.js';
import { Violation } from './checker.js';
import { DEK, withDamage, withSegmentBegun, withUnfinished, type Batch, type Log, type ReadLog, type Segment } from './logimage.js';

type Write =
  | { readonly kind: 'batch'; readonly batch: Batch }
  /** The leader's, renamed into place; the reset that follows it says that it takes the place of the log. */
  | { readonly kind: 'install'; readonly snapshot: Snapshot };

/** Of the crashes with a write on its way: something of the batch is there. */
const LEFT_SHARE = 0.4;

export class SimDisk {
  hardState: HardState = { term: 0n, vote: 0n, commit: 0n };
  snapshot: Snapshot;
  /** After the snapshot. */
  entries: Entry[] = [];
  /** Durations of writes: the disk is slow for a while when this is high. */
  writeMsMax = 5;
  /** What was synced is not what is there: where. */
  damaged: string | undefined;
  private segments: Segment[] = [{ batches: [], lastIndex: 0n }];
  private writing: readonly Write[] = [];
  private unsynced: HardState | undefined;
  /** Bytes to be read at the next start. */
  private files: LogFiles | undefined;

  constructor(confState: ConfState) {
    this.snapshot = { index: 0n, term: 0n, confState, data: new Uint8Array(0) };
  }

  /** Begins to write what must be durable. */
  begin({ snapshot, entries, hardState }: Ready): void {
    const appended = entries.map((entry): Write => ({ kind: 'batch', batch: [{ kind: 'entry', entry }] }));
    const state = hardState ?? this.newestHardState;
    if (snapshot === undefined) {
      this.writing = hardState === undefined ? appended : [...appended, { kind: 'batch', batch: [{ kind: 'hardState', hardState }] }];
      return;
    }
    const { index, term } = snapshot;
    const reset: Batch = [{ kind: 'reset', index, term }, { kind: 'hardState', hardState: { ...state, commit: index } }];
    const committed: Write[] = entries.length === 0 ? [] : [{ kind: 'batch', batch: [{ kind: 'hardState', hardState: state }] }];
    this.writing = [{ kind: 'install', snapshot }, { kind: 'batch', batch: reset }, ...appended, ...committed];
  }

  /** The write is durable. */
  end(): void {
    this.writing.forEach((write) => this.keep(write));
    this.writing = [];
    this.unsynced = undefined;
  }

  /** Written, but not synced: a crash may lose it. */
  note(hardState: HardState): void {
    this.unsynced = hardState;
  }

  private get newestHardState(): HardState {
    return this.unsynced ?? this.hardState;
  }

  /** A snapshot of its own: written aside and renamed, then the log goes on after it. */
  saveSnapshot(snapshot: Snapshot): void {
    const { index } = snapshot;
    const hardState = this.newestHardState;
    this.snapshot = snapshot;
    this.dropUpTo(index);
    this.openSegment();
    this.keepBatch([{ kind: 'hardState', hardState: { ...hardState, commit: index > hardState.commit ? index : hardState.commit } }]);
    this.unsynced = undefined;
    this.compact(index);
  }

  dropUpTo(index: bigint): void {
    this.entries = this.entries.filter((entry) => entry.index > index);
  }

  /** True if a write was cut in its middle. */
  crash(random: Prng): boolean {
    if (this.unsynced !== undefined && random.chance(0.5)) this.keepBatch([{ kind: 'hardState', hardState: this.unsynced }]);
    const { writing } = this;
    this.unsynced = undefined;
    this.writing = [];
    const kept = random.chance(0.5) ? random.below(writing.length + 1) : 0;
    for (const write of writing.slice(0, kept)) this.keep(write);
    const begun = writing[kept];
    if (begun !== undefined) this.leave(begun, writing[kept - 1], random);
    return this.files !== undefined || (kept > 0 && kept < writing.length);
  }

  /** Something of a write that was not synced. */
  private leave(begun: Write, before: Write | undefined, random: Prng): void {
    // Renamed without the reset behind it: what the log holds is another history than the snapshot's, or its beginning.
    if (before?.kind === 'install') {
      this.files = withSegmentBegun(this.log, random);
      return;
    }
    if (begun.kind === 'install' || !random.chance(LEFT_SHARE)) return;
    const { files, whole } = withUnfinished(this.log, begun.batch, random);
    if (whole) this.keepBatch(begun.batch);
    this.files = files;
  }

  private get log(): Log {
    const { snapshot, segments } = this;
    return { snapshot: snapshot.index === 0n ? undefined : snapshot, segments };
  }

  /** One bit of what was synced, while nothing runs on it. */
  damage(random: Prng): void {
    const { files, where } = withDamage(this.log, random);
    this.files = files;
    this.damaged = where;
  }

  /** Of a start: what is read is what it goes on with. */
  load(readLog: ReadLog): 'read' | 'cut' | 'refused' {
    const { files } = this;
    this.files = undefined;
    if (files === undefined) {
      this.openSegment();
      return 'read';
    }
    let found: LoadedLog;
    try {
      found = readLog(files, [DEK]);
    } catch (error) {
      if ((error as Error).name !== 'RaftLogDamaged') throw error;
      if (this.damaged === undefined) throw new Violation(`an unfinished write is taken for damage: ${(error as Error).message}`);
      this.files = files;
      return 'refused';
    }
    this.take(found);
    return found.tornBytes > 0 ? 'cut' : 'read';
  }

  private take(found: LoadedLog): void {
    if (this.damaged === undefined) {
      const problem = this.differs(found);
      if (problem !== undefined) throw new Violation(`after a crash ${problem}`);
    } else {
      // Nobody noticed: a deliberate bug. It goes on with it, and others see what comes of that.
      const { snapshot, hardState, entries } = found;
      if (snapshot !== undefined) {
        const { index, term, voters, learners, data } = snapshot;
        this.snapshot = { index, term, confState: { voters, learners }, data };
      }
      this.hardState = hardState;
      this.entries = [...entries];
      this.damaged = undefined;
      const batches = entries.map((entry): Batch => [{ kind: 'entry', entry }]);
      this.segments = [{ batches: [...batches, [{ kind: 'hardState', hardState }]], lastIndex: this.last }];
    }
    this.openSegment();
  }

  /** From what was synced, in words. */
  private differs({ snapshot, hardState: { term, vote, commit }, entries }: LoadedLog): string | undefined {
    const own = this.hardState;
    if ((snapshot?.index ?? 0n) !== this.snapshot.index) return `the snapshot is of ${snapshot?.index}, ${this.snapshot.index} was synced`;
    if (term !== own.term || vote !== own.vote || commit !== own.commit) {
      return `the hard state is ${term} ${vote} ${commit}, ${own.term} ${own.vote} ${own.commit} was synced`;
    }
    const same = (a: Entry, b: Entry | undefined): boolean =>
      a.index === b?.index && a.term === b.term && a.kind === b.kind && Buffer.compare(a.data, b.data) === 0;
    const other = this.entries.find((entry, i) => !same(entry, entries[i])) ?? entries[this.entries.length];
    return other === undefined ? undefined : `entry ${other.index} is not what was synced`;
  }

  term(index: bigint): bigint | undefined {
    if (index === this.snapshot.index) return this.snapshot.term;
    return this.entries[Number(index - this.snapshot.index) - 1]?.term;
  }

  get last(): bigint {
    return this.snapshot.index + BigInt(this.entries.length);
  }

  private openSegment(): void {
    this.segments.push({ batches: [], lastIndex: 0n });
  }

  /** A segment may go when it and every one before it hold nothing after the snapshot; the newest stays. */
  private compact(index: bigint): void {
    const kept = this.segments.findIndex(({ lastIndex }, i) => lastIndex > index || i === this.segments.length - 1);
    this.segments.splice(0, kept);
  }

  private keep(write: Write): void {
    if (write.kind === 'batch') {
      this.keepBatch(write.batch);
      return;
    }
    const { snapshot } = write;
    const { index, term } = snapshot;
    // Until the reset is there: entries behind the snapshot stay if they are of its history.
    this.entries = this.term(index) === term ? this.entries.filter((entry) => entry.index > index) : [];
    this.snapshot = snapshot;
    const { hardState } = this;
    if (hardState.commit < index) this.hardState = { ...hardState, term: hardState.term === 0n ? term : hardState.term, commit: index };
  }

  private keepBatch(batch: Batch): void {
    if (batch[0]?.kind === 'reset') this.openSegment();
    const segment = this.segments.at(-1) as Segment;
    segment.batches.push(batch);
    for (const record of batch) {
      if (record.kind === 'hardState') this.hardState = record.hardState;
      else if (record.kind === 'entry') {
        segment.lastIndex = record.entry.index;
        this.keepEntry(record.entry);
      } else {
        // It takes the place of the log.
        this.entries = [];
        for (const one of this.segments) one.lastIndex = 0n;
        this.compact(record.index);
      }
    }
  }

  private keepEntry(entry: Entry): void {
    if (entry.index <= this.snapshot.index) return;
    const at = Number(entry.index - this.snapshot.index) - 1;
    if (at > this.entries.length) throw new Error(`entry ${entry.index} written after ${this.last}: the log has a hole`);
    this.entries.length = at;
    this.entries.push(entry);
  }
}
