// Scheduler: PENDING tasks get a node or a reason. Filters and order are SwarmKit's: nodes on which this version of
// the service keeps failing come last, then fewest tasks of the service, then fewest tasks at all.

import { copyOf } from '../../model/message.js';
import { timestampFromMs, timestampMs } from '../../lib/time.js';
import { meetsConstraints } from '../../model/constraint.js';
import { isSkeinNode, vtepOf } from '../../model/network.js';
import { compareText, pairValue } from '../../model/pairs.js';
import {
  NodeSpec_Availability, NodeStatus_State, TaskState, type Node, type PortConfig, type Resources, type StoreAction, type Task,
} from '../../model/proto/swarmkit_pb.js';
import { desiredOf, hostPorts, isTerminal, stateOf } from '../../model/task.js';
import { updateAction } from '../store/actions.js';
import { nodeHasImage } from '../store/images.js';
import type { Acknowledgements } from '../store/soft.js';
import type { ReadTx } from '../store/view.js';

export interface SchedulerInput {
  readonly view: ReadTx;
  readonly soft: Acknowledgements;
  readonly nowMs: number;
}

const ASSIGNMENTS_MAX = 2000;
const FAILURES = 5;
const FAILURE_WINDOW_MS = 5 * 60_000;

interface Candidate {
  readonly node: Node;
  /** In this pass. */
  assigned: number;
  tasks: number;
  freeCpus: bigint;
  freeMemory: bigint;
  /** Units of each kind, named and counted ones alike: a service asks for a number. */
  readonly freeGeneric: Map<string, bigint>;
  readonly perService: Map<string, number>;
  readonly ports: Set<string>;
}

interface Filter {
  /** The reason as SwarmKit words it; "n nodes" is counted in. */
  readonly explain: (nodes: number) => string;
  readonly enabled: (task: Task) => boolean;
  readonly check: (task: Task, candidate: Candidate, input: SchedulerInput) => boolean;
}

function plural(nodes: number): string {
  return nodes === 1 ? '1 node' : `${nodes} nodes`;
}

const FILTERS: readonly Filter[] = [
  {
    explain: (n) => `${plural(n)} not available for new tasks`,
    enabled: () => true,
    check: (_task, { node }) => node.status?.state === NodeStatus_State.READY
      && (node.spec?.availability ?? NodeSpec_Availability.ACTIVE) === NodeSpec_Availability.ACTIVE,
  },
  {
    explain: (n) => `insufficient resources on ${plural(n)}`,
    enabled: (task) => task.spec?.resources?.reservations !== undefined,
    check: (task, candidate) => {
      const wanted = task.spec?.resources?.reservations;
      return (wanted?.nanoCpus ?? 0n) <= candidate.freeCpus && (wanted?.memoryBytes ?? 0n) <= candidate.freeMemory
        && [...unitsOf(wanted)].every(([kind, units]) => units <= (candidate.freeGeneric.get(kind) ?? 0n));
    },
  },
  {
    explain: (n) => `scheduling constraints not satisfied on ${plural(n)}`,
    enabled: (task) => (task.spec?.placement?.constraints.length ?? 0) > 0,
    check: (task, { node }) => meetsConstraints(task.spec?.placement?.constraints ?? [], node),
  },
  {
    explain: (n) => `unsupported platform on ${plural(n)}`,
    enabled: (task) => (task.spec?.placement?.platforms.length ?? 0) > 0,
    check: (task, { node }) => (task.spec?.placement?.platforms ?? []).some((platform) =>
      (platform.os === '' || platform.os === node.description?.platform?.os)
      && (platform.architecture === '' || sameArchitecture(platform.architecture, node.description?.platform?.architecture ?? ''))),
  },
  {
    explain: (n) => `host-mode port already in use on ${plural(n)}`,
    enabled: (task) => hostPorts(task.endpoint?.ports).some((port) => port.publishedPort > 0),
    check: (task, candidate) => hostPorts(task.endpoint?.ports)
      .every((port) => port.publishedPort === 0 || !candidate.ports.has(portKey(port))),
  },
  {
    explain: () => 'max replicas per node limit exceed',
    enabled: (task) => (task.spec?.placement?.maxReplicas ?? 0n) > 0n,
    check: (task, candidate) => BigInt(candidate.perService.get(task.serviceId) ?? 0) < (task.spec?.placement?.maxReplicas ?? 0n),
  },
  {
    // Not SwarmKit's: a node without a registry to pull from cannot run what it does not have.
    explain: (n) => `image not available on ${plural(n)}`,
    enabled: (task) => task.spec?.runtime.case === 'container',
    check: (task, { node }) => task.spec?.runtime.case !== 'container' || nodeHasImage(node, task.spec.runtime.value.image),
  },
  {
    // Not SwarmKit's: a stock engine learns of networks by gossip, which ours do not speak. A published port is open on every
    // node, or on the task's own with the client's address: neither is what such an engine would do.
    explain: (n) => `no Skein networks or published ports on ${n === 1 ? '1 stock engine' : `${n} stock engines`}`,
    enabled: (task) => task.networks.length > 0 || (task.endpoint?.ports.length ?? 0) > 0,
    check: (_task, { node }) => isSkeinNode(node),
  },
  {
    // Not SwarmKit's: a node that holds no rows yet could not reach the task's networks.
    explain: (n) => `no Skein network on ${plural(n)}`,
    enabled: (task) => task.networks.length > 0,
    check: (_task, { node }, { soft }) => soft.acked.has(node.id),
  },
  {
    // Not SwarmKit's: nothing could be sent to the task there; the node's status says why.
    explain: (n) => `no data-path address on ${plural(n)}`,
    enabled: (task) => task.networks.length > 0,
    check: (_task, { node }) => vtepOf(node) !== '',
  },
];

