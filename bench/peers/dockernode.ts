// A Docker Engine as a node of a swarm in the control bench: dockerd of Debian's docker.io in net, mount, pid, uts and ipc
// namespaces of its own, on a bridge of the bench's namespace. The namespaces' init is a shell that does what it is sent;
// when it ends, at the latest with the bench, the kernel ends dockerd, containerd, shims and containers, and all mounts go.

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { readFile, readdir, rmdir } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { api } from '../../src/lab/dockerapi.js';
import { childrenOf, descendantsOf } from '../processes.js';

/** Everything is private to the node: what dockerd writes to /etc and /run is in memory and goes with it. */
const ENTER = `set -e
mkdir -p cg
mount --rbind /sys/fs/cgroup cg
mount -t sysfs sysfs /sys
mount --rbind cg /sys/fs/cgroup
umount -l cg
mount -t tmpfs tmpfs /run
mkdir -p /run/etc/upper /run/etc/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
set +e
`;
const CGROUPS = '/sys/fs/cgroup';
const PREFIX_BITS = 24;
const BRIDGE = 'br-docker';
const BRIDGE_ADDRESS = `10.97.0.254/${PREFIX_BITS}`;
const POLL_MS = 20;
const UP_MS = 60_000;
const ATTEMPT_MS = 2000;
const LOG_LINES = 8;

const run = promisify(execFile);

/** Once, in the bench's namespace. */
export async function makeBridge(): Promise<void> {
  await run('ip', ['link', 'add', BRIDGE, 'type', 'bridge', 'forward_delay', '0']);
  await run('ip', ['addr', 'add', BRIDGE_ADDRESS, 'dev', BRIDGE]);
  await run('ip', ['link', 'set', BRIDGE, 'up']);
}

export class DockerNode {
  readonly name: string;
  readonly address: string;
  readonly socket: string;
  private readonly directory: string;
  private readonly cgroup: string;
  private init: ChildProcess | undefined;
  private closing: Promise<void> | undefined;

  constructor(directory: string, n: number) {
    this.name = `docker${n}`;
    this.address = `10.97.0.${n}`;
    this.directory = path.join(directory, this.name);
    this.socket = path.join(this.directory, 'docker.sock');
    this.cgroup = `${path.basename(directory)}-${this.name}`;
  }

