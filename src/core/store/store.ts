// Store: the replicated state. apply() is the only way it changes; it is deterministic: ids and times ride in the
// Command. A Command is applied whole or refused whole. Versions guard against lost updates (SwarmKit's
// "update out of sequence"); unique names are checked here again because two proposals may race.

import { create } from '@bufbuild/protobuf';
import { assert } from '../../lib/assert.js';
import { fail, ok, type Result } from '../../lib/result.js';
import {
  MetaSchema, StoreActionKind, StoreSnapshotSchema, TaskState, VersionSchema, type Cluster, type Node, type Service, type StoreAction,
  type Task,
} from '../../model/proto/swarmkit_pb.js';
import { StoreStateSchema, type Command, type StoreState } from '../../model/proto/skein_pb.js';
import { timestampMs } from '../../lib/time.js';
import { isRunnable, stateOf } from '../../model/task.js';
import { demotesLastManager, isInUse, isReferred, missingReference } from './references.js';
import { Table } from './table.js';
import { KINDS, type Kind, type ObjectTypes, type ReadTx, type StoreEvent, type StoreObject } from './view.js';

/** Commands remembered for idempotency: retries come within seconds, so the last few thousand are plenty. */
const RECENT_MAX = 4096;
/** SwarmKit's words for a decision that the state has overtaken: whoever made it makes it anew. */
const OUT_OF_SEQUENCE = 'update out of sequence';
/** Before the id of one that was refused. */
const REFUSED = '!';

export interface Applied {
  readonly events: readonly StoreEvent[];
  /** The command was seen before; nothing was changed. */
  readonly duplicate: boolean;
}

type NamedKind = 'service' | 'network' | 'secret' | 'config';
const NAMED: readonly NamedKind[] = ['service', 'network', 'secret', 'config'];

export class Store implements ReadTx {
  private tables = emptyTables();
  private names = emptyNames();
  private byService = new Map<string, Table<Task>>();
  private byNode = new Map<string, Table<Task>>();
  private pending = new Table<Task>(isOlder);
  /** A ring once it is full. */
  private recent: string[] = [];
  private oldest = 0;
  private recentSet = new Set<string>();
  private currentIndex = 0n;

  get index(): bigint {
    return this.currentIndex;
  }

  get<K extends Kind>(kind: K, id: string): ObjectTypes[K] | undefined {
    return this.tables[kind].get(id);
  }

  list<K extends Kind>(kind: K): readonly ObjectTypes[K][] {
    return this.tables[kind].list();
  }

  byName<K extends NamedKind>(kind: K, name: string): ObjectTypes[K] | undefined {
    const id = this.names[kind].get(name.toLowerCase());
    return id === undefined ? undefined : this.tables[kind].get(id);
  }

  tasksOfService(serviceId: string): readonly Task[] {
    return this.byService.get(serviceId)?.list() ?? [];
  }

  tasksOfNode(nodeId: string): readonly Task[] {
    return this.byNode.get(nodeId)?.list() ?? [];
  }

  pendingTasks(): Iterable<Task> {
    return this.pending;
  }

  cluster(): Cluster | undefined {
    return this.tables.cluster.list()[0];
  }

  /** Applies one command at a raft index. A refusal changes no object. */
  apply(index: bigint, command: Command): Result<Applied> {
    assert(index > this.currentIndex, `apply goes backwards: ${index} after ${this.currentIndex}`);
    this.currentIndex = index;
    if (this.recentSet.has(command.id)) return ok({ events: [], duplicate: true });
    if (this.recentSet.has(REFUSED + command.id)) return fail('aborted', 'the command was refused before');
    // Of one that is older than all that is remembered nobody knows whether it was applied before.
    const late = command.seen > 0n && index - command.seen > RECENT_MAX;
    const refusal = late ? fail('failed_precondition', OUT_OF_SEQUENCE) : this.check(command);
    // Remembered too: a second copy, on its way since before the refusal was told, must not succeed later.
    this.remember(refusal === undefined ? command.id : REFUSED + command.id);
    if (refusal !== undefined) return refusal;
    const events: StoreEvent[] = [];
    for (const action of command.actions) events.push(this.execute(action, index, command));
    return ok({ events, duplicate: false });
  }

  /** Commands remembered, the oldest first; `from` leaves out that many of them. */
  recentIds(from = 0): readonly string[] {
    if (this.oldest === 0) return this.recent.slice(from);
    return [...this.recent.slice(this.oldest), ...this.recent.slice(0, this.oldest)].slice(from);
  }

  get recentCount(): number {
    return this.recent.length;
  }

  get newestId(): string | undefined {
    return this.recent.at(this.oldest - 1);
  }

