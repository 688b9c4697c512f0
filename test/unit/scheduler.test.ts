// Scheduler: filters with the reasons users see, spreading, ranking; constraints.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { meetsConstraints, parseConstraint } from '../../src/model/constraint.js';
import { GenericResourceSchema, PortConfig_PublishMode as Mode, type GenericResource } from '../../src/model/proto/swarmkit_pb.js';
import { Availability, NodeState, Swarm, TaskState, stateOf } from './harness.js';

function reason(swarm: Swarm, serviceId: string): string {
  swarm.settle();
  return swarm.tasks(serviceId).find((task) => stateOf(task) === TaskState.PENDING)?.status?.err ?? 'nothing is pending';
}

describe('a task without a fitting node says why', () => {
  it('no nodes', () => {
    const swarm = new Swarm({ nodes: 0 });
    assert.equal(reason(swarm, swarm.addService('web')), 'no suitable node');
  });

  it('nodes not ready, drained or paused', () => {
    const swarm = new Swarm({ nodes: 3 });
    swarm.nodeDown('n1');
    swarm.setAvailability('n2', Availability.DRAIN);
    swarm.setAvailability('n3', Availability.PAUSE);
    assert.equal(reason(swarm, swarm.addService('web')), 'no suitable node (3 nodes not available for new tasks)');
  });

  it('constraints, beside other reasons', () => {
    const swarm = new Swarm({ nodes: 3 });
    swarm.setNodeState('n1', NodeState.UNKNOWN);
    const id = swarm.addService('web', { constraints: ['node.labels.disk==ssd'] });
    assert.equal(reason(swarm, id),
      'no suitable node (1 node not available for new tasks; scheduling constraints not satisfied on 2 nodes)');
    swarm.addNode('n4', { labels: { disk: 'SSD' } });
    swarm.settle();
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId), ['n4']);
    assert.equal(swarm.running(id)[0]?.status?.err, '');
  });

  it('reserved resources', () => {
    const swarm = new Swarm({ nodes: 0 });
    swarm.addNode('n1', { memory: 1000 });
    swarm.addNode('n2', { memory: 500 });
    const id = swarm.addService('web', { replicas: 4, reserveMemory: 500 });
    assert.equal(reason(swarm, id), 'no suitable node (insufficient resources on 2 nodes)');
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId).sort(), ['n1', 'n1', 'n2']);
  });

  it('generic resources, named and counted', () => {
    const swarm = new Swarm({ nodes: 3 });
    const generic = (kind: string, units: number | string): GenericResource => create(GenericResourceSchema, {
      resource: typeof units === 'number' ? { case: 'discreteResourceSpec', value: { kind, value: BigInt(units) } }
        : { case: 'namedResourceSpec', value: { kind, value: units } },
    });
    const has = (node: string, ...resources: GenericResource[]): void => swarm.editNode(node, ({ description }) => {
      description?.resources?.generic.push(...resources);
    });
    has('n1', generic('GPU', 'a'), generic('GPU', 'b'));
    has('n2', generic('GPU', 1), generic('SSD', 9));
    const id = swarm.addService('web', { replicas: 4, reserveGeneric: [generic('GPU', 1)] });
    assert.equal(reason(swarm, id), 'no suitable node (insufficient resources on 3 nodes)');
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId).sort(), ['n1', 'n1', 'n2']);
  });

  it('host ports in use', () => {
    const swarm = new Swarm({ nodes: 2 });
    const ports = [{ targetPort: 80, publishedPort: 8080, publishMode: Mode.HOST }];
    const id = swarm.addService('web', { replicas: 3, ports });
    assert.equal(reason(swarm, id), 'no suitable node (host-mode port already in use on 2 nodes)');
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId).sort(), ['n1', 'n2']);
  });

  it('the most replicas a node may have', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('web', { replicas: 5, maxReplicas: 2 });
    assert.equal(reason(swarm, id), 'no suitable node (max replicas per node limit exceed)');
    assert.equal(swarm.running(id).length, 4);
  });

  it('a stock engine, for tasks with networks or published ports of either kind; others it takes', () => {
    const swarm = new Swarm({ nodes: 0 });
    swarm.addNode('stock', { skein: false });
    const net = swarm.addNetwork('front');
    swarm.addNetwork('ingress', { ingress: true });
    const words = 'no suitable node (no Skein networks or published ports on 1 stock engine)';
    assert.equal(reason(swarm, swarm.addService('web', { networks: [net] })), words);
    assert.equal(reason(swarm, swarm.addService('open', { ports: [{ targetPort: 80, publishedPort: 8080 }] })), words);
    const hosted = swarm.addService('hosted', { ports: [{ targetPort: 80, publishedPort: 8081, publishMode: Mode.HOST }] });
    assert.equal(reason(swarm, hosted), words);
    const plain = swarm.addService('plain');
    swarm.settle();
    assert.deepEqual(swarm.running(plain).map((task) => task.nodeId), ['stock']);
    swarm.addNode('ours');
    swarm.settle();
    assert.deepEqual(swarm.running(hosted).map((task) => task.nodeId), ['ours']);
  });

  it('a node of ours that holds no network view yet, for tasks with networks only', () => {
    const swarm = new Swarm({ nodes: 1 });
    swarm.acked.delete('n1');
    const net = swarm.addNetwork('front');
    const id = swarm.addService('web', { networks: [net] });
    assert.equal(reason(swarm, id), 'no suitable node (no Skein network on 1 node)');
    swarm.acked.set('n1', 0n);
    swarm.settle();
    assert.equal(swarm.running(id).length, 1);
  });
});

