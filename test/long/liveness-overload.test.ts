// A minute of four busy loops for each processor: no node is taken for dead, tasks and sessions stay; one that dies
// meanwhile still is.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { LabNode } from '../../src/lab/plan.js';
import { IMAGE, Lab, eventually, pidsOf } from '../system/fixture.js';
import { BusyLoops, lostLines, watchStates } from '../system/liveness-load.js';

const BUSY_MS = 60_000;

describe('liveness on an overloaded machine', { timeout: 240_000 }, () => {
  let lab: Lab;
  let load: BusyLoops | undefined;
  before(async () => {
    lab = await Lab.up('tsbusy', { workers: 3 });
    await lab.docker('service', 'create', '-q', '--name', 'web', '--replicas', '6', '-p', '8080:80', IMAGE, '/bin/probe', 'serve', '80');
  });
  after(async () => {
    load?.end();
    await lab?.down();
  });

  test('for a minute, nobody is down and no task is moved; then a death is noticed all the same', async () => {
    const tasks = pidsOf(await lab.running('web', 6));
    load = new BusyLoops(4);
    const { looks, others } = await watchStates(lab, BUSY_MS);
    assert.ok(looks > 100, `${looks} looks`);
    assert.deepEqual(others, []);
    assert.deepEqual(await lostLines(lab), []);
    assert.deepEqual(pidsOf(await lab.running('web', 6)), tasks);
    const victim = lab.workers.at(-1) as LabNode;
    const since = Date.now();
    await lab.killAgent(victim);
    process.kill(await lab.datapathPid(victim), 'SIGKILL');
    await lab.inside(victim.netns, 'ip', ['link', 'set', 'eth0', 'down']);
    await eventually('it is down', 15_000, async () => {
      const nodes = await lab.api<{ Description: { Hostname: string }; Status: { State: string } }[]>('GET', '/v1.40/nodes');
      assert.equal(nodes.find((node) => node.Description.Hostname === victim.name)?.Status.State, 'down');
    });
    console.error(`under load: down after ${Date.now() - since} ms`);
    assert.ok(Date.now() - since < 5000, `down after ${Date.now() - since} ms`);
  });
});
