// `skein bench control`: what three managers take in and how long they are without a leader, beside three members of etcd
// on the same disk, in one run, interleaved; and how long an endpoint takes to leave every node's tables. Both sync every
// batch before they answer. Only ratios within a round mean anything.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { SkeinGroup } from './controlgroup.js';
import { EtcdGroup, etcdUnsupported } from './peers/etcd.js';
import { ratios, summarize, type Better, type Summary } from './statistics.js';

export interface ControlOptions {
  readonly rounds: number;
  readonly sliceMs: number;
  /** Ends of the leader, of each kind. */
  readonly failovers: number;
  /** Agents beside the three managers and a worker, all in one process. */
  readonly agents: number;
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
  close(): Promise<void>;
}

export interface ControlMetric {
  readonly unit: string;
  readonly better: Better;
  readonly groups: Readonly<Record<string, Summary>>;
  /** Of Skein to etcd, round by round; null without etcd. */
  readonly ratio: Summary | null;
}

export interface ControlTarget {
  readonly what: string;
  readonly limit: number;
  /** Null: not measured. */
  readonly value: number | null;
  readonly met: boolean;
}

export interface ControlReport {
  readonly bench: 'control';
  readonly rounds: number;
  readonly sliceMs: number;
  readonly failovers: number;
  /** Why there is no peer; null when there is. */
  readonly unsupported: string | null;
  readonly conditions: Readonly<Record<string, string>>;
  readonly versions: Readonly<Record<string, string>>;
  readonly load: { readonly cpus: number; readonly before: readonly number[]; readonly after: readonly number[] };
  readonly metrics: Readonly<Record<string, ControlMetric>>;
  readonly memoryMiB: Readonly<Record<string, number>>;
  readonly nodes: number;
  readonly targets: readonly ControlTarget[];
}

const IN_FLIGHT = [1, 64, 512] as const;
const WARM_MS = 200;
const GAP_WATCH_MS = { SIGKILL: 5000, SIGTERM: 2500 } as const;
const ENDPOINT_SAMPLES = 4;
const OURS = 'skein';
const PEER = 'etcd';
/** By metric, then by group, a sample for each round. */
type Samples = Map<string, Map<string, number[]>>;

const CONDITIONS = {
  disk: 'all state directories are on one file system; a write is answered after fdatasync on a majority',
  writes: 'values of 256 bytes. skein: updates of 512 objects through propose() in the leader\'s process. '
    + 'etcd: put through gRPC at the leader',
  gap: 'one write after another on both survivors; the longest time in which none was done',
  nodes: 'real agents with TLS and raft log, of which only tasks and packets are made up; so memory is without data plane and runtime',
  cpu: 'user and system time of the three members and of the load',
  quartile: 'lowerQuartile and worst are on the worse side; ratios are of Skein to etcd within a round',
};

const INSIDE = 'SKEIN_BENCH_NAMESPACE';
/** On loopback a prefix is an address each: nodes may not have 127.0.0.0/8 as their data-path address. */
const ENTER = 'ip link set lo up && ip addr add 10.98.0.1/16 dev lo && exec "$@"';

