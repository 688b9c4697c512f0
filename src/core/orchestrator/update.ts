// Updates: replaces tasks that no longer match their service, a few at a time. SwarmKit's updater as a function of
// the store: progress is read off the tasks, so a new leader goes on where the old one was.

import { create } from '@bufbuild/protobuf';
import { copyOf } from '../../model/message.js';
import { durationMs, timestampFromMs, timestampMs, waitedAt } from '../../lib/time.js';
import {
  TaskState, UpdateConfigSchema, UpdateConfig_FailureAction, UpdateConfig_UpdateOrder, UpdateStatusSchema,
  UpdateStatus_UpdateState, VersionSchema, type Service, type Task, type UpdateConfig,
} from '../../model/proto/swarmkit_pb.js';
import { isTaskDirty, isTerminal, stateOf } from '../../model/task.js';
import type { Change, Input } from './change.js';
import { isInvalidNode, turnEnded } from './restart.js';
import { isOccupied, placesOf, type Place } from './slots.js';
import { newTask, stopTask } from './tasks.js';

const MONITOR_DEFAULT_MS = 5000;
const State = UpdateStatus_UpdateState;

interface Progress {
  readonly config: UpdateConfig;
  readonly rollback: boolean;
  readonly startedMs: number;
  readonly dirty: readonly Place[];
  /** Places whose turn is not over, or whose delay after it is not. */
  readonly inFlight: number;
  readonly failures: number;
  readonly total: number;
  /** When the last place's turn ended. */
  readonly lastUpMs: number;
}

export function reconcileUpdate(input: Input, change: Change, service: Service): void {
  if (change.touched(service.id)) return;
  const places = [...placesOf(service, input.view.tasksOfService(service.id)).values()];
  const state = service.updateStatus?.state ?? State.UNKNOWN;
  const active = state === State.UPDATING || state === State.ROLLBACK_STARTED;
  const dirty = places.filter((place) => isDirty(service, place, input.nowMs));
  if (state === State.PAUSED || state === State.ROLLBACK_PAUSED) {
    // Nothing is begun. What was begun ends (SwarmKit's workers do): two tasks would be in one place for good.
    for (const place of dirty) if (!isTouched(change, place)) finishPlace(input, change, service, place);
    return;
  }
  if (!active) {
    if (dirty.length > 0) setStatus(input, change, service, State.UPDATING, 'update in progress');
    return;
  }
  const progress = measure(input, change, service, places, dirty, state === State.ROLLBACK_STARTED);
  if (tooManyFailures(progress) && failed(input, change, service, progress)) return;
  const parallelism = Number(progress.config.parallelism);
  let budget = (parallelism === 0 ? Number.MAX_SAFE_INTEGER : parallelism) - progress.inFlight;
  for (const place of dirty) {
    if (budget <= 0 || change.full) break;
    if (isTouched(change, place)) continue;
    if (updatePlace(input, change, service, place, progress.config)) budget -= 1;
  }
  if (dirty.length === 0 && progress.inFlight === 0) complete(input, change, service, progress);
}

/** It runs an outdated task, or an outdated one ended there for good (restart condition none, say). */
function isDirty(service: Service, place: Place, nowMs: number): boolean {
  if (place.runnable.length > 0) return place.runnable.some((task) => isTaskDirty(service, task));
  const newest = place.tasks.at(-1);
  return newest !== undefined && isOccupied(service, place, nowMs) && isTaskDirty(service, newest);
}

function measure(
  input: Input, change: Change, service: Service, places: readonly Place[], dirty: readonly Place[], rollback: boolean,
): Progress {
  const config = (rollback ? service.spec?.rollback : service.spec?.update)
    ?? create(UpdateConfigSchema, { parallelism: 1n });
  const startedMs = timestampMs(service.updateStatus?.startedAt);
  const delayMs = durationMs(config.delay);
  let inFlight = 0;
  let failures = 0;
  let lastUpMs = startedMs;
  for (const place of places) {
    // What was started in a place that was up to date is not this update's doing.
    const fresh = place.tasks.filter((task) => timestampMs(task.updateStarted) === startedMs && !isTaskDirty(service, task));
    if (fresh.some((task) => failedTask(task, monitorOf(config)))) failures += 1;
    const doneMs = doneAt(fresh);
    if (doneMs === undefined) {
      inFlight += fresh.some((task) => place.runnable.includes(task)) ? 1 : 0;
      continue;
    }
    lastUpMs = Math.max(lastUpMs, doneMs);
    const old = place.runnable.some((task) => isTaskDirty(service, task));
    const delayedMs = waitedAt(doneMs, delayMs, input.nowMs);
    if (!old && dirty.length > 0 && input.nowMs < delayedMs) {
      inFlight += 1;
      change.wakeAt(delayedMs);
    }
  }
  return { config, rollback, startedMs, dirty, inFlight, failures, total: places.length, lastUpMs };
}

/**
 * When a place's turn ended: its first new task came up, or ended without. What is started after that is a restart, which an
 * update does not wait for: one that goes on in spite of failures would never get to the end (SwarmKit's updateTask).
 */
function doneAt(fresh: readonly Task[]): number | undefined {
  for (const task of fresh) {
    const ended = turnEnded(task);
    if (ended !== undefined) return timestampMs(ended);
  }
  return undefined;
}

function monitorOf(config: UpdateConfig): number {
  return config.monitor === undefined ? MONITOR_DEFAULT_MS : durationMs(config.monitor);
}

