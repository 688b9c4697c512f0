// TestNode: a real SkeinNode (state directory, raft log, TLS on loopback, sessions) on a machine of which only the
// processes and the packets are made up. The machine outlives the node, as tasks and data plane outlive an agent.

import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach } from 'node:test';
import { pino } from 'pino';
import type { InitRequest, JoinRequest } from '../../src/api/backend.js';
import { createService } from '../../src/core/control/services.js';
import { AGENT_DEFAULTS, type AgentOptions } from '../../src/daemon/options.js';
import { SkeinNode } from '../../src/daemon/node.js';
import { AppFailure, unwrap } from '../../src/lib/result.js';
import type { ContainerSummary, Controller, Executor, ExitState, ImageSummary, LogRecord } from '../../src/platform/executor.js';
import type { DataPlane, DnsMiss, TableDelta } from '../../src/platform/dataplane.js';
import type { NodeDescription } from '../../src/model/proto/swarmkit_pb.js';
import type { Sandbox } from '../../src/model/sandbox.js';
import { spec } from './control.js';
import { describe } from './fake-node.js';

interface Running {
  readonly ended: Promise<ExitState>;
  readonly end: (exit: ExitState) => void;
  over: boolean;
}

const IMAGE: ImageSummary = {
  id: 'sha256:00', repoTags: ['app:1'], repoDigests: [], createdMs: 0, sizeBytes: 1, os: 'linux', architecture: 'amd64', config: {},
};

/** Tasks that run by being in a map. One for each life of the agent: what is done after its end is not done. */
export class TestExecutor implements Executor {
  readonly kind = 'oci' as const;
  private closed = false;
  /** With those that ended and were not removed. */
  private readonly running = new Map<string, Running>();
  /** What a verb fails with for as long as it is set. */
  readonly failures = new Map<'shutdown' | 'terminate' | 'remove' | 'adopt', AppFailure>();
  readonly calls: string[] = [];
  readonly images = {
    list: async () => [IMAGE], inspect: async () => undefined, remove: async () => false,
    load: async () => [], importTar: async () => '',
  };

  /** How many run. */
  get live(): number {
    return [...this.running.values()].filter(({ over }) => !over).length;
  }

  /** For the next agent on the same machine. */
  next(): TestExecutor {
    const { running, failures, calls } = this;
    return Object.assign(new TestExecutor(), { running, failures, calls });
  }

  has(taskId: string): boolean {
    return this.running.has(taskId);
  }

  async describe(hostname: string): Promise<NodeDescription> {
    return describe(hostname);
  }
  controller(taskId: string): Controller {
    const alive = async (): Promise<void> => (this.closed ? new Promise(() => undefined) : undefined);
    const verb = async (name: string): Promise<void> => {
      await alive();
      this.calls.push(name);
      const failure = this.failures.get(name as 'remove');
      if (failure !== undefined) throw failure;
    };
    const end = (): void => {
      const running = this.running.get(taskId);
      if (running === undefined) return;
      running.over = true;
      running.end({ exitCode: 143, finishedAtMs: Date.now(), reason: undefined });
    };
    return {
      prepare: async () => verb('prepare'),
      start: async () => {
        await verb('start');
        let resolve: (exit: ExitState) => void = () => undefined;
        const ended = new Promise<ExitState>((done) => { resolve = done; });
        this.running.set(taskId, { ended, end: resolve, over: false });
        return { containerId: taskId.padEnd(64, '0'), pid: 4242, startedAtMs: Date.now() };
      },
      healthy: async () => undefined,
      wait: async () => {
        const exit = await (this.running.get(taskId)?.ended ?? { exitCode: 143, finishedAtMs: Date.now(), reason: undefined });
        await alive();
        return exit;
      },
      shutdown: async () => {
        await verb('shutdown');
        end();
      },
      terminate: async () => {
        await verb('terminate');
        end();
      },
      remove: async () => {
        await verb('remove');
        end();
        this.running.delete(taskId);
      },
      state: () => (this.running.has(taskId) ? { containerId: taskId.padEnd(64, '0'), pid: 4242, startedAtMs: 1 } : undefined),
      async *logs(): AsyncGenerator<LogRecord> {},
    };
  }
  async adopt(): Promise<readonly string[]> {
    const failure = this.failures.get('adopt');
    if (failure !== undefined) throw failure;
    return [...this.running.keys()];
  }
  async containers(): Promise<readonly ContainerSummary[]> {
    return [];
  }
  async close(): Promise<void> {
    this.closed = true;
  }
}

/** A data plane that remembers what it was given. */
export class TestDataPlane implements DataPlane {
  readonly attached = new Map<string, Sandbox>();
  applied: TableDelta | undefined;
  async probe() {
    return { engine: 'test', supported: true, findings: [] };
  }
  async configure(): Promise<void> {}
  async attach(sandbox: Sandbox) {
    this.attached.set(sandbox.id, sandbox);
    return { netns: `/netns/${sandbox.id}` };
  }
  async detach(id: string): Promise<void> {
    this.attached.delete(id);
  }
  async sandboxes(): Promise<readonly string[]> {
    return [...this.attached.keys()];
  }
  async apply(delta: TableDelta): Promise<bigint> {
    this.applied = delta;
    return delta.revision;
  }
  async counters() {
    return {};
  }
  onDnsMiss(_handler: (miss: DnsMiss) => void): void {}
  onRestart(): void {}
  async close(): Promise<void> {}
  async destroy(): Promise<void> {}
  async reset(): Promise<void> {
    this.attached.clear();
  }
}

