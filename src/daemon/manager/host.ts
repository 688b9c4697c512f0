// ManagerHost: a node's part as a manager: the server on its management port, its member of the Raft group, its Manager.
// A founder begins the group; any other manager asks for its place in it first, while its server answers already (the
// leader calls back before it takes anybody in).

import { create } from '@bufbuild/protobuf';
import type { Logger } from 'pino';
import { ManagerClient, type Credentials } from '../../io/grpc/client.js';
import { limitLog } from '../../io/grpc/connections.js';
import { startGrpcServer, type GrpcServer, type Handler, type ServerIdentity } from '../../io/grpc/server.js';
import { toAppError } from '../../io/grpc/service.js';
import { acceptLink } from '../../io/raftpeers/link.js';
import { RAFT_PROTOCOL } from '../../io/raftpeers/messages.js';
import { AppFailure, fail, ok, unwrap, type AppError, type Result } from '../../lib/result.js';
import { ManagerGroup, NetworkView } from '../../model/proto/skein_pb.js';
import {
  CA, Dispatcher, Health, JoinRequestSchema, LeaveRequestSchema, LogBroker, NodeCA, RaftMemberSchema, RaftMembership, type RaftMember,
} from '../../model/proto/swarmkit_pb.js';
import { MANAGEMENT_PORT, parseHostPort } from '../addresses.js';
import type { SwarmFiles, SwarmState } from '../swarmstate.js';
import { fetchUnlockKey } from '../unlockkey.js';
import { authorize } from './authorize.js';
import { caHandlers, nodeCaHandlers } from './caservice.js';
import { Consensus } from './consensus.js';
import { dispatcherHandlers } from './dispatcher.js';
import { handOver } from './groupchange.js';
import { IncomingLinks, groupServices } from './groupservice.js';
import { healthHandlers } from './health.js';
import { LockKeeper } from './lockkeeper.js';
import { logBrokerHandlers } from './logservice.js';
import { Manager } from './manager.js';
import { networkViewHandlers } from './networkview.js';
import { throughLeader, type Leadership } from './proxy.js';

const JOIN_CALL_TIMEOUT_MS = 15_000;
const RETRY_MIN_MS = 200;
const RETRY_MAX_MS = 5000;
const LEAVE_TIMEOUT_MS = 5000;
const HAND_OVER_MS = 1000;
/** Longer takes a state of gigabytes, or a group that cannot be heard: the start goes on without. */
const CATCH_UP_MS = 20_000;

export interface ManagerHostOptions {
  readonly files: SwarmFiles;
  readonly state: () => SwarmState;
  /** Keeps what joining the group brought, before it is acted upon. */
  readonly saveState: (state: SwarmState) => Promise<void>;
  readonly identity: () => ServerIdentity;
  readonly credentials: () => Credentials;
  /** Whether this node is to be a manager, by its certificate. */
  readonly wanted: () => boolean;
  /** The certificate's key lay in the clear: a new one is wanted. */
  readonly onKeyExposed: () => void;
  /** Its log cannot be part of its group: this manager is to end. */
  readonly onStale: (reason: string) => void;
  readonly logger: Logger;
  readonly onBug: (error: unknown) => void;
}

/** A manager's place in its group, as its state file keeps it. */
export type Place = Required<Pick<SwarmState, 'raftId' | 'joined' | 'group'>>;

export class ManagerHost {
  manager: Manager | undefined;
  /** Start() is under way; it may wait for a group that does not answer. */
  starting = false;
  private consensus: Consensus | undefined;
  private lockKeeper: LockKeeper | undefined;
  private server: GrpcServer | undefined;
  private closed = false;
  /** It has another place in the group: what its log holds says nothing any more. */
  outlived = false;
  /** All that was begun to end it. */
  private ending: Promise<void> | undefined;
  private readonly options: ManagerHostOptions;

  constructor(options: ManagerHostOptions) {
    this.options = options;
  }

