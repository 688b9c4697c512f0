// etcd, the peer of the control bench: three members of Debian's etcd-server on loopback, with its defaults, on the same
// disk as ours. Writes come from etcdput (gRPC, one thread) at the leader; the gap from its JSON gateway.

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import http from 'node:http';
import { createServer, type AddressInfo } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { cpuSeconds, residentMiB } from '../processes.js';
import type { LoadGroup, LoadResult } from '../control.js';

const BINARY = 'etcd';
const SOURCE = path.resolve(import.meta.dirname, '../../../bench/peers/etcdput.c');
const CONNECTIONS: Readonly<Record<number, readonly [number, number]>> = { 1: [1, 1], 64: [4, 16], 512: [8, 64] };
const START_MS = 20_000;
const PUT_TIMEOUT_MS = 500;
const RETRY_MS = 5;
const VALUE = Buffer.alloc(256, 'x').toString('base64');

interface Member {
  readonly client: number;
  readonly peer: number;
  child: ChildProcess;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export class EtcdGroup implements LoadGroup {
  readonly name = 'etcd';
  private readonly directory: string;
  private readonly members: Member[] = [];
  private urls = '';
  private closed = false;

  constructor(directory: string) {
    this.directory = directory;
  }

  static async version(): Promise<string> {
    return (await promisify(execFile)(BINARY, ['--version'])).stdout.split('\n')[0] ?? '';
  }

  async start(): Promise<void> {
    await promisify(execFile)('gcc', ['-O2', '-o', this.putBinary, SOURCE]);
    const ports: [number, number][] = [];
    for (let i = 0; i < 3; i++) ports.push([await freePort(), await freePort()]);
    this.urls = ports.map(([, peer], i) => `m${i}=http://127.0.0.1:${peer}`).join();
    for (const [i, [client, peer]] of ports.entries()) this.members.push({ client, peer, child: this.run(i, client, peer) });
    await this.writable();
  }

  private get putBinary(): string {
    return path.join(this.directory, 'etcdput');
  }

  /** Ends with this process. */
  private run(i: number, client: number, peer: number): ChildProcess {
    if (this.closed) throw new Error('etcd was closed');
    const [own, other] = [`http://127.0.0.1:${client}`, `http://127.0.0.1:${peer}`];
    return spawn('setpriv', ['--pdeathsig', 'KILL', BINARY, '--name', `m${i}`, '--data-dir', path.join(this.directory, `etcd${i}`),
      '--listen-client-urls', own, '--advertise-client-urls', own, '--listen-peer-urls', other, '--initial-advertise-peer-urls', other,
      '--initial-cluster', this.urls, '--initial-cluster-state', 'new', '--initial-cluster-token', 'bench', '--logger', 'zap',
      '--log-level', 'error'], { stdio: 'ignore' });
  }

  private async writable(): Promise<void> {
    const deadline = Date.now() + START_MS;
    while (!(await Promise.all(this.members.map(({ client }) => put(client)))).every(Boolean)) {
      if (this.closed) throw new Error('etcd was closed');
      if (Date.now() > deadline) throw new Error('etcd did not take a write within 20 s');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** The highest any member is in: each election begins one. */
  async term(): Promise<number> {
    const answers = await Promise.all(this.members.map(({ client }) => post(client, '/v3/maintenance/status', '{}'))) as
      ({ raftTerm?: string } | undefined)[];
    return Math.max(...answers.map((status) => Number(status?.raftTerm ?? 0)));
  }

  private async leader(): Promise<number> {
    for (const [i, { client }] of this.members.entries()) {
      const status = await post(client, '/v3/maintenance/status', '{}') as { header?: { member_id: string }; leader?: string } | undefined;
      if (status?.leader !== undefined && status.leader === status.header?.member_id) return i;
    }
    throw new Error('etcd has no leader');
  }

  async load(inFlight: number, ms: number): Promise<LoadResult> {
    const at = this.members[await this.leader()] as Member;
    const [connections, streams] = CONNECTIONS[inFlight] ?? [1, inFlight];
    const pids = this.members.map(({ child }) => child.pid as number);
    const before = await cpuSeconds(pids);
    const args = [`127.0.0.1:${at.client}`, '-t', String(ms / 1000), '-c', String(connections), '-s', String(streams), '-v', '256'];
    const { stdout } = await promisify(execFile)(this.putBinary, args);
    const result = JSON.parse(stdout) as { ops: number; secs: number; errors: number; p50_us: number; cpu_s: number };
    const cpu = await cpuSeconds(pids) - before + result.cpu_s;
    return { writes: result.ops, errors: result.errors, seconds: result.secs, p50Us: result.p50_us, cpuSeconds: cpu };
  }

  async gap(signal: 'SIGKILL' | 'SIGTERM', afterMs: number): Promise<number> {
    const leader = await this.leader();
    const member = this.members[leader] as Member;
    const times: number[] = [];
    let writing = true;
    const writers = this.members.filter((other) => other !== member).map(async ({ client }) => {
      while (writing) {
        if (await put(client)) times.push(performance.now());
        else await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const ended = new Promise((resolve) => member.child.once('exit', resolve));
    const from = performance.now();
    member.child.kill(signal);
    await ended;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, afterMs - (performance.now() - from))));
    writing = false;
    await Promise.all(writers);
    member.child = this.run(leader, member.client, member.peer);
    await this.writable();
    return longestGap(times, from);
  }

  async memory(): Promise<Readonly<Record<string, number>>> {
    return { member: await residentMiB(this.members.map(({ child }) => child.pid as number)) };
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const { child } of this.members) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await ended;
    }
  }
}

/** Longest time without a write that was done, from a moment on. */
export function longestGap(times: readonly number[], from: number): number {
  const sorted = [...times].sort((a, b) => a - b);
  const last = sorted.filter((time) => time <= from).at(-1) ?? from;
  const moments = [last, ...sorted.filter((time) => time > from)];
  return Math.max(...moments.slice(1).map((time, i) => time - (moments[i] as number)));
}

async function put(port: number): Promise<boolean> {
  return await post(port, '/v3/kv/put', JSON.stringify({ key: 'Z2Fw', value: VALUE })) !== undefined;
}

/** Undefined when it was not done. */
function post(port: number, url: string, body: string): Promise<unknown> {
  return new Promise((resolve) => {
    const request = http.request({ host: '127.0.0.1', port, path: url, method: 'POST', timeout: PUT_TIMEOUT_MS }, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += String(chunk); });
      response.on('error', () => resolve(undefined));
      response.on('end', () => resolve(response.statusCode === 200 ? JSON.parse(text) : undefined));
    });
    request.on('timeout', () => request.destroy(new Error('timeout')));
    request.on('error', () => resolve(undefined)); // The member is gone, or has no leader.
    request.end(body);
  });
}
