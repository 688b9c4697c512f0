// RaftNode: the consensus core of one member. tick/step/propose in, Ready out; no clock, no I/O, no waiting.
// What the shell owes is written at Ready in types.ts: persist, then send and apply, then advance(); a leader's appends
// may go meanwhile. An entry counts as held by this member, and its vote as given, only after that. The parts: election.ts,
// replication.ts (leader), follower.ts, readindex.ts, confchange.ts, log.ts; state.ts is what they share.
// After "In Search of an Understandable Consensus Algorithm" (Ongaro, Ousterhout) and Ongaro's thesis.

import { assert } from '../../lib/assert.js';
import {
  campaign, campaignForTransfer, handleVoteRequest, handleVoteResponse, inLease, ownVotePersisted, suspectLeader, tickElection,
} from './election.js';
import { followLeader, handleAppend, handleHeartbeat, handleSnapshot } from './follower.js';
import { flush, maybeCommit, propose, proposeConfChange, stepLeader, tickLeader, transferLeader, type Proposed } from './replication.js';
import { RaftState, becomeFollower, send } from './state.js';
import type {
  ConfChange, ConfState, Entry, HardState, Message, ProgressView, RaftStart, RaftStatus, Ready, SnapshotMeta, SoftState,
} from './types.js';

export type { Proposed } from './replication.js';

export class RaftNode {
  readonly id: bigint;
  private readonly state: RaftState;
  private reportedHard: HardState;
  /** As of the last Ready that had to reach the disk: a commit index may have been left out since. */
  private syncedHard: HardState;
  private reportedSoft: SoftState = { role: 'follower', leader: 0n };
  private outstanding: Ready | undefined;
  /**
   * What the shell has applied, and will have once the outstanding Ready is done, with the configurations that Ready goes
   * through: a snapshot that arrives meanwhile makes the log forget them.
   */
  private applied: SnapshotMeta;
  private applying: SnapshotMeta;
  private readonly applyingConfs = new Map<bigint, ConfState>();

  constructor(start: RaftStart) {
    assert(start.id > 0n, 'a member has an id');
    assert(start.electionTicks > start.heartbeatTicks && start.heartbeatTicks > 0, 'elections are slower than heartbeats');
    assert(start.inflightMax > 0, 'at least one append may be on its way');
    this.id = start.id;
    this.state = new RaftState(start);
    this.reportedHard = start.hardState;
    this.syncedHard = start.hardState;
    this.applied = this.state.snapshot;
    this.applying = this.applied;
  }

  get leader(): boolean {
    return this.state.role === 'leader';
  }

  get term(): bigint {
    return this.state.term;
  }

  get status(): RaftStatus {
    const { id, role, leader, term, log, conf } = this.state;
    const { index: applied, term: appliedTerm, confState } = this.applied;
    return {
      id, role, leader, hearsLeader: this.leader || inLease(this.state), term, commit: log.committed, applied, appliedTerm,
      last: log.last, confState, activeConfState: conf, progress: this.progressViews(),
    };
  }

  private progressViews(): ProgressView[] {
    const { progress, conf } = this.state;
    return [...progress.values()].map((one) => one.view(!conf.voters.includes(one.member)));
  }

  /** Time goes by, at the pace the shell chooses. */
  tick(): void {
    this.state.forwarded.tick();
    if (this.leader) tickLeader(this.state);
    else tickElection(this.state);
  }

  /** A message of another member. Those that are lost, late, repeated or out of order do no harm. */
  step(message: Message): void {
    if (message.to !== this.id || message.from === this.id) return;
    if (message.term > this.state.term && !this.enterTerm(message)) return;
    if (message.term < this.state.term) this.answerStale(message);
    else this.route(message);
  }

  /** False if the message is not to be heard. */
  private enterTerm(message: Message): boolean {
    const { kind, term, from } = message;
    if ((kind === 'vote' || kind === 'preVote') && !message.transfer && inLease(this.state)) return false;
    // A question what if, and the answer to one: no term has begun.
    if (kind === 'preVote' || (kind === 'preVoteResponse' && !message.reject)) return true;
    // Nor is a member that was removed to depose anybody by asking.
    if (kind === 'readIndex' || kind === 'readIndexResponse') return false;
    const fromLeader = kind === 'append' || kind === 'heartbeat' || kind === 'snapshot';
    becomeFollower(this.state, term, fromLeader ? from : 0n);
    return true;
  }