/** In a network namespace of its own, so that nothing is asked of, or told to, the machine's network. */
export async function benchControl(options: ControlOptions): Promise<number> {
  if (process.env[INSIDE] !== undefined) return benchInside(options);
  const args = ['--pdeathsig', 'TERM', 'unshare', '--net', 'sh', '-c', ENTER, 'sh', process.execPath, ...process.argv.slice(1)];
  const child = spawn('setpriv', args, { stdio: 'inherit', env: { ...process.env, [INSIDE]: '1' } });
  const stop = (): void => {
    child.kill('SIGTERM');
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  const [code] = await once(child, 'exit') as [number | null];
  process.off('SIGINT', stop);
  process.off('SIGTERM', stop);
  return code ?? 1;
}

async function benchInside(options: ControlOptions): Promise<number> {
  const progress = (line: string): void => {
    if (process.stderr.isTTY || !options.json) console.error(`bench: ${line}`);
  };
  const stopped = new AbortController();
  const stop = (): void => stopped.abort(new Error('interrupted'));
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  const directory = await mkdtemp(path.join(os.tmpdir(), 'skein-bench-'));
  const skein = new SkeinGroup(directory, options.agents);
  const unsupported = etcdUnsupported();
  const groups: Group[] = unsupported === undefined ? [skein, new EtcdGroup(directory)] : [skein];
  try {
    const before = os.loadavg();
    progress('starting the groups');
    for (const group of groups) await group.start();
    const memoryMiB: Record<string, number> = {};
    for (const group of groups) {
      for (const [what, mib] of Object.entries(await group.memory())) memoryMiB[`${group.name}_${what}`] = Math.round(mib);
    }
    const samples: Samples = new Map();
    const nodes = await measure(groups, skein, samples, options, stopped.signal, progress);
    const report = await makeReport(options, samples, unsupported, { memoryMiB, nodes, before });
    console.log(options.json ? JSON.stringify(report, undefined, 2) : table(report));
    return 0;
  } catch (error) {
    if (!stopped.signal.aborted) throw error;
    console.error('bench: interrupted');
    return 130;
  } finally {
    for (const group of groups) await group.close();
    await rm(directory, { recursive: true, force: true });
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
}

async function measure(
  groups: readonly Group[], skein: SkeinGroup, samples: Samples, options: ControlOptions, signal: AbortSignal,
  progress: (line: string) => void,
): Promise<number> {
  const add = (metric: string, group: string, value: number): void => {
    const of = samples.get(metric) ?? new Map<string, number[]>();
    samples.set(metric, of.set(group, [...of.get(group) ?? [], value]));
  };
  for (const group of groups) for (const inFlight of IN_FLIGHT) await group.load(inFlight, WARM_MS);
  let nodes = 0;
  for (let round = 0; round < options.rounds; round++) {
    progress(`round ${round + 1} of ${options.rounds}`);
    const order = round % 2 === 0 ? groups : [...groups].reverse();
    for (const inFlight of IN_FLIGHT) {
      for (const group of order) {
        signal.throwIfAborted();
        const { writes, errors, seconds, p50Us, cpuSeconds } = await group.load(inFlight, options.sliceMs);
        if (errors > 0 || writes === 0) throw new Error(`${group.name}: ${errors} of ${writes + errors} writes failed`);
        add(`writes_${inFlight}`, group.name, writes / seconds);
        add(`p50_${inFlight}`, group.name, p50Us);
        add(`cpu_${inFlight}`, group.name, cpuSeconds / writes * 1e6);
      }
    }
  }
  progress('endpoints');
  const changes = await skein.endpoints(Math.max(options.rounds, 1) * ENDPOINT_SAMPLES);
  nodes = changes.nodes;
  for (const ms of changes.ms) add('endpoint', OURS, ms);
  for (let round = 0; round < options.failovers; round++) {
    for (const kind of ['SIGKILL', 'SIGTERM'] as const) {
      for (const group of round % 2 === 0 ? groups : [...groups].reverse()) {
        signal.throwIfAborted();
        progress(`${group.name}: the leader gets a ${kind}`);
        add(kind === 'SIGKILL' ? 'gap_kill' : 'gap_handover', group.name, await group.gap(kind, GAP_WATCH_MS[kind]));
      }
    }
  }
  return nodes;
}

function describe(name: string): { unit: string; better: Better } {
  if (name.startsWith('writes_')) return { unit: 'writes/s', better: 'higher' };
  if (name.startsWith('p50_')) return { unit: 'us', better: 'lower' };
  return name.startsWith('cpu_') ? { unit: 'us per write', better: 'lower' } : { unit: 'ms', better: 'lower' };
}

interface Measured {
  readonly memoryMiB: Readonly<Record<string, number>>;
  readonly nodes: number;
  readonly before: readonly number[];
}

async function makeReport(
  options: ControlOptions, samples: Samples, unsupported: string | undefined, { memoryMiB, nodes, before }: Measured,
): Promise<ControlReport> {
  const metrics: Record<string, ControlMetric> = {};
  for (const [name, groups] of samples) {
    const { unit, better } = describe(name);
    const [ours, theirs] = [groups.get(OURS) ?? [], groups.get(PEER)];
    metrics[name] = {
      unit, better, groups: Object.fromEntries([...groups].map(([group, values]) => [group, summarize(values, better)])),
      ratio: theirs === undefined ? null : summarize(ratios(ours, theirs), better),
    };
  }
  const manifest = JSON.parse(await readFile(path.resolve(import.meta.dirname, '../../package.json'), 'utf8')) as { version: string };
  return {
    bench: 'control', rounds: options.rounds, sliceMs: options.sliceMs, failovers: options.failovers, unsupported: unsupported ?? null,
    conditions: CONDITIONS,
    versions: {
      skein: manifest.version, kernel: `${os.type()} ${os.release()}`, node: process.version, cpu: os.cpus()[0]?.model ?? '',
      ...(unsupported === undefined ? { etcd: await EtcdGroup.version() } : {}),
    },
    load: { cpus: os.cpus().length, before, after: os.loadavg() },
    metrics, memoryMiB, nodes, targets: targets(metrics),
  };
}

function targets(metrics: Readonly<Record<string, ControlMetric>>): ControlTarget[] {
  const quartile = (name: string): number | null => metrics[name]?.ratio?.lowerQuartile ?? null;
  const commitMs = (metrics['p50_1']?.groups[OURS]?.median ?? NaN) / 1000;
  const inCommits = (name: string, of: 'lowerQuartile' | 'worst'): number | null => {
    const ms = metrics[name]?.groups[OURS]?.[of];
    return ms === undefined || Number.isNaN(commitMs) ? null : Number((ms / commitMs).toPrecision(4));
  };
  const least = (what: string, limit: number, value: number | null): ControlTarget =>
    ({ what: `${what}, at least`, limit, value, met: value !== null && value >= limit });
  const most = (what: string, limit: number, value: number | null): ControlTarget =>
    ({ what: `${what}, at most`, limit, value, met: value !== null && value <= limit });
  return [
    least('writes/s with 64 in flight, lower quartile of the ratio to etcd', 1, quartile('writes_64')),
    least('writes/s with 512 in flight, lower quartile of the ratio to etcd', 1, quartile('writes_512')),
    most('p50 with 1 in flight, worse quartile of the ratio to etcd', 0.6, quartile('p50_1')),
    most('gap after a kill of the leader, worse quartile of the ratio to etcd', 0.15, quartile('gap_kill')),
    most('gap of a clean hand-over in commit latencies, worse quartile', 2, inCommits('gap_handover', 'lowerQuartile')),
    most('endpoint gone from every node in commit latencies, worst', 5, inCommits('endpoint', 'worst')),
  ];
}

function table(report: ControlReport): string {
  const number = (value: number | undefined): string => (value === undefined ? '-' : value.toPrecision(4)).padStart(12);
  const lines = [
    `Three managers; ${report.rounds} rounds of ${report.sliceMs} ms slices, ${report.failovers} ends of the leader of each kind, `
      + `${report.nodes} nodes; ${report.versions['kernel']}, ${report.load.cpus} CPUs, `
      + `load ${report.load.after.map((l) => l.toFixed(1)).join(' ')}`,
    ...(report.unsupported === null ? [] : [report.unsupported]),
    '', `${''.padEnd(32)}       skein        etcd       ratio    quartile       worst`,
  ];
  for (const [name, { unit, groups, ratio }] of Object.entries(report.metrics)) {
    const values = [groups[OURS]?.median, groups[PEER]?.median, ratio?.median, ratio?.lowerQuartile, ratio?.worst];
    lines.push(name.padEnd(16) + unit.padEnd(16) + values.map(number).join(''));
  }
  lines.push('', ...Object.entries(report.memoryMiB).map(([what, mib]) => `memory of an idle ${what.replace('_', ' ')}: ${mib} MiB`),
    '', ...report.targets.map(({ what, limit, value, met }) =>
      `target: ${what} ${limit}: ${value ?? 'not measured'} ${met ? 'met' : 'NOT MET'}`));
  return lines.join('\n');
}
