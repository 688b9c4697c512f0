// FakeNode: a NodeBackend for tests of the API. The store is the real one, with a direct apply instead of raft; a tiny
// loop stands in for orchestrator, allocator, scheduler and agents, so that services converge.

import { createHash, randomBytes } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import type { InitRequest, JoinRequest, LocalNode, ManagerBackend, NodeBackend } from '../../src/api/backend.js';
import type { StoreEvent } from '../../src/core/store/view.js';
import { Store } from '../../src/core/store/store.js';
import { updateCluster } from '../../src/core/control/cluster.js';
import { createAction } from '../../src/core/store/actions.js';
import { newId, newTokenSecret } from '../../src/lib/ids.js';
import { AppFailure, err, fail, ok, type Result } from '../../src/lib/result.js';
import { durationFromNs, timestampFromMs } from '../../src/lib/time.js';
import { DATA_PATH_LABEL } from '../../src/model/network.js';
import { toPairs } from '../../src/model/pairs.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import {
  AnnotationsSchema, CAConfigSchema, ClusterSchema, ClusterSpecSchema, DispatcherConfigSchema, DriverSchema,
  EngineDescriptionSchema, IPAMConfigSchema, IPAMOptionsSchema, JoinTokensSchema, LogContextSchema, LogMessageSchema,
  LogStream, ManagerStatusSchema, NetworkSchema, NetworkSpecSchema, NodeDescriptionSchema, NodeRole, NodeSchema,
  NodeSpecSchema, NodeSpec_Membership, NodeStatusSchema, NodeStatus_State, OrchestrationConfigSchema, PlatformSchema,
  RaftConfigSchema, RaftMemberStatus_Reachability, ResourcesSchema, RootCASchema, TaskState,
  type LogMessage, type LogSelector, type LogSubscriptionOptions, type Node, type NodeDescription, type StoreAction,
} from '../../src/model/proto/swarmkit_pb.js';
import { FakeExecutor } from './fake-executor.js';
import { step } from './fake-manager.js';

const CA_PEM = '-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n';

export interface FakeNodeOptions {
  /** Log lines every task has written. */
  readonly logLines?: number;
}

export class FakeNode implements NodeBackend {
  readonly hostname = 'manager1';
  readonly stateDir = '/var/lib/skein-test';
  readonly executor = new FakeExecutor();
  private store = new Store();
  private state: LocalNode['state'] = 'inactive';
  private worker = false;
  private nodeId = '';
  private readonly listeners = new Set<(events: readonly StoreEvent[], nowMs: number) => void>();
  private timer: NodeJS.Timeout | undefined;
  private readonly logLines: number;
  joined: JoinRequest | undefined;
  /** Followed logs now open, what they produced, and whether they produce without pause. */
  following = 0;
  produced = 0;
  flood = false;
  /** Logs that are not followed end with this. */
  logFailure = '';

  constructor(options: FakeNodeOptions = {}) {
    this.logLines = options.logLines ?? 3;
  }

  async imagesChanged(): Promise<void> {}

  local(): LocalNode {
    return {
      state: this.state, error: '', nodeId: this.nodeId, isManager: this.state === 'active' && !this.worker,
      nodeAddr: this.state === 'active' ? '10.77.0.1' : '',
      remoteManagers: this.state === 'active' ? [{ nodeId: this.nodeId, addr: '10.77.0.1:2377' }] : [],
      rootCaPem: CA_PEM,
    };
  }

  manager(): ManagerBackend | undefined {
    if (this.state !== 'active' || this.worker) return undefined;
    return {
      view: () => this.store,
      fresh: () => Promise.resolve(true),
      commit: async (build) => {
        const built = build(this.store, { nowMs: Date.now(), newId: () => newId(randomBytes), randomBytes });
        if (!built.ok) return built;
        const applied = this.apply(built.value.actions);
        return applied.ok ? ok(built.value.value) : err(applied.error);
      },
      updateSwarm: async (request) => {
        const context = { nowMs: Date.now(), newId: () => newId(randomBytes), randomBytes };
        const built = updateCluster(this.store, { ...request, rootCa: undefined }, context);
        return built.ok ? this.apply(built.value.actions) : built;
      },
      logs: (selector, options, signal) => this.logs(selector, options, signal),
      onEvents: (listener) => {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
      },
    };
  }

