// One simulated run of a whole swarm: a group of managers whose leader decides, nodes that run tasks, clients that ask for
// changes, and faults of all of them for a while; then peace, in which what is wanted must come about. All from one seed.

import { create } from '@bufbuild/protobuf';
import { encode } from '../../src/io/protobuf/codec.js';
import { decide } from '../../src/core/agent/decide.js';
import { allocate } from '../../src/core/allocator/allocator.js';
import { assignmentsOf, diffAssignments } from '../../src/core/dispatcher/assignments.js';
import { heard, judge, newLife, newObserver, observe, paceOf, revived } from '../../src/core/dispatcher/liveness.js';
import { expireNodes, nodeReady, nodesUnknown, taskStatuses } from '../../src/core/dispatcher/nodes.js';
import { clusterRows, diffParts, diffRows, partsForNode, rowsForNode } from '../../src/core/network/rows.js';
import { orchestrate } from '../../src/core/orchestrator/orchestrator.js';
import { schedule } from '../../src/core/scheduler/scheduler.js';
import { createAction } from '../../src/core/store/actions.js';
import { awaitedRevision } from '../../src/core/store/soft.js';
import { Store } from '../../src/core/store/store.js';
import type { ReadTx } from '../../src/core/store/view.js';
import { durationFromMs, timestampFromMs } from '../../src/lib/time.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import {
  AnnotationsSchema, ClusterSchema, ClusterSpecSchema, DispatcherConfigSchema, DriverSchema, NetworkSchema, NetworkSpecSchema,
  OrchestrationConfigSchema, type StoreAction,
} from '../../src/model/proto/swarmkit_pb.js';
import { ApiClient } from './api.js';
import { Violation } from './checker.js';
import { Churn } from './churn.js';
import { Faults } from './faults.js';
import { EPOCH_MS, type Host } from './host.js';
import { PERIOD_MS, SimManager } from './manager.js';
import { nodeObject } from './nodegroup.js';
import { atRest, begin, describe, replicaBehind } from './simulation.js';
import { notReached } from './wanted.js';
import { SwarmChecker, type SwarmMark } from './swarm-checker.js';
import { SimWorker } from './worker.js';
import { newWorld, outcomeOf, type Mark, type Outcome, type RunOptions, type World } from './world.js';

export const CORE = {
  decide, allocate, expireNodes, nodeReady, nodesUnknown, taskStatuses, clusterRows, diffParts, diffRows, partsForNode, rowsForNode, orchestrate, schedule,
  awaitedRevision, assignmentsOf, diffAssignments, Store,
  heard, judge, newLife, newObserver, observe, paceOf, revived,
};
export type Core = typeof CORE;
export type SwarmBug = 'deposed-goes-on' | 'acks-before-installed';

export interface SwarmWorld extends World {
  readonly core: Core;
  readonly swarmBugs: ReadonlySet<SwarmBug>;
  readonly managers: Map<bigint, SimManager>;
  readonly workers: Map<string, SimWorker>;
  readonly swarmChecker: SwarmChecker;
  readonly nowMs: () => number;
  readonly newId: () => string;
  /** Of the next machine. */
  readonly nextNumber: () => number;
  /** Of a task's next step. */
  readonly failRate: () => number;
  /** The state of whoever has applied most. */
  readonly newest: () => ReadTx;
}

export interface SwarmOptions extends RunOptions {
  readonly core?: Core;
  readonly bugs?: readonly SwarmBug[];
}

const REST_MS_MAX = 120_000;
const REST_STEP_MS = 1_000;
const REST_TRIES = 10;
const CALM_MS = 120_000;
const CALM_GAP_MS_MAX = 60_000;
const SETTLE_MS = 8_000;
const CALM_STALLS = 3;
const DEATH_SHARE = 0.3;
const RESTART_SHARE = 0.3;
const STALL_MS_MAX = 5_000;
const SCALE = 20;
const SNAPSHOT_SCALE = 4;

