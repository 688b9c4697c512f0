// `skein bench overlay`: task-to-task traffic across two lab nodes next to host veth and kernel VXLAN, in one run,
// interleaved in slices under a second, the order rotating. Only ratios within a round mean anything.

import type { ChildProcess } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { run } from '../src/lab/run.js';
import { buildNetload, MODES, runSlice, startServer, type Mode, type Path, type Slice } from './netload.js';
import { ratios, summarize, type Better, type Summary } from './statistics.js';
import { makeWorld, removeDead, removeWorld, worldName } from './world.js';

export interface OverlayOptions {
  readonly rounds: number;
  readonly sliceMs: number;
  readonly wire: boolean;
  readonly json: boolean;
}

interface Metric {
  readonly name: string;
  readonly mode: Mode;
  readonly unit: string;
  readonly better: Better;
  readonly of: (slice: Slice) => number;
  /** A loss has no ratio: it may be zero. */
  readonly noRatio?: true;
}

export interface MetricReport {
  readonly unit: string;
  readonly better: Better;
  readonly paths: Readonly<Record<string, Summary>>;
  /** Of Skein to each peer, per round. */
  readonly ratios: Readonly<Record<string, Summary>>;
}

export interface Target {
  readonly what: string;
  readonly limit: number;
  readonly value: number;
  readonly met: boolean;
}

export interface OverlayReport {
  readonly bench: 'overlay';
  readonly mode: 'offloads' | 'wire';
  readonly rounds: number;
  readonly sliceMs: number;
  readonly conditions: Readonly<Record<string, string>>;
  readonly versions: Readonly<Record<string, string>>;
  readonly load: { readonly cpus: number; readonly before: readonly number[]; readonly after: readonly number[] };
  readonly metrics: Readonly<Record<string, MetricReport>>;
  readonly targets: readonly Target[];
}

const US = 1e6;
const BITS = 65536 * 8;
const METRICS: readonly Metric[] = [
  { name: 'stream', mode: 'stream', unit: 'Gbit/s', better: 'higher', of: (s) => s.ops * BITS / s.seconds / 1e9 },
  { name: 'rr_p50', mode: 'rr', unit: 'us', better: 'lower', of: (s) => s.p50_us },
  { name: 'crr_p50', mode: 'crr', unit: 'us', better: 'lower', of: (s) => s.p50_us },
  { name: 'udp64_delivered', mode: 'udp', unit: 'packets/s', better: 'higher', of: (s) => s.ops / s.seconds },
  { name: 'udp64_loss', mode: 'udp', unit: '%', better: 'lower', of: (s) => 100 * (1 - s.ops / s.sent), noRatio: true },
  ...MODES.flatMap((mode): Metric[] => {
    const unit = { stream: 'us per 64 KB', rr: 'us per exchange', crr: 'us per connection', udp: 'us per packet received' }[mode];
    return [
      { name: `${mode}_cpu`, mode, unit, better: 'lower', of: (s) => s.cpuPerOp * US },
      { name: `${mode}_cpu_machine`, mode, unit, better: 'lower', of: (s) => s.machineCpuPerOp * US },
    ];
  }),
];
const OURS = 'skein';

