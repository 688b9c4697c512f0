// Three managers and what concerns all of them at once: autolock, a rotation of the root that outlives its leader, and a
// stock Docker Engine that works for the next leader as for the last.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startAgent } from '../../src/lab/lab.js';
import type { LabNode } from '../../src/lab/plan.js';
import { IMAGE, Lab, command, eventually } from './fixture.js';
import { StockEngine } from './stock-engine.js';

const LOCKED = /Swarm is encrypted and needs to be unlocked before it can be used\. Please use "docker swarm unlock" to unlock it\./;

describe('keys and workers of three managers', { timeout: 240_000 }, () => {
  let lab: Lab;
  let engine: StockEngine | undefined;

  before(async () => {
    lab = await Lab.up('tsgkeys', { managers: 3, workers: 0 });
  });
  after(async () => {
    await engine?.end();
    await lab?.down();
  });

  const run = async (via: LabNode, ...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await lab.try(args, via);
    assert.equal(code, 0, `${via.name}: docker ${args.join(' ')}: ${stderr}`);
    return stdout.trim();
  };
  const nodes = async (via: LabNode): Promise<string[][]> =>
    (await run(via, 'node', 'ls', '--format', '{{.Hostname}},{{.Status}},{{.ManagerStatus}},{{.TLSStatus}}')).split('\n').map((line) => line.split(','));
  const leader = (via: LabNode): Promise<LabNode> => eventually('a leader', 15_000, async () => {
    const found = (await nodes(via)).find(([, , status]) => status === 'Leader')?.[0];
    assert.ok(found);
    return lab.node(found);
  });
  const otherThan = (node: LabNode): LabNode => lab.managers.find(({ name }) => name !== node.name) as LabNode;
  const reachable = (via: LabNode): Promise<void> => eventually('three managers', 20_000, async () => {
    const seen = await nodes(via);
    assert.equal(seen.filter(([, state, status]) => state === 'Ready' && /^(Leader|Reachable)$/.test(status ?? '')).length, 3, JSON.stringify(seen));
  });

  test('autolock locks every manager; each is unlocked by the same key, wherever that was turned', { timeout: 80_000 }, async () => {
    const [m1, m2, m3] = lab.managers as [LabNode, LabNode, LabNode];
    const printed = await run(m2, 'swarm', 'update', '--autolock=true');
    const key = /SWMKEY-1-[A-Za-z0-9+/]{43}/.exec(printed)?.[0] ?? '';
    for (const via of lab.managers) assert.equal(await run(via, 'swarm', 'unlock-key', '-q'), key);
    await lab.killAgent(m3);
    await startAgent(lab.plan, m3);
    assert.match((await lab.try(['node', 'ls'], m3)).stderr, LOCKED);
    await run(m1, 'service', 'create', '-q', '-d', '--name', 'meanwhile', '--replicas', '0', IMAGE);
    const unlocked = await command(lab.cli, ['-H', `unix://${m3.socket}`, 'swarm', 'unlock'], { input: `${key}\n` });
    assert.equal(unlocked.code, 0, unlocked.stderr);
    await reachable(m3);
    assert.equal(await run(m3, 'service', 'inspect', '--format', '{{.Spec.Name}}', 'meanwhile'), 'meanwhile');
    await run(m3, 'swarm', 'update', '--autolock=false');
    await lab.killAgent(m2);
    await startAgent(lab.plan, m2);
    await reachable(m2);
  });

  test('a stock engine keeps its containers when the leader changes, and takes orders from the next', { timeout: 80_000 }, async () => {
    engine = await StockEngine.start(lab, 'e1', '192.168.99.202');
    const joined = await engine.join(await run(lab.manager, 'swarm', 'join-token', '-q', 'worker'));
    assert.equal(joined.code, 0, joined.stderr);
    await run(lab.manager, 'service', 'create', '-q', '-d', '--name', 'kept', '--replicas', '2', '--constraint', 'node.hostname==e1',
      IMAGE, 'sleep', '1000');
    await lab.running('kept', 2, 20_000);
    const before = await engine.containers('kept');
    const old = await leader(lab.manager);
    const via = otherThan(old);
    await lab.killAgent(old);
    await eventually('the engine is ready for the next leader', 20_000, async () => {
      const seen = await nodes(via);
      assert.ok(seen.some(([, , status]) => status === 'Leader') && seen.some(([name, state]) => name === 'e1' && state === 'Ready'), JSON.stringify(seen));
    });
    await run(via, 'service', 'scale', '-d', 'kept=3');
    await eventually('a third container', 20_000, async () => {
      const now = await (engine as StockEngine).containers('kept');
      assert.equal(now.size, 3);
      for (const [name, id] of before) assert.equal(now.get(name), id, 'the same container');
    });
    await startAgent(lab.plan, old);
    await reachable(via);
  });

  test('a rotation of the root goes on under the next leader and ends', { timeout: 90_000 }, async () => {
    const old = await leader(lab.manager);
    const via = otherThan(old);
    const before = await run(via, 'swarm', 'ca');
    await run(via, 'swarm', 'ca', '--rotate', '-d', '-q');
    await lab.killAgent(old);
    await startAgent(lab.plan, old);
    await eventually('every node has a certificate of the new root', 60_000, async () => {
      const seen = await nodes(via);
      assert.deepEqual(seen.filter(([, state, , tls]) => state !== 'Ready' || tls !== 'Ready'), []);
      assert.notEqual(await run(via, 'swarm', 'ca'), before);
    });
    await reachable(old);
    assert.equal((await (engine as StockEngine).containers('kept')).size, 3);
  });
});
