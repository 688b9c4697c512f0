// /tasks: list and inspect. `_up-to-date` is the CLI's private filter for tasks that match their service's spec.

import { find } from '../../core/control/lookup.js';
import { isTaskDirty, taskName } from '../../model/task.js';
import type { ReadTx } from '../../core/store/view.js';
import { unwrap } from '../../lib/result.js';
import { toRecord } from '../../model/pairs.js';
import { TaskState, type Task } from '../../model/proto/swarmkit_pb.js';
import { taskStateName, taskToJson } from '../convert/node.js';
import { failure } from '../errors.js';
import type { Filters } from '../filters.js';
import type { Call, Route } from '../http.js';

export function taskRoutes(): Route[] {
  return [
    ['GET', '/tasks', list],
    ['GET', '/tasks/:id', inspect],
  ];
}

/** Services and nodes in a filter may be named, too: values become ids. */
function idsOf(view: ReadTx, kind: 'service' | 'node', values: readonly string[]): readonly string[] {
  return values.map((value) => {
    const found = find(view, kind, value);
    return found.ok ? found.value.id : value;
  });
}

function matchesDesired(filters: Filters, task: Task): boolean {
  if (!filters.has('desired-state')) return true;
  return filters.ignoringCase('desired-state', taskStateName(task.desiredState));
}

function list(call: Call): void {
  const view = call.manager().view();
  const filters = call.filters('desired-state', 'id', 'label', 'name', 'node', 'service', 'runtime', '_up-to-date');
  const services = idsOf(view, 'service', filters.get('service'));
  const nodes = idsOf(view, 'node', filters.get('node'));
  for (const state of filters.get('desired-state')) {
    if (!Object.hasOwn(TaskState, state.toUpperCase())) {
      throw failure('invalid_argument', `invalid desired_state filter: '${state}'`);
    }
  }
  const upToDate = filters.flag('_up-to-date') === true;
  const candidates = services.length > 0 ? services.flatMap((id) => view.tasksOfService(id)) : view.list('task');
  const tasks = candidates.filter((task) => {
    if (nodes.length > 0 && !nodes.includes(task.nodeId)) return false;
    if (!filters.prefix('id', task.id) || !filters.prefix('name', taskName(task))) return false;
    if (!filters.labels('label', toRecord(task.serviceAnnotations?.labels))) return false;
    if (!filters.exact('runtime', 'container') || !matchesDesired(filters, task)) return false;
    if (!upToDate) return true;
    const service = view.get('service', task.serviceId);
    return service !== undefined && !isTaskDirty(service, task);
  });
  call.reply(200, tasks.map(taskToJson));
}

function inspect(call: Call): void {
  call.reply(200, taskToJson(unwrap(find(call.manager().view(), 'task', call.param('id')))));
}
