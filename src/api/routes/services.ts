// /services: list, create, inspect, update, remove. Distribution look-ups belong to it too: the CLI asks before create.

import { TaskState, type Service } from '../../model/proto/swarmkit_pb.js';
import { ContainerSpec_PullOptionsSchema } from '../../model/proto/swarmkit_pb.js';
import { create } from '@bufbuild/protobuf';
import { find } from '../../core/control/lookup.js';
import { createService, removeService, updateService } from '../../core/control/services.js';
import type { ReadTx } from '../../core/store/view.js';
import { toRecord } from '../../model/pairs.js';
import type { ServiceSpec } from '../../model/proto/swarmkit_pb.js';
import { unwrap } from '../../lib/result.js';
import { serviceSpecFromJson, serviceToJson, type ServiceCounts } from '../convert/service.js';
import { failure } from '../errors.js';
import type { Call, Route } from '../http.js';
import { randomName } from '../names.js';

export function serviceRoutes(): Route[] {
  return [
    ['GET', '/services', list],
    ['POST', '/services/create', createOne],
    ['GET', '/services/:id', inspect],
    ['DELETE', '/services/:id', remove],
    ['POST', '/services/:id/update', update],
    ['GET', '/distribution/*', distribution],
  ];
}

const MODE_WORDS: Readonly<Record<string, string>> = {
  replicated: 'replicated', global: 'global', replicatedJob: 'replicated-job', globalJob: 'global-job',
};

function countsOf(view: ReadTx, service: Service): ServiceCounts {
  const { mode } = service.spec ?? {};
  const iteration = service.jobStatus?.jobIteration?.index;
  const tasks = view.tasksOfService(service.id)
    .filter((task) => iteration === undefined || (task.jobIteration?.index ?? 0n) === iteration);
  const running = tasks.filter((task) => task.status?.state === TaskState.RUNNING).length;
  const completed = iteration === undefined ? 0
    : tasks.filter((task) => task.status?.state === TaskState.COMPLETE).length;
  const wanted = tasks.filter((task) => task.desiredState <= TaskState.RUNNING).length;
  if (mode?.case === 'replicated') return { running, desired: Number(mode.value.replicas), completed };
  if (mode?.case === 'replicatedJob') return { running, desired: Number(mode.value.maxConcurrent), completed };
  return { running, desired: wanted, completed };
}

function list(call: Call): void {
  const view = call.manager().view();
  const filters = call.filters('id', 'name', 'label', 'mode', 'runtime');
  const withStatus = call.flag('status');
  const insertDefaults = call.flag('insertDefaults');
  const services = view.list('service').filter((service) => {
    const annotations = service.spec?.annotations;
    return filters.prefix('id', service.id) && filters.prefix('name', annotations?.name ?? '')
      && filters.labels('label', toRecord(annotations?.labels))
      && filters.exact('mode', MODE_WORDS[service.spec?.mode.case ?? ''] ?? '')
      && filters.exact('runtime', 'container');
  });
  call.reply(200, services.map((service) =>
    serviceToJson(service, insertDefaults, withStatus ? countsOf(view, service) : undefined)));
}

function inspect(call: Call): void {
  const service = unwrap(find(call.manager().view(), 'service', call.param('id')));
  call.reply(200, serviceToJson(service, call.flag('insertDefaults')));
}

/** Registry credentials come in a header and are kept with the spec, out of sight. */
function keepCredentials(call: Call, spec: ServiceSpec): void {
  const registryAuth = call.request.headers['x-registry-auth'];
  const runtime = spec.task?.runtime;
  if (typeof registryAuth !== 'string' || registryAuth === '' || runtime?.case !== 'container') return;
  runtime.value.pullOptions = create(ContainerSpec_PullOptionsSchema, { registryAuth });
}

async function createOne(call: Call): Promise<void> {
  const manager = call.manager();
  const spec = serviceSpecFromJson(await call.json());
  if (spec.annotations !== undefined && spec.annotations.name === '') spec.annotations.name = randomName();
  keepCredentials(call, spec);
  const id = unwrap(await manager.commit((view, context) => createService(view, spec, context)));
  call.reply(201, { ID: id, Warnings: null });
}

async function update(call: Call): Promise<void> {
  const manager = call.manager();
  const version = call.version('service');
  const rollback = call.query.get('rollback') ?? '';
  if (rollback !== '' && rollback !== 'none' && rollback !== 'previous') {
    throw failure('invalid_argument', `unrecognized rollback option ${rollback}`);
  }
  const from = call.query.get('registryAuthFrom') ?? '';
  if (from !== '' && from !== 'spec' && from !== 'previous-spec') {
    throw failure('invalid_argument', 'unsupported registryAuthFrom value');
  }
  const spec = serviceSpecFromJson(await call.json());
  keepCredentials(call, spec);
  unwrap(await manager.commit((view, context) => updateService(view, {
    id: call.param('id'), version, spec, rollback: rollback === 'previous',
    registryAuthFrom: from === 'previous-spec' ? 'previous-spec' : 'spec',
  }, context)));
  call.reply(200, { Warnings: null });
}

async function remove(call: Call): Promise<void> {
  unwrap(await call.manager().commit((view) => removeService(view, call.param('id'))));
  call.reply(200);
}

/** There is no registry behind this engine: the CLI turns this into a warning and goes on with the name as it is. */
function distribution(call: Call): void {
  const path = call.param('*');
  if (!path.endsWith('/json')) throw failure('not_found', 'page not found');
  const image = path.slice(0, -'/json'.length);
  throw failure('internal', `no registry is configured: the image ${image} is looked for on each node only`);
}