  /** The sender is behind: a leader or a candidate must hear of the term it missed, or it might never come in again. */
  private answerStale({ kind, from }: Message): void {
    if (kind === 'append' || kind === 'heartbeat' || kind === 'snapshot') send(this.state, 'appendResponse', from, { reject: true });
    if (kind === 'preVote') send(this.state, 'preVoteResponse', from, { reject: true });
  }

  private route(message: Message): void {
    const { state } = this;
    switch (message.kind) {
      case 'vote': case 'preVote':
        handleVoteRequest(state, message);
        return;
      case 'voteResponse': case 'preVoteResponse':
        handleVoteResponse(state, message);
        return;
      case 'append': case 'heartbeat': case 'snapshot':
        if (state.role === 'leader') return;
        followLeader(state, message.from);
        if (message.kind === 'append') handleAppend(state, message);
        else if (message.kind === 'heartbeat') handleHeartbeat(state, message);
        else handleSnapshot(state, message);
        return;
      case 'timeoutNow':
        if (state.role !== 'leader') campaignForTransfer(state);
        return;
      case 'readIndexResponse':
        this.readAnswered(message);
        return;
      case 'appendResponse': case 'heartbeatResponse': case 'readIndex':
        if (state.role === 'leader') stepLeader(state, message);
    }
  }

  /** Appends; the index is where the data will be, if it is committed at all. */
  propose(data: Uint8Array): Proposed {
    return propose(this.state, 'normal', data);
  }

  proposeConfChange(change: ConfChange): Proposed {
    return proposeConfChange(this.state, change);
  }

  /**
   * The configuration as of an entry that is being applied, for the shell's own books. The core has counted by it since the entry
   * was in its log (thesis, 4.1): nothing changes here.
   */
  applyConfChange(entry: Entry): ConfState {
    const conf = this.applyingConfs.get(entry.index);
    assert(conf !== undefined, 'a conf change among the committed entries of the Ready');
    return conf;
  }

  /**
   * Asks for a linearizable read: a ReadState with this context follows, or never comes (the leader changed, messages were
   * lost); then ask again, by another number. False if there is no leader to ask, or too many reads wait.
   */
  readIndex(context: bigint): boolean {
    const { state } = this;
    if (state.role === 'leader') {
      if (!state.reads.add({ from: this.id, context })) return false;
      state.sendWanted = true;
      return true;
    }
    if (state.leader === 0n) return false;
    const number = state.forwarded.add(context, state.options.electionTicks);
    if (number === undefined) return false;
    send(state, 'readIndex', state.leader, { context: number });
    return true;
  }

  private readAnswered(message: Message): void {
    const context = this.state.forwarded.take(message.context);
    if (context !== undefined) this.state.readStates.push({ context, index: message.index });
  }

  /** Hands over to a voter; until then, for an election timeout at most, proposals are refused. False if it cannot be. */
  transferLeader(member: bigint): boolean {
    return transferLeader(this.state, member);
  }

  campaign(): void {
    campaign(this.state);
  }

  /** The transport saw the member's process end. If it led, this follower does not wait for the election timeout. */
  suspect(member: bigint): void {
    if (this.state.role === 'follower' && this.state.leader === member) suspectLeader(this.state);
  }

  /** A message to the member was lost: find out again what it has. */
  reportUnreachable(member: bigint): void {
    const progress = this.state.progress.get(member);
    if (progress?.state === 'replicate') progress.becomeProbe();
  }

  /** Owed for every message of kind `snapshot`: it has reached the member, or failed. Until then nothing else goes there. */
  reportSnapshot(member: bigint, ok: boolean): void {
    this.state.progress.get(member)?.snapshotReported(ok);
  }

  hasReady(): boolean {
    const { messages, readStates, pendingSnapshot, log, sendWanted, commitUntold } = this.state;
    if (this.outstanding !== undefined) return false;
    return log.stable < log.last || log.hasNextCommitted || pendingSnapshot !== undefined || messages.length > 0
      || readStates.length > 0 || sendWanted || commitUntold || this.hardChanged(this.reportedHard) || this.softChanged();
  }

