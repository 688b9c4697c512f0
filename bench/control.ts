// `skein bench control`: what three managers take in and how long they are without a leader, beside three members of etcd
// and three managers of Docker Swarm on the same disk, in one run, interleaved; and how long an endpoint takes to leave
// every node's tables. All sync every batch before they answer. Only ratios within a round mean anything.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { SkeinGroup } from './controlgroup.js';
import { measure } from './controlmeasure.js';
import { DOCKER, ETCD, makeReport, table, type Samples } from './controlreport.js';
import { DockerGroup } from './peers/docker.js';
import { EtcdGroup } from './peers/etcd.js';

export type { ControlReport } from './controlreport.js';

export interface ControlOptions {
  readonly rounds: number;
  readonly sliceMs: number;
  /** Ends of the leader, of each kind. */
  readonly failovers: number;
  /** Nodes of the swarm when an endpoint is taken away: measured at each of these, in rising order. */
  readonly agents: readonly number[];
  /** Beside etcd and, where there is one, Docker. */
  readonly peer: boolean;
  readonly docker: boolean;
  /** Ends of Docker's leader, of each kind, and endpoint changes in its swarm, which take it many seconds. */
  readonly dockerRounds: number;
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
  /** Longest time without a write that was done, from a signal that ends the leader on; watched for so long, or until there is
   *  another leader where that is later. The old one is started again after. */
  gap(signal: 'SIGKILL' | 'SIGTERM', afterMs: number): Promise<number>;
  /** Resident, in MiB. */
  memory(): Promise<Readonly<Record<string, number>>>;
  /** At any moment; what waits for the group then fails. */
  close(): Promise<void>;
}

/** Takes writes as its own programs make them. */
export interface LoadGroup extends Group {
  load(inFlight: number, ms: number): Promise<LoadResult>;
}

/** Takes writes through the Docker API. */
export interface ApiGroup extends Group {
  apiLoad(inFlight: number, ms: number): Promise<LoadResult>;
}

export interface Groups {
  readonly skein: SkeinGroup;
  readonly docker: DockerGroup | undefined;
  readonly all: readonly Group[];
  readonly proposers: readonly LoadGroup[];
  readonly apis: readonly ApiGroup[];
}

/** What a run of the bench needs of the machine, and of which Debian package it comes. */
const TOOLS: Readonly<Record<string, string>> = { setpriv: 'util-linux', unshare: 'util-linux', ip: 'iproute2' };
const PEER_TOOLS: Readonly<Record<string, string>> = { etcd: 'etcd-server', gcc: 'gcc' };
const DOCKER_TOOLS: Readonly<Record<string, string>> = {
  dockerd: 'docker.io', containerd: 'containerd', runc: 'runc', iptables: 'iptables', nsenter: 'util-linux', gcc: 'gcc',
};

/** As a shell tells of SIGINT. */
const INTERRUPTED = 130;
const INSIDE = 'SKEIN_BENCH_NAMESPACE';
/** On loopback a prefix is an address each: nodes may not have 127.0.0.0/8 as their data-path address. */
const ENTER = 'ip link set lo up && ip addr add 10.98.0.1/16 dev lo && exec "$@"';

function missing(tools: Readonly<Record<string, string>>, directories: string): readonly string[] {
  return Object.keys(tools).filter((tool) => !directories.split(':').some((directory) => {
    try {
      accessSync(path.join(directory, tool), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  }));
}

/** Tools that are missing, and how to have them. */
function wanted(tools: readonly string[], packages: Readonly<Record<string, string>>): string {
  return `missing: ${tools.join(', ')} (apt-get install ${[...new Set(tools.map((tool) => packages[tool]))].join(' ')})`;
}

/** Why the bench cannot run; undefined when it can. */
export function missingTools(peer: boolean, directories = process.env['PATH'] ?? ''): string | undefined {
  const packages = { ...TOOLS, ...(peer ? PEER_TOOLS : {}) };
  const tools = missing(packages, directories);
  if (tools.length === 0) return process.getuid?.() === 0 ? undefined : 'bench: a network namespace is needed: run it as root';
  const without = tools.every((tool) => tool in PEER_TOOLS) ? ', or measure without peers by --no-peer' : '';
  return `bench: ${wanted(tools, packages)}${without}`;
}

/** Which peers are left out, and why. Docker takes long and is much to install: without it etcd is measured beside. */
export function leftOut(options: Pick<ControlOptions, 'peer' | 'docker'>, directories = process.env['PATH'] ?? ''): Record<string, string> {
  const asked = 'left out, as was asked for';
  if (!options.peer) return { [ETCD]: asked, [DOCKER]: asked };
  if (!options.docker) return { [DOCKER]: asked };
  const tools = missing(DOCKER_TOOLS, directories);
  return tools.length === 0 ? {} : { [DOCKER]: wanted(tools, DOCKER_TOOLS) };
}

/** In a network namespace of its own, so that nothing is asked of, or told to, the machine's network. */
export async function benchControl(options: ControlOptions): Promise<number> {
  const unable = missingTools(options.peer);
  if (unable !== undefined) {
    console.error(unable);
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
  const unsupported = leftOut(options);
  const groups = makeGroups(directory, unsupported);
  const stopped = new AbortController();
  const stop = (): void => {
    stopped.abort(new Error('interrupted'));
    // What is waited for ends with them.
    for (const group of groups.all) void group.close();
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  try {
    const before = os.loadavg();
    const samples: Samples = new Map();
    const { memoryMiB, nodes } = await measure(groups, { samples, options, signal: stopped.signal, progress });
    const peerVersions = {
      ...(ETCD in unsupported ? {} : { [ETCD]: await EtcdGroup.version() }),
      ...(DOCKER in unsupported ? {} : { [DOCKER]: await DockerGroup.version() }),
    };
    const report = await makeReport({ ...options, samples, memoryMiB, nodes, before, unsupported, peerVersions });
    console.log(options.json ? JSON.stringify(report, undefined, 2) : table(report));
    return 0;
  } catch (error) {
    if (!stopped.signal.aborted) throw error;
    console.error('bench: interrupted');
    return INTERRUPTED;
  } finally {
    for (const group of groups.all) await group.close();
    await rm(directory, { recursive: true, force: true });
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
}

function makeGroups(directory: string, unsupported: Readonly<Record<string, string>>): Groups {
  const skein = new SkeinGroup(directory);
  const etcd = ETCD in unsupported ? [] : [new EtcdGroup(directory)];
  const docker = DOCKER in unsupported ? [] : [new DockerGroup(directory)];
  return { skein, docker: docker[0], all: [skein, ...etcd, ...docker], proposers: [skein, ...etcd], apis: [skein, ...docker] };
}
