// datapath-world: nodes as network namespaces on one bridge, each with a skein-datapath, and tools to run programs in
// them. No control plane: a test plays the agent. Everything is removed by close(), also after a failed test.

import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import path from 'node:path';
import { create } from '@bufbuild/protobuf';
import { DatapathClient } from '../../src/io/datapath/client.js';
import { type Row, RowSchema } from '../../src/model/proto/skein_pb.js';
import type { Sandbox } from '../../src/model/sandbox.js';
import type { NodeNetworkConfig } from '../../src/platform/dataplane.js';

const BINARY = path.resolve(import.meta.dirname, '../../../build/skein-datapath');
export const NET_A = { vni: 4096, name: 'neta', subnet: '10.0.1.0/24', gateway: '10.0.1.1' };
export const NET_B = { vni: 4097, name: 'netb', subnet: '10.0.2.0/24', gateway: '10.0.2.1' };
export const INGRESS = { vni: 4098, name: 'ingress', subnet: '10.255.0.0/16', gateway: '10.255.0.1' };

/** Answers each TCP connection with "<name> <client address> <client port>", then echoes; the same for UDP datagrams. */
const SERVER = `
const [name, port] = process.argv.slice(1);
require('net').createServer((s) => { s.on('error', () => {}); s.write(name + ' ' + s.remoteAddress.replace('::ffff:', '') + ' ' + s.remotePort + '\\n'); s.pipe(s); }).listen(+port, '0.0.0.0', () => {
  const u = require('dgram').createSocket('udp4');
  u.on('message', (m, r) => u.send(name + ' ' + r.address + ' ' + r.port + ' ' + m.length, r.port, r.address));
  u.bind(+port, () => console.log('ready'));
});`;
/** Prints the first line of each of n connections, or the error code. */
const TCP_CLIENT = `
const [host, port, count] = process.argv.slice(1);
const one = (left) => { if (!left) return; const s = require('net').connect({ host, port: +port });
  const done = (t) => { console.log(t); s.destroy(); one(left - 1); };
  s.setTimeout(3000, () => done('ETIMEDOUT')); s.once('data', (d) => done(String(d).trim())); s.once('error', (e) => done(e.code)); };
one(+count);`;
const UDP_CLIENT = `
const [host, port, size] = process.argv.slice(1);
const u = require('dgram').createSocket('udp4');
u.connect(+port, host, () => u.send(Buffer.alloc(+size, 120)));
u.on('message', (m) => { console.log(String(m)); process.exit(0); });
u.on('error', (e) => { console.log(e.code); process.exit(0); });
setTimeout(() => { console.log('ETIMEDOUT'); process.exit(0); }, 2500);`;
/** Keeps one connection busy: a number every 20 ms, echoed back; prints the time of each echo, or the error. */
const TICKER = `
const [host, port] = process.argv.slice(1);
const s = require('net').connect({ host, port: +port });
s.setNoDelay(true);
let n = 0; setInterval(() => s.write('tick ' + (n++) + '\\n'), 20);
s.on('data', (d) => { for (const l of String(d).split('\\n')) if (l) console.log(Date.now() + ' ' + l); });
s.on('error', (e) => { console.log(Date.now() + ' ' + e.code); process.exit(0); });
s.on('close', () => { console.log(Date.now() + ' closed'); process.exit(0); });`;

export interface Output {
  readonly status: number;
  readonly text: string;
}

export interface Program {
  readonly lines: string[];
  readonly child: ChildProcess;
  stop(): void;
}

export interface WorldNode {
  readonly name: string;
  readonly netns: string;
  readonly address: string;
  readonly client: DatapathClient;
  readonly config: NodeNetworkConfig;
  readonly runDir: string;
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export async function until(what: string, check: () => boolean | Promise<boolean>, timeoutMs = 5000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await check())) {
    if (Date.now() > deadline) throw new Error(`timeout: ${what}`);
    await sleep(20);
  }
}

function sh(command: string): void {
  execFileSync('sh', ['-ec', command], { stdio: ['ignore', 'ignore', 'pipe'], timeout: 20_000 });
}

