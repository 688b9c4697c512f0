// step: the smallest orchestrator, allocator and scheduler that make a service converge. One step of each task per
// call; a dirty task is replaced; update status goes updating -> completed.

import { randomBytes } from 'node:crypto';
import { clone, create } from '@bufbuild/protobuf';
import { isTaskDirty } from '../../src/model/task.js';
import { createAction, removeAction, updateAction } from '../../src/core/store/actions.js';
import type { ReadTx } from '../../src/core/store/view.js';
import { newId } from '../../src/lib/ids.js';
import { timestampFromMs } from '../../src/lib/time.js';
import {
  ContainerStatusSchema, DriverSchema, EndpointSchema, EndpointSpecSchema, Endpoint_VirtualIPSchema, IPAMConfigSchema,
  IPAMOptionsSchema, NetworkAttachmentSchema, NetworkSchema, NodeRole, NodeStatus_State, ServiceSchema, TaskSchema,
  TaskState, TaskStatusSchema, UpdateStatusSchema, UpdateStatus_UpdateState,
  type Network, type Service, type StoreAction, type Task,
} from '../../src/model/proto/swarmkit_pb.js';

const LADDER = [
  TaskState.NEW, TaskState.PENDING, TaskState.ASSIGNED, TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY,
  TaskState.STARTING, TaskState.RUNNING,
];

export function step(view: ReadTx, nowMs: number): StoreAction[] {
  const actions: StoreAction[] = [];
  for (const network of view.list('network')) {
    if (network.ipam === undefined) actions.push(updateAction('network', allocated(view, network)));
  }
  for (const service of view.list('service')) {
    if (service.endpoint === undefined || differentPorts(service)) {
      actions.push(updateAction('service', withEndpoint(service)));
      continue;
    }
    actions.push(...reconcile(view, service, nowMs));
  }
  for (const task of view.list('task')) actions.push(...advance(view, task, nowMs));
  return actions;
}

function differentPorts(service: Service): boolean {
  return (service.spec?.endpoint?.ports.length ?? 0) !== (service.endpoint?.ports.length ?? 0);
}

function allocated(view: ReadTx, network: Network): Network {
  const next = clone(NetworkSchema, network);
  const configs = network.spec?.ipam?.configs.filter((x) => x.subnet !== '') ?? [];
  next.ipam = create(IPAMOptionsSchema, {
    driver: create(DriverSchema, { name: 'default' }),
    configs: configs.length > 0 ? configs.map((x) => clone(IPAMConfigSchema, x))
      : [create(IPAMConfigSchema, { subnet: `10.0.${view.list('network').length}.0/24`, gateway: `10.0.${view.list('network').length}.1` })],
  });
  return next;
}

function withEndpoint(service: Service): Service {
  const next = clone(ServiceSchema, service);
  const spec = clone(EndpointSpecSchema, service.spec?.endpoint ?? create(EndpointSpecSchema));
  const ports = spec.ports.map((port, i) => ({ ...port, publishedPort: port.publishedPort || 30000 + i }));
  next.endpoint = create(EndpointSchema, {
    spec, ports,
    virtualIps: (service.spec?.task?.networks ?? []).map((x) =>
      create(Endpoint_VirtualIPSchema, { networkId: x.target, addr: '10.0.9.2/24' })),
  });
  return next;
}

function reconcile(view: ReadTx, service: Service, nowMs: number): StoreAction[] {
  const actions: StoreAction[] = [];
  const live = view.tasksOfService(service.id).filter((task) => task.desiredState <= TaskState.RUNNING);
  const wanted = wantedTasks(view, service);
  const dirty = live.filter((task) => isTaskDirty(service, task));
  const keyOf = (task: Task): string => (task.slot === 0n ? task.nodeId : String(task.slot));
  for (const task of live) {
    if (dirty.includes(task) || !wanted.some((x) => x.key === keyOf(task))) {
      actions.push(updateAction('task', { ...clone(TaskSchema, task), desiredState: TaskState.SHUTDOWN }));
    }
  }
  for (const { key, slot, nodeId } of wanted) {
    if (!live.some((task) => keyOf(task) === key && !dirty.includes(task))) {
      actions.push(createAction('task', newTask(view, service, slot, nodeId, nowMs)));
    }
  }
  const status = updateState(service, live.length > 0 && dirty.length > 0, live, wanted.length);
  if (status !== undefined) {
    const next = clone(ServiceSchema, service);
    next.updateStatus = create(UpdateStatusSchema, { ...status, startedAt: timestampFromMs(nowMs), completedAt: timestampFromMs(nowMs) });
    actions.push(updateAction('service', next));
  }
  return actions;
}

