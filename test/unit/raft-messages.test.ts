// Single messages to a RaftNode: what is old, malformed or meant for another is answered or ignored as it should be.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { RaftNode } from '../../src/core/raft/raft.js';
import type { Entry, Message, MessageKind, Ready, SnapshotMeta } from '../../src/core/raft/types.js';
import { Group, emptyDisk, startFrom } from '../support/raft-env.js';

const VOTERS = [1n, 2n, 3n];

function entry(index: number, term = 1): Entry {
  return { index: BigInt(index), term: BigInt(term), kind: 'normal', data: Buffer.from(`entry ${index}`) };
}

function message(kind: MessageKind, fields: Partial<Message> = {}): Message {
  return {
    kind, to: 2n, from: 1n, term: 5n, index: 0n, logTerm: 0n, entries: [], commit: 0n, reject: false, rejectHint: 0n, transfer: false,
    context: 0n, snapshot: undefined, ...fields,
  };
}

/** Member 2 with a snapshot at 3 and entries 4 to 6, of term 1, committed up to 5 and applied. */
function follower(): RaftNode {
  const disk = emptyDisk(VOTERS);
  disk.snapshot = { ...disk.snapshot, index: 3n, term: 1n };
  disk.entries = [entry(4), entry(5), entry(6)];
  disk.hardState = { term: 5n, vote: 0n, commit: 5n };
  const node = new RaftNode(startFrom(2n, disk));
  done(node);
  return node;
}

function done(node: RaftNode): Ready {
  const ready = node.ready();
  node.advance();
  return ready;
}

function answers(node: RaftNode, ...sent: readonly Message[]): (string | bigint | boolean)[][] {
  for (const one of sent) node.step(one);
  return done(node).messages.map(({ kind, index, reject }) => [kind, index, reject]);
}

const meta = (index: bigint, term: bigint): SnapshotMeta => ({ index, term, confState: { voters: VOTERS, learners: [] } });

describe('an append', () => {
  it('before what is committed is answered by how far that is, also where the log was compacted', () => {
    assert.deepEqual(answers(follower(), message('append', { index: 1n, logTerm: 1n, entries: [entry(2)] })), [['appendResponse', 5n, false]]);
    assert.deepEqual(answers(follower(), message('append', { index: 4n, logTerm: 1n, entries: [entry(5)] })), [['appendResponse', 5n, false]]);
  });

  it('with a hole in its entries is not heard', () => {
    const node = follower();
    assert.deepEqual(answers(node, message('append', { index: 6n, logTerm: 1n, entries: [entry(7, 5), entry(9, 5)] })), []);
    assert.deepEqual(answers(node, message('append', { index: 6n, logTerm: 1n, entries: [entry(8, 5)] })), []);
    assert.equal(node.status.last, 6n);
  });

  it('of an old term is answered by the new one', () => {
    const node = follower();
    node.step(message('append', { term: 4n, index: 6n, logTerm: 1n, entries: [entry(7, 4)] }));
    const [answer] = done(node).messages;
    assert.deepEqual([answer?.kind, answer?.term, answer?.reject, node.status.last], ['appendResponse', 5n, true, 6n]);
  });

  it('for another member, or from itself, is not heard', () => {
    assert.deepEqual(answers(follower(), message('heartbeat', { to: 3n }), message('heartbeat', { from: 2n })), []);
  });
});

describe('a snapshot', () => {
  it('that is not newer than what is committed changes nothing', () => {
    for (const [index, term] of [[2n, 1n], [5n, 1n], [5n, 9n]] as const) {
      const node = follower();
      node.step(message('snapshot', { snapshot: { ...meta(index, term), data: new Uint8Array(1) } }));
      const ready = done(node);
      assert.equal(ready.snapshot, undefined);
      assert.deepEqual(ready.messages.map((one) => [one.kind, one.index]), [['appendResponse', 5n]]);
      assert.equal(node.status.last, 6n);
    }
  });

  it('of entries the log has commits them, and the log stays', () => {
    const node = follower();
    node.step(message('snapshot', { snapshot: { ...meta(6n, 1n), data: new Uint8Array(1) } }));
    const ready = done(node);
    assert.deepEqual([ready.snapshot, ready.committed.map((one) => one.index), node.status.commit], [undefined, [6n], 6n]);
  });

  it('without its bytes is not heard', () => {
    assert.deepEqual(answers(follower(), message('snapshot', { snapshot: meta(9n, 5n) }), message('snapshot')), []);
  });
});