export function taskMac(address: string): string {
  return `02:42:${address
    .split('.')
    .map((b) => Number(b).toString(16).padStart(2, '0'))
    .join(':')}`;
}

export class World {
  readonly id = `sk${randomBytes(3).toString('hex')}`;
  readonly runDir = `/run/skein-test/${this.id}`;
  readonly nodes: WorldNode[] = [];
  readonly #namespaces: string[] = [];
  readonly #programs: Program[] = [];
  readonly rows = new Map<string, Row>();
  #revision = 0n;

  constructor(nodeCount: number, flows = 4096) {
    this.#makeNamespace('sw');
    sh(`nsenter --net=${this.ns('sw')} sh -ec 'ip link add br0 type bridge; ip link set br0 up'`);
    for (let i = 1; i <= nodeCount; i++) {
      const name = `n${i}`;
      this.addHost(name, `10.99.0.${i}`);
      const runDir = `${this.runDir}/${name}`;
      this.nodes.push({
        name,
        netns: this.ns(name),
        address: `10.99.0.${i}`,
        runDir,
        client: new DatapathClient({ binary: BINARY, runDir, prefix: ['nsenter', `--net=${this.ns(name)}`], flows }),
        config: {
          nodeId: name,
          vtep: `10.99.0.${i}`,
          vxlanPort: 4789,
          gatewayBridge: '172.18.0.1/16',
          underlayMtu: 1500,
        },
      });
      this.row(`node/${name}`, 'node', { nodeId: name, vtep: `10.99.0.${i}`, ingressAddress: `10.255.0.${200 + i}` });
    }
    for (const net of [NET_A, NET_B, INGRESS]) {
      this.row(`net/${net.vni}`, 'network', {
        vni: net.vni,
        networkId: net.name,
        name: net.name,
        subnets: [{ subnet: net.subnet, gateway: net.gateway }],
        mtu: 1450,
        ingress: net === INGRESS,
      });
    }
  }

  ns(name: string): string {
    return `/run/netns/${this.id}-${name}`;
  }