export async function benchOverlay(options: OverlayOptions): Promise<number> {
  const progress = (line: string): void => {
    if (process.stderr.isTTY || !options.json) console.error(`bench: ${line}`);
  };
  const stopped = new AbortController();
  const stop = (): void => stopped.abort(new Error('interrupted'));
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  const name = worldName(process.pid);
  const servers: ChildProcess[] = [];
  try {
    await removeDead();
    await buildNetload();
    const paths = await makeWorld(name, options.wire, progress);
    for (const where of paths) {
      stopped.signal.throwIfAborted();
      servers.push(await startServer(where));
    }
    const before = os.loadavg();
    const slices = await measure(paths, servers, options, stopped.signal, progress);
    const report = await makeReport(paths, slices, options, before);
    console.log(options.json ? JSON.stringify(report, undefined, 2) : table(report));
    return 0;
  } catch (error) {
    if (!stopped.signal.aborted) throw error;
    console.error('bench: interrupted');
    return 130;
  } finally {
    for (const server of servers) server.kill('SIGKILL');
    await removeWorld(name);
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
}

type Slices = Map<string, Slice[]>;
const key = (mode: Mode, name: string): string => `${mode} ${name}`;

async function measure(paths: readonly Path[], servers: readonly ChildProcess[], options: OverlayOptions, signal: AbortSignal, progress: (line: string) => void): Promise<Slices> {
  const slices: Slices = new Map();
  for (let round = 0; round < options.rounds; round++) {
    progress(`round ${round + 1} of ${options.rounds}`);
    for (const mode of MODES) {
      for (let k = 0; k < paths.length; k++) {
        signal.throwIfAborted();
        const at = (k + round) % paths.length;
        const where = paths[at] as Path;
        const slice = await runSlice(where, mode, options.sliceMs, servers[at]?.pid ?? 0);
        slices.set(key(mode, where.name), [...slices.get(key(mode, where.name)) ?? [], slice]);
      }
    }
  }
  return slices;
}

async function makeReport(paths: readonly Path[], slices: Slices, options: OverlayOptions, before: readonly number[]): Promise<OverlayReport> {
  const metrics: Record<string, MetricReport> = {};
  for (const metric of METRICS) {
    const samples = (name: string): number[] => (slices.get(key(metric.mode, name)) ?? []).map(metric.of);
    const peers = metric.noRatio === true ? [] : paths.filter((p) => p.name !== OURS);
    metrics[metric.name] = {
      unit: metric.unit,
      better: metric.better,
      paths: Object.fromEntries(paths.map((p) => [p.name, summarize(samples(p.name), metric.better)])),
      ratios: Object.fromEntries(peers.map((p) => [p.name, summarize(ratios(samples(OURS), samples(p.name)), metric.better)])),
    };
  }
  const stream = metrics['stream']?.ratios['vxlan']?.lowerQuartile ?? 0;
  const rr = metrics['rr_p50']?.ratios['vxlan']?.lowerQuartile ?? Infinity;
  const manifest = JSON.parse(await readFile(path.resolve(import.meta.dirname, '../../package.json'), 'utf8')) as { version: string };
  return {
    bench: 'overlay',
    mode: options.wire ? 'wire' : 'offloads',
    rounds: options.rounds,
    sliceMs: options.sliceMs,
    conditions: {
      wire: 'veth, bridge, veth: the same for all paths; MTU 1500', inner: 'MTU 1450 for both overlays', tcp: 'cubic at both ends, 1 stream, 128 KB writes',
      vxlan: 'kernel VXLAN and a bridge per host, a veth to the task, no netfilter rules', veth: 'host to host',
      quartile: 'lowerQuartile and worst are on the worse side; ratios are of Skein to the peer within a round',
      cpu: '_cpu: run time of client, server, data planes and softirq threads; _cpu_machine: all busy time of the machine',
    },
    versions: {
      skein: manifest.version, kernel: `${os.type()} ${os.release()}`, node: process.version, iproute2: (await run('ip', ['-V'])).trim(), cpu: os.cpus()[0]?.model ?? '',
    },
    load: { cpus: os.cpus().length, before, after: os.loadavg() },
    metrics,
    targets: [
      { what: 'stream, lower quartile of the ratio to kernel VXLAN, at least', limit: 0.55, value: stream, met: stream >= 0.55 },
      { what: 'rr p50, upper quartile of the ratio to kernel VXLAN, at most', limit: 3, value: rr, met: rr <= 3 },
    ],
  };
}

function table(report: OverlayReport): string {
  const lines = [
    `Task to task across two nodes, ${report.mode}; ${report.rounds} rounds of ${report.sliceMs} ms slices; ${report.versions['kernel']}, ${report.load.cpus} CPUs, load ${report.load.after.map((l) => l.toFixed(1)).join(' ')}`,
    '',
    `${''.padEnd(20)}${''.padEnd(24)}${['veth', 'vxlan', 'skein'].map((p) => p.padStart(10)).join('')}   Skein / veth       Skein / vxlan`,
    `${''.padEnd(74)}   median quartile   median quartile  worst`,
  ];
  for (const [name, metric] of Object.entries(report.metrics)) {
    const cells = ['veth', 'vxlan', 'skein'].map((p) => number(metric.paths[p]?.median).padStart(10)).join('');
    const [veth, vxlan] = [metric.ratios['veth'], metric.ratios['vxlan']];
    const ratio = vxlan === undefined || veth === undefined ? '' : `   ${fixed(veth.median)} ${fixed(veth.lowerQuartile)}     ${fixed(vxlan.median)} ${fixed(vxlan.lowerQuartile)}  ${fixed(vxlan.worst)}`;
    lines.push(`${name.padEnd(20)}${metric.unit.padEnd(24)}${cells}${ratio}`);
  }
  lines.push('', ...report.targets.map((t) => `target: ${t.what} ${t.limit}: ${t.value} ${t.met ? 'met' : 'NOT MET'}`));
  return lines.join('\n');
}

function number(value: number | undefined): string {
  if (value === undefined) return '-';
  return value >= 1000 ? value.toFixed(0) : value.toFixed(2);
}

function fixed(value: number): string {
  return value.toFixed(2).padStart(6);
}
