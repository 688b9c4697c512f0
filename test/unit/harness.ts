// Simulation harness of the control plane: a Store, the leader's stages in the order of the manager's loop, a fake
// clock, and agents that move tasks along. Everything is deterministic: ids and times are counted, nodes and tasks are
// visited in id order. Commands go through their bytes, as on the raft log, so that nothing is shared by accident.

import { clone, create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { assert } from '../../src/lib/assert.js';
import { decide } from '../../src/core/agent/decide.js';
import { expireNodes, taskStatuses } from '../../src/core/dispatcher/nodes.js';
import { allocate } from '../../src/core/allocator/allocator.js';
import { orchestrate } from '../../src/core/orchestrator/orchestrator.js';
import { schedule } from '../../src/core/scheduler/scheduler.js';
import { createAction, removeAction, updateAction } from '../../src/core/store/actions.js';
import { known, type Acknowledgements } from '../../src/core/store/soft.js';
import { Store } from '../../src/core/store/store.js';
import { unwrap } from '../../src/lib/result.js';
import { durationFromMs, timestampFromMs, timestampMs } from '../../src/lib/time.js';
import { DATA_PATH_LABEL } from '../../src/model/network.js';
import { toPairs } from '../../src/model/pairs.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import {
  AnnotationsSchema, ClusterSchema, ClusterSpecSchema, ContainerSpecSchema, EndpointSpecSchema, EngineDescriptionSchema,
    GlobalServiceSchema,
  NetworkAttachmentConfigSchema, NetworkSchema, NetworkSpecSchema, NodeDescriptionSchema, NodeRole, NodeSchema, NodeSpecSchema,
  NodeSpec_Availability, NodeStatusSchema, NodeStatus_State, OrchestrationConfigSchema, PlacementSchema, PortConfigSchema,
    ReplicatedServiceSchema,
  ResourcesSchema, RestartPolicySchema, RestartPolicy_RestartCondition, ServiceSchema, ServiceSpecSchema, TaskSpecSchema,
    TaskState, TaskStatusSchema, UpdateConfigSchema,
  VersionSchema, IPAMOptionsSchema, IPAMConfigSchema, PlatformSchema,
  type GenericResource, type Network, type Node, type PortConfig, type RestartPolicy, type Service, type ServiceSpec, type StoreAction,
  type Task, type UpdateConfig,
} from '../../src/model/proto/swarmkit_pb.js';
import { desiredOf, isTerminal, stateOf } from '../../src/model/task.js';

export { NodeSpec_Availability as Availability, NodeStatus_State as NodeState, TaskState };

const ROUNDS_MAX = 2000;

/** What a task does once started. `hang` never gets to RUNNING. */
export type Behaviour = 'run' | 'fail' | 'complete' | 'hang';

export interface ServiceOptions {
  readonly replicas?: number;
  readonly global?: boolean;
  readonly image?: string;
  readonly networks?: readonly string[];
  readonly ports?: readonly Partial<Omit<PortConfig, '$typeName' | '$unknown'>>[];
  readonly dnsrr?: boolean;
  readonly constraints?: readonly string[];
  readonly maxReplicas?: number;
  readonly spread?: string;
  readonly reserveMemory?: number;
  readonly reserveGeneric?: readonly GenericResource[];
  readonly restart?: Partial<Pick<RestartPolicy, 'condition'>> & { delayMs?: number; maxAttempts?: number; windowMs?: number };
  readonly update?: UpdateOptions;
  readonly rollback?: UpdateOptions;
}

export type UpdateOptions = Partial<Pick<UpdateConfig, 'failureAction' | 'order' | 'maxFailureRatio'>>
  & { parallelism?: number; delayMs?: number; monitorMs?: number };

