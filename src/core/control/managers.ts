// Managers: what the leader does so that the group of managers is what the nodes' roles ask for, and so that the nodes
// tell what the group is. A function of the store and of what Raft knows; one membership change at a time.

import { clone, create } from '@bufbuild/protobuf';
import {
  ManagerStatusSchema, NodeRole, NodeSchema, NodeSpec_Availability, RaftMemberStatus_Reachability as Reachability, type ManagerStatus,
  type Node, type RaftMember, type StoreAction,
} from '../../model/proto/swarmkit_pb.js';
import { updateAction } from '../store/actions.js';
import type { ReadTx } from '../store/view.js';

/** A learner this close to the commit index votes without holding the group up. */
const CAUGHT_UP_ENTRIES = 1000n;

/** Of core/raft's status what counts here; this manager leads. */
export interface GroupStatus {
  readonly id: bigint;
  readonly commit: bigint;
  readonly confState: { readonly voters: readonly bigint[] };
  readonly progress: readonly { readonly member: bigint; readonly learner: boolean; readonly match: bigint; readonly heard: boolean }[];
}

export interface GroupInput {
  readonly view: ReadTx;
  readonly status: GroupStatus;
  readonly members: readonly RaftMember[];
  /** This manager, which leads: its node and where it is reached. */
  readonly self: RaftMember;
}

export interface GroupDecision {
  readonly actions: readonly StoreAction[];
  readonly change: { readonly kind: 'addNode' | 'removeNode' | 'updateNode'; readonly member: RaftMember } | undefined;
  /** The member that leads from now on: this manager is to leave the group, or its node is drained. */
  readonly handOver: bigint | undefined;
}

export function decideGroup(input: GroupInput): GroupDecision {
  // Until the group names this manager, its books say less than the nodes do.
  const own = ownEntry(input);
  if (own !== undefined) return { actions: [], change: own, handOver: undefined };
  const leaving = input.members.filter((member) => isLeaving(input.view, member) || isOutlived(input, member));
  const change = removal(input, leaving) ?? promotion(input);
  return { actions: nodeActions(input), change, handOver: handOver(input, leaving) };
}

function handOver(input: GroupInput, leaving: readonly RaftMember[]): bigint | undefined {
  const to = successor(input);
  if (leaving.some(({ raftId }) => raftId === input.self.raftId)) return mayRemove(input, input.self.raftId) ? to : undefined;
  // Whoever drains a node is about to take it away. Not to another drained one: the two would hand over for ever.
  return to !== undefined && isDrained(input, input.self.raftId) && !isDrained(input, to) ? to : undefined;
}

/** Who leads best after this manager: a voter that is heard from and stays, rather not drained, the furthest of them. */
export function successor(input: Pick<GroupInput, 'view' | 'status' | 'members'>): bigint | undefined {
  const { status, members, view } = input;
  const staying = status.progress.filter(({ member, learner, heard }) => {
    const known = members.find(({ raftId }) => raftId === member);
    return member !== status.id && !learner && heard && known !== undefined && !isLeaving(view, known);
  });
  const [best] = staying.sort((a, b) => Number(isDrained(input, a.member)) - Number(isDrained(input, b.member))
    || (a.match > b.match ? -1 : a.match < b.match ? 1 : 0));
  return best?.member;
}

function isDrained({ view, members }: Pick<GroupInput, 'view' | 'members'>, raftId: bigint): boolean {
  const nodeId = members.find((member) => member.raftId === raftId)?.nodeId ?? '';
  return view.get('node', nodeId)?.spec?.availability === NodeSpec_Availability.DRAIN;
}

/** The first entry of the group names its founder, so that those who join learn of it; a new address is told the same way. */
function ownEntry({ members, self }: GroupInput): GroupDecision['change'] {
  const known = members.find(({ raftId }) => raftId === self.raftId);
  if (known?.addr === self.addr && known.nodeId === self.nodeId) return undefined;
  return { kind: known === undefined ? 'addNode' : 'updateNode', member: self };
}

/** Its node is to be a worker, or is gone. Also where the node is a worker already: it may have been demoted while it joined. */
function isLeaving(view: ReadTx, { nodeId }: RaftMember): boolean {
  return view.get('node', nodeId)?.spec?.desiredRole !== NodeRole.MANAGER;
}

/** Another member is its node, and heard from, while this one is not: a place that was given twice. */
function isOutlived({ members, status, self }: GroupInput, { raftId, nodeId }: RaftMember): boolean {
  return raftId !== self.raftId && !isReachable(status, raftId)
    && members.some((other) => other.nodeId === nodeId && other.raftId !== raftId && hasAnswered(status, other.raftId));
}

/** One that is new counts as heard from for a moment. */
function hasAnswered(status: GroupStatus, raftId: bigint): boolean {
  return raftId === status.id || status.progress.some(({ member, heard, match }) => member === raftId && heard && match > 0n);
}

function removal(input: GroupInput, leaving: readonly RaftMember[]): GroupDecision['change'] {
  const member = leaving.find(({ raftId }) => raftId !== input.self.raftId && mayRemove(input, raftId));
  return member === undefined ? undefined : { kind: 'removeNode', member };
}

/** SwarmKit's CanRemoveMember: those that are left and reachable are a quorum of those that are left. */
function mayRemove({ status }: GroupInput, raftId: bigint): boolean {
  const { voters } = status.confState;
  if (!voters.includes(raftId)) return true;
  const left = voters.filter((voter) => voter !== raftId);
  const reachable = left.filter((voter) => isReachable(status, voter));
  return left.length > 0 && reachable.length >= Math.floor(left.length / 2) + 1;
}

function isReachable(status: GroupStatus, raftId: bigint): boolean {
  return raftId === status.id || status.progress.some(({ member, heard }) => member === raftId && heard);
}

function promotion({ status, members, view }: GroupInput): GroupDecision['change'] {
  for (const { member: raftId, learner, match, heard } of status.progress) {
    // One that never answered may never: of two voters it would be one too many, however short the log is.
    if (!learner || !heard || match === 0n || match + CAUGHT_UP_ENTRIES < status.commit) continue;
    const member = members.find((m) => m.raftId === raftId);
    if (member !== undefined && !isLeaving(view, member)) return { kind: 'addNode', member };
  }
  return undefined;
}

function nodeActions(input: GroupInput): StoreAction[] {
  return input.view.list('node').flatMap((node) => {
    const member = input.members.find(({ nodeId }) => nodeId === node.id);
    const role = roleOf(node, member);
    const status = member === undefined ? undefined : statusOf(input, member);
    if (role === node.role && sameStatus(status, node.managerStatus)) return [];
    const next = clone(NodeSchema, node);
    next.role = role;
    if (status === undefined) delete next.managerStatus;
    else next.managerStatus = status;
    return [updateAction('node', next)];
  });
}

/** Up at once; down only once it is out of the group (SwarmKit's role manager). */
function roleOf(node: Node, member: RaftMember | undefined): NodeRole {
  if (node.spec?.desiredRole === NodeRole.MANAGER) return NodeRole.MANAGER;
  return member === undefined ? NodeRole.WORKER : node.role;
}

function statusOf({ status }: GroupInput, { raftId, addr }: RaftMember): ManagerStatus {
  return create(ManagerStatusSchema, {
    raftId, addr, leader: raftId === status.id,
    reachability: isReachable(status, raftId) ? Reachability.REACHABLE : Reachability.UNREACHABLE,
  });
}

function sameStatus(a: ManagerStatus | undefined, b: ManagerStatus | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return a.raftId === b.raftId && a.addr === b.addr && a.leader === b.leader && a.reachability === b.reachability;
}
