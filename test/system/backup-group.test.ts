// A backup of one of several managers: what a lost swarm goes on from; and of one that was alone then. Real managers on one
// machine that must not be held up by other tests.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { runCli } from '../../src/cli/cli.js';
import { backUp } from '../../src/daemon/backup.js';
import { unwrap } from '../../src/lib/result.js';
import { RaftMemberStatus_Reachability as Reachability } from '../../src/model/proto/swarmkit_pb.js';
import { counted, manager, managerToken, write } from '../support/manager-node.js';
import { TestNode, testNodes } from '../support/test-node.js';
import { eventually } from './fixture.js';

const root = mkdtempSync(path.join(os.tmpdir(), 'skein-backup-'));
after(() => rmSync(root, { recursive: true, force: true }));
let paths = 0;
const fresh = (): string => path.join(root, `p${++paths}`);
const make = testNodes();

/** A node on another machine, with the address of the one that is gone. */
async function started<T>(stateDir: string, address: string, work: (node: TestNode) => Promise<T>): Promise<T> {
  const node = TestNode.at(stateDir, address);
  await node.node.start();
  try {
    return await work(node);
  } finally {
    await node.down();
    assert.deepEqual(node.bugs, []);
  }
}

/** The command line, with what it printed. */
async function skein(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const printed = { out: '', err: '' };
  const { log, error } = console;
  console.log = (text: string) => { printed.out += `${text}\n`; };
  console.error = (text: string) => { printed.err += `${text}\n`; };
  try {
    return { code: await runCli(args), ...printed };
  } finally {
    Object.assign(console, { log, error });
  }
}

describe('a backup of one manager of several', () => {
  it('is what a lost swarm goes on from, with force-new-cluster', { timeout: 60_000 }, async () => {
    const [first, second] = [await make(), await make()];
    unwrap(await first.init());
    unwrap(await second.join(first, { joinToken: managerToken(first) }));
    await write(first, 5);
    await eventually('the list of managers', 8000, async () => assert.equal(first.node.local().remoteManagers.length, 2));
    const [file, stateDir] = [fresh(), fresh()];
    assert.equal((await backUp({ stateDir: first.stateDir, to: file, force: false })).managers, 2);
    await second.node.close();
    const closing = performance.now();
    await first.node.close();
    assert.ok(performance.now() - closing < 10_000, 'a manager that lost its quorum ends');
    const { out } = await skein('restore', '--from', file, '--state-dir', stateDir);
    assert.match(out, /one of 2 managers[^]*--force-new-cluster/);
    await started(stateDir, first.address, async (restored) => {
      assert.equal(restored.node.local().state, 'error');
      unwrap(await restored.init({ forceNewCluster: true }));
      assert.equal(counted(restored), 5);
      await write(restored, 6);
      assert.equal(manager(restored).view().list('node').filter(({ managerStatus }) => managerStatus !== undefined).length, 1);
    });
  });
});

describe('a backup of a manager that was alone then', () => {
  it('goes on alone beside managers that joined since: neither takes the other for what it was', { timeout: 90_000 }, async () => {
    const [first, second, third] = [await make(), await make(), await make()];
    unwrap(await first.init());
    await write(first, 1);
    const [file, stateDir] = [fresh(), fresh()];
    assert.equal((await backUp({ stateDir: first.stateDir, to: file, force: false })).managers, 1);
    for (const node of [second, third]) unwrap(await node.join(first, { joinToken: managerToken(first) }));
    const reachable = (node: TestNode): number => manager(node).view().list('node')
      .filter(({ managerStatus }) => managerStatus?.reachability === Reachability.REACHABLE).length;
    await eventually('three voters', 10_000, async () => assert.equal(reachable(first), 3));
    // The others' log goes on differently from where the backup ends.
    await write(first, 2);
    await first.node.close();
    const { out } = await skein('restore', '--from', file, '--state-dir', stateDir);
    assert.match(out, /goes on alone/);
    await started(stateDir, first.address, async (restored) => {
      assert.deepEqual([restored.node.local().state, counted(restored)], ['active', 1]);
      for (let n = 10; n < 30; n++) await write(restored, n);
      await eventually('the others go on', 10_000, async () => write(second, 3));
      // Whoever leads, in newer terms than before, tries to reach the one that was lost.
      for (const node of [second, third]) {
        await node.restart();
        await eventually('a leader', 10_000, async () => write(node, 3));
        await sleep(1000);
      }
      await write(restored, 31);
      await write(third, 4);
      await eventually('what is written to the others', 5000, async () => assert.deepEqual([counted(second), counted(third)], [4, 4]));
      assert.deepEqual([restored.node.local().state, restored.node.local().error, counted(restored)], ['active', '', 31]);
      await eventually('the one that was lost is', 10_000, async () => assert.equal(reachable(second), 2));
      assert.equal(manager(restored).view().list('node').filter(({ managerStatus }) => managerStatus !== undefined).length, 1);
    });
  });
});
