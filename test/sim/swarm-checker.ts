// What must hold in the whole swarm. Each applied command is looked at once, by whichever manager applies it first: what it
// changed is held against all that was before and against what the machines really do (processes, tables).

import type { AssignmentSet } from '../../src/core/dispatcher/assignments.js';
import type { Entry } from '../../src/core/raft/types.js';
import type { ReadTx, StoreEvent } from '../../src/core/store/view.js';
import { addressOf, vniOf } from '../../src/model/network.js';
import {
  NodeStatus_State, TaskState, UpdateConfig_UpdateOrder, type Network, type Node, type Service, type Task,
} from '../../src/model/proto/swarmkit_pb.js';
import type { Command, Row } from '../../src/model/proto/skein_pb.js';
import { hostPorts, ingressPorts, isGlobal, isRunnable, isTerminal, stateOf } from '../../src/model/task.js';
import { limitMs, paceOf } from '../../src/core/dispatcher/liveness.js';
import { Violation } from './checker.js';
import { PERIOD_MS, type SimManager } from './manager.js';
import type { SwarmWorld } from './swarm.js';

const RELEASE_MS = 10_000;
const DRAIN_MS = 5_000;
const PREDECESSOR_MS = 60_000;
/** SwarmKit's rule: three heartbeats. */
const SLOW_MS = 3 * PERIOD_MS;
/** From the decision until it is in the store, with what is looked at late. */
const TOLD_MS = 700;

/** Things that must happen somewhere for a run to mean something. */
export const SWARM_MARKS = [
  'task placed', 'address reused', 'drain acknowledged', 'drain timed out', 'node down', 'node back', 'service removed', 'network removed',
  'task restarted', 'update completed', 'start-first overlap', 'task replaced from a lost node', 'node removed', 'node joined', 'host port used again',
  'secret used', 'node lost', 'lost node had been alive', 'observer stood still', 'agent gone, its data plane answers', 'death told',
] as const;
export type SwarmMark = (typeof SWARM_MARKS)[number];

interface Holder {
  readonly task: string;
  /** Of its end, where known. */
  endedMs: number | undefined;
  endedAt: bigint;
}

export class SwarmChecker {
  readonly marks = new Map<SwarmMark, number>();
  private readonly world: SwarmWorld;
  private checked = 0n;
  /** `vni address`: the task that had it last. */
  private readonly holders = new Map<string, Holder>();
  /** Index at which a node became one that is waited for. */
  private readonly since = new Map<string, bigint>();
  private readonly startFirst = new Set<string>();
  /** When each drain took effect. */
  private readonly drains = new Map<string, number>();
  /** When it was told that the task runs, and when the task was last heard of. */
  private readonly ran = new Map<string, number>();
  private readonly changed = new Map<string, number>();
  private stageTerm = 0n;
  /** All is well, so a node that is DOWN is one that died. */
  calmSinceMs = Infinity;
  /** Who did last, when, and how long its leader may take to say so. */
  private death: { readonly nodeId: string; readonly atMs: number; readonly withinMs: number; toldMs?: number } | undefined;

  constructor(world: SwarmWorld) {
    this.world = world;
  }

  mark(mark: SwarmMark): void {
    this.marks.set(mark, (this.marks.get(mark) ?? 0) + 1);
  }

  private hold(condition: boolean, message: () => string): void {
    if (!condition) throw new Violation(message());
  }

  took(term: bigint): void {
    if (term > this.stageTerm) this.stageTerm = term;
  }

  /** A process begins. */
  started(nodeId: string, task: Task): void {
    this.hostPorts(nodeId, task);
    for (const worker of this.world.workers.values()) {
      if (worker.id === nodeId) continue;
      for (const runner of worker.runners.all.values()) {
        this.hold(!runner.running || runner.task.id !== task.id, () => `task ${task.id} runs on ${nodeId} and ${worker.id}`);
        if (!runner.running || !this.counts(worker.id)) continue;
        for (const address of addressesOf(runner.task)) {
          this.hold(!addressesOf(task).includes(address), () => `processes of ${task.id} on ${nodeId} and ${runner.task.id} on ${worker.id} have ${address}`);
        }
      }
    }
  }

