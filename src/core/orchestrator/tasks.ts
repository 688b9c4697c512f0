// Making and stopping tasks. A serving task is stopped in two steps: first it drains (no new flow, acknowledged by
// the nodes), then its desired state falls; see drain.ts.

import { create } from '@bufbuild/protobuf';
import { copyOf } from '../../model/message.js';
import { timestampFromMs } from '../../lib/time.js';
import {
  AnnotationsSchema, NodeStatus_State, TaskSchema, TaskState, TaskStatusSchema, type Service, type Task,
} from '../../model/proto/swarmkit_pb.js';
import { desiredOf, ingressPorts, isTerminal, stateOf } from '../../model/task.js';
import type { ReadTx } from '../store/view.js';
import type { Change, Input } from './change.js';

export interface TaskPlace {
  readonly slot: bigint;
  /** Set for global services only. */
  readonly nodeId: string;
}

export function newTask(input: Input, service: Service, place: TaskPlace, desiredState: TaskState): Task {
  const spec = service.spec;
  const annotations = spec?.annotations ?? create(AnnotationsSchema);
  const id = input.newId();
  const slotName = place.slot > 0n ? place.slot.toString() : place.nodeId;
  const task = create(TaskSchema, {
    id,
    serviceId: service.id,
    slot: place.slot,
    nodeId: place.nodeId,
    annotations: create(AnnotationsSchema, { name: `${annotations.name}.${slotName}.${id}` }),
    serviceAnnotations: annotations,
    status: create(TaskStatusSchema, {
      state: TaskState.NEW, timestamp: timestampFromMs(input.nowMs), message: 'created',
    }),
    desiredState,
  });
  if (spec?.task !== undefined) task.spec = spec.task;
  if (service.specVersion !== undefined) task.specVersion = service.specVersion;
  const logDriver = spec?.task?.logDriver ?? input.view.cluster()?.spec?.taskDefaults?.logDriver;
  if (logDriver !== undefined) task.logDriver = logDriver;
  return task;
}

/** Something may be sending to it now. */
function serves(view: ReadTx, task: Task): boolean {
  if (stateOf(task) !== TaskState.RUNNING || task.networks.length === 0) return false;
  if (ingressPorts(task.endpoint?.ports).length === 0 && task.networks.every((a) => a.network?.spec?.ingress)) return false;
  return view.get('node', task.nodeId)?.status?.state !== NodeStatus_State.DOWN;
}

/** Heads the task for SHUTDOWN or REMOVE; a serving task drains first. */
export function stopTask(input: Input, change: Change, task: Task, target: TaskState): void {
  if (desiredOf(task) >= target || change.touched(task.id)) return;
  const stopped = copyOf(task);
  if (task.drainState !== undefined && stopped.drainState !== undefined) {
    stopped.drainState.target = target;
    if (task.desiredState > TaskState.RUNNING) stopped.desiredState = target;
  } else if (task.desiredState <= TaskState.RUNNING && !isTerminal(task) && serves(input.view, task)) {
    stopped.drainState = {
      $typeName: 'docker.swarmkit.v1.DrainState', revision: 0n, since: timestampFromMs(input.nowMs), timedOut: false, target,
    };
  } else {
    stopped.desiredState = target;
  }
  // No node will ever tell that it ended: it has, and what it holds is free (as from SwarmKit, `Shutdown` in `service ps`).
  if (stopped.status !== undefined && stateOf(task) < TaskState.ASSIGNED) {
    stopped.status.state = TaskState.SHUTDOWN;
    stopped.status.timestamp = timestampFromMs(input.nowMs);
    stopped.status.err = '';
  }
  change.updateTask(stopped);
}
