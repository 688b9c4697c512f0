// The report of the control bench: medians, ratios to the peers, targets of docs/performance.md, as JSON or as a table.

import { readFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ratios, summarize, type Better, type Summary } from './statistics.js';

export const OURS = 'skein';
export const ETCD = 'etcd';
export const DOCKER = 'docker';
const PEERS = [ETCD, DOCKER];
/** By metric, then by group, a sample for each round. */
export type Samples = Map<string, Map<string, number[]>>;

export interface ControlMetric {
  readonly unit: string;
  readonly better: Better;
  readonly groups: Readonly<Record<string, Summary>>;
  /** Of Skein to each peer that has it, round by round. */
  readonly ratios: Readonly<Record<string, Summary>>;
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
  readonly dockerRounds: number;
  /** Peers that are left out, and why. */
  readonly unsupported: Readonly<Record<string, string>>;
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
  api: 'api_*: configs of 256 bytes that are made and removed through the Docker API of the leader, load in another process. '
    + 'docker: the same load on dockerd\'s socket; each manager has namespaces of its own on a bridge',
  gap: 'one write after another on both survivors; the longest time in which none was done. docker: through the API; '
    + 'dockerRounds ends of each kind, for an election takes it 10 to 26 s; its SIGTERM goes to dockerd',
  endpoint: 'from a request that takes a task away to when every node has acknowledged that it is out of its tables. '
    + 'docker: to when it is gone from the DNS of all nodes, asked in a container on each; it cannot tell more. '
    + 'docker has three nodes only: 30 or 100 dockerd do not fit a machine; ratios are of each of Skein\'s to its median',
  told: 'told_*: docker: to when the task is sent SIGTERM. Nobody acknowledges, so dockerd sleeps 2 s before; '
    + 'Skein sends it when all have acknowledged, which is endpoint_*',
  nodes: 'real agents with TLS and raft log, of which only tasks and packets are made up; so memory is without data plane and runtime. '
    + 'Beyond the managers and a worker, many agents share a process. docker: dockerd and its containerd, without tasks',
  cpu: 'user and system time of the three members and of the load',
  quartile: 'lowerQuartile and worst are on the worse side; ratios are of Skein to a peer within a round',
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
  readonly dockerRounds: number;
  readonly samples: Samples;
  readonly unsupported: Readonly<Record<string, string>>;
  readonly peerVersions: Readonly<Record<string, string>>;
  readonly memoryMiB: Readonly<Record<string, number>>;
  readonly nodes: Readonly<Record<string, number>>;
  readonly before: readonly number[];
}

export async function makeReport(measured: Measured): Promise<ControlReport> {
  const { rounds, sliceMs, failovers, dockerRounds, samples, unsupported, peerVersions, memoryMiB, nodes, before } = measured;
  const metrics: Record<string, ControlMetric> = {};
  for (const [name, groups] of samples) {
    const { unit, better } = describe(name);
    const summaries = Object.fromEntries([...groups].map(([group, values]) => [group, summarize(values, better)]));
    const mine = groups.get(OURS) ?? [];
    // Endpoint changes have no rounds: ours are many, and over before Docker's first.
    const to = (peer: string): number[] => (name.startsWith('endpoint_')
      ? mine.map((value) => value / (summaries[peer]?.median ?? NaN)) : ratios(mine, groups.get(peer) ?? []));
    const compared = PEERS.filter((peer) => groups.has(peer)).map((peer) => [peer, to(peer)] as const)
      .filter(([, values]) => values.length > 0);
    metrics[name] = {
      unit, better, groups: summaries, ratios: Object.fromEntries(compared.map(([peer, values]) => [peer, summarize(values, better)])),
    };
  }
  const manifest = JSON.parse(await readFile(path.resolve(import.meta.dirname, '../../package.json'), 'utf8')) as { version: string };
  return {
    bench: 'control', rounds, sliceMs, failovers, dockerRounds, unsupported, conditions: CONDITIONS,
    versions: {
      skein: manifest.version, ...peerVersions,
      kernel: `${os.type()} ${os.release()}`, node: process.version, cpu: os.cpus()[0]?.model ?? '',
    },
    load: { cpus: os.cpus().length, before, after: os.loadavg() },
    metrics, memoryMiB, nodes, targets: targets(metrics),
  };
}

function targets(metrics: Readonly<Record<string, ControlMetric>>): ControlTarget[] {
  const quartile = (name: string): number | null => metrics[name]?.ratios[ETCD]?.lowerQuartile ?? null;
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
    ...(metrics['endpoint_3']?.ratios[DOCKER] === undefined ? [] : [
      most('endpoint gone from 3 nodes, worse quartile of the ratio to Docker', 0.03, metrics['endpoint_3'].ratios[DOCKER].lowerQuartile),
    ]),
    ...(metrics['schedule'] === undefined ? [] : [
      most('time to place ten times the tasks on ten times the nodes', 10.5, metrics['schedule'].groups[OURS]?.lowerQuartile ?? null),
    ]),
  ];
}

export function table(report: ControlReport): string {
  const number = (value: number | undefined): string => (value === undefined ? '-' : value.toPrecision(4)).padStart(12);
  const heads = [OURS, ...PEERS, ...PEERS.flatMap((peer) => [`to ${peer}`, 'quartile', 'worst'])];
  const lines = [
    `Three managers; ${report.rounds} rounds of ${report.sliceMs} ms slices, ${report.failovers} ends of the leader of each kind `
      + `(${report.dockerRounds} of Docker's), `
      + `${report.versions['kernel']}, ${report.load.cpus} CPUs, `
      + `load ${report.load.after.map((l) => l.toFixed(1)).join(' ')}`,
    ...Object.entries(report.unsupported).map(([peer, reason]) => `${peer}: ${reason}`),
    '', ''.padEnd(32) + heads.map((head) => head.padStart(12)).join(''),
  ];
  for (const [name, { unit, groups, ratios: to }] of Object.entries(report.metrics)) {
    const values = [
      ...[OURS, ...PEERS].map((group) => groups[group]?.median),
      ...PEERS.flatMap((peer) => [to[peer]?.median, to[peer]?.lowerQuartile, to[peer]?.worst]),
    ];
    lines.push(name.padEnd(16) + unit.padEnd(16) + values.map(number).join(''));
  }
  lines.push('', ...Object.entries(report.memoryMiB).map(([what, mib]) => `memory of an idle ${what.replace('_', ' ')}: ${mib} MiB`),
    '', ...report.targets.map(({ what, limit, value, met }) =>
      `target: ${what} ${limit}: ${value ?? 'not measured'} ${met ? 'met' : 'NOT MET'}`));
  return lines.join('\n');
}