  get view(): Store {
    return this.store;
  }

  get listening(): number {
    return this.listeners.size;
  }

  apply(actions: readonly StoreAction[]): Result<void> {
    if (actions.length === 0) return ok(undefined);
    const nowMs = Date.now();
    const command = create(CommandSchema, { id: newId(randomBytes), time: timestampFromMs(nowMs), actions: [...actions] });
    const applied = this.store.apply(this.store.index + 1n, command);
    if (!applied.ok) return applied;
    for (const listener of this.listeners) listener(applied.value.events, nowMs);
    return ok(undefined);
  }

  async swarmInit(request: InitRequest): Promise<Result<string>> {
    this.state = 'active';
    this.nodeId = newId(randomBytes);
    const unwrapped = this.apply([
      createAction('cluster', clusterOf(request)),
      createAction('node', nodeOf(this.nodeId, this.hostname, NodeRole.MANAGER, '10.77.0.1')),
      createAction('network', ingressOf()),
    ]);
    if (!unwrapped.ok) return unwrapped;
    this.timer = setInterval(() => this.step(), 25);
    return ok(this.nodeId);
  }

  async swarmJoin(request: JoinRequest): Promise<Result<void>> {
    this.joined = request;
    if (request.remoteAddrs[0] === '10.0.0.9:2377') {
      return fail('unavailable', 'rpc error: code = Unavailable desc = connection error');
    }
    this.state = 'active';
    this.worker = true;
    this.nodeId = newId(randomBytes);
    return ok(undefined);
  }

  async swarmUnlock(): Promise<Result<void>> {
    this.state = 'active';
    return ok(undefined);
  }

  async swarmLeave(): Promise<Result<void>> {
    clearInterval(this.timer);
    this.state = 'inactive';
    this.worker = false;
    this.nodeId = '';
    this.store = new Store();
    return ok(undefined);
  }

