// Services: what is refused and in which words, and what create, update and rollback leave in the store.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isTaskDirty } from '../../src/model/task.js';
import { createNetwork } from '../../src/core/control/networks.js';
import { createService, updateService } from '../../src/core/control/services.js';
import { create } from '@bufbuild/protobuf';
import { createAction, updateAction } from '../../src/core/store/actions.js';
import { NodeSchema, NodeStatus_State, ServiceSchema, TaskSchema, UpdateStatusSchema, UpdateStatus_UpdateState, type Service, type ServiceSpec } from '../../src/model/proto/swarmkit_pb.js';
import type { ChangeContext } from '../../src/core/control/context.js';
import type { ReadTx } from '../../src/core/store/view.js';
import { network, published, spec, World } from '../support/control.js';

function made(world: World, request: ServiceSpec): Service {
  const id = world.run((view, context) => createService(view, request, context));
  const service = world.store.get('service', id);
  assert.ok(service);
  return service;
}

function versionOf(service: Service): bigint {
  return service.meta?.version?.index ?? 0n;
}

function update(world: World, service: Service, next: ServiceSpec, rollback = false): Service {
  world.run((view, context) => updateService(view, {
    id: service.id, version: versionOf(service), spec: next, rollback, registryAuthFrom: 'spec',
  }, context));
  const updated = world.store.get('service', service.id);
  assert.ok(updated);
  return updated;
}

const REFUSALS: readonly (readonly [string, ServiceSpec, RegExp])[] = [
  ['no name', spec(''), /name must be provided/],
  ['dot in name', spec('a.b'), /name must be valid as a DNS name component/],
  ['long name', spec('a'.repeat(64)), /name must be 63 characters or fewer/],
  ['no image', spec('a', {}, { Image: '' }), /ContainerSpec: image reference must be provided/],
  ['bad image', spec('a', {}, { Image: 'UPPER' }), /"UPPER" is not a valid repository\/tag/],
  ['little memory', spec('a', { TaskTemplate: { ContainerSpec: { Image: 'x' }, Resources: { Limits: { MemoryBytes: 1 } } } }),
    /invalid memory value 1: Must be at least 4MiB/],
  ['little cpu', spec('a', { TaskTemplate: { ContainerSpec: { Image: 'x' }, Resources: { Limits: { NanoCPUs: 1000 } } } }),
    /invalid cpu value 0.000001: Must be at least 0.001/],
  ['constraint', spec('a', { TaskTemplate: { ContainerSpec: { Image: 'x' }, Placement: { Constraints: ['x>1'] } } }),
    /constraint expected one operator from ==, !=/],
  ['bind source', spec('a', {}, { Mounts: [{ Type: 'bind', Source: 'rel', Target: '/x' }] }),
    /invalid bind mount source, must be an absolute path: rel/],
  ['mount twice', spec('a', {}, { Mounts: [{ Type: 'tmpfs', Target: '/x' }, { Type: 'tmpfs', Target: '/x' }] }),
    /duplicate mount point: \/x/],
  ['dnsrr ingress', spec('a', { EndpointSpec: { Mode: 'dnsrr', Ports: [{ TargetPort: 80, PublishedPort: 80 }] } }),
    /EndpointSpec: port published with ingress mode can't be used with dnsrr mode/],
  ['port twice', spec('a', { EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 80 }, { TargetPort: 81, PublishedPort: 80 }] } }),
    /EndpointSpec: duplicate published ports provided/],
  ['port 0', spec('a', { EndpointSpec: { Ports: [{ PublishedPort: 80 }] } }), /invalid target port '0'/],
  ['unknown network', spec('a', { TaskTemplate: { ContainerSpec: { Image: 'x' }, Networks: [{ Target: 'nope' }] } }),
    /^network nope not found$/],
  ['missing secret', spec('a', {}, { Secrets: [{ SecretID: 'x', SecretName: 's', File: { Name: 's' } }] }), /secret not found: s/],
  ['template', spec('a', {}, { Hostname: '{{.Bogus}}' }), /expanding hostname failed/],
  ['ratio', spec('a', { UpdateConfig: { MaxFailureRatio: 2 } }), /update-maxfailureratio cannot be less than 0 or bigger than 1/],
  ['job with update', spec('a', { Mode: { ReplicatedJob: {} }, UpdateConfig: { Parallelism: 1 } }), /not allowed for jobs/],
];