  /**
   * Listens; then takes up its place in the group. Fails with AppFailure when the port cannot be had, or nobody takes
   * it in within `timeoutMs`.
   */
  async start(timeoutMs: number): Promise<Manager> {
    this.starting = true;
    try {
      await this.listen();
      const state = this.options.state();
      if (state.raftId === '') await this.joinGroup(timeoutMs);
      const manager = await this.open();
      if (state.raftId === '') await this.caughtUp(manager.consensus, Math.min(timeoutMs, CATCH_UP_MS));
      await this.begun(manager.consensus);
      void this.tellAddress().catch(this.options.onBug);
      return manager;
    } finally {
      this.starting = false;
    }
  }

  /** From here on an empty log is a lost one. A founder's state is saved only once its swarm is in the log. */
  private async begun({ store, raftId }: Consensus): Promise<void> {
    const state = this.options.state();
    if (this.outlived || state.begun === true || store.cluster() === undefined || state.raftId !== raftId.toString()) return;
    await this.options.saveState({ ...state, begun: true });
  }

  setIdentity(): void {
    this.server?.setIdentity(this.options.identity());
    this.consensus?.reconnect();
  }

  /** Other managers there are, as far as this one knows. */
  get others(): number {
    return this.consensus === undefined ? 0 : this.consensus.members.list().length - 1;
  }

  /** Stops; the files stay. A leader hands over first, so that nobody waits for an election. Resolves once it has ended. */
  close(): Promise<void> {
    return this.ending ??= this.end();
  }

  private async end(): Promise<void> {
    this.closed = true;
    await this.handOver();
    await this.server?.close();
    const manager = this.manager?.close();
    this.consensus?.endProposals();
    await manager;
    const keeper = this.lockKeeper?.close();
    // Ends what the keeper waits for.
    await this.consensus?.close();
    await keeper;
  }

  /** Out of the group for good: by the leader when there is one; the log goes. */
  async leave(): Promise<void> {
    await this.handOver();
    if (this.others > 0) {
      const problem = await this.takeOut();
      if (problem !== '') this.options.logger.error({ problem }, 'the other managers still count this one: demote and remove it there');
    }
    await this.discard();
  }

  /** It is no member any more (it was demoted): its log is worth nothing. */
  discard(): Promise<void> {
    return this.ending = this.close().then(() => this.options.files.dropLog());
  }

