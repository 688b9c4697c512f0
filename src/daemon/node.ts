// SkeinNode: one node of a swarm, or of none. Owns the state directory, the data plane and the executor; starts the
// manager and worker parts by what the state directory says; implements what the API needs.

import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { spawnSync } from 'node:child_process';
import os from 'node:os';
import type { Logger } from 'pino';
import type { InitRequest, JoinRequest, LocalNode, ManagerBackend, NodeBackend } from '../api/backend.js';
import { CERT_EXPIRY_DEFAULT_MS, bundle, createCsr, createRootCa, identityOf, joinToken, rootDigest,
  signCsr } from '../io/x509/certificates.js';
import { LOCKED } from '../api/errors.js';
import type { ServerIdentity } from '../io/grpc/server.js';
import type { Credentials } from '../io/grpc/client.js';
import { newId, newTokenSecret } from '../lib/ids.js';
import { AppFailure, expectedFailure, fail, ok, unwrap, type Result } from '../lib/result.js';
import { UNLOCK_KEY_BYTES } from '../model/cluster.js';
import { addressLabels } from '../model/network.js';
import { NodeRole, NodeSpec_Availability, type SessionMessage } from '../model/proto/swarmkit_pb.js';
import type { DataPlane } from '../platform/dataplane.js';
import type { Executor } from '../platform/executor.js';
import { MANAGEMENT_PORT, addressTowards, chooseAddress, parseHostPort, resolveAddress } from './addresses.js';
import { bootstrapActions, hostOf } from './manager/bootstrap.js';
import { demoteOthers, forceNewGroup } from './manager/forcenew.js';
import { ManagerHost } from './manager/host.js';
import type { Manager } from './manager/manager.js';
import type { AgentOptions } from './options.js';
import { Renewal } from './renewal.js';
import { SwarmFiles, SwarmLocked, unfitProblem, type NodeCertificates, type SwarmState } from './swarmstate.js';
import { judgeRoot } from './trust.js';
import { attempt, removeTasks } from './worker/ending.js';
import { joinSwarm } from './worker/join.js';
import { fetchUnlockKey } from './unlockkey.js';
import { Worker } from './worker/worker.js';

const JOIN_TIMEOUT_MS = 20_000;
/** A promoted node that is not taken in by then waits for the next start or renewal. */
const ROLE_TIMEOUT_MS = 3_600_000;
const VXLAN_PORT = 4789;
const HEARTBEAT_NS = 5_000_000_000n;

