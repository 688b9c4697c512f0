// `skein bench control`: what three managers take in and how long they are without a leader, beside three members of etcd
// on the same disk, in one run, interleaved; and how long an endpoint takes to leave every node's tables. Both sync every
// batch before they answer. Only ratios within a round mean anything.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { SkeinGroup } from './controlgroup.js';
import { OURS, makeReport, table, type Samples } from './controlreport.js';
import { EtcdGroup } from './peers/etcd.js';
import { scheduling } from './scheduling.js';

export type { ControlReport } from './controlreport.js';

export interface ControlOptions {
  readonly rounds: number;
  readonly sliceMs: number;
  /** Ends of the leader, of each kind. */
  readonly failovers: number;
  /** Nodes of the swarm when an endpoint is taken away: measured at each of these, in rising order. */
  readonly agents: readonly number[];
  /** Beside etcd. */
  readonly peer: boolean;
  readonly json: boolean;
}

export interface LoadResult {
  readonly writes: number;
  readonly errors: number;
  readonly seconds: number;
  readonly p50Us: number;
  /** Of the three members and of what makes the load. */
  readonly cpuSeconds: number;
}

/** Three managers, or what is compared with them. */
export interface Group {
  readonly name: string;
  start(): Promise<void>;
  load(inFlight: number, ms: number): Promise<LoadResult>;
  /** Longest time without a write that was done, while the leader ends by a signal; it is started again after. */
  gap(signal: 'SIGKILL' | 'SIGTERM', afterMs: number): Promise<number>;
  /** Resident, in MiB. */
  memory(): Promise<Readonly<Record<string, number>>>;
  /** At any moment; what waits for the group then fails. */
  close(): Promise<void>;
}

const IN_FLIGHT = [1, 64, 512] as const;
/** Until compilers and caches have seen what they will see. */
const WARM_MS = 2000;
const API_IN_FLIGHT = 64;
const GAP_WATCH_MS = { SIGKILL: 5000, SIGTERM: 2500 } as const;
const ENDPOINT_SAMPLES = 40;
/** What a run of the bench needs of the machine, and of which Debian package it comes. */
const TOOLS: Readonly<Record<string, string>> = { setpriv: 'util-linux', unshare: 'util-linux', ip: 'iproute2' };
const PEER_TOOLS: Readonly<Record<string, string>> = { etcd: 'etcd-server', gcc: 'gcc' };

/** As a shell tells of SIGINT. */
const INTERRUPTED = 130;
const INSIDE = 'SKEIN_BENCH_NAMESPACE';
/** On loopback a prefix is an address each: nodes may not have 127.0.0.0/8 as their data-path address. */
const ENTER = 'ip link set lo up && ip addr add 10.98.0.1/16 dev lo && exec "$@"';

