// The leader's side: entries out, answers in, what a majority has is committed. Paper, 5.3 and 5.4.2; thesis, 4.2.2 for a
// leader that is no member of its own configuration; 10.2 for batches and pipelines.

import { confAfter, encodeConfChange } from './confchange.js';
import type { Progress } from './progress.js';
import { majority, quorumIndex } from './quorum.js';
import { becomeFollower, enterRole, send, trackMembers, type RaftState } from './state.js';
import type { ConfChange, EntryKind, Message, ProposalRefusal } from './types.js';

export type Proposed = { readonly ok: true; readonly index: bigint } | { readonly ok: false; readonly refusal: ProposalRefusal };

const EMPTY = new Uint8Array(0);

export function becomeLeader(state: RaftState): void {
  enterRole(state, 'leader', state.term, state.id);
  state.uncommittedBytes = state.log.bytesBetween(state.log.committed, state.log.last);
  trackMembers(state, false);
  // An entry of its own term commits those of older terms (paper, 5.4.2). The first one of a group says who began it.
  if (state.log.last === 0n && state.isOnlyVoter) {
    append(state, 'confChange', encodeConfChange({ kind: 'addNode', member: state.id, context: EMPTY }));
  } else {
    append(state, 'normal', EMPTY);
  }
}

/**
 * Whoever joins learns the configuration from a snapshot or from the log's first entry on. A log that begins with neither
 * would let the newcomer think that it is alone.
 */
function newcomersLearnConf(state: RaftState): boolean {
  return state.log.first > 1n || state.log.kind(1n) === 'confChange';
}

/** One entry at the end of the own log. It counts as held by this member once it is on disk. */
function append(state: RaftState, kind: EntryKind, data: Uint8Array): bigint {
  const index = state.log.last + 1n;
  const entries = [{ index, term: state.term, kind, data }];
  state.log.append(entries);
  state.membership.append(entries);
  state.uncommittedBytes += data.length;
  if (kind === 'confChange') trackMembers(state, true);
  if (state.progress.size > 0) state.sendWanted = true;
  return index;
}

function refused(refusal: ProposalRefusal): Proposed {
  return { ok: false, refusal };
}

export function propose(state: RaftState, kind: EntryKind, data: Uint8Array): Proposed {
  if (state.role !== 'leader') return refused('notLeader');
  if (state.transferee !== 0n) return refused('transferring');
  // One proposal of any size goes, else it never could.
  if (state.uncommittedBytes > 0 && state.uncommittedBytes + data.length > state.options.uncommittedBytesMax) {
    return refused('tooMuchUncommitted');
  }
  return { ok: true, index: append(state, kind, data) };
}

/** One at a time, and not before the leader knows what is committed (thesis, 4.1, with the correction of 2015). */
export function proposeConfChange(state: RaftState, change: ConfChange): Proposed {
  if (state.role !== 'leader') return refused('notLeader');
  if (state.transferee !== 0n) return refused('transferring');
  if (!state.committedInTerm || state.membership.currentIndex > state.log.applied) return refused('confChangePending');
  if (!newcomersLearnConf(state)) return refused('snapshotNeeded');
  if (confAfter(state.conf, change) === undefined) return refused('confChangeInvalid');
  return propose(state, 'confChange', encodeConfChange(change));
}

/** Commits what a majority has on disk, if the last of it is of the own term. */
export function maybeCommit(state: RaftState): void {
  const { log, id, progress } = state;
  const index = quorumIndex(state.conf.voters, (member) => (member === id ? log.stable : progress.get(member)?.match ?? 0n));
  if (index <= log.committed || log.term(index) !== state.term) return;
  const before = log.committed;
  state.uncommittedBytes -= log.bytesBetween(before, index);
  log.commitTo(index);
  if (progress.size > 0) state.commitUntold = true;
  if (state.reads.hasWaiting) state.sendWanted = true;
  const { currentIndex } = state.membership;
  if (currentIndex <= index && (currentIndex > before || !state.isVoter)) confCommitted(state);
}

/** Those removed hear of it before they are forgotten; a leader that removed itself, or only stood in, steps down. */
function confCommitted(state: RaftState): void {
  flushAppends(state, state.log.committed);
  trackMembers(state, true);
  if (!state.isVoter) becomeFollower(state, state.term, 0n);
}

/**
 * Once a Ready: whatever may go to whomever. A new commit index waits until the Ready after the one that applies it: those
 * who are answered by that have often more to say, and its appends carry the index as well.
 */
export function flush(state: RaftState): void {
  const { log } = state;
  const applying = log.hasNextCommitted;
  if (!state.sendWanted && (applying || !state.commitUntold)) return;
  if (!applying) state.commitUntold = false;
  state.sendWanted = false;
  if (state.reads.hasWaiting && state.committedInTerm) {
    state.reads.begin(state.log.committed);
    sendHeartbeats(state);
    confirmReads(state);
  }
  flushAppends(state, applying ? 0n : log.committed);
}

