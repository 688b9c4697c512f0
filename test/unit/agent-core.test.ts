// The worker's pure parts (one transition at a time, sandbox, templates) and the small libraries below.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { decide, type Action, type Observed, type Wanted } from '../../src/core/agent/decide.js';
import { freeGatewayAddress, needsGateway, sandboxOf } from '../../src/core/agent/sandbox.js';
import { expand } from '../../src/core/agent/template.js';
import { contains, formatAddress, formatPrefix, overlaps, parseAddress, parsePrefix, prefixSize, type Prefix } from '../../src/lib/cidr.js';
import { bytesToBase36, newId, newTokenSecret } from '../../src/lib/ids.js';
import { durationFromNs, durationNs, timestampFromMs, timestampMs } from '../../src/lib/time.js';
import { toPairs, toRecord } from '../../src/model/pairs.js';
import { AnnotationsSchema, NodeDescriptionSchema, TaskSchema, type Task } from '../../src/model/proto/swarmkit_pb.js';
import { Swarm, TaskState } from './harness.js';

describe('decide', () => {
  const at = (state: TaskState, more: Partial<Observed> = {}): Observed => ({ state, busy: undefined, sandbox: true, ...more });
  const want = (desired: TaskState, assigned = true): Wanted => ({ desired, assigned });
  const cases: readonly (readonly [string, Wanted, Observed, Action])[] = [
    ['a new task is accepted', want(TaskState.RUNNING), at(TaskState.ASSIGNED), 'accept'],
    ['an accepted one is prepared', want(TaskState.RUNNING), at(TaskState.ACCEPTED), 'prepare'],
    ['preparing goes on after a restart', want(TaskState.RUNNING), at(TaskState.PREPARING), 'prepare'],
    ['a ready one starts when wanted', want(TaskState.RUNNING), at(TaskState.READY), 'start'],
    ['a ready one waits otherwise', want(TaskState.READY), at(TaskState.READY), 'none'],
    ['a running one is left alone', want(TaskState.RUNNING), at(TaskState.RUNNING), 'none'],
    ['a starting one is left alone', want(TaskState.RUNNING), at(TaskState.STARTING), 'none'],
    ['an unwanted one is shut down', want(TaskState.SHUTDOWN), at(TaskState.RUNNING), 'shutdown'],
    ['one that is to be removed is shut down first', want(TaskState.REMOVE), at(TaskState.RUNNING), 'shutdown'],
    ['one taken off the node is shut down', want(TaskState.RUNNING, false), at(TaskState.RUNNING), 'shutdown'],
    ['one that was never accepted is shut down too', want(TaskState.SHUTDOWN), at(TaskState.ASSIGNED), 'shutdown'],
    ['an ended one gives up its namespace', want(TaskState.SHUTDOWN), at(TaskState.FAILED), 'release'],
    ['and then rests', want(TaskState.SHUTDOWN), at(TaskState.FAILED, { sandbox: false }), 'none'],
    ['and is removed when taken off the node', want(TaskState.SHUTDOWN, false), at(TaskState.SHUTDOWN), 'remove'],
    ['nothing happens while something is under way', want(TaskState.SHUTDOWN), at(TaskState.RUNNING, { busy: 'start' }), 'none'],
  ];
  for (const [name, wanted, observed, action] of cases) it(name, () => assert.equal(decide(wanted, observed), action));
});

describe('sandboxOf', () => {
  const world = (): Task => {
    const swarm = new Swarm();
    const net = swarm.addNetwork('front', { subnet: '10.9.0.0/24' });
    const wide = swarm.addNetwork('wide', { subnet: '10.8.0.0/16', options: { 'com.docker.network.driver.mtu': '9000' } });
    const id = swarm.addService('web', { networks: [net, wide], dnsrr: true });
    swarm.settle();
    return swarm.running(id)[0] as Task;
  };

  it('names the interfaces in the order of the networks, the way out last', () => {
    const task = world();
    assert.deepEqual(sandboxOf(task, '172.18.0.2/16'), {
      id: task.id,
      interfaces: [
        { ifname: 'eth0', vni: 4096, addresses: ['10.9.0.2/24'], mac: '02:42:0a:09:00:02', mtu: 1450 },
        { ifname: 'eth1', vni: 4097, addresses: ['10.8.0.2/16'], mac: '02:42:0a:08:00:02', mtu: 8950 },
      ],
      gateway: { ifname: 'eth2', address: '172.18.0.2/16', mac: '02:42:ac:12:00:02' },
      sysctls: {},
    });
    assert.equal(sandboxOf(task, undefined).gateway, undefined);
    assert.equal(needsGateway(task), true);
    for (const attachment of task.networks) if (attachment.network?.spec !== undefined) attachment.network.spec.internal = true;
    assert.equal(needsGateway(task), false);
    assert.equal(needsGateway(create(TaskSchema)), true);
  });

  it('gateway addresses are the lowest free, never the bridge\'s own, and end below the reserved ones', () => {
    assert.equal(freeGatewayAddress('172.18.0.1/16', new Set()), '172.18.0.2/16');
    assert.equal(freeGatewayAddress('172.18.0.2/16', new Set(['172.18.0.3/16'])), '172.18.0.4/16');
    const all = new Set(Array.from({ length: 1024 }, (_, i) => `${formatAddress((parseAddress('172.18.0.0') as number) + i)}/22`));
    assert.equal(freeGatewayAddress('172.18.0.1/22', all), undefined);
    assert.equal(freeGatewayAddress('nonsense', new Set()), undefined);
  });
});

