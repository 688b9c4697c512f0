// Managers that come back at another address: one that follows, then the one that leads, then the third. Everybody learns
// of it: the group, `node ls`, `docker info` on every node, the workers' lists; writes, tasks and traffic go on.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startAgent } from '../../src/lab/lab.js';
import { api } from '../../src/lab/dockerapi.js';
import { LAB_SUBNET_BITS, type LabNode } from '../../src/lab/plan.js';
import { IMAGE, Lab, Load, eventually, pidsOf } from './fixture.js';

interface NodeJson {
  readonly Description: { readonly Hostname: string };
  readonly Status: { readonly State: string; readonly Addr?: string };
  readonly ManagerStatus?: { readonly Leader?: boolean; readonly Reachability: string; readonly Addr: string };
}

interface InfoJson {
  readonly Swarm: {
    readonly NodeAddr: string; readonly LocalNodeState: string; readonly Managers: number;
    readonly RemoteManagers: readonly { readonly Addr: string }[] | null;
  };
}

const NODES = 5;

describe('a manager that comes back at another address', { timeout: 300_000 }, () => {
  let lab: Lab;
  let load: Load;
  /** Where each node is now. */
  const now = new Map<string, LabNode>();
  const at = (name: string): LabNode => now.get(name) as LabNode;
  const managers = (): LabNode[] => lab.managers.map(({ name }) => at(name));
  const all = (): LabNode[] => [...now.values()];
  let written = 0;

  before(async () => {
    lab = await Lab.up('tsaddr', { managers: 3, workers: 2 });
    for (const node of lab.plan.nodes) now.set(node.name, node);
    await lab.docker('service', 'create', '-q', '--name', 'web', '--replicas', '2', '--constraint', 'node.role==worker', '-p', '8080:80',
      IMAGE, '/bin/probe', 'serve', '80');
    // Those of a machine that moves may be replaced: without its address it is dead to the others.
    await lab.docker('service', 'create', '-q', '--name', 'each', '--mode', 'global', '-p', '8081:80', IMAGE, '/bin/probe', 'serve', '80');
    await lab.running('web', 2);
    load = new Load(lab, lab.plan.clientNetns, lab.workers.map((w) => w.address), 8080);
  });
  after(async () => lab?.down());

  const leader = (except = ''): Promise<LabNode> => eventually('a leader', 15_000, async () => {
    const via = managers().find(({ name }) => name !== except) as LabNode;
    // Nobody may have seen yet that it is gone.
    const found = (await api<NodeJson[]>(via.socket, 'GET', '/v1.40/nodes')).find(({ ManagerStatus }) => ManagerStatus?.Leader === true);
    assert.ok(found !== undefined && found.Description.Hostname !== except, 'another leader');
    return at(found.Description.Hostname);
  });

  const everybodyKnows = (): Promise<void> => eventually('everybody knows', 25_000, async () => {
    const addresses = managers().map(({ address }) => `${address}:2377`).sort();
    for (const via of managers()) {
      const nodes = await api<NodeJson[]>(via.socket, 'GET', '/v1.40/nodes');
      for (const { Description: { Hostname }, Status, ManagerStatus } of nodes) {
        const { address, role } = at(Hostname);
        assert.deepEqual([Status.State, Status.Addr], ['ready', address], `${Hostname} seen by ${via.name}`);
        const said = ManagerStatus === undefined ? undefined : [ManagerStatus.Reachability, ManagerStatus.Addr];
        assert.deepEqual(said, role === 'manager' ? ['reachable', `${address}:2377`] : undefined, `${Hostname} seen by ${via.name}`);
      }
      assert.equal(nodes.filter(({ ManagerStatus }) => ManagerStatus?.Leader === true).length, 1, `one leader, seen by ${via.name}`);
    }
    for (const node of all()) {
      const { Swarm } = await api<InfoJson>(node.socket, 'GET', '/v1.40/info');
      assert.deepEqual([Swarm.LocalNodeState, Swarm.NodeAddr], ['active', node.address], node.name);
      assert.deepEqual((Swarm.RemoteManagers ?? []).map(({ Addr }) => Addr).sort(), addresses, `as ${node.name} knows`);
    }
  });

  const write = async (via: LabNode): Promise<void> => {
    const name = `s${++written}`;
    const { code, stderr } = await lab.try(['service', 'create', '-q', '-d', '--replicas', '0', '--name', name, IMAGE], via);
    assert.equal(code, 0, `through ${via.name}: ${stderr}`);
    for (const reader of managers()) {
      assert.equal((await lab.try(['service', 'inspect', '-f', '{{.Spec.Name}}', name], reader)).stdout.trim(), name);
    }
  };

  /** The published port of every node leads to every task, wherever. */
  const everyTaskAnswers = async (): Promise<void> => {
    for (const { address, name } of all()) {
      const tasks = new Set<string>();
      await eventually(`every task through ${name}`, 15_000, async () => {
        tasks.add((await lab.ask(lab.plan.clientNetns, address, 8081)).task);
        assert.equal(tasks.size, NODES, [...tasks].join());
      });
    }
  };

  const move = async (node: LabNode, address: string): Promise<void> => {
    const pid = await lab.agentPid(node);
    assert.ok(pid > 0, `the agent of ${node.name} runs`);
    process.kill(pid, 'SIGTERM');
    await eventually('the agent ends', 15_000, async () => assert.equal(await lab.agentPid(node), 0));
    for (const args of [`addr del ${node.address}/${LAB_SUBNET_BITS} dev eth0`, `addr add ${address}/${LAB_SUBNET_BITS} dev eth0`]) {
      const { code, stderr } = await lab.inside(node.netns, 'ip', args.split(' '));
      assert.equal(code, 0, stderr);
    }
    now.set(node.name, { ...node, address });
    await startAgent(lab.plan, at(node.name));
  };

  const moved = async (node: LabNode, address: string): Promise<void> => {
    const tasks = pidsOf(await lab.running('web', 2));
    await move(node, address);
    await everybodyKnows();
    for (const via of managers()) await write(via);
    assert.deepEqual(pidsOf(await lab.running('web', 2)), tasks, 'the same tasks with the same processes');
    await lab.running('each', NODES);
    await everyTaskAnswers();
    assert.deepEqual(load.errors, [], 'no request was lost');
  };

  test('one that follows', async () => {
    const { name } = await leader();
    await moved(managers().find((node) => node.name !== name) as LabNode, '192.168.99.31');
  });

  test('the one that leads', async () => {
    await moved(await leader(), '192.168.99.32');
  });

  test('it counts at its new address: without one that never moved, the group goes on', async () => {
    const stayed = managers().find(({ address }) => !['192.168.99.31', '192.168.99.32'].includes(address)) as LabNode;
    await lab.killAgent(stayed);
    const via = await leader(stayed.name);
    const { code, stderr } = await lab.try(['service', 'create', '-q', '-d', '--replicas', '0', '--name', 'two', IMAGE], via);
    assert.equal(code, 0, stderr);
    await startAgent(lab.plan, stayed);
    await everybodyKnows();
  });

  test('the third as well: a worker that was away finds the group by what it was told', async () => {
    const worker = lab.workers[0] as LabNode;
    const third = managers().find(({ address }) => !['192.168.99.31', '192.168.99.32'].includes(address)) as LabNode;
    await moved(third, '192.168.99.33');
    await lab.killAgent(worker);
    await startAgent(lab.plan, worker);
    await everybodyKnows();
  });
});
