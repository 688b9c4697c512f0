// Dispatcher: sessions, heartbeats, assignments and statuses of the nodes (SwarmKit's wire rules, docs section 3).
// Every stream has one loop that sleeps until the store changed something for its node.

import { create } from '@bufbuild/protobuf';
import { randomBytes } from 'node:crypto';
import { networksOver } from '../../core/control/networks.js';
import { EMPTY_SET, assignmentsOf, diffAssignments } from '../../core/dispatcher/assignments.js';
import type { StoreEvent } from '../../core/store/view.js';
import { newId } from '../../lib/ids.js';
import { AppFailure, ok, unwrap, type ErrorCode } from '../../lib/result.js';
import { Signal } from '../../lib/signal.js';
import { durationFromMs } from '../../lib/time.js';
import type { Caller, Handler, Outgoing } from '../../io/grpc/server.js';
import {
  AssignmentsMessageSchema, AssignmentsMessage_Type, HeartbeatResponseSchema, NodeStatus_State, PeerSchema, SessionMessageSchema,
  UpdateTaskStatusResponseSchema, UpdateVolumeStatusResponseSchema, WeightedPeerSchema,
  type AssignmentsMessage, type AssignmentsRequest, type HeartbeatRequest, type SessionMessage, type SessionRequest,
  type UpdateTaskStatusRequest, type WeightedPeer,
} from '../../model/proto/swarmkit_pb.js';
import { removedText } from './authorize.js';
import type { Manager } from './manager.js';
import { checkDescription, nodeReady, taskStatuses } from '../../core/dispatcher/nodes.js';

const CHANGES_PER_MESSAGE = 100;
/** Changes within this time travel together. Shorter than SwarmKit's 100 ms: it is on the path of every task. */
const ASSIGNMENT_DEBOUNCE_MS = 5;
const HEARTBEAT_JITTER_MS = 500;

function refuse(code: ErrorCode, message: string): never {
  throw new AppFailure({ code, message });
}

function nodeIdOf(caller: Caller): string {
  return caller.identity?.nodeId ?? refuse('permission_denied', 'Permission denied: no certificate');
}

export function dispatcherHandlers(manager: Manager): Record<string, Handler> {
  return {
    session: async (request: SessionRequest, caller: Caller, out: Outgoing<SessionMessage>) => session(manager, request, caller, out),
    heartbeat: async (request: HeartbeatRequest, caller: Caller) => {
      const nodeId = nodeIdOf(caller);
      const periodMs = manager.periodMs();
      check(manager.sessions.heartbeat(nodeId, request.sessionId, performance.now(), periodMs));
      manager.liveness.agentHeard(nodeId);
      // A node of ours is heard more often than it is waited for; a stock engine as often as the user set.
      const next = manager.liveness.heartbeatMs(nodeId) ?? periodMs + jitter();
      return create(HeartbeatResponseSchema, { period: durationFromMs(next) });
    },
    assignments: async (request: AssignmentsRequest, caller: Caller, out: Outgoing<AssignmentsMessage>) => assignments(manager, request, caller, out),
    updateTaskStatus: async (request: UpdateTaskStatusRequest, caller: Caller) => {
      const nodeId = nodeIdOf(caller);
      check(manager.sessions.check(nodeId, request.sessionId));
      unwrap(await manager.commitParts('task statuses', (view, { nowMs }) => {
        const { actions, foreign } = taskStatuses(view, nodeId, request.updates, nowMs);
        if (foreign) refuse('permission_denied', 'cannot update a task not assigned this node');
        return actions;
      }));
      return create(UpdateTaskStatusResponseSchema);
    },
    updateVolumeStatus: async () => create(UpdateVolumeStatusResponseSchema),
  };
}

function jitter(): number {
  return ((randomBytes(1)[0] ?? 0) / 255 - 0.5) * 2 * HEARTBEAT_JITTER_MS;
}

export function check(verdict: 'ok' | 'unknown node' | 'wrong session'): void {
  if (verdict === 'unknown node') refuse('not_found', 'node not registered');
  if (verdict === 'wrong session') refuse('invalid_argument', 'session invalid');
}

/**
 * Runs `step` for a node now and after every store change that `concerns` it, until the peer goes or `step` says stop.
 * A node that is removed from the swarm is cut off.
 */
export async function follow(
  manager: Manager, nodeId: string, closed: AbortSignal, concerns: (event: StoreEvent) => boolean, step: () => Promise<boolean>,
): Promise<void> {
  const signal = new Signal();
  const removed = (event: StoreEvent): boolean => event.kind === 'node' && event.action === 'remove' && event.object.id === nodeId;
  const unsubscribe = manager.onEvents((events) => {
    if (events.some((event) => concerns(event) || removed(event))) signal.raise();
  });
  const end = (): void => signal.raise();
  closed.addEventListener('abort', end);
  try {
    while (!closed.aborted) {
      if (manager.view().get('node', nodeId) === undefined) refuse('permission_denied', removedText(nodeId));
      if (!await step()) return;
      await signal.wait();
    }
  } finally {
    unsubscribe();
    closed.removeEventListener('abort', end);
  }
}

