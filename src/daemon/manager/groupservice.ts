// What managers offer each other: Raft messages, snapshots, proposals, and SwarmKit's RaftMembership for those who join
// or come back at another address.

import { randomBytes } from 'node:crypto';
import { create, type DescMessage, type MessageShape } from '@bufbuild/protobuf';
import { ManagerClient } from '../../io/grpc/client.js';
import type { Caller, Handler, Outgoing } from '../../io/grpc/server.js';
import { toAppError } from '../../io/grpc/service.js';
import type { Message } from '../../core/raft/types.js';
import type { Receiver } from '../../io/raftpeers/link.js';
import { WireError, decodeMessage, type Sender } from '../../io/raftpeers/messages.js';
import { decode } from '../../io/protobuf/codec.js';
import { AppFailure } from '../../lib/result.js';
import {
  CommandSchema, InstallResponseSchema, ProposeResponseSchema, SnapshotFileSchema, StoreStateSchema, type ProposeRequest, type SnapshotChunk,
} from '../../model/proto/skein_pb.js';
import {
  Health, HealthCheckRequestSchema, HealthCheckResponse_ServingStatus, JoinResponseSchema, LeaveResponseSchema, LogSelectorSchema,
  LogSubscriptionOptionsSchema, NodeRole, RaftMemberSchema, SubscribeLogsMessageSchema, type JoinRequest, type LeaveRequest,
  type RaftMember, type SubscribeLogsMessage, type SubscribeLogsRequest,
} from '../../model/proto/swarmkit_pb.js';
import type { Credentials } from '../../io/grpc/client.js';
import { noManagerText } from './authorize.js';
import type { Consensus } from './consensus.js';
import { parseHostPort } from '../addresses.js';
import { changeMember } from './groupchange.js';
import type { Manager } from './manager.js';
import { NO_LEADER } from './proposals.js';
import { settled } from './proxy.js';
import { untilRemoved } from './untilremoved.js';

const SNAPSHOT_BYTES_MAX = 1024 * 1024 * 1024;
const DIAL_BACK_TIMEOUT_MS = 5000;
const CHANGE_TIMEOUT_MS = 10_000;

export interface GroupServices {
  readonly group: Readonly<Record<string, Handler>>;
  readonly membership: Readonly<Record<string, Handler>>;
}

/** `consensus` is undefined while this manager is still joining: others ask again. */
export function groupServices(
  consensus: () => Consensus | undefined, manager: () => Manager | undefined, credentials: () => Credentials,
): GroupServices {
  const joining = new Set<string>();
  const ready = (): Consensus => consensus() ?? notReady();
  return {
    group: {
      install: (requests: AsyncIterable<SnapshotChunk>, caller: Caller) => install(ready(), requests, caller),
      propose: async (request: ProposeRequest, caller: Caller) => propose(ready(), request.command, caller),
      subscribeLogs: async ({ selector, options }: SubscribeLogsRequest, caller: Caller, out: Outgoing<SubscribeLogsMessage>) => {
        const here = manager() ?? notReady();
        // Its term may have begun and not be open yet.
        await settled(here);
        await untilRemoved(here, caller.identity?.nodeId ?? '', out.closed, async (over) => {
          const lines = here.broker.subscribe(selector ?? create(LogSelectorSchema), options ?? create(LogSubscriptionOptionsSchema), over);
          for await (const line of lines) await out.write(create(SubscribeLogsMessageSchema, { messages: [line] }));
        });
      },
    },
    membership: {
      join: async (request: JoinRequest, caller: Caller) => {
        const nodeId = caller.identity?.nodeId ?? '';
        // One that did not wait for its answer asks again: two at once would each take it in.
        if (joining.has(nodeId)) throw new AppFailure({ code: 'unavailable', message: 'this node is being taken into the group already' });
        joining.add(nodeId);
        return join(ready(), request, caller, credentials()).finally(() => joining.delete(nodeId));
      },
      leave: (request: LeaveRequest, caller: Caller) => leave(ready(), request, caller),
    },
  };
}

function notReady(): never {
  throw new AppFailure({ code: 'unavailable', message: 'this manager is not part of the group yet' });
}

/** A message is believed from the manager it says it comes from only. */
function isFrom(consensus: Consensus, raftId: bigint, caller: Caller): boolean {
  const known = consensus.members.get(raftId);
  return known === undefined ? mayHaveMissed(consensus, raftId) : known.nodeId === caller.identity?.nodeId;
}

