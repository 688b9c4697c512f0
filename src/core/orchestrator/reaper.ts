// Task reaper: removes what nobody needs: tasks whose service is gone or that were scaled away, once they ended and
// no node forwards to them, and history beyond the cluster's retention limit per slot.

import { TaskState, type Task } from '../../model/proto/swarmkit_pb.js';
import { isTerminal, stateOf } from '../../model/task.js';
import { releasedInMs } from '../store/soft.js';
import type { Change, Input } from './change.js';
import { placesOf } from './slots.js';
import { stopTask } from './tasks.js';

const HISTORY_DEFAULT = 5;

export function reconcileReaper(input: Input, change: Change): void {
  const { view } = input;
  for (const task of view.list('task')) {
    if (change.full) return;
    if (change.touched(task.id)) continue;
    const orphan = view.get('service', task.serviceId) === undefined && task.serviceId !== '';
    if (orphan && task.desiredState < TaskState.REMOVE) stopTask(input, change, task, TaskState.REMOVE);
    if (task.desiredState === TaskState.REMOVE && isGone(input, change, task)) change.removeTask(task);
  }
  const limit = view.cluster()?.spec?.orchestration?.taskHistoryRetentionLimit;
  // As in SwarmKit a negative limit keeps everything.
  if (limit !== undefined && limit < 0n) return;
  const keep = limit === undefined ? HISTORY_DEFAULT : Number(limit);
  for (const service of view.list('service')) {
    if (view.tasksOfService(service.id).length <= keep) continue;
    for (const place of placesOf(service, view.tasksOfService(service.id)).values()) {
      const dead = place.tasks.filter((task) => task.desiredState > TaskState.RUNNING);
      // SwarmKit counts the running task as part of the history.
      let surplus = place.tasks.length - Math.max(keep, 1);
      for (const task of dead) {
        if (surplus <= 0 || change.full) break;
        if (change.touched(task.id) || !isGone(input, change, task)) continue;
        change.removeTask(task);
        surplus -= 1;
      }
    }
  }
}

/** Its process has ended, or never was, and its addresses are free: also where its own node is gone, others may still send to it. */
function isGone(input: Input, change: Change, task: Task): boolean {
  const { soft, nowMs } = input;
  if (stateOf(task) < TaskState.ASSIGNED || task.nodeId === '') return true;
  if (isTerminal(task) && task.networks.length === 0) return true;
  const waitMs = releasedInMs(soft, task);
  if (waitMs === undefined || waitMs === 0) return waitMs === 0;
  change.wakeAt(nowMs + waitMs);
  return false;
}