async function session(manager: Manager, request: SessionRequest, caller: Caller, out: Outgoing<SessionMessage>): Promise<void> {
  const nodeId = nodeIdOf(caller);
  if (manager.view().get('node', nodeId) === undefined) refuse('not_found', 'node not found');
  unwrap(checkDescription(request.description));
  const registered = manager.sessions.register(nodeId, request.sessionId, newId(randomBytes), performance.now(), manager.periodMs());
  if (!registered.ok) refuse('unavailable', 'node attempted registration too many times');
  const { sessionId } = registered;
  unwrap(await manager.commitInTerm((view) => ok({ actions: nodeReady(view, nodeId, request.description, caller.address), value: undefined })));
  manager.sessions.registered(nodeId, performance.now());
  // Too late to refuse: the networks are there. Their tasks on this node cannot reach what the node needs itself.
  for (const problem of networksOver(manager.view(), nodeId)) manager.logger.warn({ nodeId }, `the node's addresses are taken: ${problem}`);
  manager.liveness.agentCame(nodeId, request.sessionId !== '');
  manager.nudge();
  let sent: string | undefined;
  const concerns = (event: StoreEvent): boolean => event.kind === 'cluster' || event.kind === 'node';
  await follow(manager, nodeId, out.closed, concerns, async () => {
    const view = manager.view();
    const node = view.get('node', nodeId);
    if (node === undefined) refuse('permission_denied', removedText(nodeId));
    if (manager.sessions.check(nodeId, sessionId) !== 'ok') refuse('aborted', 'the node has a newer session');
    if (node.status?.state === NodeStatus_State.DOWN) refuse('aborted', 'the node was marked down: start a new session');
    const cluster = view.cluster();
    const message = create(SessionMessageSchema, {
      sessionId, node, managers: managersOf(manager), networkBootstrapKeys: cluster?.networkBootstrapKeys ?? [],
      RootCA: cluster?.rootCa?.caCert ?? new Uint8Array(),
    });
    // A node's own status changes are no news to it.
    const key = JSON.stringify([message.managers.map((m) => m.peer?.addr), node.spec, node.attachments.length, node.certificate?.status?.state, node.role,
      node.managerStatus?.raftId, node.dataPath?.problem,
      cluster?.networkBootstrapKeys.length, Buffer.from(message.RootCA).toString('base64')], (_k, v) => (typeof v === 'bigint' ? v.toString() : v));
    if (key !== sent) {
      sent = key;
      await out.write(message);
    }
    return true;
  });
}

function managersOf(manager: Manager): WeightedPeer[] {
  return manager.view().list('node').flatMap((node) => node.managerStatus === undefined ? []
    : [create(WeightedPeerSchema, { peer: create(PeerSchema, { nodeId: node.id, addr: node.managerStatus.addr }), weight: 10n })]);
}

async function assignments(manager: Manager, request: AssignmentsRequest, caller: Caller, out: Outgoing<AssignmentsMessage>): Promise<void> {
  const nodeId = nodeIdOf(caller);
  check(manager.sessions.check(nodeId, request.sessionId));
  let sent = EMPTY_SET;
  let sequence = 0;
  const concerns = (event: StoreEvent): boolean =>
    (event.kind === 'task' && (event.object.nodeId === nodeId || event.old?.nodeId === nodeId))
    || (event.kind === 'secret' && (event.action === 'create' || sent.secrets.has(event.object.id)))
    || (event.kind === 'config' && (event.action === 'create' || sent.configs.has(event.object.id)));
  await follow(manager, nodeId, out.closed, concerns, async () => {
    if (sequence > 0) await new Promise((resolve) => setTimeout(resolve, ASSIGNMENT_DEBOUNCE_MS));
    if (manager.sessions.check(nodeId, request.sessionId) !== 'ok') refuse('aborted', 'the node has a newer session');
    const set = assignmentsOf(manager.view(), nodeId);
    const changes = diffAssignments(sent, set);
    sent = set;
    // The complete set is one message, however large: a partial one would stop the tasks that are not in it.
    const step = sequence === 0 ? Math.max(changes.length, 1) : CHANGES_PER_MESSAGE;
    for (let at = 0; at < changes.length || sequence === 0; at += step) {
      const first = sequence === 0;
      sequence += 1;
      await out.write(create(AssignmentsMessageSchema, {
        type: first ? AssignmentsMessage_Type.COMPLETE : AssignmentsMessage_Type.INCREMENTAL,
        appliesTo: first ? '' : String(sequence - 1),
        resultsIn: String(sequence),
        changes: changes.slice(at, at + step),
      }));
    }
    return true;
  });
}