/** Why the bench cannot run; undefined when it can. */
export function missingTools(peer: boolean, directories = process.env['PATH'] ?? ''): string | undefined {
  const found = (tool: string): boolean => directories.split(':').some((directory) => {
    try {
      accessSync(path.join(directory, tool), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  const missing = Object.entries({ ...TOOLS, ...(peer ? PEER_TOOLS : {}) }).filter(([tool]) => !found(tool));
  if (missing.length === 0) return process.getuid?.() === 0 ? undefined : 'bench: a network namespace is needed: run it as root';
  const packages = [...new Set(missing.map(([, from]) => from))].join(' ');
  const without = missing.every(([tool]) => tool in PEER_TOOLS) ? ', or measure without etcd by --no-peer' : '';
  return `bench: missing: ${missing.map(([tool]) => tool).join(', ')} (apt-get install ${packages})${without}`;
}

/** In a network namespace of its own, so that nothing is asked of, or told to, the machine's network. */
export async function benchControl(options: ControlOptions): Promise<number> {
  const missing = missingTools(options.peer);
  if (missing !== undefined) {
    console.error(missing);
    return 2;
  }
  if (process.env[INSIDE] !== undefined) return benchInside(options);
  const args = ['--pdeathsig', 'TERM', 'unshare', '--net', 'sh', '-c', ENTER, 'sh', process.execPath, ...process.argv.slice(1)];
  const child = spawn('setpriv', args, { stdio: 'inherit', env: { ...process.env, [INSIDE]: '1' } });
  let stopped = false;
  const stop = (): void => {
    stopped = true;
    child.kill('SIGTERM');
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  const [code] = await once(child, 'exit') as [number | null];
  process.off('SIGINT', stop);
  process.off('SIGTERM', stop);
  // Stopped so early that it had begun nothing.
  return stopped ? INTERRUPTED : code ?? 1;
}

async function benchInside(options: ControlOptions): Promise<number> {
  const startedMs = performance.now();
  const seconds = (): string => ((performance.now() - startedMs) / 1000).toFixed(0).padStart(4);
  const progress = (line: string): void => console.error(`bench: ${seconds()} s  ${line}`);
  const directory = await mkdtemp(path.join(os.tmpdir(), 'skein-bench-'));
  const skein = new SkeinGroup(directory);
  const groups: Group[] = options.peer ? [skein, new EtcdGroup(directory)] : [skein];
  const stopped = new AbortController();
  const stop = (): void => {
    stopped.abort(new Error('interrupted'));
    // What is waited for ends with them.
    for (const group of groups) void group.close();
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  try {
    const before = os.loadavg();
    const samples: Samples = new Map();
    const { memoryMiB, nodes } = await measure(groups, skein, samples, options, stopped.signal, progress);
    const report = await makeReport({
      ...options, samples, memoryMiB, nodes, before, unsupported: options.peer ? undefined : 'without a peer, as was asked for',
      peerVersion: options.peer ? await EtcdGroup.version() : undefined,
    });
    console.log(options.json ? JSON.stringify(report, undefined, 2) : table(report));
    return 0;
  } catch (error) {
    if (!stopped.signal.aborted) throw error;
    console.error('bench: interrupted');
    return INTERRUPTED;
  } finally {
    for (const group of groups) await group.close();
    await rm(directory, { recursive: true, force: true });
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
}

type Add = (metric: string, group: string, value: number) => void;

async function measure(
  groups: readonly Group[], skein: SkeinGroup, samples: Samples, options: ControlOptions, signal: AbortSignal,
  progress: (line: string) => void,
): Promise<{ memoryMiB: Record<string, number>; nodes: Record<string, number> }> {
  const add: Add = (metric, group, value) => {
    const of = samples.get(metric) ?? new Map<string, number[]>();
    samples.set(metric, of.set(group, [...of.get(group) ?? [], value]));
  };
  progress('starting the groups');
  for (const group of groups) await group.start();
  const memoryMiB: Record<string, number> = {};
  for (const group of groups) {
    for (const [what, mib] of Object.entries(await group.memory())) memoryMiB[`${group.name}_${what}`] = Math.round(mib);
  }
  progress('warming up');
  for (const group of groups) for (const inFlight of [...IN_FLIGHT].reverse()) await group.load(inFlight, WARM_MS);
  await writes(groups, skein, options, signal, add, progress);
  const nodes: Record<string, number> = {};
  for (const count of [...options.agents].sort((a, b) => a - b)) {
    signal.throwIfAborted();
    progress(`endpoint changes on ${count} nodes`);
    const changes = await skein.endpoints(count, ENDPOINT_SAMPLES);
    nodes[`endpoint_${count}`] = changes.nodes;
    for (const ms of changes.ms) add(`endpoint_${count}`, OURS, ms);
  }
  await skein.dismiss();
  for (let round = 0; round < options.failovers; round++) {
    for (const kind of ['SIGKILL', 'SIGTERM'] as const) {
      for (const group of turns(groups, round)) {
        signal.throwIfAborted();
        progress(`${group.name}: the leader gets a ${kind}`);
        add(kind === 'SIGKILL' ? 'gap_kill' : 'gap_handover', group.name, await group.gap(kind, GAP_WATCH_MS[kind]));
      }
    }
  }
  // Last, for it takes the processor all to itself.
  progress('scheduling');
  for (const value of scheduling(options.rounds)) add('schedule', OURS, value);
  return { memoryMiB, nodes };
}

async function writes(
  groups: readonly Group[], skein: SkeinGroup, options: ControlOptions, signal: AbortSignal, add: Add, progress: (line: string) => void,
): Promise<void> {
  const take = (name: string, of: string, { writes: count, errors, seconds, p50Us, cpuSeconds }: LoadResult): void => {
    if (errors > 0 || count === 0) throw new Error(`${of}: ${errors} of ${count + errors} writes failed`);
    const api = name.startsWith('api') ? 'api_' : '';
    const inFlight = name.replace('api_', '');
    add(`${api}writes_${inFlight}`, of, count / seconds);
    add(`${api}p50_${inFlight}`, of, p50Us);
    add(`${api}cpu_${inFlight}`, of, cpuSeconds / count * 1e6);
  };
  for (let round = 0; round < options.rounds; round++) {
    progress(`writes: round ${round + 1} of ${options.rounds}`);
    for (const inFlight of IN_FLIGHT) {
      for (const group of turns(groups, round)) {
        signal.throwIfAborted();
        take(String(inFlight), group.name, await group.load(inFlight, options.sliceMs));
      }
    }
    take(`api_${API_IN_FLIGHT}`, OURS, await skein.apiLoad(API_IN_FLIGHT, options.sliceMs));
  }
}

/** Who goes first changes with every round. */
function turns<T>(groups: readonly T[], round: number): readonly T[] {
  return round % 2 === 0 ? groups : [...groups].reverse();
}