const INIT: InitRequest = {
  listenAddr: '', advertiseAddr: '', dataPathAddr: '', dataPathPort: 0, forceNewCluster: false, availability: 'active',
  defaultAddrPool: [], subnetSize: 0, autoLockManagers: false, taskHistoryRetentionLimit: undefined, heartbeatPeriodNs: 2_000_000_000n,
  nodeCertExpiryNs: undefined, snapshotInterval: undefined, keepOldSnapshots: undefined, labels: {},
};

// Removed at the very end: a closed node may still be writing down how a task ended.
const made: string[] = [];
process.on('exit', () => {
  for (const directory of made) rmSync(directory, { recursive: true, force: true });
});

/** Of each process that runs tests, one after the other: a node may listen long after its port was found to be free. */
const PORTS_MAX = 100;
const PORT_FIRST = 20_000 + (process.pid % 100) * PORTS_MAX;
let ports = 0;

/** None that the system gives to connections that are made: one of those may take it before the node listens. */
async function freePort(): Promise<number> {
  for (let tries = 0; tries < PORTS_MAX; tries++) {
    const port = PORT_FIRST + ports++ % PORTS_MAX;
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
  throw new Error(`no free port of ${PORTS_MAX}`);
}

export class TestNode {
  executor = new TestExecutor();
  readonly dataPlane = new TestDataPlane();
  readonly stateDir: string;
  readonly address: string;
  /** Lines of the log, parsed. */
  readonly logged: { level: number; msg: string; [key: string]: unknown }[] = [];
  readonly bugs: unknown[] = [];
  /** What the next agent is started with. */
  options: Partial<AgentOptions> = {};
  node: SkeinNode;

  private constructor(stateDir: string, address: string) {
    this.stateDir = stateDir;
    this.address = address;
    this.node = this.make();
  }

  static async make(): Promise<TestNode> {
    const port = await freePort();
    const stateDir = await mkdtemp(path.join(os.tmpdir(), 'skein-node-'));
    made.push(stateDir);
    return new TestNode(stateDir, `127.0.0.1:${port}`);
  }

  /** A machine with what was found on another one: the other's agent must have ended. */
  static at(stateDir: string, address: string): TestNode {
    return new TestNode(stateDir, address);
  }

  private make(): SkeinNode {
    return new SkeinNode({
      options: {
        ...AGENT_DEFAULTS, hostname: 'n1', stateDir: this.stateDir, runDir: this.stateDir, listenAddr: this.address, ...this.options,
      },
      executor: this.executor,
      dataPlane: this.dataPlane,
      logger: pino({ level: 'info' }, { write: (line: string) => this.logged.push(JSON.parse(line)) }),
      onBug: (error) => this.bugs.push(error),
    });
  }

  init(request: Partial<InitRequest> = {}): ReturnType<SkeinNode['swarmInit']> {
    return this.node.swarmInit({ ...INIT, advertiseAddr: this.address, ...request });
  }

  join(manager: TestNode, request: Partial<JoinRequest> = {}): ReturnType<SkeinNode['swarmJoin']> {
    return this.node.swarmJoin({
      listenAddr: '', advertiseAddr: this.address, dataPathAddr: '', remoteAddrs: [manager.address], availability: 'active',
      joinToken: manager.workerToken, ...request,
    });
  }

  get workerToken(): string {
    return this.node.manager()?.view().cluster()?.rootCa?.joinTokens?.worker ?? '';
  }

  /** A new agent on the same machine. */
  async restart(between: () => Promise<void> = async () => undefined): Promise<void> {
    await this.node.close();
    await between();
    this.executor = this.executor.next();
    this.node = this.make();
    await this.node.start();
  }

  async service(name: string, replicas: number): Promise<void> {
    const more = {
      Mode: { Replicated: { Replicas: replicas } },
      TaskTemplate: { ContainerSpec: { Image: 'app:1' }, RestartPolicy: { Condition: 'any', Delay: 50_000_000 } },
    };
    unwrap(await (this.node.manager() as NonNullable<ReturnType<SkeinNode['manager']>>)
      .commit((view, context) => createService(view, spec(name, more), context)));
  }

  warnings(): string[] {
    return this.logged.filter(({ level }) => level >= 40).map((line) => JSON.stringify(line));
  }

  file(...names: string[]): string {
    return path.join(this.stateDir, 'swarm', ...names);
  }

  async down(): Promise<void> {
    this.executor.failures.clear();
    await this.node.close();
  }
}

/** For a test file: makes nodes that are taken down after each test, the newest first, and must have met no bug. */
export function testNodes(): () => Promise<TestNode> {
  const nodes: TestNode[] = [];
  afterEach(async () => {
    for (const node of nodes.splice(0).reverse()) {
      await node.down();
      assert.deepEqual(node.bugs, []);
    }
  });
  return async () => {
    const node = await TestNode.make();
    nodes.push(node);
    return node;
  };
}