  private async handOver(): Promise<void> {
    const { consensus } = this;
    if (consensus === undefined || !handOver(consensus)) return;
    const deadline = performance.now() + HAND_OVER_MS;
    while ((consensus.leading || consensus.leader() === undefined) && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  private async takeOut(): Promise<string> {
    const { consensus } = this;
    const client = consensus === undefined || consensus.leading ? undefined : this.manager?.leaderClient();
    if (consensus === undefined || client === undefined) return 'there is no other leader';
    const node = create(RaftMemberSchema, { raftId: consensus.raftId });
    return client.unary(RaftMembership.method.leave, create(LeaveRequestSchema, { node }), LEAVE_TIMEOUT_MS)
      .then(() => '', (error: unknown) => toAppError(error).message);
  }

  private async listen(): Promise<void> {
    const { options } = this;
    const { host, port } = unwrap(parseHostPort(options.state().listenAddr, MANAGEMENT_PORT));
    const leadership: Leadership = { term: () => this.manager?.term(), leaderClient: () => this.manager?.leaderClient() };
    const { group, membership } = groupServices(() => this.consensus, () => this.manager, options.credentials);
    const links = new IncomingLinks(() => this.consensus);
    const server = await startGrpcServer({
      host: host === '' ? '0.0.0.0' : host,
      port,
      identity: options.identity(),
      authorize: (path, caller) => authorize({
        view: this.consensus?.store, clusterId: options.state().clusterId, leads: leadership.term() !== undefined,
      }, path, caller),
      onBug: options.onBug,
      onLimit: limitLog(options.logger),
      links: {
        protocol: RAFT_PROTOCOL,
        path: `/${ManagerGroup.typeName}/Link`,
        accept: (socket, caller) => {
          const receiver = links.open(caller);
          if (receiver === undefined) socket.destroy();
          else acceptLink(socket, receiver);
        },
      },
      services: [
        { service: CA, handlers: throughLeader(CA, this.late(caHandlers), leadership) },
        { service: NodeCA, handlers: throughLeader(NodeCA, this.late(nodeCaHandlers), leadership) },
        { service: Dispatcher, handlers: throughLeader(Dispatcher, this.late(dispatcherHandlers), leadership) },
        { service: LogBroker, handlers: throughLeader(LogBroker, this.late(logBrokerHandlers), leadership) },
        { service: NetworkView, handlers: throughLeader(NetworkView, this.late(networkViewHandlers), leadership) },
        { service: RaftMembership, handlers: throughLeader(RaftMembership, membership, leadership) },
        { service: ManagerGroup, handlers: group },
        { service: Health, handlers: healthHandlers() },
      ],
    });
    if (this.closed) await server.close();
    this.endIfClosed();
    this.server = server;
  }

  /** Closed while it was starting: nothing more is begun, which nobody would end. */
  private endIfClosed(): void {
    if (this.closed) throw new AppFailure({ code: 'unavailable', message: 'this manager is stopping' });
  }

  /** Handlers of the Manager there will be. */
  private late(make: (manager: Manager) => Readonly<Record<string, Handler>>): Readonly<Record<string, Handler>> {
    let of: Manager | undefined;
    let handlers: Readonly<Record<string, Handler>> = {};
    return new Proxy({}, {
      get: (_target, name: string) => (...args: unknown[]) => {
        const manager = this.manager ?? notReady();
        if (manager !== of) handlers = make(of = manager);
        const handler = handlers[name] as ((...a: unknown[]) => Promise<unknown>) | undefined;
        if (handler === undefined) throw new AppFailure({ code: 'unimplemented', message: `${name} is not implemented` });
        return handler(...args);
      },
    });
  }

  private async open(): Promise<Manager> {
    const { files, state, credentials, onKeyExposed, onStale, logger, onBug } = this.options;
    const keys = await files.raftKeys();
    const { raftId, nodeId, advertiseAddr, joined, begun, group } = state();
    const consensus = await Consensus.open({
      directory: files.raftDir, dek: keys.current, pendingDek: keys.pending, raftId: BigInt(raftId), nodeId, advertiseAddr,
      founder: joined !== true,
      begun: begun === true,
      seeds: (group ?? []).map((member) => create(RaftMemberSchema, { ...member, raftId: BigInt(member.raftId) })),
      credentials, logger, onStale, onCrash: onBug,
    });
    if (consensus.tornBytes > 0) {
      logger.warn({ bytes: consensus.tornBytes }, 'the raft log ended in a write that was never finished nor acknowledged: it was cut off');
    }
    if (this.closed) await consensus.close();
    this.endIfClosed();
    this.consensus = consensus;
    // Calls are authorized one by one; a link stands for months.
    consensus.onEvents((events) => {
      if (!events.some(({ kind }) => kind === 'cluster')) return;
      this.server?.authorizeAgain();
      if (joined === true) void this.begun(consensus).catch(onBug);
    });
    await consensus.start();
    this.endIfClosed();
    const manager = new Manager(consensus, logger, { nodeId, advertiseAddr });
    const keeper = new LockKeeper({ files, manager, onKeyExposed, logger });
    manager.settled = () => keeper.settled();
    this.lockKeeper = keeper;
    this.manager = manager;
    manager.start(onBug);
    keeper.start(onBug);
    return manager;
  }

  private async joinGroup(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    let pauseMs = RETRY_MIN_MS;
    for (let attempt = 0; ; attempt++) {
      const state = this.options.state();
      const { addr = '' } = state.managers[attempt % Math.max(state.managers.length, 1)] ?? {};
      const joined = await this.askForPlace(addr);
      if (joined.ok) {
        // What an earlier part in the group may have left behind: an agent that was killed while it became a worker.
        await this.options.files.dropLog();
        await this.options.saveState({ ...this.options.state(), ...placeOf(joined.value) });
        return;
      }
      if (this.closed || !this.options.wanted() || performance.now() > deadline) throw new AppFailure(joined.error);
      this.options.logger.info({ manager: addr, error: joined.error.message }, 'not taken into the group of managers yet');
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
      pauseMs = Math.min(2 * pauseMs, RETRY_MAX_MS);
    }
  }

  /**
   * A place in the group if this manager was taken out of it. Undefined: it is in it, or it ends, or is no more `misplaced` by what
   * the swarm says.
   */
  async newPlace(misplaced: () => boolean): Promise<Place | undefined> {
    while (this.starting) await new Promise((resolve) => setTimeout(resolve, RETRY_MIN_MS));
    for (let attempt = 0; !this.closed && misplaced(); attempt++) {
      // A leader is in the group; who begins one anew alone would be told of a second self.
      if (this.consensus?.leading === true) return undefined;
      const { managers, raftId, nodeId } = this.options.state();
      const others = managers.filter((other) => other.nodeId !== nodeId);
      const answer = await this.ask(others[attempt % Math.max(others.length, 1)]?.addr ?? '', BigInt(raftId));
      if (answer.ok) return answer.value.raftId.toString() === raftId ? undefined : placeOf(answer.value);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MAX_MS / 5));
    }
    return undefined;
  }