  /** What is to be done now. One at a time: advance() before the next. */
  ready(): Ready {
    assert(this.outstanding === undefined, 'ready() before advance()');
    const { state } = this;
    flush(state);
    const early = this.takeEarly();
    const entries = state.log.unstable();
    const { term, vote } = this.syncedHard;
    const mustSync = entries.length > 0 || state.pendingSnapshot !== undefined || term !== state.term || vote !== state.vote;
    const ready: Ready = {
      hardState: this.hardChanged(mustSync ? this.syncedHard : this.reportedHard) ? this.hardState() : undefined,
      snapshot: state.pendingSnapshot,
      entries,
      early,
      messages: state.messages,
      committed: state.log.nextCommitted(),
      readStates: state.readStates,
      softState: this.softChanged() ? this.softState() : undefined,
      mustSync,
    };
    state.messages = [];
    state.readStates = [];
    if (ready.softState !== undefined) this.reportedSoft = ready.softState;
    this.outstanding = ready;
    this.beginApplying(ready);
    return ready;
  }

  /**
   * Not before the term and the own vote are on disk: a leader that forgot them could lead the same term again, with other
   * entries. Its entries need not be: it counts itself only for what is on its disk.
   */
  private takeEarly(): readonly Message[] {
    const { state, syncedHard } = this;
    if (state.role !== 'leader' || syncedHard.term !== state.term || syncedHard.vote !== this.id) return [];
    const mayGo = ({ kind, term }: Message): boolean => (kind === 'append' || kind === 'heartbeat') && term === state.term;
    const early = state.messages.filter(mayGo);
    if (early.length > 0) state.messages = state.messages.filter((message) => !mayGo(message));
    return early;
  }

  private beginApplying({ snapshot, committed }: Ready): void {
    const { membership } = this.state;
    for (const { kind, index } of committed) if (kind === 'confChange') this.applyingConfs.set(index, membership.at(index));
    const last = committed.at(-1);
    if (last !== undefined) this.applying = { index: last.index, term: last.term, confState: membership.at(last.index) };
    if (snapshot !== undefined) this.applying = { index: snapshot.index, term: snapshot.term, confState: snapshot.confState };
  }

  /** The last Ready was persisted and sent, and its committed entries were applied. */
  advance(): void {
    const { state, outstanding: ready } = this;
    assert(ready !== undefined, 'advance() without ready()');
    this.outstanding = undefined;
    if (ready.hardState !== undefined) this.reportedHard = ready.hardState;
    if (ready.hardState !== undefined && ready.mustSync) this.syncedHard = ready.hardState;
    if (state.pendingSnapshot === ready.snapshot) state.pendingSnapshot = undefined;
    this.applied = this.applying;
    this.applyingConfs.clear();
    state.log.appliedTo(this.applied.index);
    const stable = ready.entries.at(-1);
    if (stable !== undefined) state.log.stableTo(stable.index, stable.term);
    if (state.role === 'leader') maybeCommit(state);
    if (this.syncedHard.term === state.term && this.syncedHard.vote === this.id) ownVotePersisted(state);
  }

  /** The shell saved a snapshot, and drops what it holds before `keepFrom`; members that lack more get the snapshot. */
  compact(meta: SnapshotMeta, keepFrom: bigint): void {
    const { log, membership, snapshot } = this.state;
    if (meta.index <= snapshot.index) return;
    assert(meta.index <= log.applied, `a snapshot at ${meta.index} of what was applied only up to ${log.applied}`);
    assert(keepFrom <= meta.index + 1n, 'a snapshot of all that is dropped');
    this.state.snapshot = { index: meta.index, term: meta.term, confState: meta.confState };
    membership.compact(meta.index, meta.confState);
    log.compact(keepFrom);
  }

  private hardState(): HardState {
    return { term: this.state.term, vote: this.state.vote, commit: this.state.log.committed };
  }

  private hardChanged({ term, vote, commit }: HardState): boolean {
    return term !== this.state.term || vote !== this.state.vote || commit !== this.state.log.committed;
  }

  private softState(): SoftState {
    return { role: this.state.role, leader: this.state.leader };
  }

  private softChanged(): boolean {
    // The term need not be looked at: a Ready of a candidate, which asks for votes or writes its own, is between two terms it leads.
    return this.reportedSoft.role !== this.state.role || this.reportedSoft.leader !== this.state.leader;
  }
}
