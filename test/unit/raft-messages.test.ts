// Single messages to a RaftNode: what is old, malformed or meant for another is answered or ignored as it should be.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { StaleLog } from '../../src/core/raft/log.js';
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
  it('before what is committed is answered by what was sent, also where the log was compacted, and what is new is taken', () => {
    const append = (index: number, ...indexes: number[]): Message =>
      message('append', { index: BigInt(index), logTerm: 1n, entries: indexes.map((one) => entry(one)) });
    const answered = [[append(1, 2), 2n], [append(1), 1n], [append(4, 5), 5n], [append(3, 4), 4n], [append(2, 3, 4), 4n]] as const;
    for (const [sent, has] of answered) {
      assert.deepEqual(answers(follower(), sent), [['appendResponse', has, false]]);
    }
    for (const sent of [append(1, 2, 3, 4, 5, 6, 7), append(4, 5, 6, 7)]) {
      const node = follower();
      assert.deepEqual(answers(node, sent), [['appendResponse', 7n, false]]);
      assert.deepEqual([node.status.last, node.status.commit], [7n, 5n]);
    }
  });

  it('that differs from what is committed finds the log stale, and is not acknowledged', () => {
    const differing: readonly Partial<Message>[] = [
      { index: 3n, logTerm: 1n, entries: [entry(4), entry(5, 2), entry(6, 2)] },
      { index: 4n, logTerm: 1n, entries: [entry(5, 2)] },
      // The entry before: at the end of what is committed, before it, and the snapshot's own.
      { index: 5n, logTerm: 2n, entries: [entry(6, 2)] },
      { index: 4n, logTerm: 2n },
      { index: 3n, logTerm: 2n, entries: [entry(4, 2)] },
      // From before the snapshot on.
      { index: 1n, logTerm: 1n, entries: [entry(2), entry(3, 2), entry(4, 2)] },
      { index: 1n, logTerm: 1n, entries: [entry(2), entry(3), entry(4), entry(5, 2)] },
      { index: 1n, logTerm: 1n, entries: [entry(2, 2)] },
      { index: 2n, logTerm: 2n },
    ];
    for (const fields of differing) {
      const node = follower();
      assert.throws(() => node.step(message('append', fields)), StaleLog);
      assert.deepEqual([node.status.last, done(node).messages], [6n, []]);
    }
    // What was not committed is replaced.
    const uncommitted = message('append', { index: 5n, logTerm: 1n, entries: [entry(6, 2)] });
    assert.deepEqual(answers(follower(), uncommitted), [['appendResponse', 6n, false]]);
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
    for (const index of [2n, 3n, 5n]) {
      const node = follower();
      node.step(message('snapshot', { snapshot: { ...meta(index, 1n), data: new Uint8Array(1) } }));
      const ready = done(node);
      assert.equal(ready.snapshot, undefined);
      assert.deepEqual(ready.messages.map((one) => [one.kind, one.index]), [['appendResponse', index]]);
      assert.equal(node.status.last, 6n);
    }
  });

  it('of another history than what is committed finds the log stale', () => {
    for (const index of [2n, 3n, 5n]) {
      const node = follower();
      assert.throws(() => node.step(message('snapshot', { snapshot: { ...meta(index, 2n), data: new Uint8Array(1) } })), StaleLog);
      assert.deepEqual(done(node).messages, []);
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