  /** Somebody who just joined sees the swarm, not an empty store, and another manager may be stopped: this one votes. */
  private async caughtUp(consensus: Consensus, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    const isIn = (): boolean => consensus.store.cluster() !== undefined && consensus.status.confState.voters.includes(consensus.raftId);
    while (!this.closed && this.options.wanted() && !isIn() && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /**
   * This manager's address is another one than the group knows: it is told until it knows. Whoever answers passes it on to the
   * leader, which cannot be heard here as long as it speaks to the old address.
   */
  private async tellAddress(): Promise<void> {
    const { consensus } = this;
    const { advertiseAddr, nodeId } = this.options.state();
    for (let attempt = 0; consensus !== undefined && !this.closed; attempt++) {
      const known = consensus.members.ofNode(nodeId);
      if (known === undefined || known.addr === advertiseAddr || known.raftId !== consensus.raftId) return;
      const others = consensus.members.list().filter(({ raftId }) => raftId !== consensus.raftId);
      const told = consensus.leader() ?? others[attempt % others.length];
      // The leader itself does it as its own keeper of the group.
      if (told !== undefined && told.raftId !== consensus.raftId) await this.ask(told.addr, consensus.raftId);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MAX_MS / 5));
    }
  }

  /** The key of the log is made next: sealed, also when the swarm was locked after this node had its certificate. */
  private async askForPlace(address: string): ReturnType<ManagerHost['ask']> {
    const { files, credentials, onKeyExposed } = this.options;
    if (address !== '') {
      const lock = await fetchUnlockKey(address, credentials());
      if (!lock.ok) return lock;
      if (await files.relock(lock.value) && files.lock.exposed) onKeyExposed();
    }
    return this.ask(address, 0n);
  }

  private async ask(address: string, raftId: bigint): Promise<Result<{ raftId: bigint; members: readonly RaftMember[] }, AppError>> {
    if (address === '') return fail('unavailable', 'no manager is known');
    const client = new ManagerClient(address, this.options.credentials());
    try {
      const request = create(JoinRequestSchema, { addr: this.options.state().advertiseAddr, raftId });
      return ok(await client.unary(RaftMembership.method.join, request, JOIN_CALL_TIMEOUT_MS));
    } catch (error) {
      return { ok: false, error: toAppError(error) };
    } finally {
      client.close();
    }
  }
}

function placeOf({ raftId, members }: { raftId: bigint; members: readonly RaftMember[] }): Place {
  const group = members.map((m) => ({ raftId: m.raftId.toString(), nodeId: m.nodeId, addr: m.addr }));
  return { raftId: raftId.toString(), joined: true, group };
}

function notReady(): never {
  throw new AppFailure({ code: 'unavailable', message: 'this manager is not part of the group yet' });
}