  /**
   * On one machine a host-mode port is one process's. A task that was given up for lost, and is on its way down since its node
   * is back, has none any more: the agent gives the port to those that are not stopping.
   */
  private hostPorts(nodeId: string, task: Task): void {
    const ports = hostPorts(task.endpoint?.ports).filter(({ publishedPort }) => publishedPort > 0).map(portKey);
    if (ports.length === 0) return;
    for (const { running, stopping, task: other } of this.world.workers.get(nodeId)?.runners.all.values() ?? []) {
      if (other.id === task.id) continue;
      const shared = hostPorts(other.endpoint?.ports).map(portKey).find((port) => ports.includes(port));
      if (shared === undefined) continue;
      this.hold(!running || (stopping && this.isLost(other.id)), () => `tasks ${task.id} and ${other.id} both have port ${shared} of ${nodeId}`);
      this.mark('host port used again');
    }
  }

  private isLost(taskId: string): boolean {
    const known = this.world.newest().get('task', taskId);
    return known === undefined || stateOf(known) === TaskState.ORPHANED;
  }

  /** What a node was given is what its tasks name, no more; and a task that begins has all it names, unless that was removed. */
  assigned(nodeId: string, set: AssignmentSet): void {
    const named = new Set([...set.tasks.values()].flatMap((task) => [...payloadsOf(task)]));
    for (const id of [...set.secrets.keys(), ...set.configs.keys()]) {
      this.hold(named.has(id), () => `${nodeId} holds ${id}, which no task of it names`);
    }
  }

  begun(nodeId: string, task: Task, set: AssignmentSet): void {
    for (const id of payloadsOf(task)) {
      this.mark('secret used');
      const view = this.world.newest();
      const gone = view.get('secret', id) === undefined && view.get('config', id) === undefined;
      this.hold(gone || set.secrets.has(id) || set.configs.has(id), () => `task ${task.id} begins on ${nodeId} without ${id}`);
    }
  }

  private counts(nodeId: string): boolean {
    return this.world.newest().get('node', nodeId) !== undefined;
  }

  applied(view: ReadTx, entry: Entry, command: Command, events: readonly StoreEvent[]): void {
    if (entry.index <= this.checked) return;
    this.checked = entry.index;
    const [kind, term, decidedAt] = command.id.split(' ');
    if (kind === 'stage') {
      this.hold(BigInt(term as string) === entry.term, () => `a decision of the leader of term ${term} took effect in term ${entry.term}`);
    }
    const decided = kind === 'stage' ? BigInt(decidedAt as string) : entry.index;
    const nowMs = this.world.nowMs();
    const places = new Set<string>();
    for (const event of events) {
      if (event.kind === 'task') {
        this.changed.set(event.object.id, nowMs);
        this.task(view, event.object, event.action === 'remove', event.old, decided, nowMs, kind === 'stage');
        places.add(event.object.serviceId);
      } else if (event.kind === 'node') this.node(event.object, event.old, entry.index);
      else if (event.kind === 'network') this.network(view, event.object, event.action === 'remove');
      else if (event.kind === 'service') this.service(view, event.object, event.action === 'remove', event.old);
    }
    for (const serviceId of places) this.places(view, serviceId);
  }

  // Nodes that are dead, and that are not -----------------------------------------------------------------------------------

  /** Told by the leader: those with a reason by their silence, the others by SwarmKit's slow rule. */
  expired({ liveness }: SimManager, expired: readonly string[], reasons: ReadonlyMap<string, string>): void {
    for (const nodeId of expired) {
      if (reasons.has(nodeId)) this.mark('node lost');
      else if (liveness.lifeOf(nodeId) !== undefined && this.world.workers.get(nodeId)?.planeAnswered(this.world.clock.nowMs) === true) {
        this.mark('agent gone, its data plane answers');
      }
    }
  }

  /** While all is well: a silence that the leader can explain by what was before may be longer than others. */
  died(nodeId: string): void {
    const { clock, managers } = this.world;
    const life = [...managers.values()].find(({ leads }) => leads)?.liveness.lifeOf(nodeId);
    const { floorMs } = paceOf(PERIOD_MS, this.world.workers.size);
    const withinMs = Math.min(life === undefined ? Infinity : limitMs(life, floorMs), SLOW_MS) + TOLD_MS;
    this.death = { nodeId, atMs: clock.nowMs, withinMs };
  }

