// Managers that do not know what they told the others: restored from a backup, or put back by hand. They say so and take
// no part in the group, which goes on; they can be left and join again. Real managers on one machine that must not be
// held up by other tests.

import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { backUp, restore } from '../../src/daemon/backup.js';
import { unwrap } from '../../src/lib/result.js';
import { unlockKeyOf } from '../../src/model/cluster.js';
import { RaftMemberStatus_Reachability as Reachability } from '../../src/model/proto/swarmkit_pb.js';
import { cluster, counted, manager, managerToken, write } from '../support/manager-node.js';
import { TestNode, testNodes } from '../support/test-node.js';
import { eventually } from './fixture.js';

const root = mkdtempSync(path.join(os.tmpdir(), 'skein-unfit-'));
after(() => rmSync(root, { recursive: true, force: true }));
let paths = 0;
const fresh = (): string => path.join(root, `p${++paths}`);
const make = testNodes();

const token = (node: TestNode): { joinToken: string } => ({ joinToken: managerToken(node) });

/** Three managers, all voters, with one write. */
async function group(request: Parameters<TestNode['init']>[0] = {}): Promise<[TestNode, TestNode, TestNode]> {
  const nodes: [TestNode, TestNode, TestNode] = [await make(), await make(), await make()];
  const [first, second, third] = nodes;
  unwrap(await first.init(request));
  for (const node of [second, third]) unwrap(await node.join(first, token(first)));
  await eventually('three voters', 10_000, async () => assert.equal(reachable(first), 3));
  await eventually('the list of managers', 8000, async () => assert.equal(third.node.local().remoteManagers.length, 3));
  await write(first, 1);
  await eventually('the write at the third', 5000, async () => assert.equal(counted(third), 1));
  return nodes;
}

const reachable = (node: TestNode): number =>
  manager(node).view().list('node').filter(({ managerStatus }) => managerStatus?.reachability === Reachability.REACHABLE).length;

function isUnfit(node: TestNode, reason: RegExp): void {
  const { state, error, isManager } = node.node.local();
  assert.deepEqual([state, isManager], ['error', false]);
  assert.match(error, reason);
  assert.match(error, /"docker swarm leave --force"\) and join again.*"docker swarm init --force-new-cluster"/);
}

describe('a manager restored while most of the others run', () => {
  it('does not start as the member it was; it is left and joins again', { timeout: 90_000 }, async () => {
    const [first, second, third] = await group();
    const [file, stateDir] = [fresh(), fresh()];
    await backUp({ stateDir: third.stateDir, to: file, force: false });
    await write(first, 2);
    await third.node.close();
    await restore({ from: file, stateDir });
    const restored = TestNode.at(stateDir, third.address);
    try {
      for (let life = 0; life < 2; life++) {
        if (life === 0) await restored.node.start();
        else await restored.restart();
        isUnfit(restored, /restored from a backup of one of 3 managers, made at 20/);
      }
      await write(second, 3);
      assert.equal((await restored.node.swarmLeave(false)).ok, false);
      unwrap(await restored.node.swarmLeave(true));
      unwrap(await restored.join(first, token(first)));
      await eventually('what was written meanwhile', 5000, async () => assert.equal(counted(restored), 3));
      await write(restored, 4);
    } finally {
      await restored.down();
    }
    assert.deepEqual(restored.bugs, []);
  });

  it('locked: it is unlocked first, says so then, and goes on alone when it is told to', { timeout: 90_000 }, async () => {
    const [first, second, third] = await group({ autoLockManagers: true });
    const key = new Uint8Array(unlockKeyOf(cluster(first)) ?? assert.fail('a key'));
    const [file, stateDir] = [fresh(), fresh()];
    await backUp({ stateDir: first.stateDir, to: file, force: false, unlockKey: key });
    for (const node of [third, second, first]) await node.node.close();
    await restore({ from: file, stateDir, unlockKey: key });
    const restored = TestNode.at(stateDir, first.address);
    try {
      await restored.node.start();
      assert.equal(restored.node.local().state, 'locked');
      assert.equal((await restored.init({ forceNewCluster: true })).ok, false);
      unwrap(await restored.node.swarmUnlock(key));
      isUnfit(restored, /restored from a backup/);
      unwrap(await restored.init({ forceNewCluster: true }));
      assert.equal(restored.node.local().error, '');
      assert.equal(counted(restored), 1);
      await write(restored, 2);
      await restored.restart();
      unwrap(await restored.node.swarmUnlock(key));
      await eventually('active', 5000, async () => assert.equal(restored.node.local().state, 'active'));
      assert.equal(counted(restored), 2);
    } finally {
      await restored.down();
    }
    assert.deepEqual(restored.bugs, []);
  });
});

describe('a manager whose files were put back', () => {
  it('ends its part when the leader asks for what it acknowledged, and says what to do', { timeout: 90_000 }, async () => {
    const [first, second, third] = await group();
    const copy = fresh();
    await third.restart(async () => cpSync(third.stateDir, copy, { recursive: true }));
    for (let n = 2; n <= 5; n++) await write(first, n);
    await eventually('the writes at the third', 5000, async () => assert.equal(counted(third), 5));
    await third.restart(async () => {
      rmSync(third.stateDir, { recursive: true });
      cpSync(copy, third.stateDir, { recursive: true });
    });
    const reason = /does not know what it told the other managers \(commit of \d+, but the log ends at \d+/;
    await eventually('it says so', 10_000, async () => isUnfit(third, reason));
    await write(second, 6);
    await third.restart();
    isUnfit(third, reason);
    unwrap(await third.node.swarmLeave(true));
    unwrap(await third.join(first, token(first)));
    await eventually('what was written meanwhile', 5000, async () => assert.equal(counted(third), 6));
  });

  it('and wrote alone meanwhile, finds that its log is another one than theirs', { timeout: 90_000 }, async () => {
    const [first, second, third] = [await make(), await make(), await make()];
    unwrap(await first.init());
    await write(first, 1);
    const copy = fresh();
    await first.restart(async () => cpSync(first.stateDir, copy, { recursive: true }));
    for (const node of [second, third]) unwrap(await node.join(first, token(first)));
    await eventually('three voters', 10_000, async () => assert.equal(reachable(first), 3));
    await write(first, 2);
    // As the copy tells it, it is the only manager. The others do not remember what it had acknowledged to them.
    await second.restart(() => third.restart(async () => {
      await first.restart(async () => {
        rmSync(first.stateDir, { recursive: true });
        cpSync(copy, first.stateDir, { recursive: true });
      });
      for (let n = 10; n < 40; n++) await write(first, n);
    }));
    const reason = /does not know what it told the other managers \(entry \d+ is another one elsewhere, though \d+ are committed here\)/;
    await eventually('it says so', 15_000, async () => isUnfit(first, reason));
    await write(third, 4);
    await eventually('the write at the second', 5000, async () => assert.equal(counted(second), 4));
    await first.restart();
    isUnfit(first, reason);
  });
});
