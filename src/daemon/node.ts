// SkeinNode: one node of a swarm, or of none. Owns the state directory, the data plane and the executor; starts the
// manager and worker parts by what the state directory says; implements what the API needs.

import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { spawnSync } from 'node:child_process';
import os from 'node:os';
import type { Logger } from 'pino';
import type { InitRequest, JoinRequest, LocalNode, ManagerBackend, NodeBackend } from '../api/backend.js';
import { CERT_EXPIRY_DEFAULT_MS, createCsr, createRootCa, joinToken, rootDigest, signCsr } from '../io/x509/certificates.js';
import { limitLog } from '../io/grpc/connections.js';
import { startGrpcServer, type GrpcServer, type ServerIdentity } from '../io/grpc/server.js';
import type { Credentials } from '../io/grpc/client.js';
import { newId, newTokenSecret } from '../lib/ids.js';
import { AppFailure, fail, ok, unwrap, type Result } from '../lib/result.js';
import { addressLabels } from '../model/network.js';
import { NetworkView } from '../model/proto/skein_pb.js';
import { CA, Dispatcher, Health, LogBroker, NodeCA, NodeSpec_Availability, type SessionMessage } from '../model/proto/swarmkit_pb.js';
import type { DataPlane } from '../platform/dataplane.js';
import type { Executor } from '../platform/executor.js';
import { MANAGEMENT_PORT, addressTowards, chooseAddress, parseHostPort, resolveAddress } from './addresses.js';
import { authorize } from './manager/authorize.js';
import { bootstrapActions, hostOf } from './manager/bootstrap.js';
import { caHandlers, nodeCaHandlers } from './manager/caservice.js';
import { Consensus } from './manager/consensus.js';
import { dispatcherHandlers } from './manager/dispatcher.js';
import { logBrokerHandlers } from './manager/logservice.js';
import { healthHandlers } from './manager/health.js';
import { Manager } from './manager/manager.js';
import { networkViewHandlers } from './manager/networkview.js';
import type { AgentOptions } from './options.js';
import { Renewal } from './renewal.js';
import { SwarmFiles, type NodeCertificates, type SwarmState } from './swarmstate.js';
import { attempt, removeTasks } from './worker/ending.js';
import { joinSwarm } from './worker/join.js';
import { Worker } from './worker/worker.js';

