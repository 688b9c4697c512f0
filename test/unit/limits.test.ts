// Limits on what a user may ask for: refused with the field and the bound, and enough that nothing made from an accepted
// spec is too large for a command.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { create, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { updateNode } from '../../src/core/control/nodes.js';
import { createNetwork } from '../../src/core/control/networks.js';
import {
  NETWORK_SPEC_BYTES_MAX, RESTART_ATTEMPTS_MAX, SERVICE_NETWORKS_BYTES_MAX, SERVICE_SPEC_BYTES_MAX,
} from '../../src/core/control/limits.js';
import { createService, updateService } from '../../src/core/control/services.js';
import { COMMAND_BYTES_MAX, inBatches } from '../../src/core/store/batches.js';
import { createAction } from '../../src/core/store/actions.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { toPairs } from '../../src/model/pairs.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import { AnnotationsSchema, NodeSchema, NodeSpecSchema, TaskSchema, type NetworkSpec,
  type ServiceSpec } from '../../src/model/proto/swarmkit_pb.js';
import { network, spec, World } from '../support/control.js';
import { Swarm } from './harness.js';

const replicated = (name: string, replicas: number | bigint, env: string[] = []): ServiceSpec =>
  spec(name, { Mode: { Replicated: { Replicas: Number(replicas) } } }, { Image: 'x', Env: env });

describe('a service', () => {
  const refused = (world: World, request: ServiceSpec): string =>
    world.refused((view, context) => createService(view, request, context)).message;

  it('of a billion replicas is refused, by create and by update', () => {
    const world = new World();
    assert.match(refused(world, replicated('a', 1e9)), /ServiceSpec: replicas 1000000000 is too large: a service may have at most 10000 replicas/);
    const id = world.run((view, context) => createService(view, replicated('a', 10_000), context));
    const version = world.store.get('service', id)?.meta?.version?.index ?? 0n;
    const message = world.refused((view, context) => updateService(view, {
      id, version, spec: replicated('a', 10_001), rollback: false, registryAuthFrom: 'spec',
    }, context)).message;
    assert.match(message, /replicas 10001 is too large/);
  });

  it('is refused when all services together have too many tasks; making one smaller is not', () => {
    const world = new World();
    for (const name of ['a', 'b', 'c', 'd', 'e']) world.run((view, context) => createService(view, replicated(name, 10_000), context));
    assert.match(refused(world, replicated('f', 1)), /all services together would have 50001 tasks, at most 50000/);
    const { id, meta } = world.store.byName('service', 'a') ?? assert.fail();
    world.run((view, context) => updateService(view, {
      id, version: meta?.version?.index ?? 0n, spec: replicated('a', 5000), rollback: false, registryAuthFrom: 'spec',
    }, context));
    world.run((view, context) => createService(view, replicated('f', 1), context));
  });

  it('is refused when its tasks would fill the memory', () => {
    const message = refused(new World(), replicated('a', 10_000, [`A=${'x'.repeat(200_000)}`]));
    assert.match(message, /10000 replicas of this size are too large: .* use fewer replicas, or shorten environment/);
  });

  it('of a large spec is refused, by create and by update', () => {
    const world = new World();
    const large = replicated('a', 1, [`A=${'x'.repeat(SERVICE_SPEC_BYTES_MAX)}`]);
    assert.match(refused(world, large), /ServiceSpec is too large: \d+ bytes, at most 262144: shorten its environment/);
    const id = world.run((view, context) => createService(view, replicated('a', 1), context));
    const version = world.store.get('service', id)?.meta?.version?.index ?? 0n;
    const update = { id, version, spec: large, rollback: false, registryAuthFrom: 'spec' as const };
    assert.match(world.refused((view, context) => updateService(view, update, context)).message, /ServiceSpec is too large/);
  });

  it('remembers so many attempts and no more', () => {
    const request = spec('a', { TaskTemplate: { ContainerSpec: { Image: 'x' }, RestartPolicy: { MaxAttempts: 10_001 } } });
    assert.match(refused(new World(), request), /restart-max-attempts 10001 is too large, at most 10000: use 0 for no limit/);
  });
});