/** It failed, or ended early, within the monitor time after it came up, or never came up (SwarmKit's failureTriggersAction). */
function failedTask(task: Task, monitorMs: number): boolean {
  const state = stateOf(task);
  if (state !== TaskState.FAILED && state !== TaskState.REJECTED && state !== TaskState.COMPLETE) return false;
  const endedMs = timestampMs(task.status?.appliedAt ?? task.status?.timestamp);
  return task.ranAt === undefined || endedMs - timestampMs(task.ranAt) <= monitorMs;
}

function tooManyFailures(progress: Progress): boolean {
  return progress.failures > 0 && progress.failures / Math.max(1, progress.total) > progress.config.maxFailureRatio;
}

/** Acts on too many failures; false where the update just goes on. */
function failed(input: Input, change: Change, service: Service, progress: Progress): boolean {
  const reason = 'update paused due to failure or early termination of task';
  if (progress.rollback) {
    if (progress.config.failureAction === UpdateConfig_FailureAction.CONTINUE) return false;
    setStatus(input, change, service, State.ROLLBACK_PAUSED, `rollback ${reason.slice('update '.length)}`);
    return true;
  }
  switch (progress.config.failureAction) {
    case UpdateConfig_FailureAction.CONTINUE:
      return false;
    case UpdateConfig_FailureAction.ROLLBACK:
      if (service.previousSpec === undefined) break;
      rollBack(input, change, service);
      return true;
    default:
      break;
  }
  setStatus(input, change, service, State.PAUSED, reason);
  return true;
}

function rollBack(input: Input, change: Change, service: Service): void {
  const next = copyOf(service);
  if (service.previousSpec !== undefined) next.spec = service.previousSpec;
  delete next.previousSpec;
  delete next.previousSpecVersion;
  next.specVersion = create(VersionSchema, { index: input.view.index + 1n });
  next.specChanged = input.view.index + 1n;
  next.updateStatus = create(UpdateStatusSchema, {
    state: State.ROLLBACK_STARTED,
    startedAt: timestampFromMs(input.nowMs),
    message: 'update rolled back due to failure or early termination of task',
  });
  change.updateService(next);
}

function isTouched(change: Change, place: Place): boolean {
  return place.runnable.some((task) => change.touched(task.id));
}

function outdated(service: Service, place: Place): Task[] {
  return place.runnable.filter((task) => isTaskDirty(service, task));
}

/** start-first: the old task goes once the new one runs. False where there is no new one yet. */
function finishPlace(input: Input, change: Change, service: Service, place: Place): boolean {
  const fresh = place.runnable.find((task) => !isTaskDirty(service, task));
  if (fresh === undefined) return false;
  if (stateOf(fresh) === TaskState.RUNNING) {
    for (const task of outdated(service, place)) stopTask(input, change, task, TaskState.SHUTDOWN);
  }
  return true;
}

/** Replaces the tasks of one place; true when something was started. */
function updatePlace(input: Input, change: Change, service: Service, place: Place, config: UpdateConfig): boolean {
  if (finishPlace(input, change, service, place)) return false;
  const old = outdated(service, place);
  if (config.order === UpdateConfig_UpdateOrder.START_FIRST) {
    change.createTask(replacementOf(input, service, place, TaskState.RUNNING));
    // What has ended, or is on a node that cannot keep it, is replaced by this one and not restarted besides.
    for (const task of old) {
      const lost = task.nodeId !== '' && isInvalidNode(input.view.get('node', task.nodeId));
      if (lost || isTerminal(task)) stopTask(input, change, task, TaskState.SHUTDOWN);
    }
    return true;
  }
  const replacement = replacementOf(input, service, place, TaskState.READY);
  replacement.startAfter = timestampFromMs(input.nowMs);
  change.createTask(replacement);
  for (const task of old) stopTask(input, change, task, TaskState.SHUTDOWN);
  return true;
}

function replacementOf(input: Input, service: Service, place: Place, desired: TaskState): Task {
  const task = newTask(input, service, place, desired);
  if (service.updateStatus?.startedAt !== undefined) task.updateStarted = service.updateStatus.startedAt;
  return task;
}

function complete(input: Input, change: Change, service: Service, progress: Progress): void {
  const monitorMs = monitorOf(progress.config);
  const waits = progress.config.failureAction !== UpdateConfig_FailureAction.CONTINUE;
  const doneMs = waitedAt(progress.lastUpMs, waits ? monitorMs : 0, input.nowMs);
  if (input.nowMs < doneMs && progress.total > 0) {
    change.wakeAt(doneMs);
    return;
  }
  setStatus(input, change, service, progress.rollback ? State.ROLLBACK_COMPLETED : State.COMPLETED,
    progress.rollback ? 'rollback completed' : 'update completed');
}

function setStatus(input: Input, change: Change, service: Service, state: UpdateStatus_UpdateState, message: string): void {
  const next = copyOf(service);
  const status = create(UpdateStatusSchema, { state, message });
  const begins = state === State.UPDATING;
  const startedAt = begins ? timestampFromMs(input.nowMs) : service.updateStatus?.startedAt;
  if (startedAt !== undefined) status.startedAt = startedAt;
  if (state === State.COMPLETED || state === State.ROLLBACK_COMPLETED) status.completedAt = timestampFromMs(input.nowMs);
  next.updateStatus = status;
  change.updateService(next);
}
