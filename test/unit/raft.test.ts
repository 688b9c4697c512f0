// RaftNode: a group of one behind its Ready contract, and groups of several in memory.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { encodeConfChange } from '../../src/core/raft/confchange.js';
import { RaftNode } from '../../src/core/raft/raft.js';
import type { Entry, RaftStart } from '../../src/core/raft/types.js';
import { Group, Member, emptyDisk, startFrom } from '../support/raft-env.js';

function entry(index: number, term = 1): Entry {
  return { index: BigInt(index), term: BigInt(term), kind: 'normal', data: Buffer.from(`entry ${index}`) };
}

describe('RaftNode of one', () => {
  const start = startFrom(1n, emptyDisk([1n]));

  /** Its own vote is on disk; nothing of its term is. */
  function leading(from: RaftStart): RaftNode {
    const node = new RaftNode(from);
    node.tick();
    node.ready();
    node.advance();
    assert.equal(node.leader, true);
    return node;
  }

  function drain(node: RaftNode): Entry[] {
    const committed: Entry[] = [];
    for (let i = 0; node.hasReady(); i++) {
      assert.ok(i < 10, 'never ready');
      committed.push(...node.ready().committed);
      node.advance();
    }
    return committed;
  }

  it('does not take proposals before it leads', () => {
    assert.deepEqual(new RaftNode(start).propose(new Uint8Array(1)), { ok: false, refusal: 'notLeader' });
  });

  it('leads once its own vote is on disk, and hands an entry out for application only after it was persisted', () => {
    const node = new RaftNode(start);
    node.tick();
    const vote = node.ready();
    assert.deepEqual([vote.mustSync, vote.hardState], [true, { term: 1n, vote: 1n, commit: 0n }]);
    assert.deepEqual(vote.softState, { role: 'candidate', leader: 0n });
    assert.deepEqual(node.propose(Buffer.from('a')), { ok: false, refusal: 'notLeader' });
    node.advance();
    assert.deepEqual(node.propose(Buffer.from('a')), { ok: true, index: 2n });
    const first = node.ready();
    assert.deepEqual(first.entries.map((e) => e.index), [1n, 2n]);
    assert.deepEqual(first.committed, []);
    assert.equal(first.mustSync, true);
    assert.deepEqual(first.softState, { role: 'leader', leader: 1n });
    assert.throws(() => node.ready(), /before advance/);
    node.propose(Buffer.from('b'));
    node.advance();
    const second = node.ready();
    assert.deepEqual(second.committed.map((e) => e.index), [1n, 2n]);
    assert.deepEqual(second.entries.map((e) => e.index), [3n]);
    node.advance();
    assert.deepEqual(drain(node).map((e) => Buffer.from(e.data).toString()), ['b']);
    assert.equal(node.hasReady(), false);
  });

  it('says that it leads anew where it lost a term and won the next while a write was on its way', () => {
    const node = leading(start);
    assert.deepEqual(node.ready().softState, { role: 'leader', leader: 1n });
    node.step({
      kind: 'appendResponse', to: 1n, from: 2n, term: 7n, index: 0n, logTerm: 0n, entries: [], commit: 0n, reject: true, rejectHint: 0n,
      transfer: false, context: 0n, snapshot: undefined,
    });
    assert.equal(node.leader, false);
    node.tick();
    assert.deepEqual([node.status.term, node.leader], [8n, false]);
    node.advance();
    const vote = node.ready();
    assert.deepEqual([vote.softState, vote.hardState?.term], [{ role: 'candidate', leader: 0n }, 8n]);
    // A slow disk: no further term begins.
    for (let i = 0; i < 30; i++) node.tick();
    assert.deepEqual([node.status.term, node.leader], [8n, false]);
    node.advance();
    assert.deepEqual(node.ready().softState, { role: 'leader', leader: 1n });
    node.advance();
    drain(node);
    assert.equal(node.hasReady(), false);
  });

  it('applies after a restart what was persisted, in a new term, once', () => {
    const node = new RaftNode({
      ...start, hardState: { term: 4n, vote: 1n, commit: 6n }, snapshotIndex: 5n, snapshotTerm: 3n, entries: [entry(6), entry(7)],
    });
    node.tick();
    assert.deepEqual(drain(node).map((e) => e.index), [6n, 7n, 8n]);
    const { term, commit, applied, last, confState } = node.status;
    assert.deepEqual({ term, commit, applied, last, confState },
      { term: 5n, commit: 8n, applied: 8n, last: 8n, confState: { voters: [1n], learners: [] } });
    assert.deepEqual(node.propose(new Uint8Array(0)), { ok: true, index: 9n });
  });

  it('answers a read in the Ready after it was asked', () => {
    const node = leading(start);
    assert.equal(node.readIndex(7n), true);
    assert.deepEqual(node.ready().readStates, []);
    node.advance();
    assert.deepEqual(node.ready().readStates, [{ context: 7n, index: 1n }]);
  });

  it('writes the commit index again with the next write that must reach the disk', () => {
    const node = leading(start);
    node.ready();
    node.advance();
    const commitOnly = node.ready();
    assert.deepEqual([commitOnly.mustSync, commitOnly.hardState?.commit], [false, 1n]);
    node.advance();
    node.propose(Buffer.from('a'));
    const next = node.ready();
    assert.deepEqual([next.mustSync, next.hardState?.commit], [true, 1n]);
  });

  it('refuses proposals while too much is not committed, but never the first', () => {
    const node = new RaftNode({ ...start, uncommittedBytesMax: 10 });
    node.tick();
    drain(node);
    assert.equal(node.propose(new Uint8Array(100)).ok, true);
    assert.deepEqual(node.propose(new Uint8Array(1)), { ok: false, refusal: 'tooMuchUncommitted' });
    drain(node);
    assert.equal(node.propose(new Uint8Array(1)).ok, true);
  });
});

