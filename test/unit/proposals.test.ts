// What a proposer is told: once, by the log; and never that a change was made when nobody can know.

import assert from 'node:assert/strict';
import { create } from '@bufbuild/protobuf';
import { describe, test } from 'node:test';
import type { ManagerClient } from '../../src/io/grpc/client.js';
import { Proposals } from '../../src/daemon/manager/proposals.js';
import { fail, ok } from '../../src/lib/result.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';

function proposals(taken: boolean[], leaderlessMs = 0, inTerm = true): { it: Proposals; sent: () => number; elect: () => void } {
  let sent = 0;
  let elect: () => void = () => undefined;
  const it = new Proposals({
    inTerm: () => inTerm,
    here: () => {
      sent += 1;
      return taken.shift() ?? true;
    },
    leading: () => true,
    leaderlessMs: () => leaderlessMs,
    leaderClient: () => undefined,
    onLeadership: (listener) => {
      elect = listener;
      return () => undefined;
    },
  });
  return { it, sent: () => sent, elect: () => elect() };
}

const command = create(CommandSchema, { id: 'c1' });

describe('proposals', () => {
  test('one that is refused by a change of leaders is made again, and answered when it is applied', async () => {
    const { it, sent } = proposals([false, true]);
    const answer = it.propose(command);
    await new Promise((resolve) => setTimeout(resolve, 120));
    assert.equal(sent(), 2);
    it.applied('c1', ok({ events: [], duplicate: false }));
    assert.equal((await answer).ok, true);
  });

  test('one whose fate is inside a snapshot is not asked about again: the store only knows that it has seen it', async () => {
    const { it, sent } = proposals([]);
    const answer = it.propose(command);
    await new Promise((resolve) => setTimeout(resolve, 10));
    it.skipped();
    const result = await answer;
    assert.equal(result.ok, false);
    assert.equal(sent(), 1);
    it.applied('c1', fail('already_exists', 'too late'));
  });

  test('without a leader for longer than an election takes, the answer comes at once', async () => {
    const { it, sent } = proposals([false], 6000);
    assert.match(JSON.stringify(await it.propose(command)), /does not have a leader/);
    assert.equal(sent(), 1);
  });

  test('one that the leader does not answer is made again as soon as another leads, and refused in good time when none does', async () => {
    const asked: string[] = [];
    let leads = false;
    const it = new Proposals({
      inTerm: () => true,
      here: () => {
        asked.push('here');
        return true;
      },
      leading: () => leads,
      leaderlessMs: () => 0,
      leaderClient: () => ({
        unary: () => {
          asked.push('there');
          return new Promise((_resolve, reject) => { setTimeout(() => reject(new Error('no answer')), 3000); });
        },
      }) as unknown as ManagerClient,
      onLeadership: () => () => undefined,
    });
    const answer = it.propose(command);
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.deepEqual(asked, ['there']);
    leads = true;
    it.leaderChanged();
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.deepEqual(asked, ['there', 'here']);
    it.applied('c1', ok({ events: [], duplicate: false }));
    assert.equal((await answer).ok, true);
    leads = false;
    const before = performance.now();
    assert.match(JSON.stringify(await it.propose(create(CommandSchema, { id: 'c2' }))), /cannot be reached from this manager/);
    assert.ok(performance.now() - before < 10_000);
  });

  test('one that the log tells of is answered, though the leader\'s answer does not come', async () => {
    const it = new Proposals({
      inTerm: () => true, here: () => false, leading: () => false, leaderlessMs: () => 0,
      leaderClient: () => ({ unary: () => new Promise(() => undefined) }) as unknown as ManagerClient,
      onLeadership: () => () => undefined,
    });
    const answer = it.propose(command);
    await new Promise((resolve) => setTimeout(resolve, 10));
    it.applied('c1', ok({ events: [], duplicate: false }));
    const late = new Promise<'late'>((resolve) => { setTimeout(() => resolve('late'), 1000).unref(); });
    assert.deepEqual(await Promise.race([answer, late]), ok({ events: [], duplicate: false }));
  });

  test('a decision of one term is not proposed in the next', async () => {
    const { it, sent } = proposals([], 0, false);
    assert.deepEqual(await it.proposeAsLeader(command), fail('aborted', 'this manager does not lead any more'));
    assert.equal(sent(), 0);
  });

  test('a decision of a leader ends with its leadership', async () => {
    const { it, elect } = proposals([]);
    const answer = it.proposeAsLeader(command);
    elect();
    assert.deepEqual(await answer, fail('aborted', 'this manager does not lead any more'));
  });
});