export function serviceSpec(name: string, options: ServiceOptions = {}): ServiceSpec {
  const { restart = {}, update, rollback } = options;
  const spec = create(ServiceSpecSchema, {
    annotations: create(AnnotationsSchema, { name }),
    mode: options.global === true ? { case: 'global', value: create(GlobalServiceSchema) }
      : { case: 'replicated', value: create(ReplicatedServiceSchema, { replicas: BigInt(options.replicas ?? 1) }) },
    endpoint: create(EndpointSpecSchema, { mode: options.dnsrr === true ? 1 : 0,
      ports: (options.ports ?? []).map((port) => create(PortConfigSchema, port)) }),
  });
  spec.task = create(TaskSpecSchema, {
    runtime: { case: 'container', value: create(ContainerSpecSchema, { image: options.image ?? 'app:1' }) },
    networks: (options.networks ?? []).map((target) => create(NetworkAttachmentConfigSchema, { target })),
    restart: create(RestartPolicySchema, {
      condition: restart.condition ?? RestartPolicy_RestartCondition.ANY, delay: durationFromMs(restart.delayMs ?? 0),
      maxAttempts: BigInt(restart.maxAttempts ?? 0), window: durationFromMs(restart.windowMs ?? 0),
    }),
    placement: create(PlacementSchema, {
      constraints: [...options.constraints ?? []], maxReplicas: BigInt(options.maxReplicas ?? 0),
      preferences: options.spread === undefined ? []
        : [{ $typeName: 'docker.swarmkit.v1.PlacementPreference', preference: {
          case: 'spread', value: { $typeName: 'docker.swarmkit.v1.SpreadOver', spreadDescriptor: options.spread } } }],
    }),
  });
  if (options.reserveMemory !== undefined || options.reserveGeneric !== undefined) {
    spec.task.resources = { $typeName: 'docker.swarmkit.v1.ResourceRequirements',
      reservations: create(ResourcesSchema, {
        memoryBytes: BigInt(options.reserveMemory ?? 0), generic: [...options.reserveGeneric ?? []],
      }) };
  }
  if (update !== undefined) spec.update = updateConfig(update);
  if (rollback !== undefined) spec.rollback = updateConfig(rollback);
  return spec;
}

function updateConfig({ parallelism = 1, delayMs = 0, monitorMs = 0, ...rest }: UpdateOptions): UpdateConfig {
  return create(UpdateConfigSchema, { parallelism: BigInt(parallelism), delay: durationFromMs(delayMs), monitor: durationFromMs(monitorMs),
    ...rest });
}

export class Swarm {
  readonly store = new Store();
  readonly acked = new Map<string, bigint>();
  nowMs = 1_700_000_000_000;
  /** Nodes that answer; others neither run tasks on nor acknowledge. */
  readonly alive = new Set<string>();
  /** False: no node acknowledges rows. */
  acknowledging = true;
  behave: (task: Task) => Behaviour = () => 'run';
  private count = 0;
  private wakeMs: number | undefined;
  private known: Acknowledgements | undefined;

  constructor(options: { nodes?: number; historyLimit?: number } = {}) {
    this.apply([createAction('cluster', create(ClusterSchema, {
      id: 'cluster',
      spec: create(ClusterSpecSchema, {
        annotations: create(AnnotationsSchema, { name: 'default' }),
        orchestration: create(OrchestrationConfigSchema, { taskHistoryRetentionLimit: BigInt(options.historyLimit ?? 5) }),
      }),
      subnetSize: 24, defaultAddressPool: ['10.0.0.0/8'],
    }))]);
    for (let i = 1; i <= (options.nodes ?? 1); i++) this.addNode(`n${i}`);
  }

  newId = (): string => `id${String(++this.count).padStart(6, '0')}`;

  get soft(): Acknowledgements {
    return this.known = known(this.known, this.store, this.acked, this.nowMs);
  }

  apply(actions: readonly StoreAction[]): void {
    if (actions.length === 0) return;
    const command = create(CommandSchema, { id: `c${++this.count}`, time: timestampFromMs(this.nowMs), actions: [...actions] });
    unwrap(this.store.apply(this.store.index + 1n, fromBinary(CommandSchema, toBinary(CommandSchema, command))));
  }

  // Objects -----------------------------------------------------------------------------------------------------------

