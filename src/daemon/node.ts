// SkeinNode: one node of a swarm, or of none. Owns the state directory, the data plane and the executor; starts the
// manager and worker parts by what the state directory says; implements what the API needs.

import { mkdir } from 'node:fs/promises';
import type { Logger } from 'pino';
import type { InitRequest, JoinRequest, LocalNode, ManagerBackend, NodeBackend } from '../api/backend.js';
import { LOCKED } from '../api/errors.js';
import type { OwnLock } from '../core/ca/unlock.js';
import { AppFailure, fail, ok, unwrap, type Result } from '../lib/result.js';
import { NodeRole, type SessionMessage } from '../model/proto/swarmkit_pb.js';
import type { DataPlane } from '../platform/dataplane.js';
import type { Executor } from '../platform/executor.js';
import { RaftLogDamaged } from '../io/raftlog/raftlog.js';
import { MANAGEMENT_PORT, addressTowards, addressesNow, nodeAddresses, parseHostPort, type NodeAddresses } from './addresses.js';
import { foundSwarm } from './founding.js';
import { JOIN_TIMEOUT, joinByFirst } from './joining.js';
import { hostOf } from './manager/bootstrap.js';
import { leaveRefusal } from './leaving.js';
import { ManagerPart } from './managerpart.js';
import { beginAnew, forceRefusal } from './newcluster.js';
import { NodeRecord } from './noderecord.js';
import type { AgentOptions } from './options.js';
import { Renewal } from './renewal.js';
import { SwarmLocked, unfitProblem, type NodeCertificates, type SwarmState } from './swarmstate.js';
import { underlayMtu } from './underlay.js';
import { attempt, removeTasks } from './worker/ending.js';
import { Worker } from './worker/worker.js';

const JOIN_TIMEOUT_MS = 20_000;

export interface NodeParts {
  readonly options: AgentOptions;
  readonly executor: Executor;
  readonly dataPlane: DataPlane;
  readonly logger: Logger;
  /** A bug, or a failure nothing can go on after: ends the process. */
  readonly onBug: (error: unknown) => void;
}

export class SkeinNode implements NodeBackend {
  readonly hostname: string;
  readonly stateDir: string;
  readonly executor: Executor;
  private readonly parts: NodeParts;
  private readonly record: NodeRecord;
  private worker: Worker | undefined;
  private readonly part: ManagerPart;
  /** The part in the swarm that the files tell of, while it is taken up. */
  private takingUp: Promise<void> = Promise.resolve();
  private renewal: Renewal | undefined;
  /** init, join and leave exclude each other. */
  private changing = false;
  /** Its group is begun anew. */
  private forcing = false;

  constructor(parts: NodeParts) {
    this.parts = parts;
    this.hostname = parts.options.hostname;
    this.stateDir = parts.options.stateDir;
    this.executor = parts.executor;
    this.record = new NodeRecord(parts.options.stateDir, parts.logger, parts.onBug);
    this.part = new ManagerPart({
      record: this.record, logger: parts.logger, onBug: parts.onBug,
      onKeyExposed: () => this.renewal?.rotate(), takenUp: () => this.takingUp, onUnfit: () => this.endWorker(),
    });
  }

  async start(): Promise<void> {
    const { record } = this;
    await mkdir(record.files.directory, { recursive: true, mode: 0o700 });
    await record.load((state) => addressesNow(this.parts.options, state));
    const { state } = record;
    if (state !== undefined && record.refused === undefined) {
      await (record.locked ? this.startWorker(state) : this.run(state)).catch((error: unknown) => {
        if (!(error instanceof RaftLogDamaged)) throw error;
        return this.refuse(error);
      });
    }
    // What a forced leave has left behind belongs to no swarm.
    const left = record.inSwarm ? '' : await removeTasks(this.executor);
    if (left !== '') this.parts.logger.error({ tasks: left }, 'tasks of a swarm this node has left could not be removed');
  }

  /** What keeps this node from its part in the swarm. Bugs go on as bugs. */
  private async refuse(error: unknown): Promise<Result<never>> {
    if (!(error instanceof AppFailure)) throw error;
    this.parts.logger.error({ error: error.message }, 'swarm component could not be started');
    await this.standAside(error.message);
    return fail('failed_precondition', `swarm component could not be started: ${error.message}`);
  }

  /** The API tells: it can be left. Its tasks go on. */
  private async standAside(problem: string): Promise<void> {
    this.record.refused = problem;
    await this.part.end();
    await this.endWorker();
  }

