// Ours in the control bench: three managers and a worker, a process each, on loopback, started and asked over the channel
// of their parent. The load runs in the process of the manager that leads.

import { fork, type ChildProcess } from 'node:child_process';
import { createServer, type AddressInfo } from 'node:net';
import path from 'node:path';
import { apiLoad } from './apiload.js';
import type { ApiGroup, LoadGroup, LoadResult } from './control.js';
import type { Request } from './controlnode.js';
import { longestGap } from './peers/etcd.js';
import { cpuSeconds, residentMiB } from './processes.js';

const PROGRAM = path.resolve(import.meta.dirname, 'controlnode.js');
const MANAGERS = 3;
const CROWD_NODES = 25;
const START_MS = 30_000;

class Machine {
  readonly child: ChildProcess;
  readonly address: string;

  constructor(address: string, directory: string) {
    this.address = address;
    this.child = fork(PROGRAM, { env: { ...process.env, TMPDIR: directory }, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  }

  get pid(): number {
    return this.child.pid as number;
  }

  /** One request at a time. */
  ask<T>(request: Request): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.child.exitCode !== null || this.child.signalCode !== null || !this.child.connected) {
        reject(new Error(`${request.op}: the process has ended`));
        return;
      }
      const end = (code: unknown): void => reject(new Error(`${request.op}: the process ended (${String(code)})`));
      this.child.once('exit', end);
      this.child.once('message', (answer: { value?: T; error?: string }) => {
        this.child.off('exit', end);
        if (answer.error === undefined) resolve(answer.value as T);
        else reject(new Error(`${request.op}: ${answer.error}`));
      });
      this.child.send(request);
    });
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill(signal);
    await ended;
  }
}

/** A free port of an address of its own: two nodes never have the same data-path address. */
async function addressOf(n: number): Promise<string> {
  const host = `10.98.${1 + (n >> 7)}.${10 + (n & 127)}`;
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return `${host}:${port}`;
}

export class SkeinGroup implements LoadGroup, ApiGroup {
  readonly name = 'skein';
  private readonly directory: string;
  private managers: Machine[] = [];
  private worker: Machine | undefined;
  /** Workers, many to a process. */
  private crowds: { readonly machine: Machine; readonly nodes: number }[] = [];
  private workerToken = '';
  private addresses = 0;

  constructor(directory: string) {
    this.directory = directory;
  }

  private async newAddresses(count: number): Promise<string[]> {
    const from = this.addresses;
    this.addresses += count;
    return Promise.all(Array.from({ length: count }, (_, n) => addressOf(from + n)));
  }

  async start(): Promise<void> {
    const [first = '', ...others] = await this.newAddresses(MANAGERS);
    const founder = new Machine(first, this.directory);
    this.managers = [founder];
    await founder.ask({ op: 'init', address: first });
    const tokens = await founder.ask<{ worker: string; manager: string }>({ op: 'tokens' });
    for (const address of others) {
      const machine = new Machine(address, this.directory);
      this.managers.push(machine);
      await machine.ask({ op: 'join', addresses: [address], manager: first, token: tokens.manager });
    }
    this.workerToken = tokens.worker;
    const [own = ''] = await this.newAddresses(1);
    this.worker = new Machine(own, this.directory);
    await this.worker.ask({ op: 'join', addresses: [own], manager: first, token: tokens.worker });
    await (await this.leader()).ask({ op: 'prepare' });
  }

  private async leader(): Promise<Machine> {
    const deadline = Date.now() + START_MS;
    while (Date.now() < deadline) {
      for (const machine of this.managers) if (await machine.ask<boolean>({ op: 'leading' })) return machine;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw new Error('the managers have no leader');
  }

  async load(inFlight: number, ms: number): Promise<LoadResult> {
    const leader = await this.leader();
    const pids = this.managers.map(({ pid }) => pid);
    const before = await cpuSeconds(pids);
    const result = await leader.ask<Omit<LoadResult, 'cpuSeconds'>>({ op: 'load', inFlight, ms });
    return { ...result, cpuSeconds: await cpuSeconds(pids) - before };
  }

  /** The same through the Docker API of the leader; the load is made here. */
  async apiLoad(inFlight: number, ms: number): Promise<LoadResult> {
    const leader = await this.leader();
    const socketPath = await leader.ask<string>({ op: 'api' });
    const pids = [process.pid, ...this.managers.map(({ pid }) => pid)];
    const before = await cpuSeconds(pids);
    const result = await apiLoad(socketPath, inFlight, ms);
    return { ...result, cpuSeconds: await cpuSeconds(pids) - before };
  }

  async gap(signal: 'SIGKILL' | 'SIGTERM', afterMs: number): Promise<number> {
    const leader = await this.leader();
    const others = this.managers.filter((machine) => machine !== leader);
    await Promise.all(others.map((machine) => machine.ask({ op: 'startWriting' })));
    await new Promise((resolve) => setTimeout(resolve, 300));
    const from = performance.timeOrigin + performance.now();
    await leader.end(signal);
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, afterMs - (performance.timeOrigin + performance.now() - from))));
    const times = await Promise.all(others.map((machine) => machine.ask<number[]>({ op: 'stopWriting' })));
    const again = new Machine(leader.address, this.directory);
    this.managers = [...others, again];
    await again.ask({ op: 'start', address: leader.address });
    await new Promise((resolve) => setTimeout(resolve, 500));
    return longestGap(times.flat(), from);
  }

  async memory(): Promise<Readonly<Record<string, number>>> {
    return {
      manager: await residentMiB(this.managers.map(({ pid }) => pid)),
      worker: await residentMiB(this.worker === undefined ? [] : [this.worker.pid]),
    };
  }

  /** On so many nodes, managers included: the worker leaves, or others come. */
  async endpoints(nodes: number, samples: number): Promise<{ readonly ms: readonly number[]; readonly nodes: number }> {
    const leader = await this.leader();
    await this.worker?.end('SIGKILL');
    this.worker = undefined;
    let more = nodes - MANAGERS - this.crowds.reduce((sum, crowd) => sum + crowd.nodes, 0);
    while (more > 0) {
      const addresses = await this.newAddresses(Math.min(more, CROWD_NODES));
      const machine = new Machine(addresses[0] as string, this.directory);
      this.crowds.push({ machine, nodes: addresses.length });
      await machine.ask({ op: 'join', addresses, manager: leader.address, token: this.workerToken });
      more -= addresses.length;
    }
    return leader.ask({ op: 'endpoints', samples, replicas: 6, nodes });
  }

  /** All nodes but the managers. */
  async dismiss(): Promise<void> {
    await Promise.all([this.worker, ...this.crowds.map(({ machine }) => machine)].map((machine) => machine?.end('SIGKILL')));
    this.worker = undefined;
    this.crowds = [];
  }

  async close(): Promise<void> {
    await Promise.all([...this.managers.map((machine) => machine.end('SIGKILL')), this.dismiss()]);
  }
}
