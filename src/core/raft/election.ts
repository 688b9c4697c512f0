// Who leads: campaigns and votes. Paper, 5.2 and 5.4.1; thesis, 9.6 for PreVote (ask first whether one could win, so that
// a member cut off does not raise the term), 4.2.3 and 6.4 for leases (a member that hears its leader votes for nobody).

import { members } from './confchange.js';
import { voteResult } from './quorum.js';
import { becomeLeader } from './replication.js';
import { becomeFollower, enterRole, restartElectionTimer, send, type RaftState } from './state.js';
import type { Message } from './types.js';

/** Election timeouts without a leader, and without a vote given to anybody, after which one who is no voter may stand. */
const STAND_IN_TIMEOUTS = 5;

/**
 * A voter of its own configuration; or one whose removal is not known to be committed, for it may be needed to commit it; or
 * one with a newer log than those who ask for votes, as long as nobody leads (thesis, 4.2.2). No vote of its own counts for the last two.
 */
function promotable(state: RaftState): boolean {
  return state.isVoter || state.refusedOlderLog || state.membership.at(state.log.committed).voters.includes(state.id);
}

/** Asks first whether it could win. The only voter asks nobody. */
export function campaign(state: RaftState): void {
  if (state.role === 'leader' || !promotable(state)) return;
  if (state.isOnlyVoter) {
    // It wins once its own vote is on disk: one that forgot it could see another one lead this term. A slow disk is waited for.
    if (state.role !== 'candidate') becomeCandidate(state);
    return;
  }
  enterRole(state, 'preCandidate', state.term, 0n);
  requestVotes(state, false);
  // Nothing changed, so nothing needs to be on disk for its own answer.
  recordVote(state, state.id, true);
}

/** Without asking first: the leader itself said so. */
export function campaignForTransfer(state: RaftState): void {
  if (!promotable(state)) return;
  becomeCandidate(state);
  requestVotes(state, true);
}

function becomeCandidate(state: RaftState): void {
  enterRole(state, 'candidate', state.term + 1n, 0n);
  state.vote = state.id;
}

function requestVotes(state: RaftState, transfer: boolean): void {
  // Asked first, learners count for nothing, but the one with the newest log learns that it is needed.
  const asked = state.role === 'preCandidate' ? members(state.conf) : state.conf.voters;
  for (const member of asked) if (member !== state.id) requestVote(state, member, transfer);
}

function requestVote(state: RaftState, member: bigint, transfer: boolean): void {
  const kind = state.role === 'preCandidate' ? 'preVote' : 'vote';
  const term = state.role === 'preCandidate' ? state.term + 1n : state.term;
  send(state, kind, member, { term, index: state.log.last, logTerm: state.log.lastTerm, transfer });
}

/** A candidate's own vote counts once it is on disk. */
export function ownVotePersisted(state: RaftState): void {
  if (state.role === 'candidate' && !state.votes.has(state.id)) recordVote(state, state.id, true);
}

function recordVote(state: RaftState, from: bigint, granted: boolean): void {
  if (!state.votes.has(from)) state.votes.set(from, granted);
  const result = voteResult(state.conf.voters, state.votes);
  if (result === 'lost') {
    becomeFollower(state, state.term, 0n);
  } else if (result === 'won' && state.role === 'preCandidate') {
    becomeCandidate(state);
    requestVotes(state, false);
  } else if (result === 'won') {
    becomeLeader(state);
  }
}

export function handleVoteResponse(state: RaftState, message: Message): void {
  const expected = state.role === 'preCandidate' ? 'preVoteResponse' : state.role === 'candidate' ? 'voteResponse' : undefined;
  // A yes to an earlier pre-vote, of a term that has come meanwhile, says nothing about this one.
  const outdated = message.kind === 'preVoteResponse' && !message.reject && message.term !== state.term + 1n;
  if (message.kind === expected && !outdated) recordVote(state, message.from, !message.reject);
}

/** It hears its leader: whoever asks for votes was cut off or removed (thesis, 4.2.3). */
export function inLease(state: RaftState): boolean {
  return state.leader !== 0n && state.electionElapsed < state.options.electionTicks;
}

/** The message's term is at least ours: `vote` brought us there, `preVote` never does. */
export function handleVoteRequest(state: RaftState, message: Message): void {
  const { kind, from, term, index, logTerm } = message;
  const isPreVote = kind === 'preVote';
  const free = state.vote === from || (state.vote === 0n && state.leader === 0n) || (isPreVote && term > state.term);
  const response = isPreVote ? 'preVoteResponse' : 'voteResponse';
  const upToDate = state.log.upToDate(index, logTerm);
  // It may have what is committed, or the vote that is lacking by the other's configuration: then nobody would ever lead if it did
  // not stand itself. As a rule somebody else can.
  if (!upToDate && state.electionElapsed >= STAND_IN_TIMEOUTS * state.options.electionTicks) state.refusedOlderLog = true;
  const first = isPreVote && takesPrecedence(state, message);
  if (!free || !upToDate || first) {
    send(state, response, from, { reject: true });
    // Its own question may have come while the other still trusted a leader, and was not answered then.
    if (first) requestVote(state, from, false);
    return;
  }
  send(state, response, from, { term });
  if (isPreVote) return;
  state.vote = from;
  restartElectionTimer(state);
}

/**
 * Two ask at once with equal logs: the lower id goes on, or both would, and share the votes. Only at once: it may be cut off
 * from others, and then would stand in the way for good.
 */
function takesPrecedence(state: RaftState, { from, index, logTerm }: Message): boolean {
  if (state.role !== 'preCandidate' || state.electionElapsed > state.options.heartbeatTicks) return false;
  return state.id < from && index === state.log.last && logTerm === state.log.lastTerm;
}

/** The leader's process ended: campaign soon, but not all at once. */
export function suspectLeader(state: RaftState): void {
  state.leader = 0n;
  state.suspectTicks = state.random.below(state.options.heartbeatTicks + 1);
  if (state.suspectTicks === 0) campaign(state);
}

export function tickElection(state: RaftState): void {
  state.electionElapsed += 1;
  if (state.suspectTicks !== undefined) state.suspectTicks -= 1;
  const alone = state.isOnlyVoter && state.leader === 0n;
  if (state.suspectTicks === 0 || state.electionElapsed >= state.electionTimeout || alone) campaign(state);
}
