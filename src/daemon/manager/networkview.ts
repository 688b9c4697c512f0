// NetworkView: the rows each node needs, complete on connect and then in increments, with acknowledgements. Rows are
// computed once per store state and shared by all streams. An empty update carries progress while somebody waits for
// an acknowledgement (a drain, an address to be released).

import { create } from '@bufbuild/protobuf';
import { clusterRows, diffParts, partsForNode, type ClusterRows, type Parts } from '../../core/network/rows.js';
import type { ReadTx, StoreEvent } from '../../core/store/view.js';
import { DRAIN_TIMEOUT_MS } from '../../core/orchestrator/drain.js';
import { awaitedRevision, installedBy } from '../../core/store/soft.js';
import { AppFailure, ok, unwrap } from '../../lib/result.js';
import type { Caller, Handler, Outgoing } from '../../io/grpc/server.js';
import { LeaveResponseSchema, UpdateSchema, type Ack, type LeaveRequest, type Update } from '../../model/proto/skein_pb.js';
import { NodeSpec_Availability, TaskState } from '../../model/proto/swarmkit_pb.js';
import { check, follow } from './dispatcher.js';
import type { Manager } from './manager.js';
import { nodeLeaves, nodeLeft } from '../../core/dispatcher/nodes.js';

const ACK_POLL_MS = 10;
/** A drain and the default stop grace. */
const LEAVING_TASKS_MS = 15_000;

export function networkViewHandlers(manager: Manager): Record<string, Handler> {
  const cache = new RowCache();
  return {
    leave: async (request: LeaveRequest, caller: Caller) => leave(manager, request, caller),
    watch: async (requests: AsyncIterable<Ack>, caller: Caller, out: Outgoing<Update>) => watch(manager, cache, requests, caller, out),
  };
}

class RowCache {
  private index = -1n;
  private rows: ClusterRows | undefined;
  private awaited = 0n;

  get(view: ReadTx): { rows: ClusterRows; awaited: bigint } {
    if (this.rows === undefined || view.index !== this.index) {
      this.rows = clusterRows(view, this.rows);
      this.awaited = awaitedRevision(view);
      this.index = view.index;
    }
    return { rows: this.rows, awaited: this.awaited };
  }
}

/**
 * Lets a node go without losing a request: its tasks drain and end while the rows that lead back from them still stand,
 * then the node is taken out of the tables, and it goes on only when nobody forwards to it any more. Bounded: a task
 * that does not end, or a node that does not acknowledge, only costs the wait.
 */
async function leave(manager: Manager, request: LeaveRequest, caller: Caller): Promise<object> {
  const nodeId = caller.identity?.nodeId ?? '';
  check(manager.sessions.check(nodeId, request.sessionId));
  const before = manager.view().get('node', nodeId)?.spec?.availability ?? NodeSpec_Availability.ACTIVE;
  unwrap(await manager.commit((view) => ok({ actions: nodeLeaves(view, nodeId), value: undefined })));
  const tasksDeadline = Date.now() + LEAVING_TASKS_MS;
  while (hasRunningTasks(manager.view(), nodeId) && Date.now() < tasksDeadline) await poll();
  unwrap(await manager.commit((view) => ok({ actions: nodeLeft(view, nodeId, before), value: undefined })));
  const revision = manager.view().get('node', nodeId)?.meta?.version?.index ?? 0n;
  manager.forget(nodeId);
  const deadline = Date.now() + DRAIN_TIMEOUT_MS;
  while (installedBy(manager.view(), manager.acked) < revision && Date.now() < deadline) await poll();
  return create(LeaveResponseSchema);
}

function poll(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ACK_POLL_MS);
  });
}

function hasRunningTasks(view: ReadTx, nodeId: string): boolean {
  return view.tasksOfNode(nodeId).some((task) => {
    const state = task.status?.state ?? TaskState.NEW;
    return state >= TaskState.STARTING && state <= TaskState.RUNNING;
  });
}

async function watch(manager: Manager, cache: RowCache, requests: AsyncIterable<Ack>, caller: Caller, out: Outgoing<Update>): Promise<void> {
  const nodeId = caller.identity?.nodeId ?? '';
  const incoming = requests[Symbol.asyncIterator]();
  const hello = await incoming.next();
  if (hello.done === true) throw new AppFailure({ code: 'invalid_argument', message: 'the first message names the session' });
  const { sessionId } = hello.value;
  check(manager.sessions.check(nodeId, sessionId));
  manager.acknowledge(nodeId, 0n);
  let sentRevision = 0n;
  const acks = (async () => {
    for (let next = await incoming.next(); next.done !== true; next = await incoming.next()) {
      if (next.value.error !== '') manager.logger.error({ nodeId, error: next.value.error }, 'node could not install its network rows');
      // Never beyond what it was sent: an acknowledgement from another life proves nothing.
      else if (next.value.revision <= sentRevision) manager.acknowledge(nodeId, next.value.revision);
    }
  })();
  acks.catch(() => undefined); // The stream broke: `closed` ends the loop below.
  let sent: Parts = new Map();
  let first = true;
  await follow(manager, nodeId, out.closed, concerns, async () => {
    if (manager.sessions.check(nodeId, sessionId) !== 'ok') throw new AppFailure({ code: 'aborted', message: 'the node has a newer session' });
    const view = manager.view();
    const { rows, awaited } = cache.get(view);
    const wanted = partsForNode(view, rows, nodeId);
    const { upsert, remove } = diffParts(sent, wanted);
    if (first || upsert.length > 0 || remove.length > 0 || awaited > sentRevision) {
      sentRevision = view.index;
      sent = wanted;
      const full = first;
      first = false;
      await out.write(create(UpdateSchema, { revision: sentRevision, full, upsert, remove }));
    }
    return true;
  });
}

function concerns(event: StoreEvent): boolean {
  return event.kind === 'task' || event.kind === 'service' || event.kind === 'network' || event.kind === 'node';
}
