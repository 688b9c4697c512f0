// Replicated services: as many occupied slots as replicas. Scale-down takes the slots that are least settled first,
// then those on the nodes with most tasks of the service (SwarmKit's order).

import { TaskState, type Service } from '../../model/proto/swarmkit_pb.js';
import { stateOf } from '../../model/task.js';
import type { Change, Input } from './change.js';
import { needsRestart, restartTask } from './restart.js';
import { isOccupied, placesOf, type Place } from './slots.js';
import { newTask, stopTask } from './tasks.js';

export function reconcileReplicated(input: Input, change: Change, service: Service): void {
  if (service.spec?.mode.case !== 'replicated') return;
  const wanted = Number(service.spec.mode.value.replicas);
  const places = placesOf(service, input.view.tasksOfService(service.id));
  const occupied = [...places.values()].filter((place) => isOccupied(service, place, input.nowMs));
  if (occupied.length < wanted) addSlots(input, change, service, places, occupied, wanted);
  const kept = occupied.length > wanted ? removeSlots(input, change, occupied, wanted) : occupied;
  for (const place of kept) {
    for (const task of place.runnable) {
      if (change.full) return;
      if (!change.touched(task.id) && needsRestart(input, change, task)) restartTask(input, change, service, task);
    }
  }
}

function addSlots(input: Input, change: Change, service: Service, places: Map<string, Place>, occupied: Place[], wanted: number): void {
  const used = new Set(occupied.map((place) => place.slot));
  let slot = 0n;
  for (let missing = wanted - occupied.length; missing > 0 && !change.full; missing--) {
    do slot += 1n; while (used.has(slot));
    // What was in the slot before has had its turn; its history does not belong to the new task's.
    for (const old of places.get(slot.toString())?.tasks ?? []) stopTask(input, change, old, TaskState.SHUTDOWN);
    change.createTask(newTask(input, service, { slot, nodeId: '' }, TaskState.RUNNING));
  }
}

function removeSlots(input: Input, change: Change, occupied: Place[], wanted: number): Place[] {
  const perNode = new Map<string, number>();
  const count = (place: Place): number => perNode.get(nodeOf(place)) ?? 0;
  for (const place of occupied) perNode.set(nodeOf(place), count(place) + 1);
  const left = [...occupied];
  while (left.length > wanted && !change.full) {
    // Runnable first in favour, then the emptier node, then the lower slot: the last one goes.
    left.sort((a, b) => Number(isUp(b)) - Number(isUp(a)) || count(a) - count(b) || Number(a.slot - b.slot));
    const victim = left.pop() as Place;
    perNode.set(nodeOf(victim), count(victim) - 1);
    for (const task of victim.tasks) stopTask(input, change, task, TaskState.REMOVE);
  }
  return left;
}

function nodeOf(place: Place): string {
  return place.runnable[0]?.nodeId ?? '';
}

function isUp(place: Place): boolean {
  return place.runnable.some((task) => stateOf(task) === TaskState.RUNNING);
}