  deathTold(nodeId: string): void {
    const { death } = this;
    // Removed meanwhile, by somebody who had asked for it long before.
    if (!this.counts(nodeId)) return;
    this.hold(death?.nodeId === nodeId && death.toldMs !== undefined && death.toldMs - death.atMs <= death.withinMs,
      () => `${nodeId} died, which was told after ${(death?.toldMs ?? Infinity) - (death?.atMs ?? 0)} ms, not ${death?.withinMs}`);
    this.mark('death told');
  }

  private down({ id: nodeId, status }: Node): void {
    this.mark('node down');
    const { workers, clock } = this.world;
    this.hold(clock.nowMs < this.calmSinceMs || workers.get(nodeId)?.planeAnswered(clock.nowMs) !== true,
      () => `${nodeId} is DOWN though all is well: ${status?.message}`);
    if (this.death?.nodeId === nodeId) this.death.toldMs ??= clock.nowMs;
  }

  // Tasks ---------------------------------------------------------------------------------------------------------------

  private task(view: ReadTx, task: Task, removed: boolean, old: Task | undefined, decided: bigint, nowMs: number, staged: boolean): void {
    if (removed) {
      this.end(task, nowMs, view.index);
      return;
    }
    if (old === undefined) return;
    this.hold(stateOf(task) >= stateOf(old), () => `task ${task.id} goes from ${TaskState[stateOf(old)]} back to ${TaskState[stateOf(task)]}`);
    this.hold(task.desiredState >= old.desiredState, () => `task ${task.id} is wanted less final than before`);
    this.hold(old.nodeId === '' || task.nodeId === old.nodeId, () => `task ${task.id} moves from ${old.nodeId} to ${task.nodeId}`);
    if (stateOf(task) === TaskState.RUNNING && stateOf(old) < TaskState.RUNNING) this.ran.set(task.id, nowMs);
    if (task.drainState !== undefined && old.drainState === undefined) this.drains.set(task.id, nowMs);
    if (old.nodeId === '' && task.nodeId !== '') this.mark('task placed');
    if (addressesOf(old).length === 0) for (const address of addressesOf(task)) this.given(view, address, task, decided, nowMs);
    if (isTerminal(task) && !isTerminal(old)) this.end(task, nowMs, view.index);
    if (old.desiredState <= TaskState.RUNNING && task.desiredState > TaskState.RUNNING) this.stopped(view, task, old, decided, nowMs);
    if (old.desiredState === TaskState.READY && task.desiredState === TaskState.RUNNING && staged) this.begins(view, task, decided, nowMs);
  }

  private end(task: Task, nowMs: number, index: bigint): void {
    for (const address of addressesOf(task)) {
      const holder = this.holders.get(address);
      if (holder?.task === task.id && holder.endedMs === undefined) Object.assign(holder, { endedMs: nowMs, endedAt: index });
    }
  }

  private given(view: ReadTx, address: string, task: Task, decided: bigint, nowMs: number): void {
    const before = this.holders.get(address);
    this.holders.set(address, { task: task.id, endedMs: undefined, endedAt: 0n });
    const [, plain] = address.split(' ') as [string, string];
    for (const service of view.list('service')) {
      for (const vip of service.endpoint?.virtualIps ?? []) {
        const vni = vniOf(view.get('network', vip.networkId) as Network);
        this.hold(`${vni} ${addressOf(vip.addr)}` !== address, () => `task ${task.id} is given ${address}, the virtual address of ${service.id}`);
      }
    }
    for (const node of view.list('node')) {
      for (const { network, addresses } of node.attachments) {
        if (network === undefined || vniOf(network) === undefined) continue;
        this.hold(!addresses.some((one) => `${vniOf(network)} ${addressOf(one)}` === address), () => `task ${task.id} is given ${plain} of node ${node.id}`);
      }
    }
    if (before === undefined) return;
    this.mark('address reused');
    this.hold(before.endedMs !== undefined, () => `task ${task.id} is given ${address}, which task ${before.task} has`);
    if (nowMs - (before.endedMs ?? 0) >= RELEASE_MS) return;
    this.waited(view, decided, false, (rows) => {
      for (const row of rows.values()) {
        const { case: what, value } = row.row;
        if (what === 'endpoint' && `${value.vni} ${value.address}` === address && value.taskId === before.task) return row;
        if (what === 'service' && value.backends.some((one) => one.taskId === before.task)) return row;
      }
      return undefined;
    }, (nodeId, row) => `task ${task.id} is given ${address}, but ${nodeId} still sends to task ${before.task} there (${row.key})`);
  }

