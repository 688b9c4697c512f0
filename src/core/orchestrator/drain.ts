// Drain: a task that leaves service is told to stop only when every node has installed tables without it (or the
// bound on waiting passed, which is recorded). This replaces Docker's fixed sleep of two seconds.

import { copyOf } from '../../model/message.js';
import { NodeStatus_State, TaskState } from '../../model/proto/swarmkit_pb.js';
import { isTerminal } from '../../model/task.js';
import { acknowledged, hadForMs } from '../store/soft.js';
import type { Change, Input } from './change.js';

export const DRAIN_TIMEOUT_MS = 5000;

export function reconcileDrains(input: Input, change: Change): void {
  const { view, soft, nowMs } = input;
  for (const task of view.list('task')) {
    const drain = task.drainState;
    if (drain === undefined || task.desiredState > TaskState.RUNNING || change.touched(task.id)) continue;
    const waitMs = DRAIN_TIMEOUT_MS - hadForMs(soft, drain.revision);
    const done = acknowledged(soft, drain.revision)
      || isTerminal(task)
      || view.get('node', task.nodeId)?.status?.state === NodeStatus_State.DOWN;
    if (!done && waitMs > 0) {
      change.wakeAt(nowMs + waitMs);
      continue;
    }
    if (change.full) return;
    const stopped = copyOf(task);
    stopped.desiredState = drain.target;
    if (stopped.drainState !== undefined) stopped.drainState.timedOut = !done;
    change.updateTask(stopped);
  }
}