  /** Stops the agent; tasks, data plane and state stay. */
  async close(): Promise<void> {
    this.renewal?.stop();
    await this.worker?.close();
    await this.part.close();
    await this.record.saved();
    await this.executor.close();
    await this.parts.dataPlane.close();
  }

  local(): LocalNode {
    const { state, refused, certificates, locked } = this.record;
    if (locked && refused === undefined) {
      const nodeAddr = hostOf(state?.advertiseAddr ?? '');
      return { state: 'locked', error: LOCKED, nodeId: '', isManager: false, nodeAddr, remoteManagers: [], rootCaPem: '' };
    }
    const connected = this.worker?.connected === true;
    return {
      state: refused !== undefined ? 'error' : state === undefined ? 'inactive' : connected || this.part.manager !== undefined
        ? 'active' : 'pending',
      error: refused ?? (state === undefined || connected || certificates === undefined ? ''
        : this.record.certificateProblem || this.part.sessionError(this.worker?.lastError ?? '')),
      nodeId: state?.nodeId ?? '',
      isManager: this.part.manager !== undefined,
      nodeAddr: state === undefined ? '' : hostOf(state.advertiseAddr),
      remoteManagers: state?.managers ?? [],
      rootCaPem: certificates?.rootCa ?? '',
    };
  }

  manager(): ManagerBackend | undefined {
    return this.part.manager;
  }

  async swarmInit(request: InitRequest): Promise<Result<string>> {
    if (request.forceNewCluster && this.record.inSwarm && !this.changing) return this.forceNewCluster(request);
    return this.record.inSwarm || this.changing ? alreadyInSwarm() : this.entering(() => this.init(request));
  }

  async swarmJoin(request: JoinRequest): Promise<Result<void>> {
    return this.record.inSwarm || this.changing ? alreadyInSwarm() : this.entering(() => this.join(request));
  }

  /** Closed to others from the first moment, before anything is waited for. */
  private async entering<T>(work: () => Promise<Result<T>>): Promise<Result<T>> {
    this.changing = true;
    try {
      return await work();
    } catch (error) {
      return await this.abandon(error);
    } finally {
      this.changing = false;
    }
  }

  private async init(request: InitRequest): Promise<Result<string>> {
    const listen = parseHostPort(request.listenAddr === '' ? this.parts.options.listenAddr : request.listenAddr, MANAGEMENT_PORT);
    if (!listen.ok) return listen;
    const addresses = this.addresses(request.advertiseAddr, request.dataPathAddr, listen.value.port);
    if (!addresses.ok) return addresses;
    // What an init that did not finish has left behind.
    await this.record.files.clear();
    const { state, certificates, unlockKey, actions } = await foundSwarm(request, {
      ...addresses.value, hostname: this.hostname, listenAddr: `${listen.value.host}:${listen.value.port}`,
      gatewayBridge: this.parts.options.gatewayBridge,
    });
    await this.record.keep(certificates, { unlockKey, unlockVersion: 0n });
    const manager = await this.part.start(state, 0);
    unwrap(await manager.commit(() => ok({ actions, value: undefined })));
    this.record.state = state;
    await this.startWorker(state);
    this.connect(state);
    // From here on a restart finds the swarm.
    await this.record.save({ ...state, begun: true });
    const problem = await (this.worker as unknown as Worker).waitConnected(JOIN_TIMEOUT_MS);
    if (problem !== '') this.parts.logger.error({ problem }, 'the manager\'s own session does not stand yet');
    return ok(state.nodeId);
  }

  /** This manager goes on alone with what it knows; its tasks, and its session as a worker, are not touched. */
  private async forceNewCluster(request: InitRequest): Promise<Result<string>> {
    const { record, record: { state, refused } } = this;
    const refusal = forceRefusal(record);
    if (refusal !== undefined || state === undefined) return refusal ?? fail('failed_precondition', '');
    const asked = request.advertiseAddr === '' ? state.advertiseAddr : request.advertiseAddr;
    const addresses = this.addresses(asked, request.dataPathAddr === '' ? state.dataPathAddr : request.dataPathAddr, MANAGEMENT_PORT);
    if (!addresses.ok) return addresses;
    this.changing = this.forcing = true;
    try {
      // What was under way is done then: it may have made a worker of this node.
      await this.part.end();
      const failed = forceRefusal(record) ?? await beginAnew(record, this.part, addresses.value);
      await this.goOn(record.state ?? state, failed === undefined ? undefined : refused).catch((error: unknown) => this.refuse(error));
      return failed ?? ok(state.nodeId);
    } finally {
      this.changing = this.forcing = false;
    }
  }