describe('networks and nodes', () => {
  it('of large specs are refused, and so are services with many large networks', () => {
    const world = new World();
    const made = (name: string, bytes: number): NetworkSpec => {
      const one = network(name);
      if (one.annotations !== undefined) one.annotations.labels = toPairs({ a: 'x'.repeat(bytes) });
      return one;
    };
    assert.match(world.refused((view, context) => createNetwork(view, made('big', NETWORK_SPEC_BYTES_MAX), context)).message,
      /NetworkSpec is too large: \d+ bytes, at most 32768: shorten its labels/);
    const names = ['a', 'b', 'c', 'd', 'e'];
    for (const name of names) world.run((view, context) => createNetwork(view, made(name, 30_000), context));
    const request = spec('web', { TaskTemplate: { ContainerSpec: { Image: 'x' }, Networks: names.map((Target) => ({ Target })) } });
    assert.match(world.refused((view, context) => createService(view, request, context)).message, /ServiceSpec: networks is too large/);
    world.add('node', create(NodeSchema, { id: 'n1' }));
    const wanted = create(NodeSpecSchema, { annotations: create(AnnotationsSchema, { labels: toPairs({ a: 'x'.repeat(70_000) }) }) });
    const version = world.store.get('node', 'n1')?.meta?.version?.index ?? 0n;
    assert.match(world.refused((view) => updateNode(view, { id: 'n1', version, spec: wanted })).message,
      /NodeSpec is too large: \d+ bytes, at most 65536/);
  });
});

describe('batches', () => {
  const INT64 = { min: -(2n ** 63n), max: 2n ** 63n - 1n };
  const task = (id: string, bytes: number) => createAction('task', create(TaskSchema, { id, serviceId: 'x'.repeat(bytes) }));

  it('hold every action once and in order, each within the bound; what fits into none is named', () => {
    const actions = [10, 400, 300, 900, 100, 2000, 5].map((bytes, i) => task(`t${i}`, bytes));
    const { batches, oversized } = inBatches(actions, 1128);
    assert.deepEqual(batches.map((batch) => batch.map((action) => action.target.value?.id)), [['t0', 't1', 't2'], ['t3'], ['t4', 't6']]);
    assert.deepEqual(oversized.map(({ action }) => action.target.value?.id), ['t5']);
  });

  it('are never longer than the bound, whatever their messages hold', () => {
    fc.assert(fc.property(fc.array(fc.record({
      id: fc.string({ minLength: 1 }), serviceId: fc.string({ unit: 'grapheme' }), slot: fc.bigInt(INT64),
      labels: fc.array(fc.tuple(fc.string({ unit: 'grapheme' }), fc.string()), { maxLength: 5 }),
      addresses: fc.array(fc.string(), { maxLength: 5 }), data: fc.uint8Array(), seconds: fc.bigInt(INT64),
    }), { minLength: 1, maxLength: 12 }), fc.integer({ min: 200, max: 4_000 }), (tasks, bytesMax) => {
      const actions = tasks.map(({ id, serviceId, slot, labels, addresses, data, seconds }) => createAction('task', create(TaskSchema, {
        id, serviceId, slot: BigInt.asUintN(64, slot), networks: [{ addresses }], status: { state: 704, timestamp: { seconds, nanos: -1 } },
        annotations: { labels: labels.map(([key, value]) => ({ key, value })) },
        spec: { runtime: { case: 'generic', value: { kind: 'k', payload: { typeUrl: '', value: data } } } },
      })));
      const { batches, oversized } = inBatches(actions, bytesMax);
      assert.deepEqual([...batches.flat(), ...oversized.map(({ action }) => action)].length, actions.length);
      for (const batch of batches) {
        const command = create(CommandSchema, { id: 'x'.repeat(25), time: timestampFromMs(1_700_000_000_000), actions: [...batch] });
        assert.ok(toBinary(CommandSchema, command).length <= bytesMax);
      }
    }), { numRuns: 300 });
  });

  it('are enough for every task of an accepted spec', () => {
    // What a task repeats at most, see limits.ts: spec and ports three times, networks three times, the ingress network.
    const worst = 3 * SERVICE_SPEC_BYTES_MAX + 3 * SERVICE_NETWORKS_BYTES_MAX + 3 * NETWORK_SPEC_BYTES_MAX + Number(RESTART_ATTEMPTS_MAX) * 15;
    assert.ok(worst + 64 * 1024 < COMMAND_BYTES_MAX, `${worst}`);
    // And a real one whose spec is all ports.
    const swarm = new Swarm();
    swarm.addNetwork('ingress', { ingress: true });
    const id = swarm.addService('web', { ports: Array.from({ length: 8000 },
      (_, i) => ({ targetPort: i + 1, publishedPort: i + 1, name: 'a'.repeat(20) })) });
    swarm.settle();
    assert.ok(toBinary(TaskSchema, swarm.tasks(id)[0] as never).length < 3 * SERVICE_SPEC_BYTES_MAX);
  });
});
