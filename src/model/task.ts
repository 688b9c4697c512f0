// Task helpers: states, names, whether a task still matches its service.

import { create } from '@bufbuild/protobuf';
import { copyOf, sameMessage } from './message.js';
import { timestampFromMs } from '../lib/time.js';
import {
  EndpointSpecSchema, EndpointSpec_ResolutionMode, PortConfig_PublishMode, TaskState, TaskStatusSchema,
  type Node, type PortConfig, type Service, type Task,
} from './proto/swarmkit_pb.js';

/** Ended by itself or by us: the process is gone. ORPHANED is not: nobody knows. */
export function isTerminal(task: Task): boolean {
  return stateOf(task) > TaskState.RUNNING;
}

export function stateOf(task: Task): TaskState {
  return task.status?.state ?? TaskState.NEW;
}

/** What the task is headed for: a drain counts as decided. */
export function desiredOf(task: Task): TaskState {
  const target = task.drainState?.target ?? TaskState.NEW;
  return target > task.desiredState ? target : task.desiredState;
}

/** Meant to run (or to become ready to). */
export function isRunnable(task: Task): boolean {
  return desiredOf(task) <= TaskState.RUNNING;
}

export function isGlobal(service: Service): boolean {
  return service.spec?.mode.case === 'global';
}

/** The task as it is once nobody will tell of it any more. */
export function orphaned(task: Task, nowMs: number, message: string): Task {
  const next = copyOf(task);
  next.status = create(TaskStatusSchema, { timestamp: timestampFromMs(nowMs), state: TaskState.ORPHANED, message });
  return next;
}

/** `<service>.<slot or node id>.<task id>`, the container's name. */
export function taskName(task: Task): string {
  if (task.annotations !== undefined && task.annotations.name !== '') return task.annotations.name;
  const slot = task.slot > 0n ? task.slot.toString() : task.nodeId;
  return `${task.serviceAnnotations?.name ?? ''}.${slot}.${task.id}`;
}

/**
 * The task does not match its service's current spec and has to be replaced. Equal spec versions settle it; otherwise
 * only a change of what the task itself was made from counts (not of the replica count).
 */
export function isTaskDirty(service: Service, task: Task): boolean {
  const version = service.specVersion?.index;
  if (version !== undefined && task.specVersion?.index === version) return false;
  const spec = service.spec?.task;
  if (spec === undefined || task.spec === undefined) return true;
  if (!sameMessage(spec, task.spec)) return true;
  // Before its allocation a task has no endpoint yet. An endpoint spec left out means the empty one.
  if (task.endpoint === undefined) return false;
  const none = create(EndpointSpecSchema);
  return !sameMessage(service.spec?.endpoint ?? none, task.endpoint.spec ?? none);
}

export function ingressPorts(ports: readonly PortConfig[] | undefined): PortConfig[] {
  return (ports ?? []).filter((port) => port.publishMode === PortConfig_PublishMode.INGRESS);
}

export function hostPorts(ports: readonly PortConfig[] | undefined): PortConfig[] {
  return (ports ?? []).filter((port) => port.publishMode === PortConfig_PublishMode.HOST);
}

export function usesVip(service: Service): boolean {
  return (service.spec?.endpoint?.mode ?? EndpointSpec_ResolutionMode.VIP) === EndpointSpec_ResolutionMode.VIP;
}

/** The host name the node told; empty while it told none. */
export function nodeName(node: Node): string {
  return node.description?.hostname ?? '';
}
