// DatapathClient: the DataPlane of platform/dataplane.ts, by a skein-datapath process of its own.
//
// The process is detached and outlives this one. start() adopts a running one of the same ABI, or spawns one. When the
// connection is lost the client connects again, spawning a process if none answers, and then calls the onRestart
// handlers: the owner sends everything again (all calls are idempotent, so it does no harm if the process was there).

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AppFailure, appError } from '../../lib/result.js';
import type { Sandbox } from '../../model/sandbox.js';
import type {
  DataPlane,
  DataPlaneProbe,
  DnsMiss,
  NodeNetworkConfig,
  TableDelta,
} from '../../platform/dataplane.js';
import { Channel, lostFailure } from './channel.js';
import { chunk, encodeConfig, encodeRow, encodeSandbox } from './encode.js';
import { FRAME_SIZE_MAX, FrameType, fieldOffset, packStruct, structSize } from './layout.js';

export interface DatapathOptions {
  /** The executable, build/skein-datapath. */
  readonly binary: string;
  /** e.g. /run/skein/<node>: socket, lock, flows file, namespaces, log. At most 90 characters. */
  readonly runDir: string;
  /** Command put before the executable, e.g. ["nsenter", "--net=/run/netns/n1"]. */
  readonly prefix?: readonly string[];
  /** Capacity of the flow table. */
  readonly flows?: number;
  /** Told about restarts and failures to restart. */
  readonly log?: (event: string, detail: Record<string, unknown>) => void;
}

const START_TIMEOUT_MS = 10_000;
const CONNECT_INTERVAL_MS = 10;
const RESTART_DELAY_MAX_MS = 2_000;
const NOTHING = new Uint8Array(0);

export class DatapathClient implements DataPlane {
  readonly #options: DatapathOptions;
  #channel: Channel | undefined;
  #opening: Promise<Channel> | undefined;
  #ending = false;
  #pid = 0;
  #underlayMtu = 1500;
  #applying: Promise<unknown> = Promise.resolve();
  readonly #missHandlers: ((miss: DnsMiss) => void)[] = [];
  readonly #restartHandlers: (() => void)[] = [];

  constructor(options: DatapathOptions) {
    this.#options = options;
  }

  /** Process id of the data plane, 0 before it was first reached. */
  get pid(): number {
    return this.#pid;
  }

  /** Connects to the running data plane or starts one. Other calls do it by themselves. */
  async start(): Promise<void> {
    await this.#open();
  }

  async probe(): Promise<DataPlaneProbe> {
    const [command, args] = this.#command(['--probe']);
    const output = await new Promise<string>((resolve, reject) => {
      execFile(command, args, { timeout: START_TIMEOUT_MS }, (error, stdout) => {
        // Exit status 1 says "not supported"; only a failure to run at all is an error.
        if (error && typeof error.code !== 'number') reject(new AppFailure(appError('unavailable', error.message)));
        else resolve(stdout);
      });
    });
    const findings = output
      .split('\n')
      .filter((line) => line.includes('\t'))
      .map((line) => {
        const [name = '', ok = '', detail = ''] = line.split('\t');
        return { name, ok: ok === '1', detail };
      });
    const needed = ['tun', 'root', 'nft'];
    return { engine: 'userspace', supported: needed.every((n) => findings.some((f) => f.name === n && f.ok)), findings };
  }

  async configure(config: NodeNetworkConfig): Promise<void> {
    await this.#request(FrameType.configure, encodeConfig(config));
    this.#underlayMtu = config.underlayMtu;
  }

  async attach(sandbox: Sandbox): Promise<{ readonly netns: string }> {
    const body = await this.#request(FrameType.attach, encodeSandbox(sandbox, this.#underlayMtu));
    return { netns: body.toString('utf8') };
  }

  async detach(sandboxId: string): Promise<void> {
    await this.#request(FrameType.detach, Buffer.from(sandboxId));
  }

  async sandboxes(): Promise<readonly string[]> {
    const body = await this.#request(FrameType.sandboxes, NOTHING);
    return body.toString('utf8').split('\n').filter(Boolean).sort();
  }