  addNode(id: string, options: { labels?: Record<string, string>; memory?: number; skein?: boolean; arch?: string } = {}): void {
    const engineLabels = options.skein === false ? {} : { [DATA_PATH_LABEL]: `192.0.2.${this.store.list('node').length + 1}` };
    this.apply([createAction('node', create(NodeSchema, {
      id, role: NodeRole.WORKER,
      spec: create(NodeSpecSchema, { annotations: create(AnnotationsSchema, { labels: toPairs(options.labels) }) }),
      description: create(NodeDescriptionSchema, {
        hostname: id, platform: create(PlatformSchema, { os: 'linux', architecture: options.arch ?? 'x86_64' }),
        resources: create(ResourcesSchema, { nanoCpus: 4_000_000_000n, memoryBytes: BigInt(options.memory ?? 8 * 2 ** 30) }),
        engine: create(EngineDescriptionSchema, { labels: toPairs(engineLabels) }),
      }),
      status: create(NodeStatusSchema, { state: NodeStatus_State.READY, addr: `198.51.100.${this.store.list('node').length + 1}` }),
    }))]);
    this.alive.add(id);
    if (options.skein !== false) this.acked.set(id, 0n);
  }

  editNode(id: string, edit: (node: Node) => void): void {
    const next = clone(NodeSchema, this.get('node', id));
    edit(next);
    this.apply([updateAction('node', next)]);
  }

  setAvailability(id: string, availability: NodeSpec_Availability): void {
    this.editNode(id, (node) => {
      if (node.spec !== undefined) node.spec.availability = availability;
    });
  }

  /** The node stops answering and the leader has noticed. */
  nodeDown(id: string): void {
    this.alive.delete(id);
    this.acked.delete(id);
    this.apply(expireNodes(this.store, [id]));
  }

  setNodeState(id: string, state: NodeStatus_State): void {
    this.editNode(id, (node) => {
      if (node.status !== undefined) node.status.state = state;
    });
  }

  addNetwork(name: string, options: { subnet?: string; range?: string; ingress?: boolean; options?: Record<string, string> } = {}): string {
    const id = `net-${name}`;
    const spec = create(NetworkSpecSchema, { annotations: create(AnnotationsSchema, { name }), ingress: options.ingress ?? false });
    if (options.options !== undefined) spec.driverConfig = { $typeName: 'docker.swarmkit.v1.Driver', name: 'overlay',
      options: toPairs(options.options) };
    if (options.subnet !== undefined) {
      spec.ipam = create(IPAMOptionsSchema, { configs: [create(IPAMConfigSchema,
        { subnet: options.subnet, range: options.range ?? '' })] });
    }
    this.apply([createAction('network', create(NetworkSchema, { id, spec }))]);
    return id;
  }

  addService(name: string, options: ServiceOptions = {}): string {
    const id = `svc-${name}`;
    this.apply([createAction('service', create(ServiceSchema, { id, spec: serviceSpec(name, options), specVersion: this.nextVersion() }))]);
    return id;
  }

  updateService(id: string, options: ServiceOptions): void {
    const next = clone(ServiceSchema, this.get('service', id));
    if (next.spec !== undefined) next.previousSpec = next.spec;
    if (next.specVersion !== undefined) next.previousSpecVersion = next.specVersion;
    next.spec = serviceSpec(next.spec?.annotations?.name ?? '', options);
    next.specVersion = this.nextVersion();
    delete next.updateStatus;
    this.apply([updateAction('service', next)]);
  }

  removeService(id: string): void {
    this.apply([removeAction('service', this.get('service', id))]);
  }

  /** The task's process ends by itself. */
  exit(task: Task, state: TaskState): void {
    this.report(task, state);
  }

  // Looking -----------------------------------------------------------------------------------------------------------

  get<K extends 'node' | 'service' | 'network' | 'task'>(kind: K,
    id: string): { node: Node; service: Service; network: Network; task: Task }[K] {
    const object = this.store.get(kind, id);
    assert(object !== undefined, `no ${kind} ${id}`);
    return object as { node: Node; service: Service; network: Network; task: Task }[K];
  }

  tasks(serviceId: string): readonly Task[] {
    return this.store.tasksOfService(serviceId);
  }

