// Node records as the leader keeps them: unknown after a start, down when their heartbeats stop, ready on a session.

import { create, toBinary } from '@bufbuild/protobuf';
import { copyOf } from '../../model/message.js';
import { updateAction } from '../store/actions.js';
import type { ReadTx } from '../store/view.js';
import { fail, ok, type Result } from '../../lib/result.js';
import { cutText } from '../../lib/text.js';
import { timestampFromMs, timestampMs } from '../../lib/time.js';
import {
  NodeDescriptionSchema, NodeSpec_Availability, NodeStatusSchema, NodeStatus_State, TaskState, TaskStatusSchema,
  type NodeDescription, type StoreAction, type TaskStatus,
} from '../../model/proto/swarmkit_pb.js';
import { stateOf } from '../../model/task.js';

/** A node is one object of one command, beside its labels, certificate and networks. */
const DESCRIPTION_BYTES_MAX = 1024 * 1024;
/** Of a status' message and error each, in characters. */
const STATUS_TEXT_MAX = 4096;
const STATUS_BYTES_MAX = 32 * 1024;

/** A new leader does not know who is there: they get a grace period before they count as down. */
export function nodesUnknown(view: ReadTx): StoreAction[] {
  return view.list('node').flatMap((node) => {
    if (node.status?.state !== NodeStatus_State.READY) return [];
    const next = copyOf(node);
    next.status = create(NodeStatusSchema, {
      ...node.status, state: NodeStatus_State.UNKNOWN, message: 'Node moved to "unknown" state due to leadership change in cluster',
    });
    return [updateAction('node', next)];
  });
}

/** `reasons`: what is known better than that the heartbeats stopped. */
export function expireNodes(
  view: ReadTx, expired: readonly string[], reasons: ReadonlyMap<string, string> = new Map(),
): StoreAction[] {
  return expired.flatMap((nodeId) => {
    const node = view.get('node', nodeId);
    if (node === undefined || node.status?.state === NodeStatus_State.DOWN) return [];
    const next = copyOf(node);
    next.status = create(NodeStatusSchema, {
      state: NodeStatus_State.DOWN, addr: node.status?.addr ?? '',
      message: reasons.get(nodeId) ?? (node.status?.state === NodeStatus_State.UNKNOWN
        ? 'heartbeat failure for node in "unknown" state' : 'heartbeat failure'),
    });
    return [updateAction('node', next)];
  });
}

/** A node that is about to leave takes no task and gives up those it has. */
export function nodeLeaves(view: ReadTx, nodeId: string): StoreAction[] {
  const node = view.get('node', nodeId);
  if (node === undefined) return [];
  const next = copyOf(node);
  if (next.spec !== undefined) next.spec.availability = NodeSpec_Availability.DRAIN;
  return [updateAction('node', next)];
}

/** Gone; its record shows what the user had set. */
export function nodeLeft(view: ReadTx, nodeId: string, availability: NodeSpec_Availability): StoreAction[] {
  const node = view.get('node', nodeId);
  if (node === undefined) return [];
  const next = copyOf(node);
  if (next.spec !== undefined) next.spec.availability = availability;
  next.status = create(NodeStatusSchema, {
    state: NodeStatus_State.DOWN, addr: node.status?.addr ?? '', message: 'node left the swarm',
  });
  return [updateAction('node', next)];
}

export function checkDescription(description: NodeDescription | undefined): Result<void> {
  const bytes = description === undefined ? 0 : toBinary(NodeDescriptionSchema, description).length;
  if (bytes <= DESCRIPTION_BYTES_MAX) return ok(undefined);
  return fail('invalid_argument', `the node's description is too large: ${bytes} bytes, at most ${DESCRIPTION_BYTES_MAX}: `
    + 'remove some of its images, labels or plugins');
}

export function nodeReady(view: ReadTx, nodeId: string, description: NodeDescription | undefined, address: string): StoreAction[] {
  const node = view.get('node', nodeId);
  if (node === undefined) return [];
  const next = copyOf(node);
  if (description !== undefined) next.description = description;
  next.status = create(NodeStatusSchema, { state: NodeStatus_State.READY, addr: address });
  return [updateAction('node', next)];
}

function cut(text: string): string {
  if (text.length <= STATUS_TEXT_MAX) return text;
  return `${cutText(text, STATUS_TEXT_MAX)} [cut: ${text.length} characters]`;
}

/** What a task's status may take: the task has to go on fitting into a command. What is cut says so. */
function bounded(status: TaskStatus): TaskStatus {
  const next = create(TaskStatusSchema, { ...status, message: cut(status.message), err: cut(status.err) });
  const bytes = toBinary(TaskStatusSchema, next).length;
  if (bytes <= STATUS_BYTES_MAX) return next;
  const { state, timestamp } = status;
  return create(TaskStatusSchema, {
    state, message: next.message, err: `the node's report was cut: ${bytes} bytes, at most ${STATUS_BYTES_MAX}`,
    ...(timestamp === undefined ? {} : { timestamp }),
  });
}

export interface StatusReport {
  readonly taskId: string;
  readonly status?: TaskStatus | undefined;
}

/** Statuses reported by a node: never backwards, only its own tasks; unknown tasks are dropped silently. */
export function taskStatuses(
  view: ReadTx, nodeId: string, updates: readonly StatusReport[], nowMs: number,
): { actions: StoreAction[]; foreign: boolean } {
  const byTask = new Map<string, TaskStatus>();
  for (const { taskId, status } of updates) if (status !== undefined) byTask.set(taskId, status);
  const actions: StoreAction[] = [];
  for (const [taskId, status] of byTask) {
    const task = view.get('task', taskId);
    if (task === undefined) continue;
    if (task.nodeId !== nodeId) return { actions: [], foreign: true };
    const known = stateOf(task);
    if (status.state < known || known >= TaskState.ORPHANED) continue;
    if (status.state === known && timestampMs(status.timestamp) <= timestampMs(task.status?.timestamp)) continue;
    const next = copyOf(task);
    next.status = create(TaskStatusSchema, { ...bounded(status), appliedBy: nodeId, appliedAt: timestampFromMs(nowMs) });
    if (status.state === TaskState.RUNNING && task.ranAt === undefined) next.ranAt = timestampFromMs(nowMs);
    actions.push(updateAction('task', next));
  }
  return { actions, foreign: false };
}