const AVAILABILITY = {
  active: NodeSpec_Availability.ACTIVE, pause: NodeSpec_Availability.PAUSE, drain: NodeSpec_Availability.DRAIN,
} as const;

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
  private readonly files: SwarmFiles;
  private state: SwarmState | undefined;
  private certificates: NodeCertificates | undefined;
  private worker: Worker | undefined;
  private host: ManagerHost | undefined;
  /** Becoming a manager or a worker, one after the other. */
  private changingRole: Promise<void> = Promise.resolve();
  private renewal: Renewal | undefined;
  /** Why this node's part in its swarm was not taken up at the start; it can only be left. */
  private refused: string | undefined;
  /** The node's keys wait for the swarm's unlock key; nothing of its part in the swarm runs, but its tasks do. */
  private locked = false;
  /** The root last refused: told once. */
  private refusedRoot = '';
  /** The state or certificate file being written. */
  private saving: Promise<void> = Promise.resolve();
  /** init, join and leave exclude each other. */
  private changing = false;

  constructor(parts: NodeParts) {
    this.parts = parts;
    this.hostname = parts.options.hostname;
    this.stateDir = parts.options.stateDir;
    this.executor = parts.executor;
    this.files = new SwarmFiles(parts.options.stateDir);
  }

  async start(): Promise<void> {
    await mkdir(this.files.directory, { recursive: true, mode: 0o700 });
    await this.loadFiles();
    if (this.state !== undefined && this.refused === undefined) await (this.locked ? this.startWorker(this.state) : this.run(this.state));
    // What a forced leave has left behind belongs to no swarm.
    const left = this.inSwarm ? '' : await removeTasks(this.executor);
    if (left !== '') this.parts.logger.error({ tasks: left }, 'tasks of a swarm this node has left could not be removed');
  }

  /** As a Docker Engine: what is wrong with the files is told by the API of an agent that runs, and its tasks go on. */
  private async loadFiles(): Promise<void> {
    try {
      this.state = await this.files.load();
      if (this.state === undefined) return;
      this.certificates = await this.files.loadCertificates();
      this.refused = this.files.certificateProblem(this.certificates, Date.now()) ?? unfitProblem(this.state);
      await this.followAddress();
    } catch (error) {
      if (error instanceof SwarmLocked) {
        this.locked = true;
        this.parts.logger.warn('the keys of this manager are locked: its part in the swarm waits for "docker swarm unlock"');
        return;
      }
      if (!(error instanceof AppFailure)) throw error;
      this.refused = error.message;
    }
    if (this.refused !== undefined) this.parts.logger.error({ error: this.refused }, 'swarm component could not be started');
  }

  /** Started with another address than it had: that one counts from now on. */
  private async followAddress(): Promise<void> {
    const { state, parts: { options } } = this;
    if (state === undefined || options.advertiseAddr === '') return;
    const port = parseHostPort(state.advertiseAddr, MANAGEMENT_PORT);
    // A data-path address of its own stays.
    const dataPath = state.dataPathAddr === hostOf(state.advertiseAddr) ? '' : state.dataPathAddr;
    const addresses = this.addresses('', options.dataPathAddr === '' ? dataPath : '', port.ok ? port.value.port : MANAGEMENT_PORT);
    if (!addresses.ok) throw new AppFailure(addresses.error);
    if (addresses.value.advertiseAddr === state.advertiseAddr) return;
    this.parts.logger.warn({ from: state.advertiseAddr, to: addresses.value.advertiseAddr }, 'this node has another address than before');
    this.state = { ...state, ...addresses.value };
    await this.saveState(this.state);
  }

  /** Stops the agent; tasks, data plane and state stay. */
  async close(): Promise<void> {
    this.renewal?.stop();
    await this.worker?.close();
    await this.host?.close();
    await this.saving;
    await this.executor.close();
    await this.parts.dataPlane.close();
  }

  local(): LocalNode {
    const { state, refused, certificates } = this;
    if (this.locked && refused === undefined) {
      const nodeAddr = hostOf(state?.advertiseAddr ?? '');
      return { state: 'locked', error: LOCKED, nodeId: '', isManager: false, nodeAddr, remoteManagers: [], rootCaPem: '' };
    }
    const connected = this.worker?.connected === true;
    return {
      state: refused !== undefined ? 'error' : state === undefined ? 'inactive' : connected || this.host?.manager !== undefined
        ? 'active' : 'pending',
      error: refused ?? (state === undefined || connected || certificates === undefined ? ''
        : this.files.certificateProblem(certificates, Date.now()) ?? this.worker?.lastError ?? ''),
      nodeId: state?.nodeId ?? '',
      isManager: this.host?.manager !== undefined,
      nodeAddr: state === undefined ? '' : hostOf(state.advertiseAddr),
      remoteManagers: state?.managers ?? [],
      rootCaPem: certificates?.rootCa ?? '',
    };
  }

  private get inSwarm(): boolean {
    return this.state !== undefined || this.refused !== undefined;
  }

  manager(): ManagerBackend | undefined {
    return this.host?.manager;
  }

  async swarmInit(request: InitRequest): Promise<Result<string>> {
    if (request.forceNewCluster && this.inSwarm && !this.changing) return this.forceNewCluster(request);
    return this.inSwarm || this.changing ? alreadyInSwarm() : this.entering(() => this.init(request));
  }

  async swarmJoin(request: JoinRequest): Promise<Result<void>> {
    return this.inSwarm || this.changing ? alreadyInSwarm() : this.entering(() => this.join(request));
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
    await this.files.clear();
    const nodeId = newId(randomBytes);
    const clusterId = newId(randomBytes);
    const raftId = randomBytes(8).readBigUInt64BE() >> 1n | 1n;
    const nowMs = Date.now();
    const root = await createRootCa(nowMs);
    const { key, csr } = await createCsr();
    const expiryMs = request.nodeCertExpiryNs === undefined ? CERT_EXPIRY_DEFAULT_MS : Number(request.nodeCertExpiryNs / 1_000_000n);
    const certificate = unwrap(await signCsr(root, { csr, nodeId, organization: clusterId, role: 'swarm-manager', expiryMs, nowMs }));
    const vxlanPort = request.dataPathPort === 0 ? VXLAN_PORT : request.dataPathPort;
    const state: SwarmState = {
      nodeId, clusterId, role: 'manager', raftId: raftId.toString(), listenAddr: `${listen.value.host}:${listen.value.port}`,
      ...addresses.value, vxlanPort, managers: [{ nodeId, addr: addresses.value.advertiseAddr }],
    };
    this.certificates = { rootCa: root.certificate, certificate, key };
    const unlockKey = request.autoLockManagers ? randomBytes(UNLOCK_KEY_BYTES) : undefined;
    if (unlockKey !== undefined) this.files.lockFromNow(unlockKey);
    await this.files.saveCertificates(this.certificates);
    const manager = await this.startManager(state, 0);
    unwrap(await manager.commit(() => ok({
      actions: bootstrapActions({
        clusterId, nodeId, raftId, advertiseAddr: state.advertiseAddr, hostname: this.hostname,
        engineLabels: addressLabels(state.dataPathAddr, this.parts.options.gatewayBridge),
        availability: AVAILABILITY[request.availability],
        rootCert: root.certificate, rootKey: root.key, rootHash: rootDigest(root.certificate),
        workerToken: joinToken(root.certificate, newTokenSecret(randomBytes)),
        managerToken: joinToken(root.certificate, newTokenSecret(randomBytes)),
        defaultAddressPool: request.defaultAddrPool.length > 0 ? request.defaultAddrPool : ['10.0.0.0/8'],
        subnetSize: request.subnetSize === 0 ? 24 : request.subnetSize,
        vxlanPort,
        taskHistoryLimit: BigInt(request.taskHistoryRetentionLimit ?? 5),
        heartbeatPeriodNs: request.heartbeatPeriodNs ?? HEARTBEAT_NS,
        nodeCertExpiryNs: BigInt(expiryMs) * 1_000_000n,
        snapshotInterval: request.snapshotInterval ?? 10_000n,
        keepOldSnapshots: request.keepOldSnapshots ?? 0n,
        labels: request.labels,
        unlockKey,
      }, randomBytes),
      value: undefined,
    })));
    this.state = state;
    await this.startWorker(state);
    this.connect(state);
    // From here on a restart finds the swarm.
    await this.files.save(state);
    const problem = await (this.worker as unknown as Worker).waitConnected(JOIN_TIMEOUT_MS);
    if (problem !== '') this.parts.logger.error({ problem }, 'the manager\'s own session does not stand yet');
    return ok(nodeId);
  }

  /** This manager goes on alone with what it knows; its tasks, and its session as a worker, are not touched. */
  private async forceNewCluster(request: InitRequest): Promise<Result<string>> {
    const { state } = this;
    if (this.locked) return fail('unavailable', LOCKED);
    if (state === undefined || (this.refused !== undefined && state.unfit === undefined)) {
      return fail('failed_precondition', this.refused ?? '');
    }
    if (state.role !== 'manager' || state.raftId === '') {
      return fail('failed_precondition', 'This node is not a swarm manager: only a manager has the state to begin a new cluster from.');
    }
    const asked = request.advertiseAddr === '' ? state.advertiseAddr : request.advertiseAddr;
    const addresses = this.addresses(asked, request.dataPathAddr === '' ? state.dataPathAddr : request.dataPathAddr, MANAGEMENT_PORT);
    if (!addresses.ok) return addresses;
    this.changing = true;
    try {
      await this.host?.close();
      this.host = undefined;
      const raftId = randomBytes(8).readBigUInt64BE() >> 1n | 1n;
      const { advertiseAddr } = addresses.value;
      const { group: _others, unfit: _past, ...kept } = state;
      const next: SwarmState = {
        ...kept, advertiseAddr, raftId: raftId.toString(), joined: true, managers: [{ nodeId: state.nodeId, addr: advertiseAddr }],
      };
      const keys = await this.files.raftKeys();
      await forceNewGroup({
        directory: this.files.raftDir, dek: keys.current, pendingDek: keys.pending, raftId, nodeId: state.nodeId, advertiseAddr,
      });
      this.state = next;
      await this.saveState(next);
      const manager = await this.startManager(next, 0);
      unwrap(await manager.commit((view) => ok({ actions: demoteOthers(view, state.nodeId), value: undefined })));
      this.refused = undefined;
      if (state.unfit === undefined) this.worker?.reconnect();
      else await this.takeUp(next);
      return ok(state.nodeId);
    } catch (error) {
      const failure = expectedFailure(error);
      if (failure === undefined) throw error;
      return { ok: false, error: failure.toError() };
    } finally {
      this.changing = false;
    }
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
    await this.files.clear();
    let failure: Result<never> = fail('unavailable', 'no manager answered');
    for (const remote of request.remoteAddrs) {
      const target = parseHostPort(remote, MANAGEMENT_PORT);
      if (!target.ok) return target;
      const address = `${target.value.host}:${target.value.port}`;
      const joined = await joinSwarm({ address, token: request.joinToken, availability: AVAILABILITY[request.availability] });
      if (!joined.ok) {
        failure = joined;
        continue;
      }
      const { nodeId, clusterId, key, certificate, rootCa, role } = joined.value;
      const state: SwarmState = {
        nodeId, clusterId, role: role === 'swarm-manager' ? 'manager' : 'worker', raftId: '',
          listenAddr: `${listen.value.host}:${listen.value.port}`,
        ...addresses.value, vxlanPort: VXLAN_PORT, managers: [{ nodeId: '', addr: address }],
      };
      this.certificates = { rootCa, certificate, key };
      if (state.role === 'manager') {
        const lock = await fetchUnlockKey(address, this.credentials());
        if (!lock.ok) return lock;
        if (lock.value.unlockKey !== undefined) this.files.lockFromNow(lock.value.unlockKey, lock.value.unlockVersion);
      }
      await this.files.saveCertificates(this.certificates);
      await this.files.save(state);
      this.state = state;
      if (state.role === 'manager') await this.startManager(state, JOIN_TIMEOUT_MS);
      await this.startWorker(this.state);
      this.connect(this.state);
      const problem = await (this.worker as unknown as Worker).waitConnected(JOIN_TIMEOUT_MS);
      if (problem !== '') {
        return fail('deadline_exceeded', 'Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the "docker info" command to see the current swarm status of your node.');
      }
      return ok(undefined);
    }
    return failure;
  }

  /** Takes up this manager's part in its swarm, if the key is the one its own keys are sealed with. */
  async swarmUnlock(unlockKey: Uint8Array): Promise<Result<void>> {
    const { state } = this;
    if (!this.locked || this.changing || state === undefined) return fail('already_exists', 'swarm is not locked');
    this.changing = true;
    try {
      this.certificates = await this.files.loadCertificates(unlockKey);
      this.refused = this.files.certificateProblem(this.certificates, Date.now());
      if (this.refused !== undefined) return fail('failed_precondition', `swarm component could not be started: ${this.refused}`);
      this.locked = false;
      this.refused = unfitProblem(state);
      if (this.refused === undefined) await this.run(state);
      return ok(undefined);
    } catch (error) {
      if (error instanceof SwarmLocked) return fail('unauthenticated', 'swarm could not be unlocked: invalid key provided');
      // As at the start: nothing goes on after it.
      if (!(error instanceof AppFailure)) this.parts.onBug(error);
      if (!(error instanceof AppFailure)) throw error;
      this.refused = error.message;
      return fail('failed_precondition', `swarm component could not be started: ${error.message}`);
    } finally {
      this.changing = false;
    }
  }

  async imagesChanged(): Promise<void> {
    await this.worker?.refresh();
  }

  async swarmLeave(force: boolean): Promise<Result<void>> {
    if (!this.inSwarm || this.changing) return fail('unavailable', 'This node is not part of a swarm');
    if (this.locked && !force) {
      return fail('unavailable', 'Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.');
    }
    if (this.state?.role === 'manager' && !force) {
      const managers = this.host?.manager?.view().list('node').filter((node) => node.managerStatus !== undefined) ?? [];
      const last = managers.length <= 1
        ? ' Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message.' : ' Use `--force` to suppress this message.';
      return fail('unavailable', `You are attempting to leave the swarm on a node that is participating as a manager.${last}`);
    }
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
    const tasks = await (this.worker?.leave(this.host?.manager === undefined) ?? removeTasks(this.executor));
    await this.host?.leave();
    await this.saving;
    this.host = undefined;
    this.renewal = undefined;
    const network = tasks === '' || force ? await attempt(() => this.parts.dataPlane.reset()) : '';
    if ((tasks !== '' || network !== '') && !force) {
      return this.stuck(`the node cannot leave the swarm yet: ${tasks}${network}. Use "docker swarm leave" to try again, `
        + 'or "docker swarm leave --force" to leave behind what is left.');
    }
    this.worker?.abandon();
    this.worker = undefined;
    if (tasks !== '' || network !== '') this.parts.logger.error({ tasks, network }, 'left behind on leaving the swarm');
    const files = await attempt(() => this.files.clear());
    if (files !== '') {
      return this.stuck(`the state in ${this.files.directory} could not be removed (${files}). Use "docker swarm leave" to try again.`);
    }
    this.state = undefined;
    this.refused = undefined;
    this.locked = false;
    this.certificates = undefined;
    return ok(undefined);
  }

  private stuck(problem: string): Result<never> {
    this.refused = problem;
    this.parts.logger.error({ problem }, 'leaving the swarm is not finished');
    return fail('failed_precondition', problem);
  }

  /** An init or join that failed half way leaves nothing behind. Bugs go on as bugs. */
  private async abandon(error: unknown): Promise<Result<never>> {
    await this.leave(true);
    if (!(error instanceof AppFailure)) throw error;
    return { ok: false, error: error.toError() };
  }

  private addresses(advertise: string, dataPath: string, port: number): Result<{ advertiseAddr: string; dataPathAddr: string }> {
    const { options } = this.parts;
    const given = parseHostPort(advertise !== '' ? advertise : options.advertiseAddr, port);
    if (!given.ok) return given;
    const host = given.value.host !== '' ? resolveAddress(given.value.host, 'advertise address')
      : chooseAddress((name) => name.startsWith('skein') || name.startsWith('docker'));
    if (!host.ok) return host;
    const data = dataPath !== '' ? dataPath : options.dataPathAddr;
    const dataAddress = data === '' ? host : resolveAddress(data, 'data path address');
    if (!dataAddress.ok) return dataAddress;
    return ok({ advertiseAddr: `${host.value}:${given.value.port}`, dataPathAddr: dataAddress.value });
  }

  private async run(state: SwarmState): Promise<void> {
    // One whose place in the group was never given asks for it in the background, with its tasks running.
    if (state.role === 'manager' && state.raftId !== '') await this.startManager(state, 0);
    await this.takeUp(state);
    if (state.role === 'manager' && state.raftId === '') this.changeRole(() => this.becomeManager());
  }

  /** The worker's half, which may run already without a session. */
  private async takeUp(state: SwarmState): Promise<void> {
    if (this.worker === undefined) await this.startWorker(state);
    this.connect(state);
  }

  private async startManager(state: SwarmState, timeoutMs: number): Promise<Manager> {
    this.host = new ManagerHost({
      files: this.files,
      state: () => this.state ?? state,
      saveState: async (next) => {
        this.state = next;
        await this.saveState(next);
      },
      identity: () => this.serverIdentity(),
      credentials: () => this.credentials(),
      onKeyExposed: () => this.renewal?.rotate(),
      onStale: (reason) => this.changeRole(() => this.becomeUnfit(reason)),
      logger: this.parts.logger,
      onBug: this.parts.onBug,
    });
    return this.host.start(timeoutMs);
  }

  private changeRole(work: () => Promise<void>): void {
    this.changingRole = this.changingRole.then(work).catch((error: unknown) => {
      const failure = expectedFailure(error);
      if (failure === undefined) this.parts.onBug(error);
      else this.parts.logger.error({ error: failure.message }, 'the role of this node could not be changed');
    });
  }

  /** This node has a manager's certificate and no part in the group. */
  private async becomeManager(): Promise<void> {
    const { state } = this;
    if (state === undefined || this.host !== undefined) return;
    this.state = { ...state, role: 'manager', raftId: '' };
    await this.saveState(this.state);
    try {
      await this.startManager(this.state, ROLE_TIMEOUT_MS);
      this.parts.logger.info('this node is a manager now');
    } catch (error) {
      await (this.host as ManagerHost | undefined)?.close();
      this.host = undefined;
      throw error;
    }
  }

  /** This node was demoted: it is out of the group already. */
  private async becomeWorker(): Promise<void> {
    const { state, host } = this;
    if (state === undefined || host === undefined) return;
    this.state = { ...state, role: 'worker', raftId: '', managers: state.managers.filter(({ nodeId }) => nodeId !== state.nodeId) };
    await this.saveState(this.state);
    this.host = undefined;
    await host.discard();
    await this.files.dropManagerKeys();
    this.parts.logger.info('this node is no manager any more');
  }

  /**
   * This manager's log cannot be part of its group: kept, so that it does not vote by it after the next start either. Its
   * tasks go on, and it can be left or go on alone.
   */
  private async becomeUnfit(reason: string): Promise<void> {
    const { state, host, worker } = this;
    if (state === undefined || host === undefined) return;
    const unfit = `it does not know what it told the other managers (${reason}): its state was put back, or its disk lost writes`;
    const next = { ...state, unfit };
    this.state = next;
    await this.saveState(next);
    this.refused = unfitProblem(next);
    this.parts.logger.error({ error: this.refused }, 'swarm component could not go on');
    this.host = undefined;
    this.worker = undefined;
    this.renewal?.stop();
    await worker?.close();
    await host.close();
  }

  private saveState(next: SwarmState): Promise<void> {
    const done = this.saving.then(() => this.files.save(next));
    this.saving = done.catch(this.parts.onBug);
    return done;
  }

  private async startWorker(state: SwarmState): Promise<void> {
    const { parts } = this;
    const dataPathHost = state.dataPathAddr;
    this.worker = new Worker({
      nodeId: state.nodeId,
      hostname: this.hostname,
      directory: this.files.workerDir,
      executor: this.executor,
      dataPlane: parts.dataPlane,
      dataPathAddr: dataPathHost,
      vxlanPort: state.vxlanPort,
      underlayMtu: underlayMtu(dataPathHost),
      gatewayBridge: parts.options.gatewayBridge,
      dns: parts.options.dns,
      logger: parts.logger,
      credentials: () => this.credentials(),
      managers: () => (this.state ?? state).managers.map(({ addr }) => addr),
      onSession: (message) => this.onSession(message),
      onRotate: () => this.renewal?.rotate(),
      onBug: parts.onBug,
    });
    await this.worker.start();
  }

  private connect(state: SwarmState): void {
    this.worker?.connect();
    this.renewal = new Renewal({
      credentials: () => this.credentials(),
      managers: () => (this.state ?? state).managers.map(({ addr }) => addr),
      onRenewed: (certificates) => this.adopt(certificates),
      logger: this.parts.logger,
      onBug: this.parts.onBug,
    });
    this.renewal.schedule();
    if (this.files.lock.exposed) this.renewal.rotate();
  }

  private credentials(): Credentials {
    // None while they are locked.
    const { rootCa, key, certificate } = this.certificates ?? {};
    return { rootCa, key, certificate, serverName: 'swarm-manager' };
  }

  private serverIdentity(): ServerIdentity {
    const { key, certificate, rootCa } = this.certificates as NodeCertificates;
    return { key, certificate, rootCa };
  }

  /** The manager's list of managers is complete; an empty one is ignored (a node without managers is lost). */
  private onSession(message: SessionMessage): void {
    const { state } = this;
    if (state === undefined) return;
    this.followRoot(Buffer.from(message.RootCA).toString());
    const role = message.node?.role === NodeRole.MANAGER ? 'swarm-manager' : 'swarm-worker';
    if (message.node !== undefined && !rolesOf(this.certificates?.certificate ?? '').includes(role)) this.renewal?.rotate();
    const managers = message.managers.flatMap(({ peer }) => peer === undefined || peer.addr === '' ? [] : [{ nodeId: peer.nodeId, addr: peer.addr }]);
    if (managers.length === 0 || JSON.stringify(managers) === JSON.stringify(state.managers)) return;
    this.state = { ...state, managers };
    void this.saveState(this.state);
  }

  private followRoot(offered: string): void {
    const verdict = judgeRoot(this.certificates as NodeCertificates, offered, Date.now());
    if (verdict === 'known') return;
    if (verdict === 'accepted') {
      this.parts.logger.info('the swarm has a new root certificate: this node trusts it from now on');
      this.adopt({ rootCa: offered }).catch(this.parts.onBug);
    } else if (this.refusedRoot !== offered) {
      this.refusedRoot = offered;
      this.parts.logger.warn({ reason: verdict.refused },
        'a root certificate offered by the manager is not taken: this node\'s own certificate is not good under it');
    }
  }

  /** A new certificate, or a new trust root: kept, and used from now on. */
  private async adopt(change: Partial<NodeCertificates>): Promise<void> {
    this.saving = this.saving.then(async () => {
      if (this.state === undefined) return;
      const next = { ...this.certificates as NodeCertificates, ...change };
      await this.files.saveCertificates(next);
      this.certificates = next;
    });
    await this.saving;
    // The node left its swarm meanwhile.
    if (this.state === undefined) return;
    this.host?.setIdentity();
    this.worker?.reconnect();
    const isManager = rolesOf(this.certificates?.certificate ?? '').includes('swarm-manager');
    if (isManager && this.host === undefined) this.changeRole(() => this.becomeManager());
    if (!isManager && this.host !== undefined) this.changeRole(() => this.becomeWorker());
  }
}

function alreadyInSwarm(): Result<never> {
  return fail('unavailable', 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.');
}

/** MTU is not in os.networkInterfaces(): Linux tells it in sysfs of the interface that has the address. */
function underlayMtu(address: string): number {
  const found = Object.entries(os.networkInterfaces()).find(([, list]) => list?.some((a) => a.address === address));
  return found === undefined ? 1500 : interfaceMtu(found[0]);
}

function interfaceMtu(name: string): number {
  // /sys belongs to the namespace it was mounted in; the routing table of our own is in /proc/self/net, without MTUs.
  // An ioctl would need native code, so `ip` is asked.
  const result = spawnSync('ip', ['-j', 'link', 'show', 'dev', name], { encoding: 'utf8', timeout: 5000 });
  if (result.status !== 0) return 1500;
  const parsed = JSON.parse(result.stdout) as { mtu?: number }[];
  return parsed[0]?.mtu ?? 1500;
}

/** Of a certificate in PEM: its organisational units. */
function rolesOf(pem: string): readonly string[] {
  const leaf = bundle(pem)[0];
  return leaf === undefined ? [] : identityOf(leaf)?.roles ?? [];
}
