// RaftState: everything a member knows, and the few changes that all parts share: messages, the log with the
// configurations in it, and becoming a follower. The other files of this folder are functions on it.

import { Prng } from '../../lib/prng.js';
import { Membership, ascending, members } from './confchange.js';
import { EntryLog, type Position } from './log.js';
import { Progress } from './progress.js';
import { ForwardedReads, ReadRounds } from './readindex.js';
import type { ConfState, Entry, Message, MessageKind, RaftStart, ReadState, Role, Snapshot, SnapshotMeta } from './types.js';

/** Messages that wait for the next Ready. A disk that hangs must not fill the memory; any message may be lost. */
const MESSAGES_MAX = 10_000;

type Options = Pick<RaftStart, 'electionTicks' | 'heartbeatTicks' | 'appendBytesMax' | 'inflightMax' | 'uncommittedBytesMax'>;

export class RaftState {
  readonly id: bigint;
  readonly options: Options;
  readonly random: Prng;
  readonly log: EntryLog;
  readonly membership: Membership;
  term: bigint;
  /** Member voted for in this term, 0 for none. */
  vote: bigint;
  role: Role = 'follower';
  /** 0 while unknown. */
  leader = 0n;
  /** Ticks since the leader was heard, a vote was given or a campaign began; of a leader: since its quorum was checked. */
  electionElapsed = 0;
  heartbeatElapsed = 0;
  /** Drawn anew each time. */
  electionTimeout: number;
  /** The leader's process ended: ticks until this follower campaigns. */
  suspectTicks: number | undefined;
  /** Since a leader was heard, this member refused its vote to a log that is behind its own. */
  refusedOlderLog = false;
  /** Of a candidate: answers. */
  readonly votes = new Map<bigint, boolean>();
  /** Of a leader, in ascending order of members, without itself. */
  progress: ReadonlyMap<bigint, Progress> = new Map();
  /** Of a leader: the member it hands over to, 0 for none, and the ticks since. */
  transferee = 0n;
  transferElapsed = 0;
  /** Of a leader. */
  uncommittedBytes = 0;
  readonly reads = new ReadRounds();
  readonly forwarded: ForwardedReads;
  readStates: ReadState[] = [];
  /** The newest one taken or received: what a member too far behind is sent. */
  snapshot: SnapshotMeta;
  /** Received, not handed to the shell and restored yet. */
  pendingSnapshot: Snapshot | undefined;
  messages: Message[] = [];
  /** A leader may have something to send: entries, a commit index, a read round. Looked at once a Ready, so that batches form. */
  sendWanted = false;
  /** Of a leader: the commit index grew, and may have to be told in messages of its own. */
  commitUntold = false;

  constructor(start: RaftStart) {
    this.id = start.id;
    this.options = start;
    this.random = new Prng(start.seed);
    this.forwarded = new ForwardedReads(this.random.uint63() >> 1n);
    this.log = new EntryLog({ index: start.snapshotIndex, term: start.snapshotTerm }, start.entries, start.hardState.commit);
    const conf = { voters: [...start.confState.voters].sort(ascending), learners: [...start.confState.learners].sort(ascending) };
    this.membership = new Membership(start.snapshotIndex, conf);
    this.membership.append(start.entries);
    this.snapshot = { index: start.snapshotIndex, term: start.snapshotTerm, confState: conf };
    this.term = start.hardState.term;
    this.vote = start.hardState.vote;
    this.electionTimeout = drawTimeout(this);
  }

  /** By the last entry of the log. */
  get conf(): ConfState {
    return this.membership.current;
  }

  get isVoter(): boolean {
    return this.conf.voters.includes(this.id);
  }

  get isOnlyVoter(): boolean {
    return this.isVoter && this.conf.voters.length === 1;
  }

  /** A leader counts its own term's entries only; by one of them it knows what is committed (paper, 5.4.2 and 8). */
  get committedInTerm(): boolean {
    return this.log.term(this.log.committed) === this.term;
  }
}

type Fields = Partial<Omit<Message, 'kind' | 'to' | 'from'>>;

/** Queues a message of the present term. False if too many wait: it is lost. */
export function send(state: RaftState, kind: MessageKind, to: bigint, fields: Fields = {}): boolean {
  if (state.messages.length >= MESSAGES_MAX) return false;
  state.messages.push({
    kind, to, from: state.id, term: state.term, index: 0n, logTerm: 0n, entries: [], commit: 0n, reject: false, rejectHint: 0n,
    transfer: false, context: 0n, snapshot: undefined, ...fields,
  });
  return true;
}

function drawTimeout(state: RaftState): number {
  return state.options.electionTicks + state.random.below(state.options.electionTicks);
}

export function leaderHeard(state: RaftState): void {
  state.electionElapsed = 0;
  state.suspectTicks = undefined;
}

/** Something new begins: wait for a whole timeout again. */
export function restartElectionTimer(state: RaftState): void {
  leaderHeard(state);
  state.electionTimeout = drawTimeout(state);
}

/** Into a role, with nothing left of the one before. */
export function enterRole(state: RaftState, role: Role, term: bigint, leader: bigint): void {
  if (term !== state.term) {
    state.term = term;
    state.vote = 0n;
  }
  state.role = role;
  state.leader = leader;
  if (leader !== 0n) state.refusedOlderLog = false;
  state.heartbeatElapsed = 0;
  state.votes.clear();
  state.progress = new Map();
  state.transferee = 0n;
  state.uncommittedBytes = 0;
  state.sendWanted = false;
  state.commitUntold = false;
  state.reads.clear();
  restartElectionTimer(state);
}

export function becomeFollower(state: RaftState, term: bigint, leader: bigint): void {
  enterRole(state, 'follower', term, leader);
}

/** The configuration follows the log. Returns the index of the last one; undefined if the logs do not meet. */
export function maybeAppend(state: RaftState, prev: Position, entries: readonly Entry[]): bigint | undefined {
  const done = state.log.maybeAppend(prev, entries);
  if (done === undefined) return undefined;
  state.membership.append(done.added);
  return done.lastNew;
}

/**
 * Of a leader: those that get the log. A member removed gets it until its removal is committed, and so hears of it.
 * `active`: whether those that are new count as heard until the next check of the quorum.
 */
export function trackMembers(state: RaftState, active: boolean): void {
  const { membership, log, id } = state;
  const wanted = new Set([...members(state.conf), ...members(membership.at(log.committed))]);
  wanted.delete(id);
  const known = state.progress;
  const track = (member: bigint): Progress => known.get(member) ?? new Progress(member, log.last + 1n, state.options.inflightMax, active);
  state.progress = new Map([...wanted].sort(ascending).map((member) => [member, track(member)]));
}