function updateState(service: Service, starts: boolean, live: readonly Task[], wanted: number):
  { state: UpdateStatus_UpdateState; message: string } | undefined {
  const now = service.updateStatus?.state;
  if (starts && now === undefined) return { state: UpdateStatus_UpdateState.UPDATING, message: 'update in progress' };
  const settled = live.length === wanted && live.every((task) => task.status?.state === TaskState.RUNNING && !isTaskDirty(service, task));
  if (!settled) return undefined;
  if (now === UpdateStatus_UpdateState.UPDATING) {
    return { state: UpdateStatus_UpdateState.COMPLETED, message: 'update completed' };
  }
  if (now === UpdateStatus_UpdateState.ROLLBACK_STARTED) {
    return { state: UpdateStatus_UpdateState.ROLLBACK_COMPLETED, message: 'rollback completed' };
  }
  return undefined;
}

function wantedTasks(view: ReadTx, service: Service): { key: string; slot: bigint; nodeId: string }[] {
  const mode = service.spec?.mode;
  const nodes = view.list('node').filter((node) => node.status?.state === NodeStatus_State.READY
    && !(service.spec?.task?.placement?.constraints ?? []).some((text) =>
      text.replaceAll(' ', '') === 'node.role==worker' && node.role === NodeRole.MANAGER));
  if (mode?.case === 'replicated') {
    return Array.from({ length: Number(mode.value.replicas) }, (_, i) => ({
      key: String(i + 1), slot: BigInt(i + 1), nodeId: nodes[i % nodes.length]?.id ?? '',
    }));
  }
  return nodes.map((node) => ({ key: node.id, slot: 0n, nodeId: node.id }));
}

function newTask(view: ReadTx, service: Service, slot: bigint, nodeId: string, nowMs: number): Task {
  const task = create(TaskSchema, {
    id: newId(randomBytes), serviceId: service.id, slot, nodeId, desiredState: TaskState.RUNNING,
    status: create(TaskStatusSchema, { state: TaskState.NEW, timestamp: timestampFromMs(nowMs), message: 'created' }),
    networks: (service.spec?.task?.networks ?? []).map((x) => {
      const network = view.get('network', x.target);
      return create(NetworkAttachmentSchema, { addresses: ['10.0.9.3/24'], ...(network === undefined ? {} : { network }) });
    }),
  });
  if (service.spec?.task !== undefined) task.spec = service.spec.task;
  if (service.specVersion !== undefined) task.specVersion = service.specVersion;
  if (service.spec?.annotations !== undefined) task.serviceAnnotations = service.spec.annotations;
  if (service.endpoint !== undefined) {
    task.endpoint = clone(EndpointSchema, service.endpoint);
    if (service.spec?.endpoint === undefined) delete task.endpoint.spec;
  }
  return task;
}

function advance(view: ReadTx, task: Task, nowMs: number): StoreAction[] {
  const state = task.status?.state ?? TaskState.NEW;
  if (view.get('service', task.serviceId) === undefined) return [removeAction('task', task)];
  const target = task.desiredState > TaskState.RUNNING ? TaskState.SHUTDOWN : LADDER[LADDER.indexOf(state) + 1];
  if (target === undefined || target === state || state > TaskState.RUNNING) return [];
  const next = clone(TaskSchema, task);
  next.status = create(TaskStatusSchema, {
    state: target, timestamp: timestampFromMs(nowMs), message: TaskState[target].toLowerCase(),
    runtimeStatus: {
      case: 'container',
      value: create(ContainerStatusSchema, { containerId: task.id.padEnd(64, '0'), pid: 4242 }),
    },
  });
  return [updateAction('task', next)];
}