  /** Updates are sent one after the other: the data plane stages one at a time. */
  apply(delta: TableDelta): Promise<bigint> {
    const result = this.#applying.then(() => this.#apply(delta));
    this.#applying = result.catch(() => {});
    return result;
  }

  async counters(): Promise<Readonly<Record<string, bigint>>> {
    const body = await this.#request(FrameType.counters, NOTHING);
    const counters: Record<string, bigint> = {};
    for (const line of body.toString('utf8').split('\n')) {
      const [name, value] = line.split(' ');
      if (name && value) counters[name] = BigInt(value);
    }
    return counters;
  }

  onDnsMiss(handler: (miss: DnsMiss) => void): void {
    this.#missHandlers.push(handler);
  }

  onRestart(handler: () => void): void {
    this.#restartHandlers.push(handler);
  }

  close(): Promise<void> {
    this.#ending = true;
    this.#channel?.close();
    return Promise.resolve();
  }

  async destroy(): Promise<void> {
    const channel = await this.#open();
    this.#ending = true;
    await channel.request(FrameType.destroy, NOTHING);
    channel.close();
    await this.#gone();
    for (const file of ['datapath.lock', 'datapath.sock', 'datapath.pid', 'flows', 'netns']) {
      await rm(path.join(this.#options.runDir, file), { force: true, recursive: file === 'netns' });
    }
  }

  async reset(): Promise<void> {
    // At once, and also when the rest fails: nobody who left is told of a later data plane.
    this.#missHandlers.length = 0;
    this.#restartHandlers.length = 0;
    try {
      await this.destroy();
    } finally {
      // Also when it failed: it is tried again.
      this.#ending = false;
    }
  }

  async #apply(delta: TableDelta): Promise<bigint> {
    const rows = chunk(delta.upsert.map(encodeRow), FRAME_SIZE_MAX);
    const keys = chunk(
      delta.remove.map((key) => Buffer.from(`${key}\n`)),
      FRAME_SIZE_MAX,
    );
    const channel = await this.#open();
    const begin = packStruct('ApplyBeginAbi', { revision: delta.revision, replace: delta.replace ? 1 : 0 });
    await channel.request(FrameType.applyBegin, begin);
    for (const body of keys) await channel.request(FrameType.applyRemove, body);
    for (const body of rows) await channel.request(FrameType.applyRows, body);
    const body = await channel.request(FrameType.applyCommit, NOTHING);
    return body.readBigUInt64LE(0);
  }

  async #request(type: number, body: Uint8Array): Promise<Buffer> {
    const channel = await this.#open();
    return channel.request(type, body);
  }

