// Network rows: what each node's tables must hold, from the store; and increments between two states.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { create } from '@bufbuild/protobuf';
import { clusterRows, diffParts, diffRows, hostPortRows, partsForNode, rowsForNode, type Parts } from '../../src/core/network/rows.js';
import { VNI_OPTION, addressOf, vniOf } from '../../src/model/network.js';
import { PortConfig_Protocol as Protocol, PortConfig_PublishMode as Mode } from '../../src/model/proto/swarmkit_pb.js';
import { RowSchema, type Row } from '../../src/model/proto/skein_pb.js';
import { Swarm, TaskState, addressesOf } from './harness.js';

function rows(swarm: Swarm, nodeId: string): Map<string, Row> {
  return rowsForNode(swarm.store, clusterRows(swarm.store), nodeId);
}

function row<K extends NonNullable<Row['row']['case']>>(of: Map<string, Row>, key: string, kind: K): Extract<Row['row'],
  { case: K }>['value'] {
  const found = of.get(key);
  assert.ok(found, `no row ${key} among ${[...of.keys()].join(', ')}`);
  assert.equal(found.row.case, kind);
  return found.row.value as never;
}

function world(options: { dnsrr?: boolean; replicas?: number } = {}) {
  const swarm = new Swarm({ nodes: 3 });
  swarm.addNetwork('ingress', { ingress: true, subnet: '10.255.0.0/24' });
  const net = swarm.addNetwork('front', { subnet: '10.9.0.0/24' });
  const id = swarm.addService('web', {
    replicas: options.replicas ?? 2, networks: [net], ports: [{ targetPort: 80, publishedPort: 8080 }], dnsrr: options.dnsrr ?? false,
    restart: { delayMs: 60_000 },
  });
  swarm.settle();
  const vni = vniOf(swarm.get('network', net)) as number;
  const tasks = swarm.running(id);
  const node = tasks[0]?.nodeId ?? '';
  const address = (position: number): string => addressOf(addressesOf(tasks[position] as never).find((a) => a.startsWith('10.9.')) ?? '');
  return { swarm, net, id, vni, tasks, node, address };
}