for (const [what, request, text] of REFUSALS) {
  test(`create is refused: ${what}`, () => {
    const world = new World();
    assert.match(world.refused((view, context) => createService(view, request, context)).message, text);
    assert.equal(world.store.list('service').length, 0);
  });
}

test('a published port needs the ingress network', () => {
  const world = new World();
  const error = world.refused((view, context) => createService(view, spec('a', published(80)), context));
  assert.equal(error.message, 'rpc error: code = FailedPrecondition desc = service needs ingress network, but no ingress network is present');
  made(world, spec('a', published(80, 'host')));
});

test('port conflicts across services', () => {
  const world = new World();
  world.addIngress();
  const first = made(world, spec('a', published(80)));
  made(world, spec('udp', published(80, 'ingress', 'udp')));
  const refused = (request: ServiceSpec): string =>
    world.refused((view, context) => createService(view, request, context)).message;
  assert.equal(refused(spec('b', published(80))),
    `rpc error: code = InvalidArgument desc = port '80' is already in use by service 'a' (${first.id}) as an ingress port`);
  assert.match(refused(spec('b', published(80, 'host'))), /as an ingress port/);
  made(world, spec('h1', published(81, 'host')));
  made(world, spec('h2', published(81, 'host')));
  assert.match(refused(spec('b', published(81))), /as a host-published port/);
  update(world, first, spec('a', published(80)));
});

test('a name is taken once, whatever its case', () => {
  const world = new World();
  made(world, spec('web'));
  const error = world.refused((view, context) => createService(view, spec('WEB'), context));
  assert.deepEqual(error, {
    code: 'already_exists',
    message: 'rpc error: code = AlreadyExists desc = name conflicts with an existing object: service WEB already exists',
  });
});

test('networks are stored by id, however they were named', () => {
  const world = new World();
  const id = world.run((view, context) => createNetwork(view, network('net1'), context));
  for (const [i, target] of ['net1', id, id.slice(0, 24)].entries()) {
    const service = made(world, spec(`s${i}`, { TaskTemplate: { ContainerSpec: { Image: 'x' }, Networks: [{ Target: target }] } }));
    assert.deepEqual(service.spec?.task?.networks.map((x) => x.target), [id]);
  }
  const error = world.refused((view, context) => createService(view,
    spec('h', { TaskTemplate: { ContainerSpec: { Image: 'x' }, Networks: [{ Target: 'host' }] } }), context));
  assert.match(error.message, /^The network host cannot be used with services/);
});

test('update: stale version, rename, change of mode, unknown service', () => {
  const world = new World();
  const service = made(world, spec('web'));
  const tryUpdate = (next: ServiceSpec, version: bigint, id = service.id): { code: string; message: string } =>
    world.refused((view, context) => updateService(view, { id, version, spec: next, rollback: false, registryAuthFrom: 'spec' }, context));
  assert.deepEqual(tryUpdate(spec('web'), 99n), {
    code: 'internal', message: 'rpc error: code = Unknown desc = update out of sequence',
  });
  assert.match(tryUpdate(spec('other'), versionOf(service)).message, /renaming services is not supported/);
  assert.match(tryUpdate(spec('web', { Mode: { Global: {} } }), versionOf(service)).message, /service mode change is not allowed/);
  assert.equal(tryUpdate(spec('web'), 1n, 'nope').message, 'service nope not found');
});

test('update: what the manager itself changed since is no conflict, what a user changed is', () => {
  const world = new World();
  const { id, meta } = made(world, spec('web'));
  const before = meta?.version?.index ?? 0n;
  const touch = (): void => {
    const service = world.store.get('service', id) as Service;
    world.apply([updateAction('service', create(ServiceSchema, { ...service, updateStatus: create(UpdateStatusSchema, { message: 'touched' }) }))]);
  };
  const change = (version: bigint, env: string) => (view: ReadTx, context: ChangeContext) => updateService(view, {
    id, version, spec: spec('web', {}, { Image: 'x', Env: [env] }), rollback: false, registryAuthFrom: 'spec',
  }, context);
  touch();
  world.run(change(before, 'A=1'));
  touch();
  assert.match(world.refused(change(before, 'A=2')).message, /update out of sequence/);
  assert.match(world.refused(change(before + 1000n, 'A=2')).message, /update out of sequence/);
  // The old spec version comes back, the user's old view of the service does not.
  const rolledBack = update(world, world.store.get('service', id) as Service, spec('web'), true);
  assert.match(world.refused(change(versionOf(rolledBack) - 1n, 'A=2')).message, /update out of sequence/);
});

