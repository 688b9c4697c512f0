// Assignments of one node: its tasks, and the secrets and configs they need; complete sets and increments
// (SwarmKit's Dispatcher.Assignments). A set is a map from key to assignment; diff() makes the changes.

import { create } from '@bufbuild/protobuf';
import {
  AssignmentChangeSchema, AssignmentChange_AssignmentAction, AssignmentSchema, SecretSchema, TaskSchema, TaskState,
  type Assignment, type AssignmentChange, type Config, type Secret, type Task,
} from '../../model/proto/swarmkit_pb.js';
import { stateOf } from '../../model/task.js';
import type { ReadTx } from '../store/view.js';

export interface AssignmentSet {
  readonly tasks: ReadonlyMap<string, Task>;
  readonly secrets: ReadonlyMap<string, Secret>;
  readonly configs: ReadonlyMap<string, Config>;
}

export const EMPTY_SET: AssignmentSet = { tasks: new Map(), secrets: new Map(), configs: new Map() };

export function assignmentsOf(view: ReadTx, nodeId: string): AssignmentSet {
  const tasks = new Map<string, Task>();
  const secrets = new Map<string, Secret>();
  const configs = new Map<string, Config>();
  for (const task of view.tasksOfNode(nodeId)) {
    if (stateOf(task) < TaskState.ASSIGNED) continue;
    tasks.set(task.id, task);
    if (stateOf(task) > TaskState.RUNNING || task.spec?.runtime.case !== 'container') continue;
    for (const { secretId } of task.spec.runtime.value.secrets) {
      const secret = view.get('secret', secretId);
      if (secret !== undefined) secrets.set(secretId, secret);
    }
    for (const { configId } of task.spec.runtime.value.configs) {
      const config = view.get('config', configId);
      if (config !== undefined) configs.set(configId, config);
    }
  }
  return { tasks, secrets, configs };
}

/** Equal but for what the node itself reports or the store counts (status and meta). */
function stableEqual(a: Task, b: Task): boolean {
  if (a === b) return true;
  return a.desiredState === b.desiredState && a.nodeId === b.nodeId
    && a.specVersion?.index === b.specVersion?.index && (stateOf(b) > TaskState.ASSIGNED);
}

export function diffAssignments(before: AssignmentSet, after: AssignmentSet): AssignmentChange[] {
  const changes: AssignmentChange[] = [];
  for (const [id, secret] of after.secrets) if (before.secrets.get(id) !== secret) changes.push(update('secret', secret));
  for (const [id, config] of after.configs) if (before.configs.get(id) !== config) changes.push(update('config', config));
  for (const [id, task] of after.tasks) {
    const old = before.tasks.get(id);
    if (old === undefined || !stableEqual(old, task)) changes.push(update('task', task));
  }
  for (const id of before.tasks.keys()) {
    if (!after.tasks.has(id)) changes.push(remove({ case: 'task', value: create(TaskSchema, { id }) }));
  }
  for (const id of before.secrets.keys()) {
    if (!after.secrets.has(id)) changes.push(remove({ case: 'secret', value: create(SecretSchema, { id }) }));
  }
  for (const id of before.configs.keys()) {
    if (!after.configs.has(id)) {
      changes.push(remove({ case: 'config', value: { $typeName: 'docker.swarmkit.v1.Config', id } }));
    }
  }
  return changes;
}

interface Values {
  task: Task;
  secret: Secret;
  config: Config;
}

function update<K extends keyof Values>(kind: K, value: Values[K]): AssignmentChange {
  return create(AssignmentChangeSchema, {
    assignment: create(AssignmentSchema, { item: { case: kind, value } as Assignment['item'] }),
    action: AssignmentChange_AssignmentAction.UPDATE,
  });
}

function remove(item: Assignment['item']): AssignmentChange {
  return create(AssignmentChangeSchema, {
    assignment: create(AssignmentSchema, { item }), action: AssignmentChange_AssignmentAction.REMOVE,
  });
}

/** Applies changes to a set: what a node that received them holds. */
export function applyChanges(set: AssignmentSet, complete: boolean, changes: readonly AssignmentChange[]): AssignmentSet {
  const base = complete ? EMPTY_SET : set;
  const tasks = new Map(base.tasks);
  const secrets = new Map(base.secrets);
  const configs = new Map(base.configs);
  for (const change of changes) {
    const item = change.assignment?.item;
    if (item?.case === undefined) continue;
    const gone = change.action === AssignmentChange_AssignmentAction.REMOVE;
    if (item.case === 'task') put(tasks, item.value, gone);
    else if (item.case === 'secret') put(secrets, item.value, gone);
    else if (item.case === 'config') put(configs, item.value, gone);
  }
  return { tasks, secrets, configs };
}

function put<T extends { id: string }>(map: Map<string, T>, value: T, gone: boolean): void {
  if (gone) map.delete(value.id);
  else map.set(value.id, value);
}