  /** With the group begun anew; or, where that failed, as before, as far as it can be. */
  private async goOn(state: SwarmState, refused: string | undefined): Promise<void> {
    const problem = unfitProblem(state) ?? refused;
    if (problem !== undefined) return this.standAside(problem);
    this.record.refused = undefined;
    if (state.role === 'manager' && this.part.manager === undefined) await this.part.start(state, 0);
    // Also where it runs already, without a session: the node was locked.
    if (this.worker === undefined || this.renewal === undefined) await this.takeUp(state);
    else this.worker.reconnect();
    this.part.resume();
  }

  private async join(request: JoinRequest): Promise<Result<void>> {
    if (request.remoteAddrs.length === 0) return fail('invalid_argument', 'at least 1 RemoteAddr is required to join');
    const listen = parseHostPort(request.listenAddr === '' ? this.parts.options.listenAddr : request.listenAddr, MANAGEMENT_PORT);
    if (!listen.ok) return listen;
    const towards = parseHostPort(request.remoteAddrs[0] as string, MANAGEMENT_PORT);
    const own = request.advertiseAddr !== '' || this.parts.options.advertiseAddr !== '' || !towards.ok
      ? request.advertiseAddr : await addressTowards(towards.value.host) ?? '';
    const addresses = this.addresses(own, request.dataPathAddr, listen.value.port);
    if (!addresses.ok) return addresses;
    // What a join or leave that did not finish has left behind.
    await this.record.files.clear();
    const joined = await joinByFirst(request, `${listen.value.host}:${listen.value.port}`, addresses.value);
    if (!joined.ok) return joined;
    const { state, certificates, lock } = joined.value;
    await this.record.keep(certificates, lock);
    await this.record.save(state);
    if (state.role === 'manager') await this.part.start(state, JOIN_TIMEOUT_MS);
    await this.takeUp(this.record.state ?? state);
    const problem = await (this.worker as unknown as Worker).waitConnected(JOIN_TIMEOUT_MS);
    return problem === '' ? ok(undefined) : fail('deadline_exceeded', JOIN_TIMEOUT);
  }

  /** Takes up this manager's part in its swarm, if the key is the one its own keys are sealed with. */
  async swarmUnlock(unlockKey: Uint8Array): Promise<Result<void>> {
    const { record, record: { state } } = this;
    if (!record.locked || this.changing || state === undefined) return fail('already_exists', 'swarm is not locked');
    this.changing = true;
    try {
      await record.unlock(unlockKey);
      if (record.locked) return fail('failed_precondition', `swarm component could not be started: ${record.refused}`);
      if (record.refused === undefined) await this.run(record.state ?? state);
      return ok(undefined);
    } catch (error) {
      if (error instanceof SwarmLocked) return fail('unauthenticated', 'swarm could not be unlocked: invalid key provided');
      // As at the start: nothing goes on after it.
      if (!(error instanceof AppFailure)) this.parts.onBug(error);
      return await this.refuse(error);
    } finally {
      this.changing = false;
    }
  }

  async imagesChanged(): Promise<void> {
    await this.worker?.refresh();
  }

  async swarmLeave(force: boolean): Promise<Result<void>> {
    if (!this.record.inSwarm || this.changing) return fail('unavailable', 'This node is not part of a swarm');
    const refusal = force ? undefined : leaveRefusal(this.record, this.part);
    if (refusal !== undefined) return refusal;
    this.changing = true;
    try {
      return await this.leave(force);
    } finally {
      this.changing = false;
    }
  }

  /**
   * Ends this node's part in its swarm and removes all that was kept of it. What will not go is left behind with
   * `force`; without, the node has no session any more and can only be left again, which tries again.
   */
  private async leave(force: boolean): Promise<Result<void>> {
    this.renewal?.stop();
    const tasks = await (this.worker?.leave(this.part.manager === undefined) ?? removeTasks(this.executor));
    await this.part.leave();
    await this.record.saved();
    this.part.forget();
    this.renewal = undefined;
    const network = tasks === '' || force ? await attempt(() => this.parts.dataPlane.reset()) : '';
    if ((tasks !== '' || network !== '') && !force) {
      return this.stuck(`the node cannot leave the swarm yet: ${tasks}${network}. Use "docker swarm leave" to try again, `
        + 'or "docker swarm leave --force" to leave behind what is left.');
    }
    this.worker?.abandon();
    this.worker = undefined;
    if (tasks !== '' || network !== '') this.parts.logger.error({ tasks, network }, 'left behind on leaving the swarm');
    const files = await attempt(() => this.record.files.clear());
    if (files !== '') {
      return this.stuck(`the state in ${this.record.files.directory} could not be removed (${files}). Use "docker swarm leave" to try again.`);
    }
    this.record.forget();
    return ok(undefined);
  }

