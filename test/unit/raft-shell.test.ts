// What the shell tells a RaftNode, and what it must not lose over a change of role: reports of the transport, snapshots
// taken and lost, votes that are not on disk yet, reads and transfers of an earlier leadership.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { RaftNode } from '../../src/core/raft/raft.js';
import type { Message, MessageKind } from '../../src/core/raft/types.js';
import { Group, emptyDisk, startFrom } from '../support/raft-env.js';

const IDS = [1n, 2n, 3n];

function elected(): Group {
  const group = new Group(IDS);
  group.elect(1n);
  return group;
}

const message = (kind: MessageKind, term: bigint): Message => ({
  kind, to: 1n, from: 2n, term, index: 0n, logTerm: 0n, entries: [], commit: 0n, reject: false, rejectHint: 0n, transfer: false,
    context: 0n,
  snapshot: undefined,
});

describe('a report of the transport', () => {
  it('that some other member ended changes nothing for a follower', () => {
    const group = elected();
    group.get(2n).raft.suspect(3n);
    group.tick(3, [2n]);
    const { role, leader } = group.get(2n).raft.status;
    assert.deepEqual([role, leader], ['follower', 1n]);
  });

  it('that a message was lost lets the leader ask again, without waiting for a heartbeat', () => {
    const group = elected();
    group.cut.add('1>3');
    group.propose(1n, 'a');
    group.settle();
    assert.deepEqual(group.get(3n).applied, []);
    group.heal();
    group.get(1n).raft.reportUnreachable(3n);
    group.propose(1n, 'b');
    group.settle();
    assert.deepEqual(group.get(3n).applied, ['a', 'b']);
    assert.equal(group.sent.filter(({ to, reject }) => to === 1n && reject).length, 0, 'nothing had to be refused');
  });

  it('that a snapshot failed lets it be sent again', () => {
    const group = elected();
    group.crash(3n);
    group.propose(1n, 'a');
    group.settle();
    group.get(1n).compact();
    group.get(3n).restart();
    group.tick(1, [1n]);
    assert.deepEqual(group.get(3n).applied, ['a']);

    group.crash(3n);
    group.propose(1n, 'b');
    group.settle();
    group.get(1n).compact();
    group.get(3n).restart();
    group.get(1n).raft.tick();
    for (let i = 0; i < 20 && !group.queue.some(({ kind }) => kind === 'snapshot'); i++) {
      group.work();
      if (!group.queue.some(({ kind }) => kind === 'snapshot')) group.queue.splice(0).forEach((one) => group.deliver(one));
    }
    assert.equal(group.get(1n).raft.status.progress.find(({ member }) => member === 3n)?.state, 'snapshot');
    group.crash(3n);
    group.settle();
    group.get(3n).restart();
    group.tick(3, [1n]);
    assert.deepEqual(group.get(3n).applied, ['a', 'b']);
  });
});

describe('a candidate', () => {
  it('counts its own vote once that is on disk, not with a Ready taken before', () => {
    const node = new RaftNode(startFrom(1n, emptyDisk([1n, 2n])));
    node.campaign();
    node.ready();
    node.step(message('preVoteResponse', 1n));
    assert.equal(node.status.role, 'candidate');
    node.advance();
    node.step(message('voteResponse', 1n));
    assert.equal(node.status.role, 'candidate');
    assert.deepEqual(node.ready().hardState, { term: 1n, vote: 1n, commit: 0n });
    node.advance();
    assert.equal(node.status.role, 'leader');
  });
});

describe('a snapshot of the shell', () => {
  it('that is older than the newest is not taken for it', () => {
    const group = elected();
    group.propose(1n, 'a');
    group.settle();
    group.get(1n).compact();
    group.get(1n).raft.compact({ index: 1n, term: 1n, confState: { voters: IDS, learners: [] } }, 2n);
    group.join(4n);
    group.get(1n).raft.proposeConfChange({ kind: 'addLearner', member: 4n, context: new Uint8Array(0) });
    group.settle();
    assert.deepEqual(group.sent.filter(({ kind }) => kind === 'snapshot').map(({ snapshot }) => snapshot?.index), [2n]);
    assert.deepEqual(group.get(4n).applied, ['a']);
  });
});

describe('a leader that stepped down and leads again', () => {
  function again(before: (group: Group) => void): Group {
    const group = elected();
    group.isolate(1n);
    group.tick(15, [1n]);
    before(group);
    group.tick(5, [1n]);
    assert.equal(group.get(1n).raft.leader, false);
    group.heal();
    group.tick(25, [2n, 3n]);
    for (let i = 0; i < 5 && !group.get(1n).raft.leader; i++) {
      const [leader] = group.leaders();
      if (leader !== undefined) group.get(leader).raft.transferLeader(1n);
      group.settle();
    }
    assert.equal(group.get(1n).raft.leader, true);
    return group;
  }

  it('does not answer reads that were asked before: others may have written meanwhile', () => {
    const group = again(({ members }) => members.get(1n)?.raft.readIndex(7n));
    group.get(1n).raft.readIndex(8n);
    group.settle();
    assert.deepEqual(group.get(1n).reads.map(({ context }) => context), [8n]);
  });

  it('is not handing over any more', () => {
    const group = again(({ members }) => members.get(1n)?.raft.transferLeader(3n));
    group.propose(1n, 'a');
    group.settle();
    assert.deepEqual(group.get(2n).applied, ['a']);
  });
});
