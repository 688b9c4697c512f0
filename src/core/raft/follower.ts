// The follower's side: what a leader sends. Answers are queued; they leave after what they vouch for is on disk. They vouch
// for what was sent, and so was compared, never for what is committed here beyond it: that may be of another history, where
// a log was put back by hand. It is found as soon as it is compared (StaleLog).

import { becomeFollower, leaderHeard, maybeAppend, send, type RaftState } from './state.js';
import type { Message, Snapshot } from './types.js';

/** A leader of this term speaks: it is followed, and every other role ends. */
export function followLeader(state: RaftState, leader: bigint): void {
  state.refusedOlderLog = false;
  if (state.role === 'follower' && state.leader === leader) leaderHeard(state);
  else becomeFollower(state, state.term, leader);
}

export function handleAppend(state: RaftState, message: Message): void {
  const { log } = state;
  const { from, index, logTerm, entries, commit } = message;
  if (entries.some((entry, position) => entry.index !== index + BigInt(position) + 1n)) return;
  const lastNew = maybeAppend(state, { index, term: logTerm }, entries);
  if (lastNew !== undefined) {
    log.commitTo(commit < lastNew ? commit : lastNew);
    send(state, 'appendResponse', from, { index: lastNew });
    return;
  }
  const hint = log.findConflictByTerm(index < log.last ? index : log.last, logTerm);
  send(state, 'appendResponse', from, { index, reject: true, rejectHint: hint.index, logTerm: hint.term });
}

export function handleHeartbeat(state: RaftState, message: Message): void {
  state.log.commitTo(message.commit);
  send(state, 'heartbeatResponse', message.from, { context: message.context });
}

export function handleSnapshot(state: RaftState, message: Message): void {
  const { log } = state;
  const { snapshot } = message;
  if (snapshot === undefined || !('data' in snapshot)) return;
  log.compareCommitted(snapshot);
  if (snapshot.index > log.committed) {
    if (log.matches(snapshot.index, snapshot.term)) log.commitTo(snapshot.index);
    else restore(state, snapshot);
  }
  send(state, 'appendResponse', message.from, { index: snapshot.index });
}

function restore(state: RaftState, snapshot: Snapshot): void {
  state.log.restore(snapshot);
  state.membership.restore(snapshot.index, snapshot.confState);
  state.snapshot = { index: snapshot.index, term: snapshot.term, confState: snapshot.confState };
  state.pendingSnapshot = snapshot;
}