/**
 * A member that is not known here may have joined while this manager was away, and may even lead by now. Whoever hears its leader
 * knows its members, or will in a moment; only one that leads a group of itself hears nobody else whatever it missed (its log may
 * have been put back).
 */
function mayHaveMissed({ members, status, leading }: Consensus, raftId: bigint): boolean {
  if (members.wasRemoved(raftId)) return false;
  return !status.hearsLeader || status.leader === raftId || (leading && status.activeConfState.voters.length === 1);
}

/**
 * What comes in by links of other managers. The newest link that each began is the one that counts: the end of an older one,
 * which may come late, says nothing.
 */
export class IncomingLinks {
  private readonly newest = new Map<bigint, Receiver>();
  private readonly consensus: () => Consensus | undefined;

  /** `consensus` is undefined while this manager is still joining: others try again. */
  constructor(consensus: () => Consensus | undefined) {
    this.consensus = consensus;
  }

  /** Undefined: not now. */
  open(caller: Caller): Receiver | undefined {
    const consensus = this.consensus();
    if (consensus === undefined) return undefined;
    let from = 0n;
    let sender: Sender | undefined;
    /** It speaks for the first member that it is believed to come from. */
    const speaksFor = (member: bigint): boolean => {
      if ((from !== 0n && from !== member) || !isFrom(consensus, member, caller)) return false;
      if (from !== 0n) return true;
      from = member;
      this.newest.set(from, receiver);
      const addr = sender?.raftId === from ? addressOf(sender, caller) : undefined;
      if (addr !== undefined) consensus.located(from, addr);
      return true;
    };
    const receiver: Receiver = {
      begun: (said) => {
        sender = said;
        speaksFor(said.raftId);
      },
      receive: (message) => {
        // Snapshots come by install().
        if (message.kind !== 'snapshot' && speaksFor(message.from)) consensus.step(message);
      },
      ended: () => {
        if (this.newest.get(from) !== receiver) return;
        this.newest.delete(from);
        consensus.located(from, undefined);
        consensus.suspect(from);
      },
    };
    return receiver;
  }
}

/** Undefined: it is none. Whatever its bytes are made of, they came from outside. */
function decoded<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> | undefined {
  try {
    return decode(schema, bytes);
  } catch {
    return undefined;
  }
}

/** What is in the log is decoded by every manager at every start: what cannot be is not taken. */
function propose(consensus: Consensus, bytes: Uint8Array, { identity }: Caller): object {
  // Its certificate may be older than its demotion.
  const nodeId = identity?.nodeId ?? '';
  if (consensus.leading && consensus.members.ofNode(nodeId) === undefined) {
    throw new AppFailure({ code: 'permission_denied', message: noManagerText(nodeId) });
  }
  const id = decoded(CommandSchema, bytes)?.id ?? '';
  if (id === '') throw new AppFailure({ code: 'invalid_argument', message: 'the proposal is no command' });
  return create(ProposeResponseSchema, { taken: consensus.proposeFor(bytes) });
}

function addressOf({ addr }: Sender, caller: Caller): string | undefined {
  return parseHostPort(addr, 0).ok ? reachableAt(addr, caller.address) : undefined;
}

