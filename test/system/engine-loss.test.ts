// The docker runtime without its Engine: dockerd is killed under running tasks and comes back.

import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { unwrap } from '../../src/lib/result.js';
import { startEngine } from '../../src/lab/engine.js';
import { labDown } from '../../src/lab/lab.js';
import { IMAGE, Lab, eventually } from './fixture.js';

const NAME = 'tsengine';

async function commandLines(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  return Promise.all(pids.map(async (pid) => (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ')));
}

describe('an Engine killed under its tasks', { timeout: 180_000 }, () => {
  let lab: Lab;
  let engineDir: string;
  const killEngine = async (): Promise<void> => {
    process.kill(Number((await readFile(path.join(engineDir, 'dockerd.pid'), 'utf8')).trim()), 'SIGKILL');
  };
  before(async () => {
    lab = await Lab.up(NAME, { workers: 1, runtime: 'docker' });
    engineDir = path.dirname(lab.plan.dockerSocket);
    await lab.docker('service', 'create', '-q', '--name', 'web', '--replicas', '3', '-p', '8080:80', IMAGE, '/bin/probe', 'serve', '80');
  });
  after(async () => {
    if (existsSync(engineDir)) await lab.down();
    else await lab.removeFiles();
  });

  test('the swarm and the traffic go on, and info says what is missing', async () => {
    await killEngine();
    await eventually('the warning', 10_000, async () => assert.match((await lab.try(['info'])).stderr, /Cannot connect to the Docker daemon/));
    assert.match(await lab.docker('node', 'ls'), /w1\s+Ready/);
    assert.equal((await lab.ask(lab.plan.clientNetns, lab.manager.address, 8080)).client, lab.plan.clientAddress);
    for (const node of lab.plan.nodes) assert.ok(await lab.agentPid(node) > 0, `agent of ${node.name} runs`);
  });

  test('a change asked for meanwhile is done once the Engine is back; no task was restarted', async () => {
    const before = (await lab.running('web', 3)).map((task) => task.ID);
    await lab.docker('service', 'scale', '-d', 'web=1');
    await startEngine(lab.plan);
    const [left] = await eventually('scale down', 40_000, async () => {
      const tasks = await lab.tasks('web');
      assert.equal(tasks.length, 1);
      return tasks;
    });
    assert.ok(left !== undefined && before.includes(left.ID));
    await lab.ask(lab.plan.clientNetns, lab.manager.address, 8080);
  });

  test('lab down removes the containers of a killed Engine', async () => {
    await killEngine();
    unwrap(await labDown(NAME));
    const left = (await commandLines()).filter((line) => line.includes(`skein-lab/${NAME}`));
    assert.deepEqual(left, []);
    assert.equal(existsSync(engineDir), false);
  });
});