  /** Tasks that run and are meant to. */
  running(serviceId: string): readonly Task[] {
    return this.tasks(serviceId).filter((task) => stateOf(task) === TaskState.RUNNING && desiredOf(task) === TaskState.RUNNING);
  }

  images(serviceId: string): string[] {
    return this.running(serviceId).map(imageOf).sort();
  }

  // Time --------------------------------------------------------------------------------------------------------------

  /** One pass of the leader; true when something changed. */
  pass(): boolean {
    const before = this.store.index;
    const input = { view: this.store, soft: this.soft, nowMs: this.nowMs };
    const outcome = orchestrate({ ...input, newId: this.newId });
    this.wakeMs = outcome.wakeMs;
    this.apply(outcome.actions);
    this.apply(allocate(input));
    this.apply(schedule(input));
    return this.store.index > before;
  }

  /** One transition of every task on nodes that answer, then their acknowledgements; true when something changed. */
  agents(): boolean {
    const before = this.store.index;
    for (const nodeId of [...this.alive].sort()) for (const task of this.store.tasksOfNode(nodeId)) this.advanceTask(task);
    let told = false;
    for (const nodeId of this.acked.keys()) {
      if (!this.acknowledging || !this.alive.has(nodeId) || this.acked.get(nodeId) === this.store.index) continue;
      this.acked.set(nodeId, this.store.index);
      told = true;
    }
    return this.store.index > before || told;
  }

  /** Runs leader and agents until nothing changes any more without the clock going on. `each` sees every round. */
  settle(each: () => void = () => undefined): void {
    for (let round = 0; round < ROUNDS_MAX; round++) {
      const changed = this.pass();
      each();
      if (!this.agents() && !changed) return;
      each();
    }
    throw new Error('the swarm does not settle');
  }

  /** Lets time go by, stopping wherever something becomes due. */
  advance(ms: number, each: () => void = () => undefined): void {
    const end = this.nowMs + ms;
    this.settle(each);
    for (let step = 0; this.nowMs < end; step++) {
      assert(step < ROUNDS_MAX, 'time does not go by');
      this.nowMs = Math.min(Math.max(this.wakeMs ?? end, this.nowMs + 1), end);
      this.settle(each);
    }
  }

  private advanceTask(task: Task): void {
    const state = stateOf(task);
    if (state < TaskState.ASSIGNED) return;
    const action = decide({ assigned: true, desired: task.desiredState }, { state, busy: undefined, sandbox: false });
    if (action === 'accept') this.report(task, TaskState.ACCEPTED);
    else if (action === 'prepare') this.report(task, TaskState.READY);
    else if (action === 'shutdown') this.report(task, TaskState.SHUTDOWN);
    else if (action === 'start') this.report(task, TaskState.STARTING);
    else if (state === TaskState.STARTING || state === TaskState.RUNNING) this.behaveTask(task, state);
  }

  private behaveTask(task: Task, state: TaskState): void {
    const behaviour = this.behave(task);
    if (behaviour === 'fail') this.report(task, TaskState.FAILED);
    else if (behaviour === 'complete') this.report(task, TaskState.COMPLETE);
    else if (behaviour === 'run' && state === TaskState.STARTING) this.report(task, TaskState.RUNNING);
  }

  private report(task: Task, state: TaskState): void {
    const status = create(TaskStatusSchema, { state, timestamp: timestampFromMs(this.nowMs) });
    const { actions } = taskStatuses(this.store, task.nodeId, [{ taskId: task.id, status }], this.nowMs);
    this.apply(actions);
  }

  private nextVersion() {
    return create(VersionSchema, { index: this.store.index + 1n });
  }
}

export function imageOf(task: Task): string {
  return task.spec?.runtime.case === 'container' ? task.spec.runtime.value.image : '';
}

export function addressesOf(task: Task): string[] {
  return task.networks.flatMap((attachment) => attachment.addresses);
}

export function updatedMs(task: Task): number {
  return timestampMs(task.meta?.updatedAt);
}

export { desiredOf, isTerminal, stateOf };
