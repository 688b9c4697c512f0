// Progress: what a leader knows of one member, and what it may send it.
// probe: where the logs meet is not known; one append at a time. replicate: appends go out ahead of the answers, up to a
// window. snapshot: nothing goes until the shell or the member says that the snapshot has arrived or failed.
// Invariant: match < next.

import type { ProgressState, ProgressView } from './types.js';

/** The last indices of appends on their way, oldest first. */
class Inflight {
  private readonly max: number;
  private indices: bigint[] = [];

  constructor(max: number) {
    this.max = max;
  }

  get full(): boolean {
    return this.indices.length >= this.max;
  }

  add(last: bigint): void {
    this.indices.push(last);
  }

  freeTo(index: bigint): void {
    const kept = this.indices.findIndex((last) => last > index);
    if (kept !== 0) this.indices = kept === -1 ? [] : this.indices.slice(kept);
  }

  clear(): void {
    this.indices = [];
  }
}

export class Progress {
  readonly member: bigint;
  state: ProgressState = 'probe';
  match = 0n;
  next: bigint;
  /** A message came from it since the last check of the quorum. */
  active: boolean;
  /** One came in the period before that. */
  private activeBefore = false;
  /** Newest read round it confirmed. */
  readRound = 0n;
  /** Highest commit sent to it. */
  sentCommit = 0n;
  /** In `probe`: the append is on its way, or lost. */
  private probeSent = false;
  /** It answered a heartbeat, yet lacks entries: an append may have been lost, so one more goes in any case. */
  private nudged = false;
  /** In `snapshot`: its index. */
  private snapshotIndex = 0n;
  private readonly inflight: Inflight;

  constructor(member: bigint, next: bigint, inflightMax: number, active: boolean) {
    this.member = member;
    this.next = next;
    this.active = active;
    this.inflight = new Inflight(inflightMax);
  }

  view(learner: boolean): ProgressView {
    return { member: this.member, state: this.state, match: this.match, next: this.next, learner, heard: this.active || this.activeBefore };
  }

  /** The quorum was checked: another period begins. */
  checked(): void {
    this.activeBefore = this.active;
    this.active = false;
  }

  /** An append message should go now. */
  wantsAppend(last: bigint, commit: bigint): boolean {
    switch (this.state) {
      case 'probe': return !this.probeSent;
      case 'snapshot': return false;
      case 'replicate': return this.nudged || (!this.inflight.full && (this.next <= last || this.sentCommit < commit));
    }
  }

  /** The window is full: an append may carry no entries. */
  get full(): boolean {
    return this.state === 'replicate' && this.inflight.full;
  }

  appendSent(count: number, commit: bigint): void {
    this.nudged = false;
    this.sentCommit = commit;
    if (this.state === 'probe') {
      this.probeSent = true;
    } else if (count > 0) {
      this.next += BigInt(count);
      this.inflight.add(this.next - 1n);
    }
  }

  nudge(): void {
    this.probeSent = false;
    this.nudged = true;
  }

  /** It has everything up to `index`. True if that is news. */
  acknowledge(index: bigint, first: bigint): boolean {
    const news = index > this.match;
    if (news) this.match = index;
    if (this.next <= index) this.next = index + 1n;
    this.probeSent = false;
    if (this.state === 'replicate') {
      this.inflight.freeTo(index);
    } else if (this.state === 'probe' ? index >= this.match : this.match + 1n >= first) {
      this.becomeReplicate();
    }
    return news;
  }

  /**
   * It refused the append after `refused`; `hint` is where the logs may meet. Nothing to learn from an answer out of date.
   * A member that lost what it acknowledged refuses that as well: it is asked again at the pace of heartbeats only.
   */
  refuse(refused: bigint, hint: bigint): void {
    if (refused <= this.match || this.state === 'snapshot') return;
    if (this.state === 'replicate') {
      this.becomeProbe();
    } else if (this.next - 1n === refused) {
      const next = refused < hint + 1n ? refused : hint + 1n;
      this.next = next > this.match + 1n ? next : this.match + 1n;
      this.probeSent = false;
    }
  }

  becomeProbe(): void {
    const afterSnapshot = this.state === 'snapshot' && this.snapshotIndex > this.match ? this.snapshotIndex : this.match;
    this.reset('probe');
    this.next = afterSnapshot + 1n;
  }

  becomeSnapshot(index: bigint): void {
    this.reset('snapshot');
    this.snapshotIndex = index;
    this.next = index + 1n;
  }

  /** The shell's word on the snapshot that was sent. Either way the member's next answer tells where to go on. */
  snapshotReported(arrived: boolean): void {
    if (this.state !== 'snapshot') return;
    if (!arrived) this.snapshotIndex = 0n;
    this.becomeProbe();
    // It may still be restoring it: wait for its answer, or for the answer to a heartbeat.
    this.probeSent = true;
  }

  private becomeReplicate(): void {
    this.reset('replicate');
    this.next = this.match + 1n;
  }

  private reset(state: ProgressState): void {
    this.state = state;
    this.probeSent = false;
    this.nudged = false;
    this.sentCommit = 0n;
    this.snapshotIndex = 0n;
    this.inflight.clear();
  }
}