function messageOf(bytes: Uint8Array): Message | undefined {
  try {
    return decodeMessage(bytes);
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}

async function install(consensus: Consensus, requests: AsyncIterable<SnapshotChunk>, caller: Caller): Promise<object> {
  const parts: Uint8Array[] = [];
  let header: Uint8Array = new Uint8Array(0);
  let size = 0;
  for await (const { message, data } of requests) {
    if (header.length === 0) header = message;
    size += data.length;
    if (size > SNAPSHOT_BYTES_MAX) throw new AppFailure({ code: 'resource_exhausted', message: 'the snapshot is too large' });
    parts.push(data);
  }
  const message = messageOf(header);
  if (message?.kind !== 'snapshot' || !isFrom(consensus, message.from, caller)) invalid('a snapshot without its message');
  const data = Buffer.concat(parts);
  const { index, term, voters, learners, data: bytes } = decoded(SnapshotFileSchema, data) ?? invalid('the snapshot is damaged');
  const state = decoded(StoreStateSchema, bytes);
  // Of an index that was not reached nothing more could be applied.
  if (state === undefined || state.index > index) invalid('the snapshot is damaged');
  consensus.step({ ...message, snapshot: { index, term, confState: { voters, learners }, data } });
  return create(InstallResponseSchema);
}

function invalid(message: string): never {
  throw new AppFailure({ code: 'invalid_argument', message });
}

function refuse(message: string): never {
  throw new AppFailure({ code: 'failed_precondition', message });
}

async function join(consensus: Consensus, request: JoinRequest, caller: Caller, credentials: Credentials): Promise<object> {
  if (!consensus.leading) refuse(NO_LEADER);
  const nodeId = caller.identity?.nodeId ?? '';
  const addr = reachableAt(request.addr, caller.address);
  checkWanted(consensus, nodeId);
  await dialBack(addr, credentials);
  const known = consensus.members.list().find((member) => member.nodeId === nodeId && member.raftId === request.raftId);
  // Of others its log is gone: what it once promised under an old id cannot be held against a new one.
  await removeOthers(consensus, nodeId, known?.raftId);
  if (known !== undefined) {
    if (known.addr !== addr) await change(consensus, 'updateNode', create(RaftMemberSchema, { raftId: known.raftId, nodeId, addr }));
    return answer(consensus, known.raftId);
  }
  checkWanted(consensus, nodeId);
  const raftId = randomBytes(8).readBigUInt64BE() >> 1n | 1n;
  await change(consensus, 'addLearner', create(RaftMemberSchema, { raftId, nodeId, addr }));
  // An earlier call's, that was given up and came into the log nevertheless.
  await removeOthers(consensus, nodeId, raftId);
  return answer(consensus, raftId);
}

/** Its certificate may be older than what was decided of it. */
function checkWanted(consensus: Consensus, nodeId: string): void {
  const node = consensus.store.get('node', nodeId);
  if (node === undefined) refuse(`node ${nodeId} is not part of the swarm`);
  if (node.spec?.desiredRole !== NodeRole.MANAGER) refuse(`node ${nodeId} is to be a worker`);
}

async function removeOthers(consensus: Consensus, nodeId: string, raftId: bigint | undefined): Promise<void> {
  for (const member of consensus.members.list()) {
    if (member.nodeId === nodeId && member.raftId !== raftId) await change(consensus, 'removeNode', member);
  }
}

function answer(consensus: Consensus, raftId: bigint): object {
  return create(JoinResponseSchema, { raftId, members: consensus.members.list() });
}

async function change(consensus: Consensus, kind: 'addLearner' | 'removeNode' | 'updateNode', member: RaftMember): Promise<void> {
  if (!await changeMember(consensus, kind, member, CHANGE_TIMEOUT_MS)) {
    throw new AppFailure({ code: 'unavailable', message: 'the group of managers could not be changed: too few of them answer' });
  }
}

/** SwarmKit: a manager that listens everywhere is reached where its call came from. */
function reachableAt(addr: string, seen: string): string {
  const at = addr.lastIndexOf(':');
  const host = addr.slice(0, at);
  if (at < 0) refuse(`invalid address of a manager: ${addr}`);
  return ['', '0.0.0.0', '[::]'].includes(host) ? `${seen}${addr.slice(at)}` : addr;
}

async function dialBack(addr: string, credentials: Credentials): Promise<void> {
  const client = new ManagerClient(addr, credentials);
  try {
    const { status } = await client.unary(Health.method.check, create(HealthCheckRequestSchema, { service: 'Raft' }), DIAL_BACK_TIMEOUT_MS);
    if (status !== HealthCheckResponse_ServingStatus.SERVING) refuse(`the manager at ${addr} is not serving`);
  } catch (error) {
    if (error instanceof AppFailure) throw error;
    refuse(`could not connect to prospective new cluster member using its advertised address: ${toAppError(error).message}`);
  } finally {
    client.close();
  }
}

/** A manager takes itself out (it leaves the swarm by force). */
async function leave(consensus: Consensus, request: LeaveRequest, caller: Caller): Promise<object> {
  if (!consensus.leading) refuse(NO_LEADER);
  const member = consensus.members.get(request.node?.raftId ?? 0n);
  if (member !== undefined) {
    if (member.nodeId !== caller.identity?.nodeId) throw new AppFailure({ code: 'permission_denied',
      message: 'a manager can take out only itself' });
    await change(consensus, 'removeNode', member);
  }
  return create(LeaveResponseSchema);
}
