// The report of the control bench: medians, ratios to the peer, targets of docs/performance.md, as JSON or as a table.

import { readFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ratios, summarize, type Better, type Summary } from './statistics.js';

export const OURS = 'skein';
export const PEER = 'etcd';
/** By metric, then by group, a sample for each round. */
export type Samples = Map<string, Map<string, number[]>>;

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
  /** Of the endpoint changes, by metric. */
  readonly nodes: Readonly<Record<string, number>>;
  readonly targets: readonly ControlTarget[];
}

const CONDITIONS = {
  disk: 'all state directories are on one file system; a write is answered after fdatasync on a majority',
  writes: 'values of 256 bytes. skein: updates of 512 objects through propose() in the leader\'s process. '
    + 'etcd: put through gRPC at the leader, load by a program of one thread',
  api: 'api_*: the same through the leader\'s Docker API (POST /configs/{id}/update), load in another process; no peer',
  gap: 'one write after another on both survivors; the longest time in which none was done',
  endpoint: 'from a request that takes a task away to when every node has acknowledged that it is out of its tables',
  nodes: 'real agents with TLS and raft log, of which only tasks and packets are made up; so memory is without data plane and runtime. '
    + 'Beyond the managers and a worker, many agents share a process',
  cpu: 'user and system time of the three members and of the load',
  quartile: 'lowerQuartile and worst are on the worse side; ratios are of Skein to etcd within a round',
};

function describe(name: string): { unit: string; better: Better } {
  if (name.startsWith('writes_') || name.startsWith('api_writes_')) return { unit: 'writes/s', better: 'higher' };
  if (name === 'schedule') return { unit: 'x time', better: 'lower' };
  if (name.startsWith('p50_') || name.startsWith('api_p50_')) return { unit: 'us', better: 'lower' };
  const cpu = name.startsWith('cpu_') || name.startsWith('api_cpu_');
  return cpu ? { unit: 'us per write', better: 'lower' } : { unit: 'ms', better: 'lower' };
}

export interface Measured {
  readonly rounds: number;
  readonly sliceMs: number;
  readonly failovers: number;
  readonly samples: Samples;
  readonly unsupported: string | undefined;
  readonly peerVersion: string | undefined;
  readonly memoryMiB: Readonly<Record<string, number>>;
  readonly nodes: Readonly<Record<string, number>>;
  readonly before: readonly number[];
}

export async function makeReport(measured: Measured): Promise<ControlReport> {
  const { rounds, sliceMs, failovers, samples, unsupported, peerVersion, memoryMiB, nodes, before } = measured;
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
    bench: 'control', rounds, sliceMs, failovers, unsupported: unsupported ?? null, conditions: CONDITIONS,
    versions: {
      skein: manifest.version, kernel: `${os.type()} ${os.release()}`, node: process.version, cpu: os.cpus()[0]?.model ?? '',
      ...(peerVersion === undefined ? {} : { etcd: peerVersion }),
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
    ...Object.keys(metrics).filter((name) => name.startsWith('endpoint_')).map((name) =>
      most(`endpoint gone from ${name.slice('endpoint_'.length)} nodes in commit latencies, worst`, 5, inCommits(name, 'worst'))),
    ...(metrics['schedule'] === undefined ? [] : [
      most('time to place ten times the tasks on ten times the nodes', 10.5, metrics['schedule'].groups[OURS]?.lowerQuartile ?? null),
    ]),
  ];
}

export function table(report: ControlReport): string {
  const number = (value: number | undefined): string => (value === undefined ? '-' : value.toPrecision(4)).padStart(12);
  const lines = [
    `Three managers; ${report.rounds} rounds of ${report.sliceMs} ms slices, ${report.failovers} ends of the leader of each kind, `
      + `${report.versions['kernel']}, ${report.load.cpus} CPUs, `
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
