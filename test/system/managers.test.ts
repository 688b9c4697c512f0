// A group of three managers and what happens to it: leaders killed, the quorum lost, promotions and demotions, managers
// that leave, a new cluster from one of them; the service it runs never notices.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startAgent } from '../../src/lab/lab.js';
import type { LabNode } from '../../src/lab/plan.js';
import { IMAGE, Lab, Load, eventually, pidsOf, sleep } from './fixture.js';

const NO_LEADER = /The swarm does not have a leader\. It's possible that too few managers are online\./;

describe('three managers', { timeout: 340_000 }, () => {
  let lab: Lab;
  let load: Load;
  let services = 0;

  before(async () => {
    lab = await Lab.up('tsgroup', { managers: 3, workers: 2 });
    await lab.docker('service', 'create', '-q', '--name', 'web', '--replicas', '2', '-p', '8080:80', '--constraint', 'node.role==worker',
      '--stop-grace-period', '1s', IMAGE, '/bin/probe', 'serve', '80');
    load = new Load(lab, lab.plan.clientNetns, lab.workers.map((w) => w.address), 8080);
  });
  after(async () => lab?.down());

  /** MANAGER STATUS by host name, as `via` shows it. */
  const statuses = async (via: LabNode): Promise<Record<string, string>> => {
    const { code, stdout, stderr } = await lab.try(['node', 'ls', '--format', '{{.Hostname}} {{.Status}} {{.ManagerStatus}}'], via);
    assert.equal(code, 0, stderr);
    return Object.fromEntries(stdout.trim().split('\n').map((line) => {
      const [name = '', state = '', status = ''] = line.split(' ');
      return [name, state === 'Down' || state === 'Unknown' ? `${state} ${status}`.trim() : status];
    }));
  };
  const sameEverywhere = (wanted: Record<string, RegExp>, nodes = lab.managers): Promise<void> => eventually('all agree', 20_000, async () => {
    for (const via of nodes) {
      const seen = await statuses(via);
      for (const [name, words] of Object.entries(wanted)) assert.match(seen[name] ?? 'none', words, `${name} seen by ${via.name}`);
      assert.equal(Object.values(seen).filter((status) => status === 'Leader').length, 1, `one leader, seen by ${via.name}`);
    }
  });
  const leader = (via = lab.managers): Promise<LabNode> => eventually('a leader', 15_000, async () => {
    const seen = await statuses(via.at(-1) as LabNode);
    return lab.node(Object.entries(seen).find(([, status]) => status === 'Leader')?.[0] ?? '');
  });
  const others = (node: LabNode): LabNode[] => lab.managers.filter(({ name }) => name !== node.name);
  const write = async (via: LabNode): Promise<string> => {
    const name = `s${++services}`;
    const { code, stderr } = await lab.try(['service', 'create', '-q', '-d', '--replicas', '0', '--name', name, IMAGE], via);
    assert.equal(code, 0, stderr);
    return name;
  };
  const untouched = async (before: Record<string, number>): Promise<void> => {
    assert.deepEqual(pidsOf(await lab.running('web', 2)), before, 'the same tasks with the same processes');
    assert.deepEqual(load.errors, [], 'no request was lost');
  };

  test('every manager answers every request and shows the group as Docker does', { timeout: 60_000 }, async () => {
    await sameEverywhere({ m1: /Leader|Reachable/, m2: /Leader|Reachable/, m3: /Leader|Reachable/, w1: /^$/ });
    for (const via of lab.managers) {
      const name = await write(via);
      for (const reader of lab.managers) {
        assert.equal((await lab.try(['service', 'inspect', '--format', '{{.Spec.Name}}', name], reader)).stdout.trim(), name, 'read after write');
      }
      const info = (await lab.try(['info'], via)).stdout;
      assert.match(info, /Managers: 3\n/);
      assert.match(info, /Nodes: 5\n/);
      assert.match(info, /Manager Addresses:\n +192\.168\.99\.11:2377\n +192\.168\.99\.12:2377\n +192\.168\.99\.13:2377/);
      const logs = await lab.try(['service', 'logs', '-n', '1', 'web'], via);
      assert.equal(logs.code, 0, logs.stderr);
    }
  });

  test('a leader killed, again and again: writes by the others go on within a second, and nothing is lost', { timeout: 120_000 }, async () => {
    const before = pidsOf(await lab.running('web', 2));
    const written: string[] = [];
    for (let round = 0; round < 4; round++) {
      const old = await leader();
      const [via] = others(old) as [LabNode];
      written.push(await write(via));
      await lab.killAgent(old);
      const started = performance.now();
      written.push(await write(via));
      const gapMs = performance.now() - started;
      assert.ok(gapMs < 2500, `a write after ${gapMs} ms`);
      await sameEverywhere({ [old.name]: /Unreachable/ }, others(old));
      await startAgent(lab.plan, old);
      await sameEverywhere({ m1: /^(Leader|Reachable)$/, m2: /^(Leader|Reachable)$/, m3: /^(Leader|Reachable)$/ });
    }
    for (const via of lab.managers) {
      const listed = (await lab.try(['service', 'ls', '--format', '{{.Name}}'], via)).stdout.split('\n');
      assert.deepEqual(written.filter((name) => !listed.includes(name)), [], `seen by ${via.name}`);
    }
    await untouched(before);
  });

  test('without a quorum: what is known is read, a write says why not, tasks and traffic go on; with it all is well', { timeout: 90_000 }, async () => {
    const before = pidsOf(await lab.running('web', 2));
    const [one, ...lost] = lab.managers as [LabNode, LabNode, LabNode];
    for (const node of lost) await lab.killAgent(node);
    assert.ok(Object.keys(await statuses(one)).length === 5, 'nodes are listed');
    const refused = await lab.try(['service', 'create', '-q', '-d', '--name', 'late', '--replicas', '0', IMAGE], one);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, NO_LEADER);
    assert.match((await lab.try(['info', '--format', '{{.Swarm.Error}}'], one)).stdout, NO_LEADER);
    assert.equal((await lab.try(['service', 'inspect', 'web'], one)).code, 0);
    for (const node of lost) await startAgent(lab.plan, node);
    await sameEverywhere({ m1: /^(Leader|Reachable)$/, m2: /^(Leader|Reachable)$/, m3: /^(Leader|Reachable)$/ });
    await write(one);
    await untouched(before);
  });

  test('a worker is promoted and demoted; the leader is drained, then demoted, and another one leads', { timeout: 90_000 }, async () => {
    const [w1] = lab.workers as [LabNode];
    const before = pidsOf(await lab.running('web', 2));
    assert.match(await lab.docker('node', 'promote', 'w1'), /Node w1 promoted to a manager in the swarm\./);
    await sameEverywhere({ w1: /^Reachable$/ }, [...lab.managers, w1]);
    assert.match((await lab.try(['info'], w1)).stderr, /even number of managers \(4\)\. .* the loss of\s+1, as 3 managers do/);
    await write(w1);
    assert.match((await lab.try(['node', 'rm', '-f', 'w1'])).stderr,
      /is a cluster manager and is a member of the raft cluster\. It must be demoted to worker before removal/);
    assert.match(await lab.docker('node', 'demote', 'w1'), /Manager w1 demoted in the swarm\./);
    await eventually('w1 is a worker again', 15_000, async () => {
      assert.match((await lab.try(['node', 'ls'], w1)).stderr, /This node is not a swarm manager/);
      assert.equal((await statuses(lab.manager)).w1, '');
    });
    const drained = await leader();
    assert.equal((await lab.try(['node', 'update', '--availability', 'drain', drained.name], drained)).code, 0);
    await eventually('a drained leader hands over', 10_000, async () => {
      assert.equal((await statuses(drained))[drained.name], 'Reachable');
    });
    await write(drained);
    assert.equal((await lab.try(['node', 'update', '--availability', 'active', drained.name], drained)).code, 0);
    const old = await leader();
    const [via] = others(old) as [LabNode];
    const demoted = await lab.try(['node', 'demote', old.name], via);
    assert.equal(demoted.code, 0, demoted.stderr);
    await eventually('another leader', 20_000, async () => {
      const seen = await statuses(via);
      assert.equal(seen[old.name], '');
      assert.ok(Object.entries(seen).some(([name, status]) => status === 'Leader' && name !== old.name));
    });
    await write(via);
    const promoted = await lab.try(['node', 'promote', old.name], via);
    assert.equal(promoted.code, 0, promoted.stderr);
    await sameEverywhere({ [old.name]: /^(Leader|Reachable)$/ });
    await untouched(before);
  });

  test('a manager that leaves by force is taken out of the group; what would lose the quorum is refused', { timeout: 90_000 }, async () => {
    const [m1, m2, m3] = lab.managers as [LabNode, LabNode, LabNode];
    assert.match((await lab.try(['swarm', 'leave'], m3)).stderr, /You are attempting to leave the swarm on a node that is participating as a manager\./);
    assert.equal((await lab.try(['swarm', 'leave', '--force'], m3)).code, 0);
    await eventually('two managers', 15_000, async () => {
      const seen = await statuses(m1);
      assert.ok(!['Leader', 'Reachable'].includes(seen.m3 ?? ''), JSON.stringify(seen));
    });
    await write(m1);
    assert.match((await lab.try(['info'], m1)).stderr, /WARNING: Running Swarm in a two-manager configuration\./);
    await lab.killAgent(m2);
    await sleep(500);
    assert.match((await lab.try(['node', 'demote', 'm1'], m1)).stderr, /loss of quorum|does not have a leader|last manager/);
    await startAgent(lab.plan, m2);
    await eventually('a leader again', 15_000, async () => { await write(m1); });
    const token = await lab.docker('swarm', 'join-token', '-q', 'manager');
    const joined = await lab.try(['swarm', 'join', '--token', token, '--advertise-addr', m3.address, `${m1.address}:2377`], m3);
    assert.equal(joined.code, 0, joined.stderr);
    assert.match(joined.stdout, /This node joined a swarm as a manager\./);
    await eventually('three again', 15_000, async () => {
      // By line: the node that left is still listed under the same name.
      const { stdout } = await lab.try(['node', 'ls', '--format', '{{.ManagerStatus}}'], m3);
      assert.equal(stdout.split('\n').filter((status) => /^(Leader|Reachable)$/.test(status)).length, 3);
    });
  });

  test('a new cluster from one of three: everything is there, the others become workers when they return', { timeout: 90_000 }, async () => {
    const before = pidsOf(await lab.running('web', 2));
    const [m1, m2, m3] = lab.managers as [LabNode, LabNode, LabNode];
    const kept = await write(m1);
    await lab.killAgent(m2);
    await lab.killAgent(m3);
    const forced = await lab.try(['swarm', 'init', '--force-new-cluster', '--advertise-addr', m1.address], m1);
    assert.equal(forced.code, 0, forced.stderr);
    await eventually('m1 leads alone', 10_000, async () => {
      const seen = await statuses(m1);
      assert.equal(seen.m1, 'Leader', JSON.stringify(seen));
    });
    await write(m1);
    assert.equal((await lab.try(['service', 'inspect', kept], m1)).code, 0, 'what was written before is there');
    await startAgent(lab.plan, m2);
    await eventually('m2 is a worker', 30_000, async () => {
      assert.match((await lab.try(['node', 'ls'], m2)).stderr, /This node is not a swarm manager/);
    });
    await untouched(before);
  });
});
