// A node as the scheduler sees it in one pass: what its tasks take, and what this pass gave it. What they take is summed up
// once for each state of the node's tasks: most nodes are the same from pass to pass. What a service has on which node is
// counted when the first of its tasks is placed.

import { hostPorts, isRunnable, isTerminal, stateOf } from '../../model/task.js';
import { TaskState, type Node, type PortConfig, type Resources, type Task } from '../../model/proto/swarmkit_pb.js';
import type { ReadTx } from '../store/view.js';

/** What tasks hold that were assigned, until they have ended. */
class Usage {
  /** Those that are meant to run. */
  tasks = 0;
  cpus = 0n;
  memory = 0n;
  /** Units of each kind, named and counted ones alike: a service asks for a number. Few tasks have any, or ports. */
  generic: Map<string, bigint> | undefined;
  ports: Set<string> | undefined;

  add(task: Task): void {
    const reserved = task.spec?.resources?.reservations;
    if (reserved !== undefined) {
      this.cpus += reserved.nanoCpus;
      this.memory += reserved.memoryBytes;
      for (const [kind, units] of unitsOf(reserved)) {
        (this.generic ??= new Map()).set(kind, (this.generic.get(kind) ?? 0n) + units);
      }
    }
    for (const port of hostPorts(task.endpoint?.ports)) (this.ports ??= new Set()).add(portKey(port));
    if (isRunnable(task)) this.tasks += 1;
  }
}

const NOTHING: Usage = new Usage();
/** A list of tasks never changes: the store makes another one. */
const known = new WeakMap<readonly Task[], Usage>();

function usageOf(tasks: readonly Task[]): Usage {
  if (tasks.length === 0) return NOTHING;
  let usage = known.get(tasks);
  if (usage === undefined) {
    usage = new Usage();
    for (const task of tasks) if (isPlaced(task)) usage.add(task);
    known.set(tasks, usage);
  }
  return usage;
}

function isPlaced(task: Task): boolean {
  return !isTerminal(task) && stateOf(task) >= TaskState.ASSIGNED;
}

/** Tasks that are meant to run, of a service, by node. */
export class ServiceCounts {
  private readonly view: ReadTx;
  private readonly services = new Map<string, Map<string, number>>();

  constructor(view: ReadTx) {
    this.view = view;
  }

  of(serviceId: string): ReadonlyMap<string, number> {
    return this.counted(serviceId);
  }

  add(serviceId: string, nodeId: string): void {
    increment(this.counted(serviceId), nodeId);
  }

  private counted(serviceId: string): Map<string, number> {
    let counts = this.services.get(serviceId);
    if (counts !== undefined) return counts;
    this.services.set(serviceId, counts = new Map());
    for (const task of this.view.tasksOfService(serviceId)) if (isPlaced(task) && isRunnable(task)) increment(counts, task.nodeId);
    return counts;
  }
}

function increment(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

export class Candidate {
  readonly node: Node;
  /** In this pass. */
  assigned = 0;
  private readonly counts: ServiceCounts;
  private readonly before: Usage;
  private given: Usage = NOTHING;

  constructor(node: Node, tasks: readonly Task[], counts: ServiceCounts) {
    this.node = node;
    this.counts = counts;
    this.before = usageOf(tasks);
  }

  assign(task: Task): void {
    if (this.given === NOTHING) this.given = new Usage();
    this.given.add(task);
    this.counts.add(task.serviceId, this.node.id);
    this.assigned += 1;
  }

  get tasks(): number {
    return this.before.tasks + this.given.tasks;
  }

  tasksOf(serviceId: string): number {
    return this.counts.of(serviceId).get(this.node.id) ?? 0;
  }

  /** Whether it has room for what is reserved. */
  holds(wanted: Resources | undefined): boolean {
    const all = this.node.description?.resources;
    return (wanted?.nanoCpus ?? 0n) <= (all?.nanoCpus ?? 0n) - this.before.cpus - this.given.cpus
      && (wanted?.memoryBytes ?? 0n) <= (all?.memoryBytes ?? 0n) - this.before.memory - this.given.memory
      && this.holdsUnits(unitsOf(wanted), all);
  }

  private holdsUnits(wanted: ReadonlyMap<string, bigint>, all: Resources | undefined): boolean {
    if (wanted.size === 0) return true;
    const units = unitsOf(all);
    return [...wanted].every(([kind, count]) =>
      count <= (units.get(kind) ?? 0n) - (this.before.generic?.get(kind) ?? 0n) - (this.given.generic?.get(kind) ?? 0n));
  }

  hasPort(port: PortConfig): boolean {
    const key = portKey(port);
    return this.before.ports?.has(key) === true || this.given.ports?.has(key) === true;
  }
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

function portKey(port: PortConfig): string {
  return `${port.protocol}/${port.publishedPort}`;
}