  /** Resolves when its API answers. */
  async start(): Promise<void> {
    this.refuseWhenClosed();
    mkdirSync(this.directory);
    const log = openSync(this.logFile, 'a');
    const isolated = ['unshare', '--net', '--mount', '--uts', '--ipc', '--pid', '--fork', '--mount-proc', '--kill-child'];
    this.init = spawn('setpriv', ['--pdeathsig', 'KILL', ...isolated, 'bash', '-s'], { cwd: this.directory, stdio: ['pipe', log, log] });
    closeSync(log);
    // It may end before it has read all; what waits for the node tells it then.
    this.init.stdin?.on('error', () => undefined);
    const pid = await this.until('its namespaces', async () => this.initPid());
    const port = `v-${this.name}`;
    await run('ip', ['link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(pid)]);
    await run('ip', ['link', 'set', port, 'master', BRIDGE, 'up']);
    this.send(`${ENTER}echo ${this.name} > /proc/sys/kernel/hostname
ip link set lo up && ip addr add ${this.address}/${PREFIX_BITS} dev eth0 && ip link set eth0 up
`);
    await this.startDockerd();
  }

  /** Also after it was ended: pid files that are left would make the next one wait for processes that are gone. */
  async startDockerd(): Promise<void> {
    const flags = `--data-root ${this.directory}/data -H unix://${this.socket} --cgroup-parent /${this.cgroup}`;
    this.send('rm -f /run/docker.pid /run/docker/containerd/containerd.pid\n'
      + `dockerd ${flags} --exec-opt native.cgroupdriver=cgroupfs < /dev/null &\n`);
    await this.until('dockerd', async () => (await this.attempt('GET', '/_ping') === undefined ? undefined : true));
  }

  /** Its processes: dockerd and its containerd. */
  async pids(): Promise<readonly number[]> {
    const dockerd = await this.dockerd();
    return dockerd === undefined ? [] : [dockerd, ...await named(await childrenOf(dockerd), 'containerd')];
  }

  /** Of a process of its namespaces, by the number it has there. */
  async hostPid(inner: number): Promise<number | undefined> {
    for (const pid of await descendantsOf(await this.initPid())) {
      const numbers = /^NSpid:\s+(.*)$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8').catch(() => ''))?.[1]?.split('\t') ?? [];
      if (Number(numbers[1]) === inner) return pid;
    }
    return undefined;
  }

  async signal(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const pid = await this.dockerd();
    if (pid === undefined) throw new Error(`${this.name}: dockerd does not run`);
    process.kill(pid, signal);
    await this.until('the end of dockerd', async () => (await this.dockerd() === pid ? undefined : true));
  }

  /** Undefined when it was refused, or nobody answered in time: all that the client of the API rejects with. */
  attempt<T>(method: string, url: string, body?: unknown, timeoutMs = ATTEMPT_MS): Promise<T | undefined> {
    return api<T>(this.socket, method, url, body, timeoutMs).catch(() => undefined);
  }

  api<T>(method: string, url: string, body?: unknown): Promise<T> {
    return api<T>(this.socket, method, url, body);
  }

  async until<T>(what: string, check: () => Promise<T | undefined>): Promise<T> {
    const deadline = performance.now() + UP_MS;
    for (;;) {
      this.refuseWhenClosed();
      const value = await check();
      if (value !== undefined) return value;
      const ended = this.init !== undefined && (this.init.exitCode !== null || this.init.signalCode !== null);
      if (ended || performance.now() > deadline) {
        throw new Error(`${this.name}: ${what}: ${ended ? 'its init ended' : `not within ${UP_MS} ms`}\n${await this.log()}`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** All of it, at any moment; also more than once. */
  close(): Promise<void> {
    return this.closing ??= this.end();
  }

  private async end(): Promise<void> {
    const init = this.init;
    if (init === undefined) return;
    if (init.exitCode === null && init.signalCode === null) {
      const ended = new Promise((resolve) => init.once('exit', resolve));
      // unshare ends when its child has, and that only when nothing of the namespace is left.
      const pid = await this.initPid();
      if (pid === undefined) init.kill('SIGKILL');
      else kill(pid);
      await ended;
    }
    await removeCgroups(this.cgroup);
  }

  private refuseWhenClosed(): void {
    if (this.closing !== undefined) throw new Error(`${this.name} was closed`);
  }

  private send(script: string): void {
    this.init?.stdin?.write(script);
  }

  private async initPid(): Promise<number | undefined> {
    return (await childrenOf(this.init?.pid))[0];
  }

  private async dockerd(): Promise<number | undefined> {
    return (await named(await childrenOf(await this.initPid()), 'dockerd'))[0];
  }

  private get logFile(): string {
    return path.join(this.directory, 'dockerd.log');
  }

  private async log(): Promise<string> {
    return (await readFile(this.logFile, 'utf8').catch(() => '')).trimEnd().split('\n').slice(-LOG_LINES).join('\n');
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // It ended by itself between the look and the kill.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

async function named(pids: readonly number[], program: string): Promise<number[]> {
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')));
  return pids.filter((_, i) => lines[i]?.startsWith(`${program}\0`));
}

/** Of containers that ended with their node. They are below each controller, or below the one tree. */
async function removeCgroups(name: string): Promise<void> {
  const trees = [CGROUPS, ...(await readdir(CGROUPS)).map((controller) => path.join(CGROUPS, controller))];
  for (const tree of trees) await removeTree(path.join(tree, name));
}

/** Files in it are the kernel's: only folders are removed, the innermost first. */
async function removeTree(folder: string): Promise<void> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
    throw error;
  });
  if (entries === undefined) return;
  for (const entry of entries) if (entry.isDirectory()) await removeTree(path.join(folder, entry.name));
  await rmdir(folder);
}