describe('choice among fitting nodes', () => {
  it('fewest tasks of the service first, then fewest tasks', () => {
    const swarm = new Swarm({ nodes: 3 });
    const other = swarm.addService('other', { replicas: 1, constraints: ['node.id==n1'] });
    swarm.settle();
    assert.equal(swarm.running(other).length, 1);
    const id = swarm.addService('web', { replicas: 2 });
    swarm.settle();
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId).sort(), ['n2', 'n3']);
  });

  it('spreads over the values of a label before over nodes', () => {
    const swarm = new Swarm({ nodes: 0 });
    for (const [id, zone] of [['a1', 'a'], ['a2', 'a'], ['a3', 'a'], ['b1', 'b']] as const) swarm.addNode(id, { labels: { zone } });
    const id = swarm.addService('web', { replicas: 4, spread: 'node.labels.zone' });
    swarm.settle();
    const zones = swarm.running(id).map((task) => task.nodeId.slice(0, 1)).sort();
    assert.deepEqual(zones, ['a', 'a', 'b', 'b']);
  });

  it('keeps away from a node on which the service keeps failing', () => {
    const swarm = new Swarm({ nodes: 2, historyLimit: 50 });
    swarm.behave = (task) => (task.nodeId === 'n1' ? 'fail' : 'run');
    const id = swarm.addService('web', { replicas: 2, restart: { delayMs: 1000 } });
    swarm.advance(30_000);
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId), ['n2', 'n2']);
    assert.ok(swarm.tasks(id).filter((task) => task.nodeId === 'n1').length >= 5);
  });

  it('does not depend on the order in which objects were made', () => {
    const place = (names: readonly string[]): string[] => {
      const swarm = new Swarm({ nodes: 0 });
      for (const name of names) swarm.addNode(name);
      const id = swarm.addService('web', { replicas: 5 });
      swarm.settle();
      return swarm.running(id).map((task) => task.nodeId).sort();
    };
    assert.deepEqual(place(['n1', 'n2', 'n3']), place(['n3', 'n1', 'n2']));
  });
});

describe('constraints', () => {
  const swarm = new Swarm({ nodes: 0 });
  swarm.addNode('n1', { labels: { disk: 'ssd', Zone: 'a' } });
  const node = swarm.get('node', 'n1');

  for (const [text, met] of [
    ['node.id==n1', true], ['node.id != n1', false], ['node.hostname==N1', true], ['node.role==worker', true], ['node.role!=manager', true],
    ['node.labels.disk==ssd', true], ['node.labels.disk==hdd', false], ['node.labels.missing==x', false], ['node.labels.missing!=x', true],
    ['node.labels.Zone==a', true], ['node.platform.os==linux', true], ['node.platform.arch==x86_64', true],
    ['node.ip==198.51.100.1', true], ['node.ip==198.51.100.0/24', true], ['node.ip!=198.51.100.0/24', false],
      ['node.ip==10.0.0.0/8', false],
    ['node.nonsense==x', false], ['node.nonsense!=x', false],
  ] as const) {
    it(`${text} is ${met ? '' : 'not '}met`, () => assert.equal(meetsConstraints([text], node), met));
  }

  it('all of several have to be met', () => {
    assert.equal(meetsConstraints(['node.id==n1', 'node.role==worker'], node), true);
    assert.equal(meetsConstraints(['node.id==n1', 'node.role==manager'], node), false);
    assert.equal(meetsConstraints([], node), true);
  });

  it('refuses bad ones in SwarmKit\'s words', () => {
    const message = (text: string): string => {
      const result = parseConstraint(text);
      return result.ok ? 'accepted' : result.error.message;
    };
    assert.equal(message('node.id'), 'constraint expected one operator from ==, !=');
    assert.equal(message('node id==x'), 'key \'node id\' is invalid');
    assert.equal(message('node.id=='), 'value \'\' is invalid');
    assert.equal(message('node.id==a&b'), 'value \'a&b\' is invalid');
  });
});
