// A manager that was away while the group changed: whoever leads now may be one that it has never heard of.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { unwrap } from '../../src/lib/result.js';
import { consensusOf, counted, managerToken, write } from '../support/manager-node.js';
import { TestNode, testNodes } from '../support/test-node.js';

const make = testNodes();
const token = (node: TestNode): { joinToken: string } => ({ joinToken: managerToken(node) });

async function until(what: string, met: () => boolean, ms = 10_000): Promise<void> {
  for (const deadline = Date.now() + ms; !met(); await sleep(10)) assert.ok(Date.now() < deadline, what);
}
const voters = (node: TestNode): number => consensusOf(node).status.confState.voters.length;

describe('a manager that was away', () => {
  it('catches up with a leader that joined meanwhile', { timeout: 60_000 }, async () => {
    const [a, b, c, d] = [await make(), await make(), await make(), await make()];
    unwrap(await a.init());
    for (const node of [b, c]) {
      unwrap(await node.join(a, token(a)));
    }
    await until('three', () => voters(a) === 3 && voters(c) === 3);
    await c.restart(async () => {
      unwrap(await d.join(a, token(a)));
      await until('four', () => voters(a) === 4 && voters(d) === 4);
      consensusOf(a).transferLeader(consensusOf(d).raftId);
      await until('d leads', () => consensusOf(d).leading);
      await write(d, 7);
    });
    await until('c has it', () => counted(c) === 7);
    assert.equal(consensusOf(c).leader()?.raftId, consensusOf(d).raftId);
  });
});