  snapshot(): StoreState {
    const objects = create(StoreSnapshotSchema, {
      nodes: [...this.list('node')],
      services: [...this.list('service')],
      networks: [...this.list('network')],
      tasks: [...this.list('task')],
      clusters: [...this.list('cluster')],
      secrets: [...this.list('secret')],
      configs: [...this.list('config')],
    });
    return create(StoreStateSchema, { index: this.currentIndex, objects, recent: [...this.recentIds()] });
  }

  restore(state: StoreState): void {
    this.tables = emptyTables();
    this.names = emptyNames();
    this.byService = new Map();
    this.byNode = new Map();
    this.pending = new Table(isOlder);
    this.recent = [];
    this.oldest = 0;
    this.recentSet = new Set();
    for (const id of state.recent) this.remember(id);
    this.currentIndex = state.index;
    const objects = state.objects;
    if (objects === undefined) return;
    for (const x of objects.nodes) this.put('node', x);
    for (const x of objects.services) this.put('service', x);
    for (const x of objects.networks) this.put('network', x);
    for (const x of objects.tasks) this.put('task', x);
    for (const x of objects.clusters) this.put('cluster', x);
    for (const x of objects.secrets) this.put('secret', x);
    for (const x of objects.configs) this.put('config', x);
  }

  /**
   * First reason to refuse the whole command. All actions are checked against the state before the command, so it may
   * touch an object, and take a name, only once.
   */
  private check(command: Command): Result<never> | undefined {
    if (timestampMs(command.time) <= 0) return fail('invalid_argument', 'command carries no time');
    const touched = new Set<string>();
    for (const action of command.actions) {
      const target = targetOf(action);
      if (target === undefined) return fail('invalid_argument', 'command carries an unsupported object');
      if (target.object.id === '') return fail('invalid_argument', `command carries a ${target.kind} without an id`);
      const refusal = this.checkAction(action, target, touched);
      if (refusal !== undefined) return refusal;
    }
    return undefined;
  }

  private checkAction(action: StoreAction, target: Target, touched: Set<string>): Result<never> | undefined {
    const { kind, object } = target;
    if (touched.has(`${kind}/${object.id}`)) return fail('invalid_argument', `command touches ${kind} ${object.id} twice`);
    touched.add(`${kind}/${object.id}`);
    const name = action.action === StoreActionKind.REMOVE ? undefined : nameOf(kind, object);
    if (name !== undefined && isNamed(kind)) {
      const holder = this.byName(kind, name);
      const key = `${kind} name ${name.toLowerCase()}`;
      if (touched.has(key) || (holder !== undefined && holder.id !== object.id)) {
        return fail('already_exists', `name conflicts with an existing object: ${kind} ${name} already exists`);
      }
      touched.add(key);
    }
    return this.checkVersion(action, target) ?? this.checkReferences(action, target);
  }

  /** By the state before the command: what it names is not made, and what it removes is not let go, by the same one. */
  private checkReferences({ action }: StoreAction, { kind, object }: Target): Result<never> | undefined {
    if (action === StoreActionKind.REMOVE) {
      return isReferred(kind) && isInUse(this, kind, object.id) ? fail('failed_precondition', OUT_OF_SEQUENCE) : undefined;
    }
    if (kind === 'node') return demotesLastManager(this, object as Node) ? fail('failed_precondition', OUT_OF_SEQUENCE) : undefined;
    if (kind !== 'service') return undefined;
    const missing = missingReference(this, object as Service, this.tables.service.get(object.id));
    return missing === undefined ? undefined : fail('not_found', `${missing} not found`);
  }

  private checkVersion(action: StoreAction, { kind, object }: Target): Result<never> | undefined {
    const existing = this.tables[kind].get(object.id);
    switch (action.action) {
      case StoreActionKind.CREATE:
        return existing === undefined ? undefined : fail('already_exists', `${kind} ${object.id} already exists`);
      case StoreActionKind.UPDATE: case StoreActionKind.REMOVE:
        if (existing === undefined) return fail('not_found', `${kind} ${object.id} not found`);
        if (existing.meta?.version?.index === object.meta?.version?.index) return undefined;
        return fail('failed_precondition', OUT_OF_SEQUENCE);
      default:
        return fail('invalid_argument', 'command carries an unknown action');
    }
  }