  #open(): Promise<Channel> {
    if (this.#ending) return Promise.reject(lostFailure());
    if (this.#channel && !this.#channel.closed) return Promise.resolve(this.#channel);
    this.#opening ??= this.#connectOrSpawn().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  async #connectOrSpawn(): Promise<Channel> {
    const running = await this.#connect();
    if (running) return running;
    let child = this.#spawn();
    const deadline = Date.now() + START_TIMEOUT_MS;
    while (Date.now() < deadline) {
      const channel = await this.#connect();
      if (channel) return channel;
      // It ends at once while the one before it still holds the lock.
      if (child.exitCode !== null) child = this.#spawn();
      await sleep(CONNECT_INTERVAL_MS);
    }
    throw new AppFailure(appError('unavailable', `data plane did not start; see ${this.#logPath()}`));
  }

  async #connect(): Promise<Channel | undefined> {
    let channel: Channel;
    try {
      channel = await Channel.open(path.join(this.#options.runDir, 'datapath.sock'));
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'ENOENT' || code === 'ECONNREFUSED') return undefined;
      throw error;
    }
    const hello = await channel.request(FrameType.hello, NOTHING, START_TIMEOUT_MS).catch((error: unknown) => {
      channel.close();
      // An older or newer version holds the directory: its devices, namespaces and flows are taken over, it is not.
      if (channel.foreignAbi) this.#replace('SIGTERM');
      // One that accepts and never answers hangs: its successor finds everything it needs.
      if (error instanceof AppFailure && error.code === 'deadline_exceeded') {
        this.#replace('SIGKILL');
        return undefined;
      }
      // A process that was killed while it answered is no process.
      if (error instanceof AppFailure && error.code === 'unavailable') return undefined;
      throw error;
    });
    if (!hello) return undefined;
    if (this.#ending) {
      channel.close();
      throw lostFailure();
    }
    this.#pid = hello.readUInt32LE(0);
    channel.onMiss = (body) => this.#miss(channel, body);
    channel.onClose = () => this.#lost();
    this.#channel = channel;
    return channel;
  }

  /** Ends the process named by the pid file, if it is a data plane. */
  #replace(signal: 'SIGTERM' | 'SIGKILL'): void {
    try {
      const pid = Number(readFileSync(path.join(this.#options.runDir, 'datapath.pid'), 'utf8'));
      if (!readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('skein-datapath')) return;
      this.#options.log?.('datapath is replaced', { pid, signal });
      process.kill(pid, signal);
    } catch (error) {
      this.#options.log?.('datapath cannot be replaced', { error: String(error) });
    }
  }

  #command(args: readonly string[]): [string, string[]] {
    const [command, ...rest] = [...(this.#options.prefix ?? []), this.#options.binary, ...args];
    return [command as string, rest];
  }

  #logPath(): string {
    return path.join(this.#options.runDir, 'datapath.log');
  }

  #spawn(): ChildProcess {
    mkdirSync(this.#options.runDir, { recursive: true });
    const log = openSync(this.#logPath(), 'a', 0o600);
    const flows = this.#options.flows === undefined ? [] : ['--flows', String(this.#options.flows)];
    const [command, args] = this.#command(['--run-dir', this.#options.runDir, ...flows]);
    const child = spawn(command, args, { detached: true, stdio: ['ignore', log, log] });
    closeSync(log);
    child.on('error', (error) => this.#options.log?.('datapath failed to start', { error: error.message }));
    child.unref();
    return child;
  }

  #lost(): void {
    this.#channel = undefined;
    if (this.#ending) return;
    this.#options.log?.('datapath lost', { pid: this.#pid });
    void this.#recover();
  }

  async #recover(): Promise<void> {
    for (let delayMs = 20; !this.#ending; delayMs = Math.min(delayMs * 2, RESTART_DELAY_MAX_MS)) {
      try {
        await this.#open();
        this.#options.log?.('datapath is back', { pid: this.#pid });
        for (const handler of this.#restartHandlers) handler();
        return;
      } catch (error) {
        if (this.#ending) return;
        this.#options.log?.('datapath does not come back', { error: String(error), delayMs });
        await sleep(delayMs);
      }
    }
  }

  #miss(channel: Channel, body: Buffer): void {
    const id = body.readUInt32LE(fieldOffset('DnsMissAbi', 'id'));
    const sandboxAt = fieldOffset('DnsMissAbi', 'sandbox');
    const size = structSize('DnsMissAbi');
    const sandbox = body.subarray(sandboxAt, size).toString('utf8').replace(/\0.*$/s, '');
    let answered = false;
    const miss: DnsMiss = {
      sandbox,
      tcp: body[fieldOffset('DnsMissAbi', 'tcp')] === 1,
      query: new Uint8Array(body.subarray(size)),
      reply: (answer) => {
        if (answered || answer.length > 65_535) return;
        answered = true;
        channel.notify(FrameType.dnsReply, Buffer.concat([packStruct('DnsReplyAbi', { id }), answer]));
      },
    };
    for (const handler of this.#missHandlers) handler(miss);
  }

  /** Waits until the process is gone, so that its run directory can be used or removed. */
  async #gone(): Promise<void> {
    const deadline = Date.now() + 5_000;
    while (Date.now() < deadline) {
      try {
        process.kill(this.#pid, 0);
      } catch {
        return;
      }
      await sleep(5);
    }
  }
}