function sameArchitecture(a: string, b: string): boolean {
  const names: Record<string, string> = { x86_64: 'amd64', aarch64: 'arm64' };
  return (names[a] ?? a) === (names[b] ?? b);
}

function portKey(port: PortConfig): string {
  return `${port.protocol}/${port.publishedPort}`;
}

export function schedule(input: SchedulerInput): readonly StoreAction[] {
  const pending = input.view.list('task').filter((task) => stateOf(task) === TaskState.PENDING && desiredOf(task) <= TaskState.RUNNING);
  if (pending.length === 0) return [];
  const candidates = input.view.list('node').map((node) => candidateOf(input, node));
  const byNode = new Map(candidates.map((candidate) => [candidate.node.id, candidate]));
  const alike = new Map<string, Ranking>();
  const actions: StoreAction[] = [];
  for (const task of oldestFirst(pending)) {
    if (actions.length >= ASSIGNMENTS_MAX) break;
    let best: Candidate | undefined;
    let reason: string;
    if (task.nodeId === '' && ranked(task)) {
      const key = `${task.serviceId} ${task.specVersion?.index}`;
      let ranking = alike.get(key);
      if (ranking === undefined) alike.set(key, ranking = new Ranking(input, task, candidates));
      best = ranking.best();
      reason = best === undefined ? ranking.reason() : '';
    } else {
      const own = byNode.get(task.nodeId);
      const pool = task.nodeId === '' ? candidates : own === undefined ? [] : [own];
      const fits = filter(task, pool, input);
      best = pick(input, task, fits.fit);
      ({ reason } = fits);
    }
    if (best === undefined) {
      if (task.status?.err !== reason) actions.push(updateAction('task', withReason(input, task, reason)));
      continue;
    }
    account(best, task, 1);
    best.assigned += 1;
    actions.push(updateAction('task', assign(input, task, best.node)));
  }
  return actions;
}

function oldestFirst(tasks: readonly Task[]): readonly Task[] {
  return tasks.map((task) => ({ task, at: timestampMs(task.meta?.createdAt) }))
    .sort((a, b) => a.at - b.at || compareText(a.task.id, b.task.id)).map(({ task }) => task);
}

/** Tasks of one service and version are alike: what fits one fits all. Where groups of nodes are counted, they change too much. */
function ranked(task: Task): boolean {
  return task.serviceId !== '' && task.specVersion !== undefined && (task.spec?.placement?.preferences.length ?? 0) === 0;
}

/**
 * The nodes for tasks that are alike, the best first, in a heap. Within a pass nodes only fill up: one that was given a task
 * since it was looked at is looked at again when it comes up, and goes down or out.
 */
class Ranking {
  private readonly input: SchedulerInput;
  private readonly task: Task;
  private readonly candidates: readonly Candidate[];
  private readonly enabled: readonly Filter[];
  private readonly failing: ReadonlySet<string>;
  private readonly heap: Ranked[];
  private refused: { readonly assigned: number; readonly reason: string } | undefined;

