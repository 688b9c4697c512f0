// RaftNode: the consensus core as tick/step/propose in, Ready out. No clock, no I/O.
//
// This is the one-member group: its own acknowledgement is the quorum. The contract is the one that more members
// need: what Ready hands out must be persisted before its messages go and before advance() is called; an entry
// counts as committed only after it was persisted (Raft paper, section 5.3; thesis 10.2.1 for the order).
// Invariants: applied <= committed <= stable <= last.

import { assert } from '../../lib/assert.js';

export type EntryKind = 'normal' | 'confChange';

export interface Entry {
  readonly index: bigint;
  readonly term: bigint;
  readonly kind: EntryKind;
  readonly data: Uint8Array;
}

export interface HardState {
  readonly term: bigint;
  /** Member voted for in this term, 0 for none. */
  readonly vote: bigint;
  readonly commit: bigint;
}

export interface ConfState {
  readonly voters: readonly bigint[];
}

export interface SoftState {
  readonly role: 'follower' | 'leader';
  /** 0 while unknown. */
  readonly leader: bigint;
}

export interface Ready {
  /** Changed since the last Ready: persist with the entries. */
  readonly hardState: HardState | undefined;
  /** Persist, in order, before calling advance(). */
  readonly entries: readonly Entry[];
  /** Apply to the state machine, in order. */
  readonly committed: readonly Entry[];
  readonly softState: SoftState | undefined;
  /** The write must be on disk before going on. A mere advance of commit may ride with the next write. */
  readonly mustSync: boolean;
}

export interface RaftStart {
  readonly id: bigint;
  readonly hardState: HardState;
  readonly confState: ConfState;
  /** Index and term of the snapshot the log begins after; 0 without one. */
  readonly snapshotIndex: bigint;
  readonly snapshotTerm: bigint;
  /** Persisted entries after the snapshot, contiguous. */
  readonly entries: readonly Entry[];
}

export class NotLeaderError extends Error {
  constructor() {
    super('proposal dropped: not the leader');
    this.name = 'NotLeaderError';
  }
}

export class RaftNode {
  readonly id: bigint;
  private term: bigint;
  private vote: bigint;
  private commit: bigint;
  private readonly voters: readonly bigint[];
  private role: 'follower' | 'leader' = 'follower';
  private last: bigint;
  private stable: bigint;
  /** Handed out for application. */
  private applied: bigint;
  /** Entries after `applied`: what may still be handed out. */
  private pending: Entry[];
  private reportedHard: HardState;
  private reportedSoft: SoftState | undefined;
  private outstanding: Ready | undefined;

  constructor(start: RaftStart) {
    assert(start.confState.voters.length === 1, 'a group of one member');
    assert(start.confState.voters[0] === start.id, 'the member is the voter');
    this.id = start.id;
    this.term = start.hardState.term;
    this.vote = start.hardState.vote;
    this.voters = start.confState.voters;
    this.pending = [...start.entries];
    this.applied = start.snapshotIndex;
    this.last = this.pending.at(-1)?.index ?? start.snapshotIndex;
    this.stable = this.last;
    this.commit = start.hardState.commit > start.snapshotIndex ? start.hardState.commit : start.snapshotIndex;
    assert(this.commit <= this.last, `commit ${this.commit} is past the log's end ${this.last}`);
    this.reportedHard = start.hardState;
  }

  get leader(): boolean {
    return this.role === 'leader';
  }

  get status(): { readonly term: bigint; readonly commit: bigint; readonly last: bigint; readonly voters: readonly bigint[] } {
    return { term: this.term, commit: this.commit, last: this.last, voters: this.voters };
  }

  /** A group of one needs no votes but its own: it leads from its first tick. */
  tick(): void {
    if (this.role === 'leader') return;
    this.term += 1n;
    this.vote = this.id;
    this.role = 'leader';
    // The leader commits entries of older terms by an entry of its own term (paper, 5.4.2).
    this.append('normal', new Uint8Array(0));
  }

  /** Appends; returns the index the data will have once committed. Throws NotLeaderError. */
  propose(data: Uint8Array): bigint {
    if (this.role !== 'leader') throw new NotLeaderError();
    return this.append('normal', data);
  }

  hasReady(): boolean {
    return this.outstanding === undefined
      && (this.stable < this.last || this.applied < this.commit || this.hardChanged() || this.softChanged());
  }

  ready(): Ready {
    assert(this.outstanding === undefined, 'ready() before advance()');
    const entries = this.pending.filter((entry) => entry.index > this.stable);
    const ready: Ready = {
      hardState: this.hardChanged() ? this.hardState() : undefined,
      entries,
      mustSync: entries.length > 0 || this.reportedHard.term !== this.term || this.reportedHard.vote !== this.vote,
      committed: this.pending.filter((entry) => entry.index <= this.commit),
      softState: this.softChanged() ? this.softState() : undefined,
    };
    this.outstanding = ready;
    return ready;
  }

  /** The last Ready was persisted and its committed entries were applied. */
  advance(): void {
    const ready = this.outstanding;
    assert(ready !== undefined, 'advance() without ready()');
    this.outstanding = undefined;
    if (ready.hardState !== undefined) this.reportedHard = ready.hardState;
    if (ready.softState !== undefined) this.reportedSoft = ready.softState;
    const appliedTo = ready.committed.at(-1)?.index;
    if (appliedTo !== undefined) {
      this.applied = appliedTo;
      this.pending = this.pending.filter((entry) => entry.index > appliedTo);
    }
    const stableTo = ready.entries.at(-1)?.index;
    if (stableTo !== undefined) this.stable = stableTo;
    // Own persistence is the quorum of one; only entries of the own term commit directly.
    if (this.role === 'leader' && this.stable > this.commit) this.commit = this.stable;
  }

  private append(kind: EntryKind, data: Uint8Array): bigint {
    this.last += 1n;
    this.pending.push({ index: this.last, term: this.term, kind, data });
    return this.last;
  }

  private hardState(): HardState {
    return { term: this.term, vote: this.vote, commit: this.commit };
  }

  private hardChanged(): boolean {
    const { term, vote, commit } = this.reportedHard;
    return term !== this.term || vote !== this.vote || commit !== this.commit;
  }

  private softState(): SoftState {
    return { role: this.role, leader: this.role === 'leader' ? this.id : 0n };
  }

  private softChanged(): boolean {
    return this.reportedSoft?.role !== this.role;
  }
}