  #makeNamespace(name: string): void {
    sh(`ip netns add ${this.id}-${name}; nsenter --net=${this.ns(name)} ip link set lo up`);
    this.#namespaces.push(name);
    // bbr paces; cubic is what is compared elsewhere, but a machine may not allow it in namespaces.
    sh(
      `nsenter --net=${this.ns(name)} sh -c 'for c in cubic reno; do sysctl -qw net.ipv4.tcp_congestion_control=$c 2>/dev/null && exit 0; done'`,
    );
  }

  /** A namespace on the bridge, with no data plane unless the caller starts one. */
  addHost(name: string, address: string): string {
    this.#makeNamespace(name);
    const port = `${this.id}${name}`.slice(0, 15);
    sh(
      `ip link add ${port} netns ${this.id}-sw type veth peer name eth0 netns ${this.id}-${name}
       nsenter --net=${this.ns('sw')} sh -ec 'ip link set ${port} master br0 up'
       nsenter --net=${this.ns(name)} sh -ec 'ip link set eth0 up; ip addr add ${address}/24 dev eth0'`,
    );
    return this.ns(name);
  }

  async start(): Promise<void> {
    for (const node of this.nodes) await node.client.configure(node.config);
    await this.apply(true);
  }

  row(key: string, kind: string, value: object): void {
    // The shape is checked by the encoder; spelling out every message type here would say nothing more.
    this.rows.set(key, create(RowSchema, { key, row: { case: kind, value } } as Parameters<typeof create<typeof RowSchema>>[1]));
  }

  async apply(replace = true, remove: string[] = []): Promise<void> {
    for (const key of remove) this.rows.delete(key);
    this.#revision++;
    const upsert = [...this.rows.values()];
    await Promise.all(this.nodes.map((n) => n.client.apply({ revision: this.#revision, replace, upsert, remove })));
  }

  sandbox(id: string, addresses: { vni: number; address: string; prefix: number; mtu?: number }[], gateway?: string): Sandbox {
    return {
      id,
      interfaces: addresses.map((a, i) => ({
        ifname: `eth${i}`,
        vni: a.vni,
        addresses: [`${a.address}/${a.prefix}`],
        mac: taskMac(a.address),
        mtu: a.mtu ?? 1450,
      })),
      gateway: gateway
        ? { ifname: `eth${addresses.length}`, address: `${gateway}/16`, mac: taskMac(gateway) }
        : undefined,
      sysctls: { 'net.ipv4.tcp_congestion_control': 'reno' },
    };
  }

  readonly attached = new Map<string, { node: WorldNode; sandbox: Sandbox; netns: string }>();

  /** Attaches a task and adds its endpoint rows (not yet applied). Returns its namespace. */
  async task(
    node: WorldNode,
    id: string,
    addresses: { vni: number; address: string; prefix: number; mtu?: number }[],
    gateway?: string,
  ): Promise<string> {
    const sandbox = this.sandbox(id, addresses, gateway);
    const { netns } = await node.client.attach(sandbox);
    for (const a of addresses) this.endpoint(a.vni, a.address, node.address, node.name);
    this.attached.set(id, { node, sandbox, netns });
    return netns;
  }

  endpoint(vni: number, address: string, vtep: string, nodeId: string, mac = taskMac(address)): void {
    this.row(`ep/${vni}/${address}`, 'endpoint', { vni, address, mac, vtep, nodeId, taskId: address });
  }

  service(vni: number, vip: string, backends: readonly object[]): void {
    this.row(`svc/${vni}/${vip}`, 'service', { vni, serviceId: vip, name: vip, vip, backends });
  }

  async counter(node: WorldNode, name: string): Promise<bigint> {
    return (await node.client.counters())[name] ?? -1n;
  }

  run(netns: string, command: readonly string[], timeoutMs = 15_000): Promise<Output> {
    return new Promise((resolve) => {
      execFile('nsenter', [`--net=${netns}`, ...command], { timeout: timeoutMs, maxBuffer: 1 << 24 }, (error, stdout, stderr) => {
        const status = error ? (typeof error.code === 'number' ? error.code : -1) : 0;
        resolve({ status, text: (stdout + stderr).trim() });
      });
    });
  }

  async tcp(netns: string, host: string, port: number, count = 1): Promise<string[]> {
    const command = [process.execPath, '-e', TCP_CLIENT, host, String(port), String(count)];
    return (await this.run(netns, command, 30_000)).text.split('\n');
  }

  async udp(netns: string, host: string, port: number, size = 10): Promise<string> {
    return (await this.run(netns, [process.execPath, '-e', UDP_CLIENT, host, String(port), String(size)])).text;
  }

  ping(netns: string, host: string, ...more: string[]): Promise<Output> {
    return this.run(netns, ['busybox', 'ping', '-c', '2', '-i', '0.2', '-W', '1', ...more, host]);
  }

  spawn(netns: string, command: readonly string[]): Program {
    const child = spawn('nsenter', [`--net=${netns}`, ...command], { stdio: ['ignore', 'pipe', 'pipe'] });
    const program: Program = { lines: [], child, stop: () => child.kill('SIGKILL') };
    let rest = '';
    const take = (data: Buffer): void => {
      const parts = (rest + data.toString()).split('\n');
      rest = parts.pop() ?? '';
      program.lines.push(...parts);
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    this.#programs.push(program);
    return program;
  }

  async serve(netns: string, name: string, port: number): Promise<Program> {
    const server = this.spawn(netns, [process.execPath, '-e', SERVER, name, String(port)]);
    await until(`server ${name}`, () => server.lines.includes('ready'));
    return server;
  }

  ticker(netns: string, host: string, port: number): Program {
    return this.spawn(netns, [process.execPath, '-e', TICKER, host, String(port)]);
  }

  async close(): Promise<void> {
    for (const program of this.#programs) program.stop();
    const errors: unknown[] = [];
    for (const node of this.nodes) await node.client.destroy().catch((error: unknown) => errors.push(error));
    for (const name of this.#namespaces) {
      try {
        sh(`ip netns del ${this.id}-${name}`);
      } catch (error) {
        errors.push(error);
      }
    }
    rmSync(this.runDir, { recursive: true, force: true });
    if (errors.length > 0) throw new AggregateError(errors, 'tear-down');
  }
}