  /**
   * No node that counts has such a row. A node that came back since the decision could not be known. One that was down is not
   * waited for, so what was freed meanwhile may be taken while it still has the tables of then: until its first update.
   */
  private waited(
    view: ReadTx, decided: bigint, staleToo: boolean, find: (rows: ReadonlyMap<string, Row>) => Row | undefined,
    message: (nodeId: string, row: Row) => string,
  ): void {
    for (const worker of this.world.workers.values()) {
      const node = view.get('node', worker.id);
      const since = this.since.get(worker.id) ?? 0n;
      if (node === undefined || !isWaitedFor(node) || since > decided || (!staleToo && worker.revision < since)) continue;
      const row = find(worker.rows);
      if (row !== undefined) throw new Violation(message(worker.id, row));
    }
  }

  private stopped(view: ReadTx, task: Task, old: Task, decided: bigint, nowMs: number): void {
    const node = view.get('node', task.nodeId);
    if (node === undefined || node.status?.state === NodeStatus_State.DOWN || stateOf(old) !== TaskState.RUNNING) return;
    // It was down when this was decided.
    if ((this.since.get(node.id) ?? 0n) > decided) return;
    const serving = task.networks.some(({ network }) => network?.spec?.ingress !== true) || ingressPorts(task.endpoint?.ports).length > 0;
    if (!serving || task.networks.length === 0) return;
    // Decided before it ran: nobody sent to it then.
    if ((this.ran.get(task.id) ?? 0) > nowMs - DRAIN_MS && old.drainState === undefined) return;
    this.hold(task.drainState !== undefined, () => `task ${task.id} is stopped without a drain`);
    if (task.drainState?.timedOut === true) {
      this.mark('drain timed out');
      const begunMs = this.drains.get(task.id) ?? nowMs;
      this.hold(nowMs - begunMs >= DRAIN_MS, () => `the drain of task ${task.id} was given up after ${nowMs - begunMs} ms`);
      return;
    }
    this.mark('drain acknowledged');
    this.waited(view, decided, true, (rows) => {
      for (const row of rows.values()) {
        const { case: what, value } = row.row;
        if (what !== 'service' && what !== 'port') continue;
        if (value.backends.some((one) => one.taskId === task.id && !one.draining)) return row;
      }
      return undefined;
    }, (nodeId, row) => `task ${task.id} is stopped, but ${nodeId} still sends it new flows (${row.key})`);
  }

  /** A replacement starts when the one before it has stopped. */
  private begins(view: ReadTx, task: Task, decided: bigint, nowMs: number): void {
    this.mark('task restarted');
    for (const other of view.tasksOfService(task.serviceId)) {
      if (other.id === task.id || other.slot !== task.slot || (task.slot === 0n && other.nodeId !== task.nodeId)) continue;
      if (isRunnable(other) || stateOf(other) < TaskState.ASSIGNED || isTerminal(other)) continue;
      if (nowMs - (this.changed.get(other.id) ?? 0) >= PREDECESSOR_MS) continue;
      const node = view.get('node', other.nodeId);
      if (node === undefined || node.status?.state === NodeStatus_State.DOWN || (this.since.get(node.id) ?? 0n) > decided) {
        this.mark('task replaced from a lost node');
        continue;
      }
      throw new Violation(`task ${task.id} is started while ${other.id} of the same slot still runs on ${other.nodeId}`);
    }
  }

