// Worker: a node's own side of the swarm: its tasks, its part of the network, its session with a manager.

import type { Logger } from 'pino';
import type { DataPlane } from '../../platform/dataplane.js';
import type { Executor } from '../../platform/executor.js';
import { addressLabels } from '../../model/network.js';
import { Forwarder, hostUpstreams, parseUpstream, type Upstream } from '../../io/dns/forwarder.js';
import type { Credentials } from '../../io/grpc/client.js';
import { issuerInfo } from '../../io/x509/certificates.js';
import { AppFailure } from '../../lib/result.js';
import { toPairs, toRecord } from '../../model/pairs.js';
import {
  IssuanceStatus_State, NodeDescriptionSchema, NodeImagesSchema, NodeTLSInfoSchema, type NodeDescription, type SessionMessage,
} from '../../model/proto/swarmkit_pb.js';
import { create, equals } from '@bufbuild/protobuf';
import path from 'node:path';
import { attempt } from './ending.js';
import { LogPublisher } from './logs.js';
import { LostTasks } from './lost.js';
import { NetworkAgent } from './network.js';
import { SessionLoop } from './session.js';
import { Tasks } from './tasks.js';
import { TaskStore } from './taskstore.js';

const REFRESH_TIMEOUT_MS = 3000;
/** How often the description is looked at again (SwarmKit: 20 s); an Engine's images change behind our back. */
const DESCRIBE_INTERVAL_MS = { oci: 20_000, docker: 3_000 } as const;
/** References told to the managers; a node with more has its oldest ones left out. */
const IMAGES_MAX = 2000;

export interface WorkerOptions {
  readonly nodeId: string;
  readonly hostname: string;
  readonly directory: string;
  readonly executor: Executor;
  readonly dataPlane: DataPlane;
  readonly dataPathAddr: string;
  readonly vxlanPort: number;
  readonly underlayMtu: number;
  readonly gatewayBridge: string;
  readonly dns: string;
  readonly logger: Logger;
  readonly credentials: () => Credentials;
  readonly managers: () => readonly string[];
  readonly onSession: (message: SessionMessage) => void;
  /** The manager asks for a new certificate. */
  readonly onRotate: () => void;
  readonly onBug: (error: unknown) => void;
}

export class Worker {
  private readonly options: WorkerOptions;
  private readonly tasks: Tasks;
  private readonly network: NetworkAgent;
  private readonly session: SessionLoop;
  private readonly logs: LogPublisher;
  private readonly store: TaskStore;
  private readonly lost: LostTasks;
  private description: NodeDescription | undefined;
  private describeTimer: NodeJS.Timeout | undefined;
  private connectedWaiters: ((error: string) => void)[] = [];
  connected = false;
  lastError = '';

  constructor(options: WorkerOptions) {
    this.options = options;
    this.store = new TaskStore(path.join(options.directory, 'tasks'), (file) => {
      options.logger.warn({ file }, 'the saved state of a task is damaged: dropped, and the task with it');
    });
    this.network = new NetworkAgent(options.dataPlane, path.join(options.directory, 'rows'), options.logger, options.onBug);
    this.lost = new LostTasks((taskId, status) => this.session.report(taskId, status));
    this.logs = new LogPublisher({
      executor: options.executor, nodeId: () => options.nodeId, tasks: () => this.tasks.list(), onBug: options.onBug,
    });
    this.tasks = new Tasks({
      executor: options.executor,
      dataPlane: options.dataPlane,
      store: this.store,
      gatewayBridge: options.gatewayBridge,
      logger: options.logger,
      identity: () => ({ nodeId: options.nodeId, description: this.description }),
      report: (taskId, status) => this.session.report(taskId, status),
      onLocalChange: () => {
        this.network.localChanged(this.tasks.serving());
        this.logs.tasksChanged();
      },
      onBug: options.onBug,
    });
    this.session = new SessionLoop({
      logger: options.logger,
      credentials: options.credentials,
      managers: options.managers,
      describe: () => this.describe(),
      onSession: (message) => {
        options.onSession(message);
        const problem = message.node?.dataPath?.problem ?? '';
        if (problem !== '') options.logger.warn({ problem }, 'the manager refuses the address of this node: its tasks have no network');
        if (message.node?.certificate?.status?.state === IssuanceStatus_State.ROTATE) options.onRotate();
      },
      onAssignments: (set) => this.tasks.assign(this.lost.sift(set, (id) => this.tasks.get(id) !== undefined)),
      onUpdate: (update) => this.network.update(update),
      onSubscription: (message, client) => this.logs.handle(message, client),
      statuses: () => new Map([...this.lost.statuses(), ...this.tasks.statuses()]),
      onConnected: (connected, error) => this.onConnected(connected, error),
    });
  }

  /** Takes up what runs on this machine. */
  async start(): Promise<void> {
    const { options } = this;
    await this.describe();
    const saved = await this.store.load();
    await this.network.start({
      nodeId: options.nodeId, vtep: options.dataPathAddr, vxlanPort: options.vxlanPort,
      gatewayBridge: options.gatewayBridge, underlayMtu: options.underlayMtu,
    });
    const forwarder = new Forwarder();
    options.dataPlane.onDnsMiss((miss) => {
      forwarder.forward(miss.query, miss.tcp, () => this.upstreams(miss.sandbox)).then((answer) => miss.reply(answer), options.onBug);
    });
    options.dataPlane.onRestart(() => {
      this.restore().catch((error: unknown) => {
        // Lost again meanwhile: the next restart repeats all of it.
        if (!(error instanceof AppFailure)) options.onBug(error);
      });
    });
    await this.tasks.adopt(saved);
    this.network.localChanged(this.tasks.serving());
  }

