// Global services: one task on every node that can take it.

import { NodeSpec_Availability, NodeStatus_State, TaskState, type Node, type Service } from '../../model/proto/swarmkit_pb.js';
import { meetsConstraints } from '../../model/constraint.js';
import type { Change, Input } from './change.js';
import { isInvalidNode, tendPlace } from './restart.js';
import { isOccupied, placesOf } from './slots.js';
import { newTask, stopTask } from './tasks.js';

export function reconcileGlobal(input: Input, change: Change, service: Service): void {
  if (service.spec?.mode.case !== 'global') return;
  const places = placesOf(service, input.view.tasksOfService(service.id));
  for (const node of input.view.list('node')) {
    if (change.full) return;
    if (!isEligible(service, node)) continue;
    const place = places.get(node.id);
    if (place === undefined || !isOccupied(service, place, input.nowMs)) {
      if (node.spec?.availability === NodeSpec_Availability.PAUSE) continue;
      if (node.status?.state !== NodeStatus_State.READY) continue;
      change.createTask(newTask(input, service, { slot: 0n, nodeId: node.id }, TaskState.RUNNING));
    }
  }
  for (const place of places.values()) {
    const node = input.view.get('node', place.nodeId);
    if (node !== undefined && isEligible(service, node)) {
      tendPlace(input, change, service, place);
      continue;
    }
    for (const task of place.runnable) {
      if (change.full) return;
      if (!change.touched(task.id)) stopTask(input, change, task, TaskState.SHUTDOWN);
    }
  }
}

function isEligible(service: Service, node: Node): boolean {
  return !isInvalidNode(node) && meetsConstraints(service.spec?.task?.placement?.constraints ?? [], node);
}
