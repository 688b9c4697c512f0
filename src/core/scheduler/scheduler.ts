// Scheduler: PENDING tasks get a node or a reason. Filters and order are SwarmKit's: nodes on which this version of
// the service keeps failing come last, then fewest tasks of the service, then fewest tasks at all.

import { copyOf } from '../../model/message.js';
import { timestampFromMs, timestampMs } from '../../lib/time.js';
import { compareText, pairValue } from '../../model/pairs.js';
import { TaskState, type Node, type StoreAction, type Task } from '../../model/proto/swarmkit_pb.js';
import { stateOf } from '../../model/task.js';
import { updateAction } from '../store/actions.js';
import type { Acknowledgements } from '../store/soft.js';
import type { ReadTx } from '../store/view.js';
import { Candidate, ServiceCounts } from './candidate.js';
import { FILTERS, type Filter } from './filters.js';

export interface SchedulerInput {
  readonly view: ReadTx;
  readonly soft: Acknowledgements;
  readonly nowMs: number;
}

const ASSIGNMENTS_MAX = 2000;
const FAILURES = 5;
const FAILURE_WINDOW_MS = 5 * 60_000;

export function schedule(input: SchedulerInput): readonly StoreAction[] {
  const { view } = input;
  const counts = new ServiceCounts(view);
  let candidates: readonly Candidate[] | undefined;
  let byNode: ReadonlyMap<string, Candidate> | undefined;
  const alike = new Map<string, Ranking>();
  const actions: StoreAction[] = [];
  for (const task of view.pendingTasks()) {
    if (actions.length >= ASSIGNMENTS_MAX) break;
    let best: Candidate | undefined;
    let reason: string;
    candidates ??= view.list('node').map((node) => new Candidate(node, view.tasksOfNode(node.id), counts));
    if (task.nodeId === '' && ranked(task)) {
      const key = `${task.serviceId} ${task.specVersion?.index}`;
      let ranking = alike.get(key);
      if (ranking === undefined) alike.set(key, ranking = new Ranking(input, task, candidates, counts.of(task.serviceId)));
      best = ranking.best();
      reason = best === undefined ? ranking.reason() : '';
    } else {
      byNode ??= new Map(candidates.map((candidate) => [candidate.node.id, candidate]));
      const own = byNode.get(task.nodeId);
      const pool = task.nodeId === '' ? candidates : own === undefined ? [] : [own];
      const fits = filter(task, pool, input.soft);
      best = pick(input, task, fits.fit);
      ({ reason } = fits);
    }
    if (best === undefined) {
      if (task.status?.err !== reason) actions.push(updateAction('task', withReason(input, task, reason)));
      continue;
    }
    best.assign(task);
    actions.push(updateAction('task', assign(input, task, best.node)));
  }
  return actions;
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
  private readonly counts: ReadonlyMap<string, number>;
  private readonly failing: ReadonlySet<string>;
  private readonly heap: Ranked[];
  private refused: { readonly assigned: number; readonly reason: string } | undefined;

  constructor(input: SchedulerInput, task: Task, candidates: readonly Candidate[], counts: ReadonlyMap<string, number>) {
    this.input = input;
    this.task = task;
    this.counts = counts;
    this.candidates = candidates;
    this.enabled = FILTERS.filter((f) => f.enabled(task));
    this.failing = failingNodes(input, task);
    this.heap = [];
    for (const [order, candidate] of candidates.entries()) if (this.fits(candidate)) this.heap.push(this.rank(candidate, order));
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
    if (this.refused?.assigned !== assigned) {
      const { reason } = filter(this.task, this.candidates, this.input.soft);
      this.refused = { assigned, reason };
    }
    return this.refused.reason;
  }

  private fits(candidate: Candidate): boolean {
    for (const f of this.enabled) if (!f.check(this.task, candidate, this.input.soft)) return false;
    return true;
  }

  private rank(candidate: Candidate, order: number): Ranked {
    const { id } = candidate.node;
    return {
      candidate, order, assigned: candidate.assigned, failing: this.failing.size > 0 && this.failing.has(id),
      service: this.counts.size === 0 ? 0 : this.counts.get(id) ?? 0, tasks: candidate.tasks,
    };
  }

  private sink(from: number): void {
    const { heap } = this;
    const moved = heap[from] as Ranked;
    let at = from;
    for (let child = 2 * at + 1; child < heap.length; child = 2 * at + 1) {
      const right = heap[child + 1];
      if (right !== undefined && goesBefore(right, heap[child] as Ranked)) child += 1;
      const less = heap[child] as Ranked;
      if (!goesBefore(less, moved)) break;
      heap[at] = less;
      at = child;
    }
    heap[at] = moved;
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

/** Nodes that pass all filters, and why the others do not, in the words `docker service ps` shows. */
function filter(task: Task, pool: readonly Candidate[], soft: Acknowledgements): { fit: Candidate[]; reason: string } {
  const refusals = new Map<Filter, number>();
  const enabled = FILTERS.filter((f) => f.enabled(task));
  const fit = pool.filter((candidate) => {
    const refusing = enabled.find((f) => !f.check(task, candidate, soft));
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
  const service = a.tasksOf(task.serviceId) - b.tasksOf(task.serviceId);
  if (service !== 0) return service < 0;
  return a.tasks - b.tasks < 0;
}

/** The nodes of the label value that has the fewest tasks of the service. */
function spread(task: Task, pool: readonly Candidate[], descriptor: string): readonly Candidate[] {
  const groups = new Map<string, { tasks: number; members: Candidate[] }>();
  for (const candidate of pool) {
    const value = labelValue(candidate.node, descriptor);
    const group = groups.get(value) ?? { tasks: 0, members: [] };
    group.tasks += candidate.tasksOf(task.serviceId);
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