  private execute(action: StoreAction, index: bigint, command: Command): StoreEvent {
    const target = targetOf(action);
    assert(target !== undefined, 'checked before');
    const { kind } = target;
    const old = this.tables[kind].get(target.object.id);
    if (action.action === StoreActionKind.REMOVE) {
      assert(old !== undefined, 'removal of a missing object');
      this.drop(kind, old);
      return { kind, action: 'remove', object: old, old } as StoreEvent;
    }
    const createdAt = old?.meta?.createdAt ?? command.time;
    target.object.meta = create(MetaSchema, {
      version: create(VersionSchema, { index }),
      ...(createdAt === undefined ? {} : { createdAt }),
      ...(command.time === undefined ? {} : { updatedAt: command.time }),
    });
    // The drain begins with the command that asks for it: its index is known only here.
    if (kind === 'task' && (target.object as Task).drainState?.revision === 0n) {
      (target.object as Task & { drainState: { revision: bigint } }).drainState.revision = index;
    }
    this.put(kind, target.object, old);
    const verb = old === undefined ? 'create' : 'update';
    return { kind, action: verb, object: target.object, old } as StoreEvent;
  }

  private put<K extends Kind>(kind: K, object: ObjectTypes[K], old?: ObjectTypes[K]): void {
    (this.tables[kind] as unknown as Table<StoreObject>).put(object);
    const name = nameOf(kind, object)?.toLowerCase();
    const oldName = old === undefined ? undefined : nameOf(kind, old)?.toLowerCase();
    if (name !== undefined && name !== oldName && isNamed(kind)) {
      if (oldName !== undefined) this.names[kind].delete(oldName);
      this.names[kind].set(name, object.id);
    }
    if (kind === 'task') {
      const task = object as Task;
      const before = old as Task | undefined;
      if (before !== undefined && before.serviceId !== task.serviceId) removeFrom(this.byService, before.serviceId, before);
      if (before !== undefined && before.nodeId !== task.nodeId) removeFrom(this.byNode, before.nodeId, before);
      addTo(this.byService, task.serviceId, task);
      addTo(this.byNode, task.nodeId, task);
      if (isPending(task)) this.pending.put(task);
      else if (before !== undefined && isPending(before)) this.pending.remove(before.id);
    }
  }

  private drop<K extends Kind>(kind: K, object: ObjectTypes[K]): void {
    this.tables[kind].remove(object.id);
    const name = nameOf(kind, object);
    if (name !== undefined && isNamed(kind)) this.names[kind].delete(name.toLowerCase());
    if (kind === 'task') {
      const task = object as Task;
      removeFrom(this.byService, task.serviceId, task);
      removeFrom(this.byNode, task.nodeId, task);
      if (isPending(task)) this.pending.remove(task.id);
    }
  }

  private remember(id: string): void {
    this.recentSet.add(id);
    if (this.recent.length < RECENT_MAX) {
      this.recent.push(id);
      return;
    }
    this.recentSet.delete(this.recent[this.oldest] as string);
    this.recent[this.oldest] = id;
    this.oldest = (this.oldest + 1) % RECENT_MAX;
  }
}

function emptyTables(): { [K in Kind]: Table<ObjectTypes[K]> } {
  return Object.fromEntries(KINDS.map((kind) => [kind, new Table()])) as { [K in Kind]: Table<ObjectTypes[K]> };
}

function emptyNames(): { [K in NamedKind]: Map<string, string> } {
  return Object.fromEntries(NAMED.map((kind) => [kind, new Map()])) as { [K in NamedKind]: Map<string, string> };
}

function isNamed(kind: Kind): kind is NamedKind {
  return (NAMED as readonly string[]).includes(kind);
}

function nameOf(kind: Kind, object: StoreObject): string | undefined {
  if (!isNamed(kind)) return undefined;
  return (object as ObjectTypes[NamedKind]).spec?.annotations?.name ?? '';
}

interface Target {
  readonly kind: Kind;
  readonly object: StoreObject;
}

function targetOf(action: StoreAction): Target | undefined {
  const { target } = action;
  switch (target.case) {
    case 'node': case 'service': case 'task': case 'network': case 'cluster': case 'secret': case 'config':
      return { kind: target.case, object: target.value };
    default:
      return undefined;
  }
}

function isPending(task: Task): boolean {
  return stateOf(task) === TaskState.PENDING && isRunnable(task);
}

function isOlder(a: Task, b: Task): boolean {
  const [one, other] = [a.meta?.createdAt, b.meta?.createdAt];
  if (one?.seconds !== other?.seconds) return (one?.seconds ?? 0n) < (other?.seconds ?? 0n);
  return one?.nanos === other?.nanos ? a.id < b.id : (one?.nanos ?? 0) < (other?.nanos ?? 0);
}

function addTo(index: Map<string, Table<Task>>, key: string, task: Task): void {
  if (key === '') return;
  let table = index.get(key);
  if (table === undefined) index.set(key, table = new Table());
  table.put(task);
}

function removeFrom(index: Map<string, Table<Task>>, key: string, task: Task): void {
  if (key === '') return;
  const table = index.get(key);
  assert(table !== undefined, 'task missing from its index');
  table.remove(task.id);
  if (table.size === 0) index.delete(key);
}