  constructor(input: SchedulerInput, task: Task, candidates: readonly Candidate[]) {
    this.input = input;
    this.task = task;
    this.candidates = candidates;
    this.enabled = FILTERS.filter((f) => f.enabled(task));
    this.failing = failingNodes(input, task);
    this.heap = candidates.flatMap((candidate, order) => this.fits(candidate) ? [this.rank(candidate, order)] : []);
    for (let at = (this.heap.length >> 1) - 1; at >= 0; at--) this.sink(at);
  }

  best(): Candidate | undefined {
    for (let top = this.heap[0]; top !== undefined; top = this.heap[0]) {
      const { candidate, order, assigned } = top;
      if (candidate.assigned === assigned) return candidate;
      if (this.fits(candidate)) {
        this.heap[0] = this.rank(candidate, order);
      } else {
        const last = this.heap.pop() as Ranked;
        if (this.heap.length === 0) break;
        this.heap[0] = last;
      }
      this.sink(0);
    }
    return undefined;
  }

  /** Counted anew only after something was assigned. */
  reason(): string {
    const assigned = this.candidates.reduce((sum, candidate) => sum + candidate.assigned, 0);
    if (this.refused?.assigned !== assigned) this.refused = { assigned, reason: filter(this.task, this.candidates, this.input).reason };
    return this.refused.reason;
  }

  private fits(candidate: Candidate): boolean {
    return this.enabled.every((f) => f.check(this.task, candidate, this.input));
  }

  private rank(candidate: Candidate, order: number): Ranked {
    return {
      candidate, order, assigned: candidate.assigned, failing: this.failing.has(candidate.node.id),
      service: candidate.perService.get(this.task.serviceId) ?? 0, tasks: candidate.tasks,
    };
  }

  private sink(from: number): void {
    const { heap } = this;
    for (let at = from; ;) {
      let least = at;
      for (const child of [2 * at + 1, 2 * at + 2]) {
        if (child < heap.length && goesBefore(heap[child] as Ranked, heap[least] as Ranked)) least = child;
      }
      if (least === at) return;
      [heap[at], heap[least]] = [heap[least] as Ranked, heap[at] as Ranked];
      at = least;
    }
  }
}

/** As it was when it was put there. */
interface Ranked {
  readonly candidate: Candidate;
  readonly order: number;
  readonly assigned: number;
  readonly failing: boolean;
  readonly service: number;
  readonly tasks: number;
}

/** The order of before(); among equals the node's. */
function goesBefore(a: Ranked, b: Ranked): boolean {
  if (a.failing !== b.failing) return b.failing;
  if (a.service !== b.service) return a.service < b.service;
  return a.tasks !== b.tasks ? a.tasks < b.tasks : a.order < b.order;
}

function candidateOf(input: SchedulerInput, node: Node): Candidate {
  const resources = node.description?.resources;
  const candidate: Candidate = {
    node, assigned: 0, tasks: 0, freeCpus: resources?.nanoCpus ?? 0n, freeMemory: resources?.memoryBytes ?? 0n,
    freeGeneric: unitsOf(resources),
    perService: new Map(), ports: new Set(),
  };
  for (const task of input.view.tasksOfNode(node.id)) {
    if (!isTerminal(task) && stateOf(task) >= TaskState.ASSIGNED) account(candidate, task, 1);
  }
  return candidate;
}

function unitsOf(resources: Resources | undefined): Map<string, bigint> {
  const units = new Map<string, bigint>();
  for (const { resource } of resources?.generic ?? []) {
    if (resource.case === undefined) continue;
    const more = resource.case === 'discreteResourceSpec' ? resource.value.value : 1n;
    units.set(resource.value.kind, (units.get(resource.value.kind) ?? 0n) + more);
  }
  return units;
}

function account(candidate: Candidate, task: Task, sign: 1 | -1): void {
  candidate.freeCpus -= BigInt(sign) * (task.spec?.resources?.reservations?.nanoCpus ?? 0n);
  candidate.freeMemory -= BigInt(sign) * (task.spec?.resources?.reservations?.memoryBytes ?? 0n);
  for (const [kind, units] of unitsOf(task.spec?.resources?.reservations)) {
    candidate.freeGeneric.set(kind, (candidate.freeGeneric.get(kind) ?? 0n) - BigInt(sign) * units);
  }
  for (const port of hostPorts(task.endpoint?.ports)) candidate.ports.add(portKey(port));
  if (desiredOf(task) > TaskState.RUNNING) return;
  candidate.tasks += sign;
  candidate.perService.set(task.serviceId, (candidate.perService.get(task.serviceId) ?? 0) + sign);
}