  addWorker(hostname: string): string {
    const id = newId(randomBytes);
    const added = this.apply([createAction('node', nodeOf(id, hostname, NodeRole.WORKER, '10.77.0.2'))]);
    if (!added.ok) throw new Error(added.error.message);
    return id;
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private step(): void {
    const done = this.apply(step(this.store, Date.now()));
    if (!done.ok) throw new Error(done.error.message);
    this.executor.sync(this.store.tasksOfNode(this.nodeId));
  }

  private async *logs(
    selector: LogSelector, options: LogSubscriptionOptions, signal: AbortSignal,
  ): AsyncGenerator<LogMessage> {
    const tasks = this.store.list('task').filter((task) => task.status?.state === TaskState.RUNNING
      && (selector.serviceIds.includes(task.serviceId) || selector.taskIds.includes(task.id)));
    const skip = options.tail < 0n ? Math.max(0, this.logLines - Number(-options.tail - 1n)) : 0;
    const message = (task: (typeof tasks)[number], i: number): LogMessage => create(LogMessageSchema, {
      context: create(LogContextSchema, { serviceId: task.serviceId, nodeId: task.nodeId, taskId: task.id }),
      timestamp: timestampFromMs(1_700_000_000_000 + i),
      stream: LogStream.STDOUT,
      data: new TextEncoder().encode(`line ${i}\n`),
    });
    for (let i = skip; i < this.logLines; i++) for (const task of tasks) yield message(task, i);
    if (this.logFailure !== '') throw new AppFailure({ code: 'unavailable', message: this.logFailure });
    if (!options.follow) return;
    this.following++;
    const long = new Uint8Array(65536).fill(120);
    try {
      for (let i = this.logLines; !signal.aborted; i++) {
        await new Promise((resolve) => (this.flood ? setImmediate(resolve) : setTimeout(resolve, 20)));
        for (const task of tasks) {
          this.produced += long.length;
          yield this.flood ? { ...message(task, i), data: long } : message(task, i);
        }
      }
    } finally {
      this.following--;
    }
  }
}

function clusterOf(request: InitRequest): ReturnType<typeof create<typeof ClusterSchema>> {
  const digest = BigInt(`0x${createHash('sha256').update(CA_PEM).digest('hex')}`).toString(36).padStart(50, '0');
  return create(ClusterSchema, {
    id: newId(randomBytes),
    spec: create(ClusterSpecSchema, {
      annotations: create(AnnotationsSchema, { name: 'default', labels: toPairs(request.labels) }),
      orchestration: create(OrchestrationConfigSchema, {
        taskHistoryRetentionLimit: BigInt(request.taskHistoryRetentionLimit ?? 5),
      }),
      raft: create(RaftConfigSchema, {
        snapshotInterval: 10_000n, logEntriesForSlowFollowers: 500n, heartbeatTick: 1, electionTick: 10,
      }),
      dispatcher: create(DispatcherConfigSchema, { heartbeatPeriod: durationFromNs(5_000_000_000n) }),
      caConfig: create(CAConfigSchema, { nodeCertExpiry: durationFromNs(7_776_000_000_000_000n) }),
    }),
    rootCa: create(RootCASchema, {
      caCert: new TextEncoder().encode(CA_PEM),
      joinTokens: create(JoinTokensSchema, {
        worker: `SWMTKN-1-${digest}-${newTokenSecret(randomBytes)}`,
        manager: `SWMTKN-1-${digest}-${newTokenSecret(randomBytes)}`,
      }),
    }),
    defaultAddressPool: ['10.0.0.0/8'],
    subnetSize: 24,
    VXLANUDPPort: 4789,
  });
}

export function describe(hostname: string): NodeDescription {
  return create(NodeDescriptionSchema, {
    hostname,
    platform: create(PlatformSchema, { os: 'linux', architecture: 'x86_64' }),
    resources: create(ResourcesSchema, { nanoCpus: 2_000_000_000n, memoryBytes: 4_294_967_296n }),
    engine: create(EngineDescriptionSchema, { engineVersion: '28.2.2-skein' }),
  });
}

function nodeOf(id: string, hostname: string, role: NodeRole, addr: string): Node {
  const description = describe(hostname);
  if (description.engine !== undefined) description.engine.labels = toPairs({ [DATA_PATH_LABEL]: addr });
  const node = create(NodeSchema, {
    id, role, description,
    spec: create(NodeSpecSchema, {
      annotations: create(AnnotationsSchema), desiredRole: role, membership: NodeSpec_Membership.ACCEPTED,
    }),
    status: create(NodeStatusSchema, { state: NodeStatus_State.READY, addr }),
  });
  if (role === NodeRole.MANAGER) {
    node.managerStatus = create(ManagerStatusSchema, {
      leader: true, reachability: RaftMemberStatus_Reachability.REACHABLE, addr: `${addr}:2377`,
    });
  }
  return node;
}

function ingressOf(): ReturnType<typeof create<typeof NetworkSchema>> {
  const ipam = create(IPAMOptionsSchema, {
    driver: create(DriverSchema, { name: 'default' }),
    configs: [create(IPAMConfigSchema, { subnet: '10.0.0.0/24', gateway: '10.0.0.1' })],
  });
  return create(NetworkSchema, {
    id: newId(randomBytes), ipam,
    spec: create(NetworkSpecSchema, {
      annotations: create(AnnotationsSchema, { name: 'ingress' }), ingress: true,
      driverConfig: create(DriverSchema, { name: 'overlay' }),
    }),
  });
}
