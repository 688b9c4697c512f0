// A backup of one of several managers: what a lost swarm goes on from. Two real managers on one machine that must not be
// held up by other tests.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { runCli } from '../../src/cli/cli.js';
import { backUp } from '../../src/daemon/backup.js';
import { ok, unwrap } from '../../src/lib/result.js';
import { cluster, counted, manager, write } from '../support/manager-node.js';
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
    unwrap(await second.join(first, { joinToken: cluster(first).rootCa?.joinTokens?.manager ?? '' }));
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