/** Nodes that pass all filters, and why the others do not, in the words `docker service ps` shows. */
function filter(task: Task, pool: readonly Candidate[], input: SchedulerInput): { fit: Candidate[]; reason: string } {
  const refusals = new Map<Filter, number>();
  const enabled = FILTERS.filter((f) => f.enabled(task));
  const fit = pool.filter((candidate) => {
    const refusing = enabled.find((f) => !f.check(task, candidate, input));
    if (refusing === undefined) return true;
    refusals.set(refusing, (refusals.get(refusing) ?? 0) + 1);
    return false;
  });
  const reasons = FILTERS.filter((f) => refusals.has(f)).map((f) => f.explain(refusals.get(f) as number));
  return { fit, reason: reasons.length === 0 ? 'no suitable node' : `no suitable node (${reasons.join('; ')})` };
}

function pick(input: SchedulerInput, task: Task, fit: readonly Candidate[]): Candidate | undefined {
  const failing = failingNodes(input, task);
  let group: readonly Candidate[] = fit;
  for (const preference of task.spec?.placement?.preferences ?? []) {
    if (preference.preference.case === 'spread') group = spread(task, group, preference.preference.value.spreadDescriptor);
  }
  let best: Candidate | undefined;
  for (const candidate of group) if (best === undefined || before(task, failing, candidate, best)) best = candidate;
  return best;
}

function before(task: Task, failing: ReadonlySet<string>, a: Candidate, b: Candidate): boolean {
  const failed = Number(failing.has(a.node.id)) - Number(failing.has(b.node.id));
  if (failed !== 0) return failed < 0;
  const service = (a.perService.get(task.serviceId) ?? 0) - (b.perService.get(task.serviceId) ?? 0);
  if (service !== 0) return service < 0;
  return a.tasks - b.tasks < 0;
}

/** The nodes of the label value that has the fewest tasks of the service. */
function spread(task: Task, pool: readonly Candidate[], descriptor: string): readonly Candidate[] {
  const groups = new Map<string, { tasks: number; members: Candidate[] }>();
  for (const candidate of pool) {
    const value = labelValue(candidate.node, descriptor);
    const group = groups.get(value) ?? { tasks: 0, members: [] };
    group.tasks += candidate.perService.get(task.serviceId) ?? 0;
    group.members.push(candidate);
    groups.set(value, group);
  }
  const names = [...groups.keys()].sort(compareText);
  let best: { tasks: number; members: Candidate[] } | undefined;
  for (const name of names) {
    const group = groups.get(name) as { tasks: number; members: Candidate[] };
    if (best === undefined || group.tasks < best.tasks) best = group;
  }
  return best?.members ?? [];
}

function labelValue(node: Node, descriptor: string): string {
  if (descriptor.startsWith('node.labels.')) {
    return pairValue(node.spec?.annotations?.labels, descriptor.slice('node.labels.'.length)) ?? '';
  }
  if (descriptor.startsWith('engine.labels.')) {
    return pairValue(node.description?.engine?.labels, descriptor.slice('engine.labels.'.length)) ?? '';
  }
  return '';
}

function failingNodes(input: SchedulerInput, task: Task): ReadonlySet<string> {
  const counts = new Map<string, number>();
  for (const other of input.view.tasksOfService(task.serviceId)) {
    const state = stateOf(other);
    if (state !== TaskState.FAILED && state !== TaskState.REJECTED) continue;
    if (other.specVersion?.index !== task.specVersion?.index) continue;
    if (timestampMs(other.status?.timestamp) < input.nowMs - FAILURE_WINDOW_MS) continue;
    counts.set(other.nodeId, (counts.get(other.nodeId) ?? 0) + 1);
  }
  return new Set([...counts].filter(([, count]) => count >= FAILURES).map(([nodeId]) => nodeId));
}

function withReason(input: SchedulerInput, task: Task, reason: string): Task {
  const next = copyOf(task);
  if (next.status !== undefined) {
    next.status.message = 'pending task scheduling';
    next.status.err = reason;
    next.status.timestamp = timestampFromMs(input.nowMs);
  }
  return next;
}

function assign(input: SchedulerInput, task: Task, node: Node): Task {
  const next = copyOf(task);
  next.nodeId = node.id;
  if (next.status !== undefined) {
    next.status.state = TaskState.ASSIGNED;
    next.status.message = 'scheduler assigned task to node';
    next.status.err = '';
    next.status.timestamp = timestampFromMs(input.nowMs);
  }
  return next;
}
