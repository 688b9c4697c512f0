// Nodes: update of labels, availability and role, and removal. Removing a node bars its certificate and orphans its
// tasks, in the same command; those that do not fit into it are left to the orchestrator.

import { clone, create } from '@bufbuild/protobuf';
import { notAfterMs } from '../../lib/der.js';
import { durationMs, timestampFromMs } from '../../lib/time.js';
import type { Result } from '../../lib/result.js';
import {
  BlacklistedCertificateEntrySchema, BlacklistedCertificateSchema, ClusterSchema, NodeRole, NodeSchema,
  NodeStatus_State, RaftMemberStatus_Reachability, TaskState, type Node, type NodeSpec, type StoreAction,
} from '../../model/proto/swarmkit_pb.js';
import { barredNow } from '../../model/cluster.js';
import { STOCK_ENGINE, isSkeinNode } from '../../model/network.js';
import { compareText } from '../../model/pairs.js';
import { orphaned, stateOf } from '../../model/task.js';
import { removeAction, updateAction } from '../store/actions.js';
import { inBatches } from '../store/batches.js';
import { stayingManagers } from '../store/references.js';
import type { ReadTx } from '../store/view.js';
import { change, outOfSequence, rpcFail, type Change, type ChangeContext } from './context.js';
import { checkNodeSize } from './limits.js';
import { find } from './lookup.js';

const DEFAULT_CERT_EXPIRY_MS = 2160 * 3600 * 1000;
const NO_BYTES = new Uint8Array();

export interface NodeUpdate {
  readonly id: string;
  readonly version: bigint;
  readonly spec: NodeSpec;
}

export function updateNode(view: ReadTx, request: NodeUpdate): Result<Change<void>> {
  const found = find(view, 'node', request.id);
  if (!found.ok) return found;
  const current = found.value;
  const refusal = checkNodeSize(request.spec);
  if (refusal !== undefined) return refusal;
  const oldRole = current.spec?.desiredRole ?? NodeRole.WORKER;
  const newRole = request.spec.desiredRole;
  // A promotion that was not carried out yet is taken back without a question.
  if (oldRole === NodeRole.MANAGER && newRole === NodeRole.WORKER && current.role === NodeRole.MANAGER) {
    if (stayingManagers(view, current.id).length === 0) {
      return rpcFail('failed_precondition', 'attempting to demote the last manager of the swarm');
    }
    if (!quorumWithout(view, current)) {
      return rpcFail('failed_precondition', "can't remove member from the raft: this would result in a loss of quorum");
    }
  }
  if (oldRole === NodeRole.WORKER && newRole === NodeRole.MANAGER && current.description !== undefined && !isSkeinNode(current)) {
    return rpcFail('failed_precondition', `node ${current.id} cannot be promoted: ${STOCK_ENGINE}`);
  }
  // What the swarm itself wrote since (a session, the state of a manager) is no conflict; SwarmKit takes it for one.
  if (request.version < current.specChanged || request.version > (current.meta?.version?.index ?? 0n)) return outOfSequence();
  const next = clone(NodeSchema, current);
  next.specChanged = view.index + 1n;
  const membership = current.spec?.membership;
  next.spec = request.spec;
  if (membership !== undefined) next.spec.membership = membership;
  return change([updateAction('node', next)], undefined);
}

/** Without `node`, those that remain and are reachable are still a majority of those that remain (SwarmKit's CanRemoveMember). */
function quorumWithout(view: ReadTx, node: Node): boolean {
  const members = view.list('node').filter((other) => other.id !== node.id && other.managerStatus !== undefined);
  const reachable = members.filter((other) => other.managerStatus?.reachability === RaftMemberStatus_Reachability.REACHABLE);
  return reachable.length >= Math.floor(members.length / 2) + 1;
}

export function removeNode(
  view: ReadTx, request: { readonly id: string; readonly force: boolean }, context: ChangeContext,
): Result<Change<void>> {
  const found = find(view, 'node', request.id);
  if (!found.ok) return found;
  const node = found.value;
  if (node.spec?.desiredRole === NodeRole.MANAGER || node.role === NodeRole.MANAGER) {
    return rpcFail('failed_precondition', `node ${node.id} is a cluster manager and is a member of the raft cluster. `
      + 'It must be demoted to worker before removal');
  }
  if (!request.force && node.status?.state === NodeStatus_State.READY) {
    return rpcFail('failed_precondition', `node ${node.id} is not down and can't be removed`);
  }
  const actions: StoreAction[] = [removeAction('node', node)];
  const barred = barCertificate(view, node, context.nowMs);
  if (barred !== undefined) actions.push(barred);
  actions.push(...orphanTasks(view, node.id, context.nowMs));
  // The removal and the bar come first and are small: they are never apart.
  return change(inBatches(actions).batches[0] ?? [], undefined);
}

/** The removed node's certificate stays refused until no certificate of it can be valid any more. */
function barCertificate(view: ReadTx, node: Node, nowMs: number): StoreAction | undefined {
  const current = view.cluster();
  if (current === undefined) return undefined;
  const cluster = clone(ClusterSchema, current);
  const configuredMs = durationMs(cluster.spec?.caConfig?.nodeCertExpiry);
  // Its certificates were issued under whatever expiry was configured then: the default and the last one's end count too.
  const lastMs = notAfterMs(node.certificate?.certificate ?? NO_BYTES) ?? 0;
  const expiryMs = Math.max(nowMs + configuredMs, nowMs + DEFAULT_CERT_EXPIRY_MS, lastMs);
  cluster.blacklistedCertificates = [
    ...barredNow(cluster.blacklistedCertificates, nowMs).filter((entry) => entry.key !== node.id),
    create(BlacklistedCertificateEntrySchema, {
      key: node.id, value: create(BlacklistedCertificateSchema, { expiry: timestampFromMs(expiryMs) }),
    }),
  ].sort((a, b) => compareText(a.key, b.key));
  return updateAction('cluster', cluster);
}

function orphanTasks(view: ReadTx, nodeId: string, nowMs: number): StoreAction[] {
  return view.tasksOfNode(nodeId).filter((task) => stateOf(task) <= TaskState.RUNNING)
    .map((task) => updateAction('task', orphaned(task, nowMs, 'Task belonged to a node that has been deleted')));
}