describe('templates', () => {
  const task = create(TaskSchema, {
    id: 'task1', serviceId: 'service1', slot: 3n,
    serviceAnnotations: create(AnnotationsSchema, { name: 'web', labels: toPairs({ tier: 'front' }) }),
  });
  const node = { id: 'node1', description: create(NodeDescriptionSchema, { hostname: 'host1' }) };
  const value = (text: string): string => {
    const result = expand(text, task, node);
    return result.ok ? result.value : `refused: ${result.error.message}`;
  };

  it('are expanded from service, node and task', () => {
    assert.equal(value('{{.Service.Name}}-{{ .Task.Slot }} on {{.Node.Hostname}}'), 'web-3 on host1');
    assert.equal(value('{{.Task.Name}} {{.Task.ID}} {{.Service.ID}} {{.Node.ID}}'), 'web.3.task1 task1 service1 node1');
    assert.equal(value('{{index .Service.Labels "tier"}} {{.Service.Labels.tier}}'), 'front front');
    assert.equal(value('no template {x}'), 'no template {x}');
  });

  it('unknown fields and missing labels reject the task', () => {
    for (const text of ['{{.Service.Nope}}', '{{.Service.Labels.none}}', '{{printf "x"}}']) assert.match(value(text), /^refused: /);
  });

  it('the slot of a global task is its node', () => {
    const result = expand('{{.Task.Slot}}', create(TaskSchema, { id: 't', nodeId: 'node1' }), node);
    assert.deepEqual(result, { ok: true, value: 'node1' });
  });
});

describe('cidr', () => {
  const address = fc.integer({ min: 0, max: 2 ** 32 - 1 });
  const prefix = fc.tuple(address, fc.integer({ min: 0, max: 32 })).map(([value, bits]): Prefix => ({ base: value - (value % 2 ** (32 - bits)), bits }));

  it('text and number are two forms of one address', () => {
    fc.assert(fc.property(address, (value) => assert.equal(parseAddress(formatAddress(value)), value)));
    for (const bad of ['', '1.2.3', '1.2.3.4.5', '1.2.3.256', '01.2.3.4', '1.2.3.-4', ' 1.2.3.4', '1.2.3.4 ', 'a.b.c.d', '1..2.3', '1.2.3.', '.1.2.3',
      '1.2.3.00', '1.2.3.04', '1.2.3.4\n', '1.2.3.1000', '٣.2.3.4']) {
      assert.equal(parseAddress(bad), undefined, bad);
    }
  });

  it('prefixes are read with host bits cut off; nonsense is refused', () => {
    fc.assert(fc.property(address, fc.integer({ min: 0, max: 32 }), (value, bits) => {
      const read = parsePrefix(`${formatAddress(value)}/${bits}`) as Prefix;
      assert.ok(contains(read, value));
      assert.equal(read.base % prefixSize(read), 0);
      assert.deepEqual(parsePrefix(formatPrefix(read)), read);
    }));
    for (const bad of ['10.0.0.0', '10.0.0.0/33', '10.0.0.0/-1', '10.0.0.0/8/8', '10.0.0/8', '10.0.0.0/']) assert.equal(parsePrefix(bad), undefined, bad);
  });

  it('two prefixes overlap exactly when one contains the other\'s base', () => {
    fc.assert(fc.property(prefix, prefix, (a, b) => assert.equal(overlaps(a, b), contains(a, b.base) || contains(b, a.base))));
  });
});

describe('ids, times, pairs', () => {
  it('ids are 25 base36 characters and differ', () => {
    fc.assert(fc.property(fc.uint8Array({ minLength: 17, maxLength: 17 }), (bytes) => assert.match(newId(() => bytes), /^[0-9a-z]{25}$/)));
    assert.match(newId((length) => new Uint8Array(length).fill(0xff)), /^[0-9a-z]{25}$/);
    const some = new Set(Array.from({ length: 200 }, (_, i) => newId((length) => new Uint8Array(length).map((_v, at) => (i * 31 + at * 7) % 256))));
    assert.equal(some.size, 200);
    assert.equal(newTokenSecret((length) => new Uint8Array(length)), '0'.repeat(25));
    assert.equal(bytesToBase36(new Uint8Array([1, 0])), (256).toString(36));
  });

  it('times and durations survive the trip', () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 4_000_000_000_000 }), (ms) => assert.equal(timestampMs(timestampFromMs(ms)), ms)));
    fc.assert(fc.property(fc.bigInt({ min: -(10n ** 18n), max: 10n ** 18n }), (ns) => assert.equal(durationNs(durationFromNs(ns)), ns)));
  });

  it('pairs are sorted by code unit and keep every key, also odd ones', () => {
    const key = fc.oneof(fc.string(), fc.constantFrom('__proto__', 'constructor', 'toString'));
    fc.assert(fc.property(fc.array(fc.tuple(key, fc.string())), (entries) => {
      const record = Object.fromEntries(entries);
      const pairs = toPairs(record);
      assert.deepEqual(pairs.map((pair) => pair.key), Object.keys(record).sort((a, b) => (a < b ? -1 : 1)));
      assert.deepEqual(Object.entries(toRecord(pairs)).sort(), Object.entries(record).sort());
    }));
  });
});
