// Slots: the places a service's tasks hold. A place of a replicated service is a slot number, of a global one a node.

import { compareText } from '../../model/pairs.js';
import { TaskState, type Service, type Task } from '../../model/proto/swarmkit_pb.js';
import { isGlobal, isRunnable, isTerminal, stateOf } from '../../model/task.js';
import { timestampMs } from '../../lib/time.js';
import { shouldRestart } from './restart.js';

export interface Place {
  readonly key: string;
  readonly slot: bigint;
  /** Of global services; empty for replicated ones, whose replacements may go to any node. */
  readonly nodeId: string;
  /** Oldest first. */
  readonly tasks: readonly Task[];
  /** Those meant to run, oldest first. */
  readonly runnable: readonly Task[];
}

export function placesOf(service: Service, tasks: readonly Task[]): Map<string, Place> {
  const grouped = new Map<string, Task[]>();
  for (const task of tasks) {
    const key = isGlobal(service) ? task.nodeId : task.slot.toString();
    const list = grouped.get(key);
    if (list === undefined) grouped.set(key, [task]);
    else list.push(task);
  }
  const places = new Map<string, Place>();
  for (const key of [...grouped.keys()].sort(compareText)) {
    const list = (grouped.get(key) as Task[]).sort(byAge);
    const first = list[0] as Task;
    const nodeId = isGlobal(service) ? first.nodeId : '';
    places.set(key, { key, slot: first.slot, nodeId, tasks: list, runnable: list.filter(isRunnable) });
  }
  return places;
}

export function byAge(a: Task, b: Task): number {
  return timestampMs(a.meta?.createdAt) - timestampMs(b.meta?.createdAt) || compareText(a.id, b.id);
}

/** The place counts towards the wanted number: it has a task meant to run, or one that rightly ended for good. */
export function isOccupied(service: Service, place: Place, nowMs: number): boolean {
  if (place.runnable.length > 0) return true;
  const newest = place.tasks.at(-1);
  return newest !== undefined && isTerminal(newest) && newest.desiredState === TaskState.SHUTDOWN
    && stateOf(newest) !== TaskState.SHUTDOWN && !shouldRestart(service, newest, nowMs);
}
