// Runs bench/tools/netload in network namespaces and takes the CPU time of everything involved.

import { spawn, type ChildProcess } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../src/lab/run.js';

const ROOT = path.resolve(import.meta.dirname, '../..');
const NETLOAD = path.join(ROOT, 'build/bench/netload');
const PORT = '7400';

export const MODES = ['stream', 'rr', 'crr', 'udp'] as const;
export type Mode = typeof MODES[number];

/** What netload prints; an operation is 64 KB, an exchange, a connection with an exchange, a datagram received. */
interface Result {
  readonly ops: number;
  readonly seconds: number;
  readonly total: number;
  readonly sent: number;
  readonly p50_us: number;
  readonly p99_us: number;
  readonly cpu_s: number;
}

export interface Slice extends Result {
  /** CPU seconds of client, server, data planes and the kernel's softirq threads, per operation. */
  readonly cpuPerOp: number;
  /** The whole machine's busy time per operation: right only when nothing else runs. */
  readonly machineCpuPerOp: number;
}

/** Two network namespaces (files) that can reach each other, and the processes that carry their traffic. */
export interface Path {
  readonly name: string;
  readonly client: string;
  readonly server: string;
  readonly address: string;
  readonly carriers: readonly number[];
}

export async function buildNetload(): Promise<void> {
  await run('make', ['-s', '--no-print-directory', '-C', path.join(ROOT, 'native'), 'netload'], { timeoutMs: 120_000 });
}

export async function startServer(where: Path): Promise<ChildProcess> {
  const child = spawn('nsenter', [`--net=${where.server}`, NETLOAD, 'serve', '0.0.0.0', PORT], { stdio: 'ignore' });
  try {
    await run('nsenter', [`--net=${where.client}`, NETLOAD, 'wait', where.address, PORT, '8000']);
  } catch (error) {
    child.kill('SIGKILL');
    throw error;
  }
  return child;
}

export async function runSlice(where: Path, mode: Mode, sliceMs: number, server: number): Promise<Slice> {
  const carriers = [...where.carriers, server, ...await softirqThreads()];
  const [cpuBefore, machineBefore] = [await cpuSeconds(carriers), await machineSeconds()];
  const text = await run('nsenter', [`--net=${where.client}`, NETLOAD, mode, where.address, PORT, String(sliceMs)], { timeoutMs: sliceMs + 20_000 });
  const [cpuAfter, machineAfter] = [await cpuSeconds(carriers), await machineSeconds()];
  const result = JSON.parse(text) as Result;
  if (!(result.ops > 0)) throw new Error(`${where.name}: ${mode} did nothing: ${text}`);
  return { ...result, cpuPerOp: (result.cpu_s + cpuAfter - cpuBefore) / result.total, machineCpuPerOp: (machineAfter - machineBefore) / result.total };
}

/** Exact run time of all threads, from the scheduler. */
async function cpuSeconds(pids: readonly number[]): Promise<number> {
  let ns = 0;
  for (const pid of pids) {
    for (const thread of await readdir(`/proc/${pid}/task`)) ns += Number((await readFile(`/proc/${pid}/task/${thread}/schedstat`, 'utf8')).split(' ')[0]);
  }
  return ns / 1e9;
}

let softirq: Promise<number[]> | undefined;
function softirqThreads(): Promise<number[]> {
  softirq ??= (async () => {
    const found: number[] = [];
    for (const entry of await readdir('/proc')) {
      if (/^\d+$/.test(entry) && (await readFile(`/proc/${entry}/comm`, 'utf8').catch(() => '')).startsWith('ksoftirqd/')) found.push(Number(entry));
    }
    return found;
  })();
  return softirq;
}

async function machineSeconds(): Promise<number> {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirqTime = 0] = ((await readFile('/proc/stat', 'utf8')).split('\n')[0] ?? '').split(/\s+/).slice(1).map(Number);
  return (user + nice + system + irq + softirqTime) / 100;
}
