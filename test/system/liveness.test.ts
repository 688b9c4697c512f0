// A dead node is told within 3 s (SwarmKit: 15 s); what is not dead is not: an agent or a data plane alone, a busy machine.
// The long version of the last is in test/long.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startAgent } from '../../src/lab/lab.js';
import type { LabNode } from '../../src/lab/plan.js';
import { IMAGE, Lab, eventually, pidsOf, sleep } from './fixture.js';
import { BusyLoops, lostLines, watchStates } from './liveness-load.js';

const TOLD_MS = 3000;
const REASON = /^heartbeat failure: neither its agent nor its data plane was heard for \d+ ms$/;

describe('liveness', { timeout: 120_000 }, () => {
  let lab: Lab;
  let w1: LabNode;
  let w2: LabNode;

  before(async () => {
    lab = await Lab.up('tslive');
    [w1, w2] = lab.workers as [LabNode, LabNode];
    await lab.docker('service', 'create', '-q', '--name', 'web', '--replicas', '2', '--constraint', 'node.hostname==w1',
      '-p', '8080:80', IMAGE, '/bin/probe', 'serve', '80');
    await sleep(1000);
  });
  after(async () => lab?.down());

  const isShown = async (node: LabNode, state: string): Promise<void> =>
    assert.match(await lab.docker('node', 'ls'), new RegExp(`${node.name}\\s+${state}`));
  const isDown = async (node: LabNode, since: number): Promise<number> => {
    await eventually(`${node.name} is down`, 25_000, () => isShown(node, 'Down'));
    return Date.now() - since;
  };
  const isReady = (node: LabNode): Promise<void> => eventually(`${node.name} is ready`, 15_000, () => isShown(node, 'Ready'));
  const message = (node: LabNode): Promise<string> => lab.docker('node', 'inspect', '--format', '{{.Status.Message}}', node.name);

  test('an agent killed under its data plane is no dead node: its tasks stay and serve, and it comes back', async () => {
    const tasks = pidsOf(await lab.running('web', 2));
    await lab.killAgent(w1);
    assert.deepEqual((await watchStates(lab, 5000)).others, []);
    await lab.ask(lab.plan.clientNetns, w1.address, 8080);
    await startAgent(lab.plan, w1);
    await isReady(w1);
    assert.deepEqual(pidsOf(await lab.running('web', 2)), tasks);
    assert.deepEqual(await lostLines(lab), []);
  });

  test('a data plane killed under its agent is none either', async () => {
    process.kill(await lab.datapathPid(w1), 'SIGKILL');
    assert.deepEqual((await watchStates(lab, 2000)).others, []);
    assert.deepEqual(await lostLines(lab), []);
  });

  test('processors kept busy by four loops each take no node down', async () => {
    const load = new BusyLoops(4);
    try {
      const { looks, others } = await watchStates(lab, 8000);
      assert.ok(looks > 10, `${looks} looks`);
      assert.deepEqual(others, []);
    } finally {
      load.end();
    }
    assert.deepEqual(await lostLines(lab), []);
  });

  test('a node killed whole, and its link down: told within 3 s, with the reason; it comes back', async () => {
    const since = Date.now();
    await lab.killAgent(w2);
    process.kill(await lab.datapathPid(w2), 'SIGKILL');
    await lab.inside(w2.netns, 'ip', ['link', 'set', 'eth0', 'down']);
    const ms = await isDown(w2, since);
    assert.ok(ms < TOLD_MS, `down after ${ms} ms`);
    console.error(`killed whole: down after ${ms} ms`);
    assert.match(await message(w2), REASON);
    await lab.inside(w2.netns, 'ip', ['link', 'set', 'eth0', 'up']);
    await startAgent(lab.plan, w2);
    await isReady(w2);
    await eventually('rows again', 5000, () => lab.ask(lab.plan.clientNetns, w2.address, 8080));
  });

  test('a node cut off without a word is told as soon, and taken back', async () => {
    await sleep(3000);
    const since = Date.now();
    await lab.inside(w2.netns, 'ip', ['link', 'set', 'eth0', 'down']);
    const ms = await isDown(w2, since);
    await lab.inside(w2.netns, 'ip', ['link', 'set', 'eth0', 'up']);
    assert.ok(ms < TOLD_MS, `down after ${ms} ms`);
    console.error(`cut off: down after ${ms} ms`);
    assert.match(await message(w2), REASON);
    await isReady(w2);
    assert.equal((await lostLines(lab)).length, 2);
  });
});
