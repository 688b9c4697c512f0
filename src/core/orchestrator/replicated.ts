// Replicated services: as many occupied slots as replicas. Scale-down takes the slots that are least settled first,
// then those on the nodes with most tasks of the service (SwarmKit's order).

import { TaskState, type Service } from '../../model/proto/swarmkit_pb.js';
import { stateOf } from '../../model/task.js';
import type { Change, Input } from './change.js';
import { tendPlace } from './restart.js';
import { isOccupied, placesOf, type Place } from './slots.js';
import { newTask, stopTask } from './tasks.js';

export function reconcileReplicated(input: Input, change: Change, service: Service): void {
  if (service.spec?.mode.case !== 'replicated') return;
  const wanted = Number(service.spec.mode.value.replicas);
  const places = placesOf(service, input.view.tasksOfService(service.id));
  const occupied = [...places.values()].filter((place) => isOccupied(service, place, input.nowMs));
  if (occupied.length < wanted) addSlots(input, change, service, places, occupied, wanted);
  const kept = occupied.length > wanted ? removeSlots(input, change, occupied, wanted) : occupied;
  for (const place of kept) tendPlace(input, change, service, place);
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

/** The places of one node, by slot; those that do not run yet go first. */
interface Pile {
  readonly up: Place[];
  readonly notUp: Place[];
}

function removeSlots(input: Input, change: Change, occupied: Place[], wanted: number): Place[] {
  const piles = new Map<string, Pile>();
  for (const place of [...occupied].sort((a, b) => Number(a.slot - b.slot))) {
    const pile = piles.get(nodeOf(place)) ?? { up: [], notUp: [] };
    piles.set(nodeOf(place), pile);
    (isUp(place) ? pile.up : pile.notUp).push(place);
  }
  const removed = new Set<Place>();
  while (occupied.length - removed.size > wanted && !change.full) {
    const victim = takeVictim([...piles.values()]);
    removed.add(victim);
    for (const task of victim.tasks) stopTask(input, change, task, TaskState.REMOVE);
  }
  return occupied.filter((place) => !removed.has(place));
}

/** Runnable first in favour, then the emptier node, then the lower slot: the last one goes. */
function takeVictim(piles: readonly Pile[]): Place {
  const notUp = piles.some((pile) => pile.notUp.length > 0);
  const from = (pile: Pile): Place[] => (notUp ? pile.notUp : pile.up);
  const count = (pile: Pile): number => pile.up.length + pile.notUp.length;
  const slot = (pile: Pile): number => Number(from(pile).at(-1)?.slot ?? 0n);
  const fullest = piles.filter((pile) => from(pile).length > 0)
    .reduce((a, b) => (count(b) - count(a) || slot(b) - slot(a)) > 0 ? b : a);
  return from(fullest).pop() as Place;
}

function nodeOf(place: Place): string {
  return place.runnable[0]?.nodeId ?? '';
}

function isUp(place: Place): boolean {
  return place.runnable.some((task) => stateOf(task) === TaskState.RUNNING);
}