test('update keeps the previous spec and raises the spec version; rollback swaps them', () => {
  const world = new World();
  const first = made(world, spec('web'));
  const second = update(world, first, spec('web', {}, { Image: 'app:2' }));
  const firstNumber = first.specVersion?.index ?? 0n;
  const secondNumber = second.specVersion?.index ?? 0n;
  assert.ok(secondNumber > firstNumber);
  assert.equal(second.previousSpecVersion?.index, firstNumber);
  assert.deepEqual(second.previousSpec, first.spec);
  const back = update(world, second, second.spec ?? spec('web'), true);
  assert.equal(back.specVersion?.index, firstNumber);
  assert.deepEqual(back.spec, first.spec);
  assert.deepEqual(back.previousSpec, second.spec);
  assert.equal(back.updateStatus?.state, UpdateStatus_UpdateState.ROLLBACK_STARTED);
  const third = update(world, back, spec('web', {}, { Image: 'app:3' }));
  assert.ok((third.specVersion?.index ?? 0n) > secondNumber);
  assert.equal(third.updateStatus, undefined);
});

test('rollback without a previous spec is refused', () => {
  const world = new World();
  const service = made(world, spec('web'));
  const error = world.refused((view, context) => updateService(view, {
    id: 'web', version: versionOf(service), spec: spec('web'), rollback: true, registryAuthFrom: 'spec',
  }, context));
  assert.match(error.message, new RegExp(`service ${service.id} does not have a previous spec`));
});

test('a task is dirty when its spec changed, not when only the replica count did', () => {
  const world = new World();
  const first = made(world, spec('web'));
  const task = create(TaskSchema, { id: 't', serviceId: first.id });
  if (first.spec?.task !== undefined) task.spec = first.spec.task;
  if (first.specVersion !== undefined) task.specVersion = first.specVersion;
  assert.equal(isTaskDirty(first, task), false);
  const scaled = update(world, first, spec('web', { Mode: { Replicated: { Replicas: 5 } } }));
  assert.equal(isTaskDirty(scaled, task), false);
  const changed = update(world, scaled, spec('web', {}, { Image: 'app:2' }));
  assert.equal(isTaskDirty(changed, task), true);
});

test('job modes are refused as long as nothing runs them', () => {
  const world = new World();
  const job = spec('job', { Mode: { ReplicatedJob: { TotalCompletions: 2 } } });
  assert.match(world.refused((view, context) => createService(view, job, context)).message, /^job modes are not supported yet/);
});

test('an image that no node has is refused at once; one that a node has, by name, id or digest, is not', () => {
  const world = new World();
  const id = `sha256:${'ab'.repeat(32)}`;
  world.apply([createAction('node', create(NodeSchema, {
    id: 'n1', status: { state: NodeStatus_State.READY }, description: { images: { references: ['app:1', id] } },
  }))]);
  const image = (name: string): ServiceSpec => spec(`s${name.length}`, {}, { Image: name });
  assert.match(world.refused((view, context) => createService(view, image('nope'), context)).message, /^No such image: nope:latest/);
  for (const good of ['app:1', 'docker.io/library/app:1', id, 'abababababab']) made(world, image(good));
});

test('an alias that is no DNS name is refused, and never becomes a row', () => {
  const world = new World();
  world.run((view, context) => createNetwork(view, network('net1'), context));
  const withAlias = (alias: string): ServiceSpec =>
    spec('web', { TaskTemplate: { ContainerSpec: { Image: 'x' }, Networks: [{ Target: 'net1', Aliases: [alias] }] } });
  for (const bad of ['two words', 'line\nbreak', 'a..b', 'x'.repeat(64), `${'x'.repeat(60)}.`.repeat(5) + 'x', '']) {
    assert.match(world.refused((view, context) => createService(view, withAlias(bad), context)).message, /network alias ".*" must be valid as a DNS name/s, JSON.stringify(bad));
  }
  made(world, withAlias('data.base_1'));
});
