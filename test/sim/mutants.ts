// Deliberate bugs, to see that the simulator has teeth. Those of the core and of the log on disk are changes of their built
// text, so that they themselves know nothing of them: each names a piece of code that must be there exactly once. Those of the
// shell are switches of host.ts.

import type { RaftNode } from '../../src/core/raft/raft.js';
import type { ReadLog } from './logimage.js';
import { mutated, type Mutant } from './mutated.js';
import type { ShellBug } from './world.js';

/** What the bug is: the rule of the paper or the thesis that it breaks. */
export const CORE_MUTANTS: Readonly<Record<string, Mutant>> = {
  'messages of old terms are taken for new': {
    file: 'raft', from: 'if (message.term < this.state.term)', to: 'if (false)',
  },
  'a member votes for everybody': {
    file: 'election', from: '|| (state.vote === 0n && state.leader === 0n) ||', to: '|| true ||',
  },
  'a member votes for a log that is behind its own': {
    file: 'log', from: 'return term > this.lastTerm || (term === this.lastTerm && index >= this.last);', to: 'return true;',
  },
  'half the voters are a majority': {
    file: 'quorum', from: 'return Math.floor(count / 2) + 1;', to: 'return Math.floor((count + 1) / 2);',
  },
  'learners are counted for commits': {
    file: 'replication', from: 'quorumIndex(state.conf.voters, (member) => (member === id ? log.stable',
    to: 'quorumIndex([...state.conf.voters, ...state.conf.learners], (member) => (member === id ? log.stable',
  },
  'entries of old terms are committed by counting': {
    file: 'replication', from: 'if (index <= log.committed || log.term(index) !== state.term)', to: 'if (index <= log.committed)',
  },
  'a follower commits all it has': {
    file: 'follower', from: 'log.commitTo(commit < lastNew ? commit : lastNew);', to: 'log.commitTo(lastNew);',
  },
  'heartbeats carry a commit index that the follower may not have': {
    file: 'replication', from: 'const commit = match < state.log.committed ? match : state.log.committed;', to: 'const commit = state.log.committed;',
  },
  'conflicting entries are not replaced': {
    file: 'log', from: 'return entries.find((entry) => !this.matches(entry.index, entry.term))?.index;',
    to: 'return entries.find((entry) => entry.index > this.last)?.index;',
  },
  'the log before the new entries is not looked at': {
    file: 'log', from: 'if (!this.matches(prev.index, prev.term))', to: 'if (prev.index > this.last)',
  },
  'entries replaced while they were written count as on disk': {
    file: 'log', from: 'if (index > this.stableIndex && this.matches(index, term))', to: 'if (index > this.stableIndex && index <= this.last)',
  },
  'a snapshot counts as arrived once it was sent': {
    file: 'progress', from: 'this.snapshotIndex = index;\n        this.next = index + 1n;',
    to: 'this.snapshotIndex = index;\n        this.match = index;\n        this.next = index + 1n;',
  },
  'reads are answered without asking whether it still leads': {
    file: 'replication', from: 'for (const { from, context, index } of reads.confirm(round))', to: 'for (const { from, context, index } of reads.confirm(reads.newest))',
  },
  'reads are answered before an entry of the term is committed': {
    file: 'replication', from: 'if (state.reads.hasWaiting && state.committedInTerm)', to: 'if (state.reads.hasWaiting)',
  },
  'configurations count only when applied': {
    file: 'state', from: 'return this.membership.current;', to: 'return this.membership.at(this.log.applied);',
  },
  'several configuration changes at once': {
    file: 'replication', from: '|| state.membership.currentIndex > state.log.applied)', to: '|| false)',
  },
  'configurations of replaced entries stay': {
    file: 'confchange', from: 'if (this.currentIndex >= from)', to: 'if (false)',
  },
  'the configuration of a snapshot is not taken over': {
    file: 'follower', from: 'state.membership.restore(snapshot.index, snapshot.confState);', to: 'state.membership.restore(snapshot.index, state.conf);',
  },
  'the newest configuration counts as applied': {
    file: 'raft', from: 'log.last, confState, activeConfState: conf', to: 'log.last, confState: conf, activeConfState: conf',
  },
  'a leader that is removed goes on': {
    file: 'replication', from: 'if (!state.isVoter)', to: 'if (false)',
  },
  'a group does not write down who began it': {
    file: 'replication', from: 'if (state.log.last === 0n && state.isOnlyVoter)', to: 'if (false)',
  },
  'a leader that compacted sends entries in place of a snapshot': {
    file: 'replication', from: 'sendSnapshot(state, progress);\n        return;', to: 'progress.next = log.first;\n        return;',
  },
  'a candidate that lost goes on to lead': {
    file: 'quorum', from: "'pending' : 'lost'", to: "'pending' : 'won'",
  },
  'the window of appends never opens again': {
    file: 'progress', from: 'this.inflight.freeTo(index);', to: '',
  },
};

/** Of what a start makes of a log that a crash or a bad disk has changed. */
export const LOG_MUTANTS: Readonly<Record<string, Mutant>> = {
  'a log is read up to where it is damaged': {
    file: 'segment', from: 'if (proof !== undefined)', to: 'if (false)',
  },
  'the last thing that was synced is taken for an unfinished write when it is damaged': {
    file: 'segment', from: 'if (offset < synced)\n        return `it was written', to: 'if (false)\n        return `it was written',
  },
  'damage is not noticed': {
    file: 'seal', from: 'return Buffer.concat([decipher.update(data), decipher.final()]);', to: 'return decipher.update(data);',
  },
  'an unfinished write is taken for damage': {
    file: 'segment', from: 'if (proof !== undefined)', to: 'if (true)',
  },
};

export const SHELL_MUTANTS: Readonly<Record<ShellBug, string>> = {
  'send-before-persist': 'messages go out before what they vouch for is on disk',
  'no-sync': 'writes are not synced',
  'forget-vote': 'the vote is forgotten across a restart',
  'forget-hard-state': 'term, vote and commit index are forgotten across a restart',
  'snapshot-without-conf': 'a snapshot is sent without its configuration',
  'compact-without-snapshot': 'entries are dropped without a snapshot of them',
  'ignore-snapshot-data': 'a snapshot is installed, the state machine not restored from it',
  'read-before-applied': 'a read does not wait until its index is applied',
  'acknowledge-before-commit': 'a proposal is acknowledged before it is committed',
};

/** The core with one of the bugs. */
export async function mutantCore(name: string): Promise<typeof RaftNode> {
  const [module] = await mutated('raft', CORE_MUTANTS, name, ['raft']) as [{ RaftNode: typeof RaftNode }];
  return module.RaftNode;
}

/** What reads the log on disk, with one of the bugs. */
export async function mutantReadLog(name: string): Promise<ReadLog> {
  const [module] = await mutated('../io/raftlog', LOG_MUTANTS, name, ['check']) as [{ readLog: ReadLog }];
  return module.readLog;
}