function newSwarmWorld(options: SwarmOptions): SwarmWorld {
  const ground = newWorld(options);
  const { clock, random, hosts } = ground;
  const managers = new Map<bigint, SimManager>();
  const managerOf = (host: Host): SimManager => {
    let manager = managers.get(host.id);
    if (manager === undefined || manager.host !== host) managers.set(host.id, manager = new SimManager(world, host));
    return manager;
  };
  let ids = 0;
  let numbers = 0;
  const failRates = random.pick([0, 0.02, 0.15]);
  const world: SwarmWorld & { swarmChecker: SwarmChecker; failing: boolean } = {
    ...ground, storeClass: (options.core ?? CORE).Store, scale: SCALE, snapshotScale: SNAPSHOT_SCALE, managers, workers: new Map(),
    core: options.core ?? CORE, swarmBugs: new Set(options.bugs ?? []), failing: true,
    swarmChecker: undefined as unknown as SwarmChecker,
    nowMs: () => EPOCH_MS + Math.floor(clock.nowMs),
    newId: () => `id${String(++ids).padStart(6, '0')}`,
    nextNumber: () => ++numbers,
    failRate: () => (world.failing ? failRates : 0),
    newest: () => [...hosts.values()].reduce((a, b) => (b.store.index > a.store.index ? b : a)).store,
    hooks: {
      applied: (host, entry, command, result) => {
        const events = result.ok ? result.value.events : [];
        world.swarmChecker.applied(host.store, entry, command, events);
        if (events.length > 0) managerOf(host).applied(events);
      },
      restored: (host) => managerOf(host).changed(),
      leadership: (host, leading) => managerOf(host).leading(leading),
      crashed: (host) => managerOf(host).crashed(),
    },
  };
  world.swarmChecker = new SwarmChecker(world);
  return world;
}

/** The first objects: what bootstrap and the nodes' joins make. */
function firstObjects(world: SwarmWorld): StoreAction[] {
  const cluster = create(ClusterSchema, {
    id: 'cluster', subnetSize: 24, defaultAddressPool: ['10.0.0.0/8'],
    spec: create(ClusterSpecSchema, {
      annotations: create(AnnotationsSchema, { name: 'default' }),
      orchestration: create(OrchestrationConfigSchema, { taskHistoryRetentionLimit: BigInt(world.random.pick([0, 2, 5])) }),
      dispatcher: create(DispatcherConfigSchema, { heartbeatPeriod: durationFromMs(PERIOD_MS) }),
    }),
  });
  const ingress = create(NetworkSchema, {
    id: 'ingress',
    spec: create(NetworkSpecSchema, {
      annotations: create(AnnotationsSchema, { name: 'ingress' }), driverConfig: create(DriverSchema, { name: 'overlay' }), ingress: true,
    }),
  });
  const nodes = [...world.workers.values()].map((worker) => createAction('node', nodeObject(worker)));
  return [createAction('cluster', cluster), createAction('network', ingress), ...nodes];
}

export function simulateSwarm(options: SwarmOptions): Outcome<SwarmMark | Mark> {
  const world = newSwarmWorld(options);
  const { clock, random } = world;
  begin(world, random.pick([1, 3, 3, 3, 5]));
  const count = random.between(2, 6);
  for (let i = 1; i <= count; i++) world.workers.set(`node${i}`, new SimWorker(world, world.nextNumber()));
  const first = create(CommandSchema, { id: 'bootstrap', time: timestampFromMs(world.nowMs()), actions: firstObjects(world) });
  if (world.hosts.get(1n)?.offer(encode(CommandSchema, first)) !== true) throw new Violation('the swarm cannot begin');
  clock.run(clock.nowMs + 500);
  for (const worker of world.workers.values()) worker.start();
  const clients = ['a', 'b', 'c'].map((name) => new ApiClient(world, name));
  clients.forEach((client) => client.start());
  clock.run(clock.nowMs + random.between(0, 5_000));
  const faults = new Faults(world);
  const churn = new Churn(world);
  faults.start();
  churn.start();
  clock.run(clock.nowMs + options.minutes * 60_000);
  faults.stop();
  churn.stop();
  (world as { failing?: boolean }).failing = false;
  clients.forEach((client) => client.stop());
  rest(world, faults);
  calm(world, clients, faults);
  const operations = clients.reduce((sum, { done }) => sum + done, 0);
  return outcomeOf(world, options.seed, {
    operations, faults: faults.count + churn.count, marks: new Map<SwarmMark | Mark, number>([...world.marks, ...world.swarmChecker.marks]),
  });
}

