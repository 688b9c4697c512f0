// Fixture of the system tests: a lab with its own name, the real docker CLI, an image with the probe program.

import assert from 'node:assert/strict';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { unwrap } from '../../src/lib/result.js';
import { api } from '../../src/lab/dockerapi.js';
import { labDown, labUp, loadPlan } from '../../src/lab/lab.js';
import type { LabNode, LabPlan } from '../../src/lab/plan.js';
import { agentPid, datapathPid } from '../../src/lab/teardown.js';

export const ROOT = path.resolve(import.meta.dirname, '../../..');
export const SKEIN = path.join(ROOT, 'scripts/skein.mjs');
export const IMAGE = 'probe:1';

export interface Output {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export function command(file: string, args: readonly string[], options: { timeoutMs?: number; input?: string; env?: NodeJS.ProcessEnv } = {}): Promise<Output> {
  return new Promise((resolve, reject) => {
    const child = execFile(file, [...args], { timeout: options.timeoutMs ?? 60_000, maxBuffer: 64 << 20, encoding: 'utf8', killSignal: 'SIGKILL', env: options.env ?? process.env },
      (error, stdout, stderr) => {
        if (error !== null && typeof error.code !== 'number') reject(new Error(`${file} ${args.join(' ')}: ${error.killed ? 'timed out' : error.message}\n${stdout}${stderr}`));
        else resolve({ code: error === null ? 0 : error.code as number, stdout, stderr });
      });
    if (options.input !== undefined) child.stdin?.end(options.input);
  });
}

/** Both CLIs: 28.2 where it is installed, and Debian's 20.10. */
export const CLIS: readonly string[] = [...new Set(['/usr/local/bin/docker', '/usr/bin/docker'])].filter((file) => existsSync(file));

export class Lab {
  readonly plan: LabPlan;
  readonly work: string;
  readonly probe: string;
  readonly cli: string;
  readonly loads: Load[] = [];

  private constructor(plan: LabPlan, work: string, probe: string, cli: string) {
    this.plan = plan;
    this.work = work;
    this.probe = probe;
    this.cli = cli;
  }

  static async up(name: string, options: { managers?: number; workers?: number; runtime?: 'oci' | 'docker'; cli?: string } = {}): Promise<Lab> {
    if (await loadPlan(name) !== undefined) unwrap(await labDown(name));
    const plan = unwrap(await labUp({ name, managers: options.managers ?? 1, workers: options.workers ?? 2, engine: 'auto', runtime: options.runtime ?? 'oci' }, () => undefined));
    const work = await mkdtemp(path.join(os.tmpdir(), `skein-test-${name}-`));
    const probe = path.join(work, 'probe');
    const built = await command('gcc', ['-static', '-O1', '-Wall', '-Werror', '-o', probe, path.join(ROOT, 'test/system/image/probe.c')]);
    assert.equal(built.code, 0, built.stderr);
    const lab = new Lab(plan, work, probe, options.cli ?? CLIS[0] ?? 'docker');
    await lab.loadImage();
    return lab;
  }

  get manager(): LabNode {
    return this.plan.nodes[0] as LabNode;
  }

  get managers(): LabNode[] {
    return this.plan.nodes.filter((n) => n.role === 'manager');
  }

  node(name: string): LabNode {
    const node = this.plan.nodes.find((n) => n.name === name);
    assert.ok(node, `node ${name}`);
    return node;
  }

  get workers(): LabNode[] {
    return this.plan.nodes.filter((n) => n.role === 'worker');
  }

  async down(): Promise<void> {
    // A test that failed in the middle has not ended its load.
    await Promise.all(this.loads.map((load) => load.end()));
    unwrap(await labDown(this.plan.name));
    await this.removeFiles();
  }

  /** Of the test itself: for one that takes its lab down on its own. */
  async removeFiles(): Promise<void> {
    await rm(this.work, { recursive: true, force: true });
  }

  /** The docker CLI against a node; the exit code is part of the answer. */
  try(args: readonly string[], node: LabNode = this.manager, timeoutMs = 60_000): Promise<Output> {
    return command(this.cli, ['-H', `unix://${node.socket}`, ...args], { timeoutMs });
  }

