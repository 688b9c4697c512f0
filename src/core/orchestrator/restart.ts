// Restart: what follows a task that ended, or whose node is gone or drained. SwarmKit's restart supervisor as a
// function of the store: the delay and the attempts ride on the replacement task.

import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { copyOf } from '../../model/message.js';
import { durationMs, timestampFromMs, timestampMs } from '../../lib/time.js';
import {
  NodeSpec_Availability, NodeStatus_State, RestartPolicy_RestartCondition, TaskState,
  type Node, type Service, type Task,
} from '../../model/proto/swarmkit_pb.js';
import { desiredOf, isGlobal, isTaskDirty, isTerminal, stateOf } from '../../model/task.js';
import type { Change, Input } from './change.js';
import type { Place } from './slots.js';
import { newTask, stopTask } from './tasks.js';

const RESTART_DELAY_DEFAULT_MS = 5000;
/** How long a replacement waits for the task before it to stop (SwarmKit: one minute). */
export const OLD_TASK_TIMEOUT_MS = 60_000;

/** A node that cannot keep tasks: gone, down or drained. */
export function isInvalidNode(node: Node | undefined): boolean {
  return node === undefined
    || node.status?.state === NodeStatus_State.DOWN
    || node.spec?.availability === NodeSpec_Availability.DRAIN;
}

/** A replacement that ended before its own delay was over (it could not be prepared) waits for that moment. */
function needsRestart(input: Input, change: Change, task: Task): boolean {
  if (desiredOf(task) > TaskState.RUNNING) return false;
  if (!isTerminal(task)) return task.nodeId !== '' && isInvalidNode(input.view.get('node', task.nodeId));
  const dueMs = task.desiredState === TaskState.READY ? timestampMs(task.startAfter) : 0;
  if (input.nowMs >= dueMs) return true;
  change.wakeAt(dueMs);
  return false;
}

/** The service's policy allows another task after this one. */
export function shouldRestart(service: Service, task: Task, nowMs: number): boolean {
  const policy = service.spec?.task?.restart;
  const condition = policy?.condition ?? RestartPolicy_RestartCondition.ANY;
  if (isTerminal(task)) {
    if (condition === RestartPolicy_RestartCondition.NONE) return false;
    if (condition === RestartPolicy_RestartCondition.ON_FAILURE && stateOf(task) === TaskState.COMPLETE) return false;
  }
  const attempts = policy?.maxAttempts ?? 0n;
  if (attempts === 0n || task.specVersion?.index !== service.specVersion?.index) return true;
  const windowMs = durationMs(policy?.window);
  // The window ends where the task did: a service that gave up does not come back by the mere passing of time.
  const ended = isTerminal(task) ? task.status?.appliedAt ?? task.status?.timestamp : undefined;
  const untilMs = ended === undefined ? nowMs : timestampMs(ended);
  const counted = task.restarts.filter((at) => windowMs === 0 || timestampMs(at) > untilMs - windowMs);
  return BigInt(counted.length) < attempts;
}

/**
 * Restarts what ended in a place. A task that another one of the present spec already stands in for just goes: during a
 * start-first update the old task may end while the new one is on its way, and the place would have two for ever.
 */
export function tendPlace(input: Input, change: Change, service: Service, place: Place): void {
  const current = place.runnable.filter((task) => !isTaskDirty(service, task));
  const lasting = current.filter((task) => !isTerminal(task) && !needsRestart(input, change, task));
  const keep = lasting.find((task) => stateOf(task) === TaskState.RUNNING) ?? lasting[0];
  let follows = keep !== undefined;
  // Those of the present spec first: where the old and the new one ended together, one task follows, and it follows the new one.
  for (const task of [...current, ...place.runnable.filter((other) => !current.includes(other))]) {
    if (change.full) return;
    if (task === keep || change.touched(task.id)) continue;
    const ended = needsRestart(input, change, task);
    if (follows && (ended || current.includes(task))) {
      stopTask(input, change, task, TaskState.SHUTDOWN);
    } else if (ended) {
      restartTask(input, change, service, task);
      follows = true;
    }
  }
}

/** When the turn of the task's place in its update was over; undefined before. */
export function turnEnded(task: Task): Timestamp | undefined {
  if (task.turnEnded !== undefined || stateOf(task) < TaskState.RUNNING) return task.turnEnded;
  return task.ranAt ?? task.status?.appliedAt ?? task.status?.timestamp;
}

/** Ends the task for good and, where the policy allows, puts a delayed replacement in its place. */
function restartTask(input: Input, change: Change, service: Service, task: Task): void {
  const { view, nowMs } = input;
  stopTask(input, change, task, TaskState.SHUTDOWN);
  if (!shouldRestart(service, task, nowMs)) return;
  const node = view.get('node', task.nodeId);
  if (isGlobal(service) && isInvalidNode(node)) return;
  const policy = service.spec?.task?.restart;
  const drained = node?.spec?.availability === NodeSpec_Availability.DRAIN;
  const delayMs = drained ? 0 : policy?.delay === undefined ? RESTART_DELAY_DEFAULT_MS : durationMs(policy.delay);
  const place = { slot: task.slot, nodeId: isGlobal(service) ? task.nodeId : '' };
  const replacement = newTask(input, service, place, TaskState.READY);
  replacement.startAfter = timestampFromMs(nowMs + delayMs);
  if (task.updateStarted !== undefined) {
    replacement.updateStarted = task.updateStarted;
    // On the task because history is removed: the end of a turn must not move with every restart.
    const ended = turnEnded(task);
    if (ended !== undefined) replacement.turnEnded = ended;
  }
  const attempts = Number(policy?.maxAttempts ?? 0n);
  if (attempts > 0 && task.specVersion?.index === service.specVersion?.index) {
    replacement.restarts = [...task.restarts, timestampFromMs(nowMs)].slice(-attempts);
  }
  change.createTask(replacement);
}

/** READY tasks whose delay is over and whose predecessor stopped go to RUNNING. */
export function reconcileStarts(input: Input, change: Change): void {
  const { view, nowMs } = input;
  for (const task of view.list('task')) {
    if (task.desiredState !== TaskState.READY || task.drainState !== undefined || change.touched(task.id)) continue;
    // Its service was removed: the reaper ends it.
    if (task.serviceId !== '' && view.get('service', task.serviceId) === undefined) continue;
    const dueMs = timestampMs(task.startAfter);
    if (nowMs < dueMs) {
      change.wakeAt(dueMs);
      continue;
    }
    const giveUpMs = timestampMs(task.meta?.createdAt) + OLD_TASK_TIMEOUT_MS;
    if (nowMs < giveUpMs && predecessorRuns(input, change, task)) {
      change.wakeAt(giveUpMs);
      continue;
    }
    if (change.full) return;
    const started = copyOf(task);
    started.desiredState = TaskState.RUNNING;
    change.updateTask(started);
  }
}

/** Another task of the same place is being stopped and still runs on a node that can tell. */
function predecessorRuns(input: Input, change: Change, task: Task): boolean {
  return input.view.tasksOfService(task.serviceId).some((other) => {
    if (other.id === task.id || other.slot !== task.slot) return false;
    // One that this very pass stops counts too.
    if (desiredOf(other) <= TaskState.RUNNING && !change.touched(other.id)) return false;
    if (task.slot === 0n && other.nodeId !== task.nodeId) return false;
    const state = stateOf(other);
    if (state < TaskState.ASSIGNED || state > TaskState.RUNNING) return false;
    const node = input.view.get('node', other.nodeId);
    return node !== undefined && node.status?.state !== NodeStatus_State.DOWN;
  });
}