describe('rows of a node', () => {
  it('hold network, endpoints, service and names of the networks of its tasks, and no others', () => {
    const { swarm, id, vni, tasks, node, address } = world();
    const mine = rows(swarm, node);
    const network = row(mine, `net/${vni}`, 'network');
    assert.deepEqual([network.name, network.mtu, network.subnets[0]?.subnet, network.ingress], ['front', 1450, '10.9.0.0/24', false]);
    const endpoint = row(mine, `ep/${vni}/${address(1)}`, 'endpoint');
    assert.equal(endpoint.nodeId, tasks[1]?.nodeId);
    assert.match(endpoint.vtep, /^192\.0\.2\./);
    assert.equal(endpoint.mac, `02:42:0a:09:00:${Number(address(1).split('.')[3]).toString(16).padStart(2, '0')}`);
    const service = row(mine, `svc/${vni}/${id}`, 'service');
    assert.deepEqual(service.backends.map((b) => [b.address, b.draining]).sort(), [[address(0), false], [address(1), false]].sort());
    const idle = swarm.store.list('node').map((n) => n.id).find((n) => !tasks.some((task) => task.nodeId === n)) as string;
    assert.deepEqual([...rows(swarm, idle).keys()].filter((key) => key.includes(`/${vni}`)), []);
  });

  it('hold what is common to all beside a network of any number', () => {
    const swarm = new Swarm({ nodes: 1 });
    const none = swarm.addNetwork('none', { options: { [VNI_OPTION]: '0' } });
    swarm.addService('web', { replicas: 1, networks: [none] });
    swarm.settle();
    const keys = [...rows(swarm, 'n1').keys()];
    assert.ok(keys.includes('net/0') && keys.includes('node/n1'), keys.join());
  });

  it('hold the published port and every node everywhere', () => {
    const { swarm } = world();
    for (const node of ['n1', 'n2', 'n3']) {
      const mine = rows(swarm, node);
      const port = row(mine, 'port/tcp/8080', 'port');
      assert.deepEqual([port.target, port.protocol, port.hostMode, port.backends.length], [80, 6, false, 2]);
      assert.ok(port.backends.every((b) => b.address.startsWith('10.255.0.')));
      for (const other of ['n1', 'n2', 'n3']) assert.match(row(mine, `node/${other}`, 'node').ingressAddress, /^10\.255\.0\./);
    }
  });

  it('names: a service is its VIP, tasks.<service> its tasks; with dnsrr both are the tasks', () => {
    for (const dnsrr of [false, true]) {
      const { swarm, id, vni, tasks, node, address } = world({ dnsrr });
      const mine = rows(swarm, node);
      const both = [address(0), address(1)].sort();
      const vip = addressOf(swarm.get('service', id).endpoint?.virtualIps[0]?.addr ?? '');
      assert.deepEqual(row(mine, `name/${vni}/web`, 'name').addresses, dnsrr ? both : [vip]);
      assert.deepEqual(row(mine, `name/${vni}/tasks.web`, 'name').addresses, both);
      const name = `web.${tasks[0]?.slot}.${tasks[0]?.id}`;
      assert.deepEqual(row(mine, `name/${vni}/${name}`, 'name').addresses, [address(0)]);
      assert.equal(row(mine, `ptr/${vni}/${address(0)}`, 'pointer').name, `${name}.front`);
      assert.equal(mine.has(`svc/${vni}/${id}`), !dnsrr);
    }
  });

  it('a draining task takes no new flows and leaves the names, but stays a backend and an endpoint', () => {
    const { swarm, net, id, vni, tasks, node } = world();
    swarm.acknowledging = false;
    swarm.updateService(id, { replicas: 1, networks: [net], ports: [{ targetPort: 80, publishedPort: 8080 }] });
    swarm.pass();
    const gone = swarm.tasks(id).find((task) => task.drainState !== undefined);
    assert.ok(gone);
    const address = addressOf(addressesOf(gone).find((a) => a.startsWith('10.9.')) ?? '');
    const mine = rows(swarm, node);
    assert.equal(row(mine, `svc/${vni}/${id}`, 'service').backends.find((b) => b.address === address)?.draining, true);
    assert.equal(row(mine, 'port/tcp/8080', 'port').backends.filter((b) => b.draining).length, 1);
    assert.ok(!row(mine, `name/${vni}/tasks.web`, 'name').addresses.includes(address));
    assert.ok(mine.has(`ep/${vni}/${address}`));
    assert.equal(tasks.length, 2);
  });

  it('a task that is not up yet has an endpoint and a name, but is no backend', () => {
    const swarm = new Swarm();
    const net = swarm.addNetwork('front');
    swarm.behave = () => 'hang';
    const id = swarm.addService('web', { networks: [net] });
    swarm.settle();
    const mine = rows(swarm, 'n1');
    assert.deepEqual(row(mine, `svc/4096/${id}`, 'service').backends, []);
    assert.deepEqual(row(mine, 'name/4096/tasks.web', 'name').addresses, []);
    assert.equal([...mine.keys()].filter((key) => key.startsWith('ep/')).length, 1);
  });

  it('a node that is down loses its rows in the same commit', () => {
    const { swarm, id, vni, tasks, node } = world();
    const lost = tasks.find((task) => task.nodeId !== node);
    assert.ok(lost);
    swarm.nodeDown(lost.nodeId);
    const mine = rows(swarm, node);
    assert.equal(mine.has(`node/${lost.nodeId}`), false);
    assert.equal([...mine.values()].some((r) => r.row.case === 'endpoint' && r.row.value.nodeId === lost.nodeId), false);
    assert.equal(row(mine, `svc/${vni}/${id}`, 'service').backends.length, 1);
    assert.equal(row(mine, 'port/tcp/8080', 'port').backends.length, 1);
  });

  it('go with the last task of a network on the node', () => {
    const { swarm, net, id, vni, node } = world();
    swarm.updateService(id, { replicas: 0, networks: [net] });
    swarm.advance(20_000);
    assert.deepEqual([...rows(swarm, node).keys()].filter((key) => key.includes(`/${vni}`)), []);
  });
});

