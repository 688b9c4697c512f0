// Churn: random, overlapping changes of services and networks by seed, then what must always hold: nobody shares an
// address, wanted replicas run, and after removal nothing is left on any node.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { IMAGE, Lab, eventually, type TaskJson } from './fixture.js';

const SEED = Number(process.env['SKEIN_CHURN_SEED'] ?? '20261121');
const DURATION_MS = Number(process.env['SKEIN_CHURN_MS'] ?? '20000');

/** Mulberry32: small, seeded, good enough to choose operations. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface World {
  readonly networks: string[];
  readonly services: Map<string, { replicas: number; steady: boolean }>;
}

async function change(lab: Lab, world: World, random: () => number, number: number): Promise<void> {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
  const names = [...world.services.keys()];
  const choice = random();
  if (choice < 0.15 && world.networks.length < 6) {
    await lab.docker('network', 'create', '-d', 'overlay', `n${number}`);
    world.networks.push(`n${number}`);
  } else if (choice < 0.45 && names.length < 8) {
    const steady = random() < 0.7;
    const replicas = 1 + Math.floor(random() * 5);
    const networks = world.networks.filter(() => random() < 0.4).slice(0, 3);
    await lab.docker('service', 'create', '-q', '-d', '--no-resolve-image', '--name', `s${number}`, '--replicas', String(replicas),
      '--restart-delay', '200ms', '--stop-grace-period', '1s', '--update-monitor', '200ms',
      ...networks.flatMap((n) => ['--network', n]), ...(random() < 0.5 ? ['-p', `${9000 + number}:80`] : []),
      IMAGE, ...(steady ? ['/bin/probe', 'serve', '80'] : ['sh', '-c', 'sleep 1; exit 1']));
    world.services.set(`s${number}`, { replicas, steady });
  } else if (names.length > 0) {
    const name = pick(names);
    const service = world.services.get(name) as { replicas: number; steady: boolean };
    if (choice < 0.65) {
      const replicas = Math.floor(random() * 6);
      // The updater may change the service between the CLI's read and write: Docker's answer, and ours.
      const output = await lab.try(['service', 'scale', '-d', `${name}=${replicas}`]);
      if (output.code === 0) service.replicas = replicas;
      else assert.match(output.stderr, /update out of sequence/);
    } else if (choice < 0.85) {
      const output = await lab.try(['service', 'update', '-q', '-d', '--no-resolve-image', '--force', '--update-parallelism', String(Math.floor(random() * 4)),
        '--update-order', pick(['start-first', 'stop-first']), name]);
      if (output.code !== 0) assert.match(output.stderr, /update out of sequence/);
    } else {
      await lab.docker('service', 'rm', name);
      world.services.delete(name);
    }
  }
}

describe('churn of services and networks', { timeout: 180_000 }, () => {
  let lab: Lab;
  const world: World = { networks: [], services: new Map() };
  before(async () => {
    lab = await Lab.up('tschurn');
  });
  after(async () => lab?.down());

  test(`random changes, seed ${SEED}`, async () => {
    const random = generator(SEED);
    const end = Date.now() + DURATION_MS;
    let number = 0;
    while (Date.now() < end) await change(lab, world, random, ++number);
    assert.ok(number > 10, `${number} changes were made`);
  });

  test('what is wanted runs, and no address is given twice', async () => {
    for (const [name, { replicas, steady }] of world.services) if (steady) await lab.running(name, replicas, 40_000);
    const owner = new Map<string, string>();
    for (const task of await lab.api<TaskJson[]>('GET', '/v1.50/tasks')) {
      if (!['assigned', 'accepted', 'preparing', 'ready', 'starting', 'running'].includes(task.Status.State)) continue;
      for (const attachment of task.NetworksAttachments ?? []) {
        for (const address of attachment.Addresses) {
          const key = `${attachment.Network.Spec.Name} ${address}`;
          assert.equal(owner.get(key), undefined, `${key} is held by ${owner.get(key)} and ${task.ID}`);
          owner.set(key, task.ID);
        }
      }
    }
  });

  test('no agent crashed, and after removal nothing is left', async () => {
    for (const node of lab.plan.nodes) {
      assert.ok(await lab.agentPid(node) > 0, `agent of ${node.name} runs`);
      assert.doesNotMatch(await readFile(path.join(node.runDir, 'agent.log'), 'utf8'), /"level":60/, `agent of ${node.name} crashed`);
    }
    for (const name of world.services.keys()) await lab.docker('service', 'rm', name);
    await eventually('all tasks to go', 40_000, async () => assert.deepEqual(await lab.api('GET', '/v1.50/tasks'), []));
    for (const name of world.networks) await lab.docker('network', 'rm', name);
    const mounts = await readFile('/proc/self/mounts', 'utf8');
    for (const node of lab.plan.nodes) {
      await eventually(`${node.name} to be clean`, 10_000, async () => {
        for (const dir of [path.join(node.runDir, 'netns'), path.join(node.stateDir, 'tasks'), path.join(node.stateDir, 'swarm/worker/tasks')]) {
          assert.deepEqual(existsSync(dir) ? await readdir(dir) : [], [], dir);
        }
      });
      assert.doesNotMatch(mounts.split('\n').filter((line) => line.includes(`${node.stateDir}/tasks`)).join('\n'), /./);
    }
  });
});