/** Leader 1 of three in term 1, at index 1. */
function leader(): RaftNode {
  const group = new Group(VOTERS);
  group.elect(1n);
  return group.get(1n).raft;
}

describe('a newer term', () => {
  it('is entered by a leader that hears of it, but not by a question what if, a candidate in its lease, or a read', () => {
    const newer = (kind: MessageKind): RaftNode => {
      const node = leader();
      node.step(message(kind, { to: 1n, from: 3n, term: 9n, reject: kind.endsWith('Response') }));
      return node;
    };
    for (const kind of ['preVote', 'vote', 'readIndex', 'readIndexResponse'] as const) {
      assert.deepEqual([newer(kind).leader, newer(kind).status.term], [true, 1n], kind);
    }
    for (const kind of ['append', 'heartbeat', 'appendResponse', 'heartbeatResponse', 'preVoteResponse'] as const) {
      assert.deepEqual([newer(kind).leader, newer(kind).status.term], [false, 9n], kind);
    }
    const asked = leader();
    asked.step(message('vote', { to: 1n, from: 3n, term: 9n, transfer: true, index: 1n, logTerm: 1n }));
    assert.deepEqual([asked.leader, asked.status.term], [false, 9n], 'a leader that handed over');
  });

  it('names its leader only by what a leader sends', () => {
    const leaderAfter = (kind: MessageKind): bigint => {
      const node = follower();
      node.step(message(kind, { term: 9n }));
      return node.status.leader;
    };
    assert.deepEqual((['append', 'heartbeat', 'snapshot', 'appendResponse', 'vote'] as const).map(leaderAfter), [1n, 1n, 1n, 0n, 0n]);
  });

  it('is told to a candidate that missed it', () => {
    const node = follower();
    node.step(message('preVote', { term: 3n, from: 3n }));
    assert.deepEqual(done(node).messages.map(({ kind, term, reject }) => [kind, term, reject]), [['preVoteResponse', 5n, true]]);
  });
});

describe('an answer', () => {

  it('that acknowledges more than the leader has says nothing', () => {
    const node = leader();
    node.step(message('appendResponse', { to: 1n, from: 3n, term: 1n, index: 99n }));
    assert.deepEqual(node.status.progress.map(({ member, match }) => [member, match]), [[2n, 1n], [3n, 1n]]);
  });

  it('of a stranger counts for nothing', () => {
    const node = leader();
    node.propose(new Uint8Array(1));
    done(node);
    for (const from of [7n, 8n]) node.step(message('appendResponse', { to: 1n, from, term: 1n, index: 2n }));
    assert.equal(node.status.commit, 1n);
  });

  it('to a read that nobody waits for is forgotten', () => {
    const node = follower();
    node.step(message('heartbeat'));
    done(node);
    node.step(message('readIndexResponse', { context: 12345n, index: 6n }));
    assert.deepEqual(done(node).readStates, []);
  });
});

describe('reads on their way to the leader', () => {
  it('are bounded, and those never answered make room again', () => {
    const node = follower();
    node.step(message('heartbeat'));
    let taken = 0;
    while (taken < 20_000 && node.readIndex(BigInt(taken))) {
      taken += 1;
      if (taken % 100 === 0) done(node);
    }
    assert.ok(taken < 20_000);
    for (let i = 0; i < 10; i++) {
      node.tick();
      node.step(message('heartbeat'));
    }
    assert.equal(node.readIndex(1n), true);
  });
});