describe('diffRows', () => {
  it('applied to the old rows it gives the new ones, and is empty between equal states', () => {
    const { swarm, net, id, node } = world();
    const apply = (before: Map<string, Row>, after: Map<string, Row>): void => {
      const { upsert, remove } = diffRows(before, after);
      const patched = new Map(before);
      for (const key of remove) patched.delete(key);
      for (const one of upsert) patched.set(one.key, one);
      assert.deepEqual(new Map([...patched].sort()), new Map([...after].sort()));
    };
    let before = rows(swarm, node);
    assert.deepEqual(diffRows(before, rows(swarm, node)), { upsert: [], remove: [] });
    swarm.updateService(id, { replicas: 4, image: 'app:2', networks: [net] });
    swarm.advance(30_000, () => {
      const after = rows(swarm, node);
      apply(before, after);
      before = after;
    });
    assert.equal(before.has('port/tcp/8080'), false);
  });

  it('is the same part by part, for every node, whether the parts are made from those before or anew', () => {
    const { swarm, net, id } = world();
    const nodes = ['n1', 'n2', 'n3'];
    let cluster = clusterRows(swarm.store);
    let before = new Map<string, Parts>(nodes.map((nodeId) => [nodeId, new Map()]));
    const flat = (parts: Parts): Map<string, Row> => new Map([...parts.values()].flatMap((part) => [...part]));
    const sorted = ({ upsert, remove }: ReturnType<typeof diffRows>): unknown =>
      [upsert.map((one) => JSON.stringify(one)).sort(), [...remove].sort()];
    let changes = 0;
    let shared = 0;
    const look = (): void => {
      cluster = clusterRows(swarm.store, cluster);
      before = new Map(nodes.map((nodeId) => {
        const [old, now] = [before.get(nodeId) as Parts, partsForNode(swarm.store, cluster, nodeId)];
        const diff = diffParts(old, now);
        assert.deepEqual(sorted(diff), sorted(diffRows(flat(old), rows(swarm, nodeId))));
        changes += diff.upsert.length + diff.remove.length;
        for (const [key, part] of now) if (old.get(key) === part) shared += 1;
        return [nodeId, now];
      }));
    };
    look();
    swarm.updateService(id, { replicas: 4, image: 'app:2', networks: [net] });
    swarm.advance(30_000, look);
    swarm.updateService(id, { replicas: 0, networks: [net] });
    swarm.advance(30_000, look);
    // Otherwise nothing was compared.
    assert.ok(changes > 30 && shared > 30, `${changes} changes, ${shared} shared`);
  });
});

describe('hostPortRows', () => {
  it('point a node\'s own host-mode ports at the tasks\' gateway addresses', () => {
    const swarm = new Swarm();
    const id = swarm.addService('web', {
      ports: [{ targetPort: 80, publishedPort: 8080, publishMode: Mode.HOST }, { targetPort: 53, publishedPort: 53,
        publishMode: Mode.HOST, protocol: Protocol.UDP }],
    });
    swarm.settle();
    const tasks = swarm.running(id);
    const made = hostPortRows(tasks, () => '172.18.0.7');
    assert.deepEqual(made.map((r) => r.key), ['hostport/tcp/8080', 'hostport/udp/53']);
    assert.ok(made.every((r) => r.row.case === 'port' && r.row.value.hostMode && r.row.value.backends[0]?.address === '172.18.0.7'));
    assert.deepEqual(hostPortRows(tasks, () => undefined), []);
    assert.equal(tasks[0]?.desiredState, TaskState.RUNNING);
  });
});

it('a node that stopped reading keeps the part it has, not those that followed', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const part = (): ReadonlyMap<string, Row> => new Map([['a', create(RowSchema, {})]]);
  const stalled = new Map([[4096, part()]]);
  const seen: WeakRef<object>[] = [];
  let last = stalled;
  for (let i = 0; i < 5; i++) {
    const next = new Map([[4096, part()]]);
    diffParts(last, next);
    seen.push(new WeakRef(next.get(4096) as object));
    last = next;
  }
  // A WeakRef keeps its target until the turn ends in which it was made.
  await new Promise((resolve) => { setImmediate(resolve); });
  collect();
  assert.equal(seen.slice(0, -1).filter((each) => each.deref() !== undefined).length, 0, 'kept');
  assert.equal(stalled.size + last.size, 2, 'the first and the last are still had');
});