  private stuck(problem: string): Result<never> {
    this.record.refused = problem;
    this.parts.logger.error({ problem }, 'leaving the swarm is not finished');
    return fail('failed_precondition', problem);
  }

  /** An init or join that failed half way leaves nothing behind. Bugs go on as bugs. */
  private async abandon(error: unknown): Promise<Result<never>> {
    await this.leave(true);
    if (!(error instanceof AppFailure)) throw error;
    return { ok: false, error: error.toError() };
  }

  private addresses(advertiseAddr: string, dataPathAddr: string, port: number): Result<NodeAddresses> {
    return nodeAddresses(this.parts.options, { advertiseAddr, dataPathAddr }, port);
  }

  private run(state: SwarmState): Promise<void> {
    const running = this.takePart(state);
    this.takingUp = running.catch(() => undefined); // Whoever started it has the failure.
    return running;
  }

  private async takePart(state: SwarmState): Promise<void> {
    if (state.role === 'manager' && state.raftId !== '' && this.record.hasRole('swarm-manager')) await this.part.start(state, 0);
    await this.takeUp(this.record.state ?? state);
    // One whose place in the group was never given asks for it in the background, with its tasks running.
    this.part.matchRole();
  }

  /** The worker's half, which may run already without a session. */
  private async takeUp(state: SwarmState): Promise<void> {
    if (this.worker === undefined) await this.startWorker(state);
    this.connect(state);
  }

  /** Its tasks go on. */
  private async endWorker(): Promise<void> {
    const { worker } = this;
    this.worker = undefined;
    this.renewal?.stop();
    this.renewal = undefined;
    await worker?.close();
  }

  private async startWorker(state: SwarmState): Promise<void> {
    const { parts } = this;
    this.worker = new Worker({
      nodeId: state.nodeId,
      hostname: this.hostname,
      directory: this.record.files.workerDir,
      executor: this.executor,
      dataPlane: parts.dataPlane,
      dataPathAddr: state.dataPathAddr,
      vxlanPort: state.vxlanPort,
      underlayMtu: underlayMtu(state.dataPathAddr),
      gatewayBridge: parts.options.gatewayBridge,
      dns: parts.options.dns,
      logger: parts.logger,
      credentials: () => this.record.credentials(),
      managers: () => (this.record.state ?? state).managers.map(({ addr }) => addr),
      onSession: (message) => this.onSession(message),
      onRotate: () => this.renewal?.rotate(),
      onBug: parts.onBug,
    });
    await this.worker.start();
  }

  private connect(state: SwarmState): void {
    this.worker?.connect();
    this.renewal = new Renewal({
      credentials: () => this.record.credentials(),
      hasRole: (role) => this.record.hasRole(role),
      managers: () => (this.record.state ?? state).managers.map(({ addr }) => addr),
      isMember: () => this.record.isMember,
      onRenewed: (certificates, lock) => this.adopt(certificates, lock),
      logger: this.parts.logger, onBug: this.parts.onBug,
    });
    this.renewal.schedule();
    if (this.record.files.lock.exposed) this.renewal.rotate();
  }

  /** The manager's list of managers is complete; an empty one is ignored (a node without managers is lost). */
  private onSession(message: SessionMessage): void {
    const { record, record: { state } } = this;
    // Of the group that is given up: its managers are none any more.
    if (state === undefined || this.forcing) return;
    const root = Buffer.from(message.RootCA).toString();
    if (record.acceptsRoot(root)) this.adopt({ rootCa: root }).catch(this.parts.onBug);
    if (message.node !== undefined) this.renewal?.told(message.node.role === NodeRole.MANAGER ? 'swarm-manager' : 'swarm-worker');
    this.part.told(message.node);
    const managers = message.managers.flatMap(({ peer }) => peer === undefined || peer.addr === '' ? [] : [{ nodeId: peer.nodeId, addr: peer.addr }]);
    if (managers.length === 0 || JSON.stringify(managers) === JSON.stringify(state.managers)) return;
    void record.save({ ...state, managers });
  }

  private async adopt(change: Partial<NodeCertificates>, lock?: OwnLock): Promise<void> {
    if (!await this.record.adopt(change, lock)) return;
    this.part.follow();
    this.worker?.reconnect();
  }
}

function alreadyInSwarm(): Result<never> {
  return fail('unavailable', 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.');
}