/** `commit`: what the members are to hear of even if there is nothing else for them. */
function flushAppends(state: RaftState, commit: bigint): void {
  for (const progress of state.progress.values()) {
    // Ends: every append closes a probe or takes a place in the window.
    while (progress.wantsAppend(state.log.last, commit)) sendAppend(state, progress);
  }
}

function sendAppend(state: RaftState, progress: Progress): void {
  const { log, options } = state;
  const prev = progress.next - 1n;
  const logTerm = log.term(prev);
  if (logTerm === undefined) {
    sendSnapshot(state, progress);
    return;
  }
  const entries = progress.full ? [] : log.slice(progress.next, log.last, options.appendBytesMax);
  send(state, 'append', progress.member, { index: prev, logTerm, entries, commit: log.committed });
  progress.appendSent(entries.length, log.committed);
}

/** What it lacks was compacted. */
function sendSnapshot(state: RaftState, progress: Progress): void {
  progress.becomeSnapshot(state.snapshot.index);
  const sent = send(state, 'snapshot', progress.member, { snapshot: state.snapshot });
  if (!sent) progress.snapshotReported(false);
}

/** `commit` is bounded by what the member is known to have: its log may go on differently after that. */
export function sendHeartbeats(state: RaftState): void {
  state.heartbeatElapsed = 0;
  for (const { member, match } of state.progress.values()) {
    const commit = match < state.log.committed ? match : state.log.committed;
    send(state, 'heartbeat', member, { commit, context: state.reads.newest });
  }
}

export function stepLeader(state: RaftState, message: Message): void {
  if (message.kind === 'readIndex') {
    if (state.reads.add({ from: message.from, context: message.context })) state.sendWanted = true;
    return;
  }
  const progress = state.progress.get(message.from);
  if (progress === undefined) return;
  progress.active = true;
  if (message.kind === 'appendResponse') appendAnswered(state, progress, message);
  if (message.kind === 'heartbeatResponse') heartbeatAnswered(state, progress, message);
}

function appendAnswered(state: RaftState, progress: Progress, message: Message): void {
  const { log } = state;
  if (message.index > log.last) return;
  state.sendWanted = true;
  if (message.reject) {
    const hint = message.rejectHint < log.last ? message.rejectHint : log.last;
    progress.refuse(message.index, log.findConflictByTerm(hint, message.logTerm).index);
    return;
  }
  if (progress.acknowledge(message.index, log.first)) maybeCommit(state);
  if (state.transferee === message.from && progress.match === log.last) send(state, 'timeoutNow', message.from);
}

function heartbeatAnswered(state: RaftState, progress: Progress, message: Message): void {
  if (message.context > progress.readRound) {
    progress.readRound = message.context < state.reads.newest ? message.context : state.reads.newest;
    confirmReads(state);
  }
  if (progress.match < state.log.last || progress.state === 'probe') {
    progress.nudge();
    state.sendWanted = true;
  }
}

function confirmReads(state: RaftState): void {
  const { reads, id, progress } = state;
  const round = quorumIndex(state.conf.voters, (member) => (member === id ? reads.newest : progress.get(member)?.readRound ?? 0n));
  for (const { from, context, index } of reads.confirm(round)) {
    if (from === id) state.readStates.push({ context, index });
    else send(state, 'readIndexResponse', from, { context, index });
  }
}

/** A leader that a majority does not hear is none (thesis, 6.2). */
export function checkQuorum(state: RaftState): void {
  const { voters } = state.conf;
  const heard = voters.filter((member) => member === state.id || state.progress.get(member)?.active === true).length;
  if (heard < majority(voters.length)) {
    becomeFollower(state, state.term, 0n);
    return;
  }
  for (const progress of state.progress.values()) progress.checked();
}

/** Thesis, 3.10. False if it cannot be. Given up after an election timeout. */
export function transferLeader(state: RaftState, member: bigint): boolean {
  const progress = state.progress.get(member);
  if (state.role !== 'leader' || progress === undefined || !state.conf.voters.includes(member)) return false;
  if (state.transferee === member) return true;
  state.transferee = member;
  state.transferElapsed = 0;
  if (progress.match === state.log.last) {
    send(state, 'timeoutNow', member);
  } else {
    progress.nudge();
    state.sendWanted = true;
  }
  return true;
}

export function tickLeader(state: RaftState): void {
  state.heartbeatElapsed += 1;
  state.electionElapsed += 1;
  if (state.transferee !== 0n) {
    state.transferElapsed += 1;
    if (state.transferElapsed >= state.options.electionTicks) state.transferee = 0n;
  }
  if (state.electionElapsed >= state.options.electionTicks) {
    state.electionElapsed = 0;
    checkQuorum(state);
  }
  if (state.role === 'leader' && state.heartbeatElapsed >= state.options.heartbeatTicks) sendHeartbeats(state);
}