  /** The docker CLI, expected to succeed; its output without the final newline. */
  async docker(...args: string[]): Promise<string> {
    const output = await this.try(args);
    assert.equal(output.code, 0, `docker ${args.join(' ')}: ${output.stdout}${output.stderr}`);
    return output.stdout.trimEnd();
  }

  api<T>(method: string, url: string, body?: unknown): Promise<T> {
    return api<T>(this.manager.socket, method, url, body);
  }

  /** In a namespace by its name under /run/netns, or by path. */
  inside(netns: string, file: string, args: readonly string[], timeoutMs = 15_000): Promise<Output> {
    return command('nsenter', [`--net=${netns.startsWith('/') ? netns : `/run/netns/${netns}`}`, file, ...args], { timeoutMs });
  }

  spawnInside(netns: string, file: string, args: readonly string[]): ChildProcess {
    return spawn('nsenter', [`--net=${netns.startsWith('/') ? netns : `/run/netns/${netns}`}`, file, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** HTTP to the probe: which task answered, and the client address it saw. */
  async ask(netns: string, address: string, port: number): Promise<{ task: string; client: string }> {
    const output = await this.inside(netns, 'curl', ['-sS', '--max-time', '3', `http://${address}:${port}/`]);
    assert.equal(output.code, 0, `http://${address}:${port}/ from ${netns}: ${output.stderr}`);
    const [task = '', client = ''] = output.stdout.trim().split(' ');
    return { task, client };
  }

  async askUdp(netns: string, address: string, port: number): Promise<{ task: string; client: string }> {
    const output = await this.inside(netns, this.probe, ['udp', address, String(port)]);
    assert.equal(output.code, 0, `udp ${address}:${port} from ${netns}: ${output.stdout}`);
    const [task = '', client = ''] = output.stdout.trim().split(' ');
    return { task, client };
  }

  async tasks(service: string): Promise<TaskJson[]> {
    const filters = encodeURIComponent(JSON.stringify({ service: { [service]: true }, 'desired-state': { running: true } }));
    const tasks = await this.api<TaskJson[]>('GET', `/v1.50/tasks?filters=${filters}`);
    return tasks.sort((a, b) => a.Slot - b.Slot);
  }

  async running(service: string, count: number, timeoutMs = 20_000): Promise<TaskJson[]> {
    return eventually(`${count} running tasks of ${service}`, timeoutMs, async () => {
      const tasks = (await this.tasks(service)).filter((t) => t.Status.State === 'running');
      assert.equal(tasks.length, count, JSON.stringify((await this.tasks(service)).map((t) => [t.Slot, t.Status.State, t.Status.Err])));
      return tasks;
    });
  }

  async nodeOf(task: TaskJson): Promise<LabNode> {
    const node = await this.api<{ Description: { Hostname: string } }>('GET', `/v1.50/nodes/${task.NodeID}`);
    return this.node(node.Description.Hostname);
  }

  async netnsOf(task: TaskJson): Promise<string> {
    return path.join((await this.nodeOf(task)).runDir, 'netns', task.ID);
  }

  agentPid(node: LabNode): Promise<number> {
    return agentPid(node);
  }

  datapathPid(node: LabNode): Promise<number> {
    return datapathPid(node);
  }

  /** SIGKILL, and gone when this resolves. startAgent() of src/lab/lab.ts starts it again. */
  async killAgent(node: LabNode): Promise<void> {
    const pid = await agentPid(node);
    assert.ok(pid > 0, `the agent of ${node.name} runs`);
    process.kill(pid, 'SIGKILL');
    await eventually(`the agent of ${node.name} is gone`, 5000, async () => assert.equal(await agentPid(node), 0));
  }

  private async loadImage(): Promise<void> {
    const rootfs = path.join(this.work, 'rootfs');
    await mkdir(path.join(rootfs, 'bin'), { recursive: true });
    await mkdir(path.join(rootfs, 'tmp'), { recursive: true });
    await cp(this.probe, path.join(rootfs, 'bin/probe'));
    await cp('/bin/busybox', path.join(rootfs, 'bin/busybox'));
    for (const applet of ['sh', 'sleep', 'cat', 'ls', 'echo', 'hostname', 'nslookup', 'ping', 'wget', 'id']) {
      await cp('/bin/busybox', path.join(rootfs, 'bin', applet));
    }
    const tar = path.join(this.work, 'image.tar');
    assert.equal((await command('tar', ['-C', rootfs, '-cf', tar, '.'])).code, 0);
    await Promise.all(this.plan.nodes.map(async (node) => {
      const output = await this.try(['import', tar, IMAGE], node);
      assert.equal(output.code, 0, output.stderr);
    }));
  }
}

export interface TaskJson {
  readonly ID: string;
  readonly Slot: number;
  readonly NodeID: string;
  readonly DesiredState: string;
  readonly Status: { readonly State: string; readonly Err?: string; readonly ContainerStatus?: { readonly PID: number; readonly ContainerID: string; readonly ExitCode: number } };
  readonly NetworksAttachments?: readonly { readonly Network: { readonly Spec: { readonly Name: string } }; readonly Addresses: readonly string[] }[];
}

export function addressIn(task: TaskJson, network: string): string {
  const attachment = task.NetworksAttachments?.find((a) => a.Network.Spec.Name === network);
  assert.ok(attachment, `task ${task.ID} is not on ${network}`);
  return (attachment.Addresses[0] as string).split('/')[0] as string;
}

/** Tries until it does not throw. */
export async function eventually<T>(what: string, timeoutMs: number, check: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms: ${error instanceof Error ? error.message : String(error)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Output of a child process once it ended. */
export function finished(child: ChildProcess): Promise<Output> {
  let stdout = '';
  let stderr = '';
  child.stdout?.on('data', (chunk) => { stdout += String(chunk); });
  child.stderr?.on('data', (chunk) => { stderr += String(chunk); });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? -1, stdout, stderr }));
  });
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export async function vipOf(lab: Lab, service: string): Promise<string> {
  const found = await lab.api<{ Endpoint: { VirtualIPs: { Addr: string }[] } }>('GET', `/v1.50/services/${service}`);
  const own = found.Endpoint.VirtualIPs.at(-1)?.Addr ?? '';
  return own.split('/')[0] as string;
}

/** Process of each task, by task. */
export function pidsOf(tasks: readonly TaskJson[]): Record<string, number> {
  return Object.fromEntries(tasks.map((t) => [t.ID, t.Status.ContainerStatus?.PID ?? 0]));
}

/** One TCP connection for `ms`; resolves with its longest gap, rejects when it breaks. */
export async function hold(lab: Lab, netns: string, address: string, port: number, ms: number): Promise<number> {
  const output = await lab.inside(netns, lab.probe, ['hold', address, String(port), String(ms)], ms + 15_000);
  const gap = /^ok \d+ max_gap_ms=(\d+)$/m.exec(output.stdout)?.[1];
  assert.ok(gap, `connection to ${address}:${port} from ${netns}: ${output.stdout}`);
  return Number(gap);
}

/** HTTP requests one after the other to each address, until end(). */
export class Load {
  requests = 0;
  readonly errors: string[] = [];
  private stopped = false;
  private readonly done: Promise<unknown>;

  constructor(lab: Lab, netns: string, addresses: readonly string[], port: number) {
    lab.loads.push(this);
    this.done = Promise.all(addresses.map(async (address) => {
      while (!this.stopped) {
        this.requests += 1;
        const { code, stderr } = await lab.inside(netns, 'curl', ['-sS', '--max-time', '4', '-o', '/dev/null', `http://${address}:${port}/`]);
        if (code !== 0) this.errors.push(`${new Date().toISOString()} ${stderr.trim()}`);
        await sleep(20);
      }
    }));
  }

  /** Resolves with the number of failed requests. */
  async end(): Promise<number> {
    this.stopped = true;
    await this.done;
    return this.errors.length;
  }
}