  /** From here on with a manager. Until then tasks and traffic go on as they were. */
  connect(): void {
    const { options } = this;
    this.session.start(options.onBug);
    this.describeTimer = setInterval(() => {
      this.lookAgain().catch(options.onBug);
    }, DESCRIBE_INTERVAL_MS[options.executor.kind]);
  }

  /** Resolves with '' once a session stands, or with the last error after timeoutMs. */
  async waitConnected(timeoutMs: number): Promise<string> {
    if (this.connected) return '';
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(this.lastError === '' ? 'timeout' : this.lastError), timeoutMs);
      this.connectedWaiters.push(() => {
        clearTimeout(timer);
        resolve('');
      });
    });
  }

  /** The node's description changed: tells it by a new session, as SwarmKit's agents do. */
  async refresh(): Promise<void> {
    if (!this.connected) return;
    this.connected = false;
    this.session.restart();
    await this.waitConnected(REFRESH_TIMEOUT_MS);
  }

  /** The certificate changed. */
  reconnect(): void {
    this.session.restart();
  }

  /** Lets go; tasks and traffic go on. */
  async close(): Promise<void> {
    this.tasks.close();
    await this.disconnect();
  }

  /** The node left whatever could not be ended: nothing of this swarm is touched again. */
  abandon(): void {
    this.tasks.close();
  }

  private async disconnect(): Promise<void> {
    clearInterval(this.describeTimer);
    this.logs.close();
    await this.session.close();
    await this.network.clear();
  }

  /**
   * Ends everything of this node in its swarm, which is told of it unless it ends too. There is no way back: resolves
   * with '' or with what could not be ended and is still looked after; then it may be called again.
   */
  async leave(tell: boolean): Promise<string> {
    if (tell) await this.session.leave();
    await this.disconnect();
    this.connected = false;
    const problem = await attempt(() => this.tasks.stopAll());
    // Their rows went as well.
    await this.network.clear();
    return problem;
  }

  /** The task's own servers (service create --dns), else the node's. */
  private async upstreams(taskId: string): Promise<readonly Upstream[]> {
    const runtime = this.tasks.get(taskId)?.spec?.runtime;
    const own = runtime?.case === 'container' ? runtime.value.dnsConfig?.nameservers ?? [] : [];
    const configured = own.length > 0 ? own : this.options.dns.split(',');
    const parsed = configured.flatMap((text) => parseUpstream(text) ?? []);
    return parsed.length > 0 ? parsed : hostUpstreams();
  }

  private async restore(): Promise<void> {
    const { options } = this;
    await options.dataPlane.configure({
      nodeId: options.nodeId, vtep: options.dataPathAddr, vxlanPort: options.vxlanPort,
      gatewayBridge: options.gatewayBridge, underlayMtu: options.underlayMtu,
    });
    // Devices first: rows without them would answer for endpoints that are not there.
    await this.tasks.reattach();
    await this.network.resync();
  }

  /** A description that differs from what was told is told by a new session. */
  private async lookAgain(): Promise<void> {
    const told = this.description;
    if (told === undefined || !this.connected) return;
    if (!equals(NodeDescriptionSchema, told, await this.describe()) && this.connected) await this.refresh();
  }

  /** Undefined while the executor's Engine does not answer: then what was known holds. */
  private async describeMachine(): Promise<NodeDescription | undefined> {
    const { executor, hostname } = this.options;
    try {
      const description = await executor.describe(hostname);
      const images = await executor.images.list();
      const references = images.flatMap((image) => [...image.repoTags, ...image.repoDigests, image.id]).slice(0, IMAGES_MAX);
      description.images = create(NodeImagesSchema, { references });
      return description;
    } catch (error) {
      if (!(error instanceof AppFailure) || this.description === undefined) throw error;
      return undefined;
    }
  }

  private async describe(): Promise<NodeDescription> {
    const description = await this.describeMachine();
    if (description === undefined) return this.description as NodeDescription;
    const { rootCa, certificate } = this.options.credentials();
    if (description.engine !== undefined) {
      const { dataPathAddr, gatewayBridge } = this.options;
      description.engine.labels = toPairs({ ...toRecord(description.engine.labels), ...addressLabels(dataPathAddr, gatewayBridge) });
    }
    const issuer = rootCa === undefined || certificate === undefined ? undefined : issuerInfo(certificate, rootCa);
    if (rootCa !== undefined && issuer !== undefined) {
      const { subject, publicKey } = issuer;
      description.tlsInfo = create(NodeTLSInfoSchema, { trustRoot: Buffer.from(rootCa), certIssuerSubject: subject, certIssuerPublicKey: publicKey });
    }
    this.description = description;
    return description;
  }

  private onConnected(connected: boolean, error: string): void {
    this.connected = connected;
    this.lastError = error;
    if (!connected) {
      this.logs.sessionEnded();
      return;
    }
    for (const waiter of this.connectedWaiters.splice(0)) waiter('');
  }
}
