// Orphans: tasks nobody will ever tell about: of nodes that were removed, or have been down for a day (SwarmKit's
// moveTasksToOrphaned). Only then are their addresses and ports free: until then the node may come back with them.

import { NodeStatus_State, TaskState, type Node } from '../../model/proto/swarmkit_pb.js';
import { orphaned, stateOf } from '../../model/task.js';
import type { Change, Input } from './change.js';

export const NODE_DOWN_PERIOD_MS = 24 * 3600 * 1000;

export function reconcileOrphans(input: Input, change: Change): void {
  for (const task of input.view.list('task')) {
    if (change.full) return;
    if (task.nodeId === '' || stateOf(task) > TaskState.RUNNING) continue;
    const node = input.view.get('node', task.nodeId);
    if (node === undefined) {
      // Those that did not fit into the command that removed their node.
      change.updateTask(orphaned(task, input.nowMs, 'Task belonged to a node that has been deleted'));
    } else if (isLost(input, change, node) && stateOf(task) >= TaskState.ASSIGNED) {
      change.updateTask(orphaned(task, input.nowMs, 'Task belonged to a node that has been down for too long'));
    }
  }
}

function isLost({ soft, nowMs }: Input, change: Change, node: Node): boolean {
  const sinceMs = node.status?.state === NodeStatus_State.DOWN ? soft.downSince.get(node.id) : undefined;
  if (sinceMs === undefined) return false;
  const leftMs = NODE_DOWN_PERIOD_MS - (soft.steadyMs - sinceMs);
  if (leftMs <= 0) return true;
  change.wakeAt(nowMs + leftMs);
  return false;
}