/** As most of the time: all is well, now and then somebody asks for a change, and nobody has a reason to stand for election. */
function calm(world: SwarmWorld, clients: readonly ApiClient[], faults: Faults): void {
  const { terms } = world.checker;
  const before = clients.map(({ done, refused }) => done + refused);
  clients.forEach((client) => client.startCalmly(CALM_GAP_MS_MAX));
  calmNodes(world);
  clients.forEach((client, i) => {
    client.stop();
    if (client.done + client.refused === before[i]) throw new Violation(`an API client is not served though all is well; ${describe(world)}`);
  });
  if (world.checker.terms !== terms) throw new Violation(`another term though all is well; ${describe(world)}`);
  rest(world, faults);
}

/** No node is taken for dead that is none, also not by a leader that stood still itself; and one that is dead is told soon. */
function calmNodes(world: SwarmWorld): void {
  const { clock, random, swarmChecker, managers, workers } = world;
  const endMs = clock.nowMs + CALM_MS;
  // A call that was lost before is given up after three seconds: as long as SwarmKit's rule waits for the next heartbeat.
  swarmChecker.calmSinceMs = clock.nowMs + SETTLE_MS;
  for (let i = 0; i < CALM_STALLS; i++) {
    clock.run(clock.nowMs + random.between(2_000, 15_000));
    [...managers.values()].find(({ leads }) => leads)?.liveness.stall(random.between(100, STALL_MS_MAX), random.chance(0.5));
  }
  clock.run(clock.nowMs + STALL_MS_MAX + 1_000);
  // One that was removed a moment ago may not have heard of it, and is nobody's node any more.
  const up = [...workers.values()].filter((worker) => worker.up && world.newest().get('node', worker.id) !== undefined);
  // An agent that is started anew is no dead node: its tasks and its data plane go on.
  if (up.length > 0 && random.chance(RESTART_SHARE)) {
    const worker = random.pick(up);
    worker.stop();
    clock.run(clock.nowMs + random.between(1_200, 1_800));
    worker.start();
    clock.run(clock.nowMs + 5_000);
  }
  // Not in each: the moves of its tasks take longer to simulate than all the rest of this.
  if (up.length > 0 && random.chance(DEATH_SHARE)) {
    const dead = random.pick(up);
    swarmChecker.died(dead.id);
    dead.crash();
    clock.run(clock.nowMs + random.between(5_000, 10_000));
    swarmChecker.deathTold(dead.id);
    dead.start();
  }
  clock.run(endMs);
  swarmChecker.calmSinceMs = Infinity;
}

/** What is wanted comes about within bounded time, and stays. */
function rest(world: SwarmWorld, { repair }: Faults): void {
  const endMs = world.clock.nowMs + REST_MS_MAX;
  let problem: string | undefined = 'nothing looked yet';
  while (problem !== undefined && world.clock.nowMs < endMs) {
    world.clock.run(world.clock.nowMs + REST_STEP_MS);
    problem = notReached(world) ?? repair.open;
  }
  if (problem !== undefined) throw new Violation(`${problem}, ${REST_MS_MAX / 1000} s after all is well; ${describe(world)}`);
  // What is due then (history that is removed, say) may be on its way at any one moment, but not at all of them.
  for (let tries = 0; ; tries++) {
    world.clock.run(world.clock.nowMs + REST_STEP_MS + world.random.below(500));
    const behind = replicaBehind(world);
    if (behind === undefined) break;
    if (tries >= REST_TRIES) throw new Violation(behind);
  }
  atRest(world);
}