const JOIN_TIMEOUT_MS = 20_000;
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
  private consensus: Consensus | undefined;
  private managerPart: Manager | undefined;
  private server: GrpcServer | undefined;
  private renewal: Renewal | undefined;
  /** Why this node's part in its swarm was not taken up at the start; it can only be left. */
  private refused: string | undefined;
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
    if (this.state !== undefined && this.refused === undefined) await this.run(this.state);
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
      this.refused = this.files.certificateProblem(this.certificates, Date.now());
    } catch (error) {
      if (!(error instanceof AppFailure)) throw error;
      this.refused = error.message;
    }
    if (this.refused !== undefined) this.parts.logger.error({ error: this.refused }, 'swarm component could not be started');
  }

  /** Stops the agent; tasks, data plane and state stay. */
  async close(): Promise<void> {
    this.renewal?.stop();
    await this.worker?.close();
    await this.server?.close();
    await this.managerPart?.close();
    await this.consensus?.close();
    await this.saving;
    await this.executor.close();
    await this.parts.dataPlane.close();
  }

  local(): LocalNode {
    const { state, refused, certificates } = this;
    const connected = this.worker?.connected === true;
    return {
      state: refused !== undefined ? 'error' : state === undefined ? 'inactive' : connected || this.managerPart !== undefined ? 'active' : 'pending',
      error: refused ?? (state === undefined || connected || certificates === undefined ? ''
        : this.files.certificateProblem(certificates, Date.now()) ?? this.worker?.lastError ?? ''),
      nodeId: state?.nodeId ?? '',
      isManager: this.managerPart !== undefined,
      nodeAddr: state === undefined ? '' : hostOf(state.advertiseAddr),
      remoteManagers: state?.managers ?? [],
      rootCaPem: certificates?.rootCa ?? '',
    };
  }

  private get inSwarm(): boolean {
    return this.state !== undefined || this.refused !== undefined;
  }

  manager(): ManagerBackend | undefined {
    return this.managerPart;
  }

  async swarmInit(request: InitRequest): Promise<Result<string>> {
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
    if (request.forceNewCluster) return fail('unimplemented', '--force-new-cluster needs the multi-manager release: not supported yet');
    if (request.autoLockManagers) return fail('unimplemented', '--autolock needs the multi-manager release: not supported yet');
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
    await this.files.saveCertificates(this.certificates);
    await this.openConsensus(state);
    unwrap(await (this.managerPart as Manager).commit(() => ok({
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
        labels: request.labels,
        autoLockManagers: false,
      }, randomBytes),
      value: undefined,
    })));
    await this.serve(state);
    this.state = state;
    await this.startWorker(state);
    // From here on a restart finds the swarm.
    await this.files.save(state);
    const problem = await (this.worker as unknown as Worker).waitConnected(JOIN_TIMEOUT_MS);
    if (problem !== '') this.parts.logger.error({ problem }, 'the manager\'s own session does not stand yet');
    return ok(nodeId);
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
      const { nodeId, clusterId, key, certificate, rootCa } = joined.value;
      const state: SwarmState = {
        nodeId, clusterId, role: 'worker', raftId: '', listenAddr: `${listen.value.host}:${listen.value.port}`,
        ...addresses.value, vxlanPort: VXLAN_PORT, managers: [{ nodeId: '', addr: address }],
      };
      this.certificates = { rootCa, certificate, key };
      await this.files.saveCertificates(this.certificates);
      await this.files.save(state);
      this.state = state;
      await this.run(state);
      const problem = await (this.worker as unknown as Worker).waitConnected(JOIN_TIMEOUT_MS);
      if (problem !== '') {
        return fail('deadline_exceeded', 'Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the "docker info" command to see the current swarm status of your node.');
      }
      return ok(undefined);
    }
    return failure;
  }

  async imagesChanged(): Promise<void> {
    await this.worker?.refresh();
  }

  async swarmLeave(force: boolean): Promise<Result<void>> {
    if (!this.inSwarm || this.changing) return fail('unavailable', 'This node is not part of a swarm');
    if (this.state?.role === 'manager' && !force) {
      const managers = this.managerPart?.view().list('node').filter((node) => node.managerStatus !== undefined) ?? [];
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
    const tasks = await (this.worker?.leave(this.managerPart === undefined) ?? removeTasks(this.executor));
    await this.server?.close();
    await this.managerPart?.close();
    await this.consensus?.close();
    await this.saving;
    this.server = undefined;
    this.managerPart = undefined;
    this.consensus = undefined;
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
    if (state.role === 'manager') {
      await this.openConsensus(state);
      await this.serve(state);
    }
    await this.startWorker(state);
  }

  private async openConsensus(state: SwarmState): Promise<void> {
    const consensus = await Consensus.open(this.files.raftDir, await this.files.dataKey(), BigInt(state.raftId));
    if (consensus.tornBytes > 0) {
      this.parts.logger.warn({ bytes: consensus.tornBytes }, 'the raft log ended in a write that was never finished nor acknowledged: it was cut off');
    }
    await consensus.start(this.parts.onBug);
    this.consensus = consensus;
    this.managerPart = new Manager(consensus, this.parts.logger);
    this.managerPart.start(this.parts.onBug);
  }

  private async serve(state: SwarmState): Promise<void> {
    const manager = this.managerPart as Manager;
    const { host, port } = unwrap(parseHostPort(state.listenAddr, MANAGEMENT_PORT));
    this.server = await startGrpcServer({
      host: host === '' ? '0.0.0.0' : host,
      port,
      identity: this.serverIdentity(),
      authorize: (path, caller) => authorize(manager.view(), path, caller),
      onBug: this.parts.onBug,
      onLimit: limitLog(this.parts.logger),
      services: [
        { service: CA, handlers: caHandlers(manager) },
        { service: NodeCA, handlers: nodeCaHandlers(manager) },
        { service: Dispatcher, handlers: dispatcherHandlers(manager) },
        { service: LogBroker, handlers: logBrokerHandlers(manager) },
        { service: NetworkView, handlers: networkViewHandlers(manager) },
        { service: Health, handlers: healthHandlers(manager) },
      ],
    });
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
    this.renewal = new Renewal({
      credentials: () => this.credentials(),
      managers: () => (this.state ?? state).managers.map(({ addr }) => addr),
      onRenewed: (certificates) => this.renewed(certificates),
      logger: parts.logger,
      onBug: parts.onBug,
    });
    await this.worker.start();
    this.renewal.schedule();
  }

  private credentials(): Credentials {
    const certificates = this.certificates as NodeCertificates;
    return { rootCa: certificates.rootCa, key: certificates.key, certificate: certificates.certificate, serverName: 'swarm-manager' };
  }

  private serverIdentity(): ServerIdentity {
    const { key, certificate, rootCa } = this.certificates as NodeCertificates;
    return { key, certificate, rootCa };
  }

  /** The manager's list of managers is complete; an empty one is ignored (a node without managers is lost). */
  private onSession(message: SessionMessage): void {
    const { state } = this;
    if (state === undefined) return;
    const managers = message.managers.flatMap(({ peer }) => peer === undefined || peer.addr === '' ? [] : [{ nodeId: peer.nodeId, addr: peer.addr }]);
    if (managers.length === 0 || JSON.stringify(managers) === JSON.stringify(state.managers)) return;
    this.state = { ...state, managers };
    const next = this.state;
    this.saving = this.saving.then(() => this.files.save(next)).catch(this.parts.onBug);
  }

  private async renewed(certificates: NodeCertificates): Promise<void> {
    this.saving = this.saving.then(() => this.files.saveCertificates(certificates));
    await this.saving;
    // Leaving waits for what is being saved.
    if (this.state === undefined) return;
    this.certificates = certificates;
    this.server?.setIdentity(this.serverIdentity());
    this.worker?.reconnect();
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