describe('RaftNodes of a group of three', () => {
  const IDS = [1n, 2n, 3n];
  const applied = (group: Group): string[] => IDS.map((id) => group.get(id).applied.join(' '));

  it('elect one leader, replicate, and all apply the same', () => {
    const group = new Group(IDS);
    group.tick(40);
    assert.equal(group.leaders().length, 1);
    const leader = group.leaders()[0] as bigint;
    for (const text of ['a', 'b', 'c']) group.propose(leader, text);
    group.settle();
    group.tick();
    assert.deepEqual(applied(group), ['a b c', 'a b c', 'a b c']);
  });

  it('a leader cut off steps down, the others go on, and its proposal is replaced when it comes back', () => {
    const group = new Group(IDS);
    group.elect(1n);
    group.isolate(1n);
    group.propose(1n, 'lost');
    group.tick(40);
    const leader = group.leaders()[0] as bigint;
    assert.deepEqual([group.leaders().length, leader !== 1n, group.get(1n).raft.status.role !== 'leader'], [1, true, true]);
    group.propose(leader, 'kept');
    group.settle();
    group.heal();
    group.tick(5);
    assert.deepEqual(applied(group), ['kept', 'kept', 'kept']);
    assert.deepEqual(group.leaders(), [leader]);
  });

  it('finds everything again after all were restarted', () => {
    const group = new Group(IDS);
    group.elect(2n);
    group.propose(2n, 'a');
    group.settle();
    for (const id of IDS) group.get(id).restart();
    group.tick(40);
    assert.deepEqual(applied(group), ['a', 'a', 'a']);
    assert.equal(group.get(1n).raft.status.term, 2n);
  });

  it('a follower acknowledges and commits no more than it was sent: the rest of its log may be of another history', () => {
    const disk = emptyDisk(IDS);
    disk.entries = [entry(1), entry(2), entry(3)];
    disk.hardState = { term: 1n, vote: 0n, commit: 0n };
    const node = new RaftNode(startFrom(2n, disk));
    node.step({
      kind: 'append', to: 2n, from: 1n, term: 5n, index: 1n, logTerm: 1n, entries: [entry(2)], commit: 3n, reject: false, rejectHint: 0n,
      transfer: false, context: 0n, snapshot: undefined,
    });
    const ready = node.ready();
    assert.deepEqual(ready.messages.map((message) => [message.kind, message.index]), [['appendResponse', 2n]]);
    assert.deepEqual(ready.committed.map((e) => e.index), [1n, 2n]);
  });

  it('a vote leaves with the Ready that puts it on disk, and is given once a term', () => {
    const node = new RaftNode(startFrom(2n, emptyDisk(IDS)));
    const ask = (from: bigint): void => node.step({
      kind: 'vote', to: 2n, from, term: 4n, index: 0n, logTerm: 0n, entries: [], commit: 0n, reject: false, rejectHint: 0n, transfer: false,
      context: 0n, snapshot: undefined,
    });
    ask(1n);
    ask(3n);
    const { mustSync, hardState, messages } = node.ready();
    assert.deepEqual([mustSync, hardState], [true, { term: 4n, vote: 1n, commit: 0n }]);
    assert.deepEqual(messages.map(({ kind, to, reject }) => [kind, to, reject]), [['voteResponse', 1n, false], ['voteResponse', 3n, true]]);
  });

  it('a leader alone waits for others with a bounded number of reads, and forgets them when it steps down', () => {
    const group = new Group(IDS);
    group.elect(1n);
    group.isolate(1n);
    let taken = 0;
    while (taken < 20_000 && group.get(1n).raft.readIndex(BigInt(taken))) taken += 1;
    assert.ok(taken > 100 && taken < 20_000, `${taken} reads taken`);
    group.tick(30, [1n]);
    assert.equal(group.get(1n).raft.readIndex(1n), false, 'no leader to ask');
    group.heal();
    group.tick(40);
    assert.deepEqual(group.get(1n).reads, []);
  });

  it('only a leader takes changes of the configuration', () => {
    const group = new Group(IDS);
    group.elect(1n);
    group.get(1n).compact();
    const change = { kind: 'addLearner', member: 4n, context: new Uint8Array(0) } as const;
    assert.deepEqual(group.get(2n).raft.proposeConfChange(change), { ok: false, refusal: 'notLeader' });
    group.get(1n).raft.transferLeader(2n);
    assert.deepEqual(group.get(1n).raft.proposeConfChange(change), { ok: false, refusal: 'transferring' });
  });

  it('a new leader counts what its log holds uncommitted against the bound', () => {
    const disk = emptyDisk([1n, 2n]);
    disk.entries = [{ ...entry(1), data: new Uint8Array(900) }];
    disk.hardState = { term: 1n, vote: 1n, commit: 0n };
    const group = new Group([]);
    group.members.set(1n, new Member(1n, disk, { uncommittedBytesMax: 1_000 }));
    group.members.set(2n, new Member(2n, emptyDisk([1n, 2n])));
    group.get(1n).raft.campaign();
    for (let i = 0; i < 10 && !group.get(1n).raft.leader; i++) {
      group.work();
      group.queue.splice(0).forEach((message) => group.deliver(message));
    }
    assert.deepEqual(group.get(1n).raft.propose(new Uint8Array(200)), { ok: false, refusal: 'tooMuchUncommitted' });
    group.settle();
    assert.equal(group.get(1n).raft.propose(new Uint8Array(200)).ok, true);
  });

  it('a snapshot takes the place of a log of another history, with the configurations in it', () => {
    const conf = (member: bigint): Uint8Array => encodeConfChange({ kind: 'addNode', member, context: new Uint8Array(0) });
    const disk = emptyDisk(IDS);
    disk.entries = [entry(1), { ...entry(2), kind: 'confChange', data: conf(7n) }, { ...entry(3), kind: 'confChange', data: conf(8n) }];
    disk.hardState = { term: 1n, vote: 0n, commit: 1n };
    const node = new RaftNode(startFrom(2n, disk));
    assert.deepEqual(node.status.activeConfState.voters, [1n, 2n, 3n, 7n, 8n]);
    node.step({
      kind: 'snapshot', to: 2n, from: 1n, term: 5n, index: 0n, logTerm: 0n, entries: [], commit: 0n, reject: false, rejectHint: 0n,
      transfer: false, context: 0n, snapshot: { index: 2n, term: 4n, confState: { voters: IDS, learners: [] }, data: new Uint8Array(0) },
    });
    assert.deepEqual([node.status.activeConfState.voters, node.status.last], [IDS, 2n]);
  });

  it('a member that lost what it acknowledged ends, and says so', () => {
    const group = new Group(IDS);
    group.elect(1n);
    group.propose(1n, 'a');
    group.settle();
    const { disk } = group.get(2n);
    disk.entries = disk.entries.slice(0, 1);
    disk.hardState = { term: 1n, vote: 1n, commit: 1n };
    group.get(2n).restart();
    assert.throws(() => group.tick(2), /commit of 2, but the log ends at 1: acknowledged entries were lost/);
  });

  it('a snapshot that arrives while a Ready is applied does not disturb that', () => {
    const group = new Group([1n]);
    group.elect(1n);
    const follower = group.join(2n);
    group.get(1n).raft.proposeConfChange({ kind: 'addLearner', member: 2n, context: new Uint8Array(0) });
    group.settle();
    const term = 1n;
    const change: Entry = { index: 3n, term, kind: 'confChange', data: encodeConfChange({ kind: 'addLearner', member: 3n,
      context: new Uint8Array(0) }) };
    const message = {
      to: 2n, from: 1n, term, logTerm: term, entries: [], commit: 3n, reject: false, rejectHint: 0n, transfer: false,
        context: 0n, snapshot: undefined,
    };
    follower.raft.step({ ...message, kind: 'append', index: 2n, entries: [change] });
    follower.raft.ready();
    follower.raft.advance();
    const applying = follower.raft.ready();
    assert.deepEqual(applying.committed.map((e) => e.index), [3n]);
    const newer = { index: 9n, term, confState: { voters: [1n], learners: [2n, 7n] }, data: Buffer.from('["a"]') };
    follower.raft.step({ ...message, kind: 'snapshot', index: 0n, snapshot: newer });
    assert.deepEqual(follower.raft.applyConfChange(change), { voters: [1n], learners: [2n, 3n] });
    follower.raft.advance();
    const { applied, appliedTerm, confState, commit } = follower.raft.status;
    assert.deepEqual([applied, appliedTerm, confState.learners, commit], [3n, 1n, [2n, 3n], 9n],
      'a snapshot taken now is of what was applied');
    assert.equal(follower.raft.ready().snapshot, newer);
    follower.raft.advance();
    assert.deepEqual([follower.raft.status.applied, follower.confState.learners], [9n, [2n, 7n]]);
  });

  it('a member far behind gets a snapshot, then the entries after it', () => {
    const group = new Group(IDS);
    group.elect(1n);
    group.crash(3n);
    for (let i = 0; i < 20; i++) group.propose(1n, `${i}`);
    group.settle();
    group.get(1n).compact();
    group.propose(1n, 'after');
    group.settle();
    group.get(3n).restart();
    group.tick(5);
    assert.equal(group.get(3n).applied.length, 21);
    assert.equal(group.get(3n).disk.snapshot.index, group.get(1n).disk.snapshot.index);
    assert.deepEqual(group.get(3n).applied, group.get(1n).applied);
  });

  it('a follower whose leader ended campaigns at once, but takes nothing from a leader that others hear', () => {
    const group = new Group(IDS);
    group.elect(1n);
    group.get(2n).raft.suspect(1n);
    group.tick(3, [2n]);
    assert.deepEqual([group.leaders(), group.get(1n).raft.status.term], [[1n], 1n], 'a false alarm');
    group.tick(1);
    group.crash(1n);
    group.get(2n).raft.suspect(1n);
    group.get(3n).raft.suspect(1n);
    group.tick(4);
    assert.equal(group.leaders().length, 1);
  });
});