  /** No two tasks for one place beyond what start-first allows. */
  private places(view: ReadTx, serviceId: string): void {
    const service = view.get('service', serviceId);
    if (service === undefined) return;
    const byPlace = new Map<string, Task[]>();
    for (const task of view.tasksOfService(serviceId)) {
      if (!isRunnable(task) || isTerminal(task)) continue;
      const key = isGlobal(service) ? task.nodeId : task.slot.toString();
      byPlace.set(key, [...byPlace.get(key) ?? [], task]);
    }
    for (const [place, tasks] of byPlace) {
      if (tasks.length < 2) continue;
      const versions = new Set(tasks.map(({ specVersion }) => specVersion?.index ?? 0n));
      this.hold(versions.size === tasks.length && this.startFirst.has(serviceId),
        () => `service ${serviceId} has ${tasks.map(({ id }) => id).join(' and ')} in place ${place}`);
      this.mark('start-first overlap');
    }
  }

  // Other objects -------------------------------------------------------------------------------------------------------

  private node(node: Node, old: Node | undefined, index: bigint): void {
    if (isWaitedFor(node) && (old === undefined || !isWaitedFor(old))) this.since.set(node.id, index);
    // A new one begins as DOWN.
    if (node.status?.state === NodeStatus_State.DOWN && old !== undefined && old.status?.state !== NodeStatus_State.DOWN) this.down(node);
    if (node.status?.state === NodeStatus_State.READY && old?.status?.state === NodeStatus_State.DOWN) this.mark('node back');
  }

  private network(view: ReadTx, network: Network, removed: boolean): void {
    if (removed) this.mark('network removed');
    const vni = vniOf(network);
    if (removed || vni === undefined) return;
    for (const other of view.list('network')) {
      this.hold(other.id === network.id || vniOf(other) !== vni, () => `networks ${network.id} and ${other.id} have VXLAN id ${vni}`);
    }
    for (const task of view.list('task')) {
      if (isTerminal(task)) continue;
      for (const { network: used } of task.networks) {
        this.hold(used === undefined || used.id === network.id || vniOf(used) !== vni,
          () => `network ${network.id} is given VXLAN id ${vni}, which task ${task.id} has from network ${used?.id}`);
      }
    }
  }

  private service(view: ReadTx, service: Service, removed: boolean, old: Service | undefined): void {
    if (removed) {
      this.mark('service removed');
      return;
    }
    if (service.spec?.update?.order === UpdateConfig_UpdateOrder.START_FIRST || service.spec?.rollback?.order === UpdateConfig_UpdateOrder.START_FIRST) {
      this.startFirst.add(service.id);
    }
    if (service.updateStatus?.completedAt !== undefined && old?.updateStatus?.completedAt === undefined) this.mark('update completed');
    const ports = ingressPorts(service.endpoint?.ports).map(portKey);
    const vips = (service.endpoint?.virtualIps ?? []).map((vip) => `${vip.networkId} ${vip.addr}`);
    for (const other of view.list('service')) {
      if (other.id === service.id) continue;
      for (const port of ingressPorts(other.endpoint?.ports)) {
        this.hold(!ports.includes(portKey(port)), () => `services ${service.id} and ${other.id} publish ${portKey(port)}`);
      }
      for (const vip of other.endpoint?.virtualIps ?? []) {
        this.hold(!vips.includes(`${vip.networkId} ${vip.addr}`), () => `services ${service.id} and ${other.id} have ${vip.addr}`);
      }
    }
  }
}

/** Ids of the secrets and configs that a task names. */
function* payloadsOf(task: Task): Generator<string> {
  const runtime = task.spec?.runtime;
  if (runtime?.case !== 'container') return;
  for (const { secretId } of runtime.value.secrets) yield secretId;
  for (const { configId } of runtime.value.configs) yield configId;
}

function isWaitedFor(node: Node): boolean {
  return node.status?.state === NodeStatus_State.READY || node.status?.state === NodeStatus_State.UNKNOWN;
}

function portKey(port: { readonly protocol: number; readonly publishedPort: number }): string {
  return `${port.protocol}/${port.publishedPort}`;
}

/** As the data planes see them: "vni address". */
export function addressesOf(task: Task): string[] {
  return task.networks.flatMap(({ network, addresses }) => {
    const vni = network === undefined ? undefined : vniOf(network);
    return vni === undefined ? [] : addresses.map((cidr) => `${vni} ${addressOf(cidr)}`);
  });
}
