// Docker Engines in labs: one dockerd in a namespace of its own, entered with nsenter. A lab with the docker runtime has
// one that all its nodes share (with our runtime wrapper; each node sees only its own containers). Tests start others, as
// stock workers of the swarm.

import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { readFile, readdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { installDockerRuntime } from '../io/docker/wrapper.js';
import { api, until } from './dockerapi.js';
import { LAB_RUN, LAB_STATE, type LabPlan } from './plan.js';
import { ip } from './run.js';

export interface Dockerd {
  readonly hostname: string;
  /** A name under /run/netns; there already. */
  readonly netns: string;
  /** Pid file, log, configuration and sockets of containerd. */
  readonly dir: string;
  readonly dataRoot: string;
  readonly socket: string;
  /** Further arguments of dockerd. */
  readonly flags: readonly string[];
}

/** In a host name of its own: nodes of a swarm are told apart by it. */
const NAMED = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"';

const pidFile = ({ dir }: Dockerd): string => path.join(dir, 'dockerd.pid');
const configFile = ({ dir }: Dockerd): string => path.join(dir, 'daemon.json');

/** Resolves when its API answers. Also after it was killed: its tasks' containers are then under containerd still. */
export async function startDockerd(engine: Dockerd, startTimeoutMs = 30_000): Promise<void> {
  const { dir, dataRoot, netns, hostname, socket, flags } = engine;
  mkdirSync(dir, { recursive: true });
  mkdirSync(dataRoot, { recursive: true });
  await writeFile(configFile(engine), '{}\n', { flag: 'wx' }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
  // Pid files of processes that were killed would stop a new dockerd, or make it wait for a containerd that is gone.
  for (const [file, program] of [[pidFile(engine), 'dockerd'], [path.join(dir, 'exec/containerd/containerd.pid'), 'containerd']] as const) {
    if (!await pidFileHolds(file, program)) await rm(file, { force: true });
  }
  const log = openSync(path.join(dir, 'dockerd.log'), 'a');
  const child = spawn('nsenter', [`--net=/run/netns/${netns}`, 'unshare', '--uts', 'sh', '-c', NAMED, hostname, 'dockerd',
    '--config-file', configFile(engine), '--data-root', dataRoot, '--exec-root', path.join(dir, 'exec'), '--pidfile', pidFile(engine),
    '-H', `unix://${socket}`, ...flags], { detached: true, stdio: ['ignore', log, log] });
  closeSync(log);
  child.unref();
  await until(`dockerd ${hostname}`, startTimeoutMs, async () => {
    await api(socket, 'GET', '/_ping');
    return true;
  });
}

/** Its process; 0 when it is not running. */
export async function dockerdPid(engine: Dockerd): Promise<number> {
  return await pidFileHolds(pidFile(engine), 'dockerd') ? Number((await readFile(pidFile(engine), 'utf8')).trim()) : 0;
}

/** SIGTERM; its containers end too, unless it was started with --live-restore. */
export async function stopDockerd(engine: Dockerd): Promise<void> {
  const pid = await dockerdPid(engine);
  if (pid > 0) {
    process.kill(pid, 'SIGTERM');
    await until('dockerd to end', 20_000, async () => (await dockerdPid(engine) > 0 ? undefined : true));
  }
  await rm(pidFile(engine), { force: true });
}

async function pidFileHolds(file: string, program: string): Promise<boolean> {
  const number = Number((await readFile(file, 'utf8').catch(() => '')).trim());
  return number > 0 && (await readFile(`/proc/${number}/cmdline`, 'utf8').catch(() => '')).includes(program);
}

/**
 * Ends what a killed dockerd left: containers under their shims, then containerd. Without its Engine nobody else would; a
 * new dockerd does not reliably take over. True when there is an Engine to ask instead.
 */
export async function endRemains(engine: Dockerd): Promise<boolean> {
  if (await dockerdPid(engine) > 0) return true;
  for (const { pid, args } of await processes()) {
    if (!args.some((arg) => arg.startsWith(`${engine.dir}/exec/`))) continue;
    const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
    const isShim = args[0]?.includes('containerd-shim') === true;
    for (const child of isShim ? children.trim().split(' ').filter((text) => text !== '') : []) endProcess(Number(child));
    endProcess(pid);
  }
  return false;
}

async function processes(): Promise<{ pid: number; args: string[] }[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  return Promise.all(pids.map(async (pid) => {
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    return { pid, args: line.split('\0') };
  }));
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // It ended by itself between the look and the kill.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** The Engine that runs the tasks of a lab with the docker runtime. */
export function labEngine(plan: LabPlan): Dockerd {
  const dir = path.join(LAB_RUN, plan.name, 'engine');
  return {
    hostname: 'engine', netns: `skein-${plan.name}-engine`, dir, dataRoot: path.join(LAB_STATE, plan.name, 'engine'),
    socket: plan.dockerSocket, flags: ['--bridge=none', '--iptables=false', '--live-restore'],
  };
}

export async function startEngine(plan: LabPlan): Promise<void> {
  const engine = labEngine(plan);
  mkdirSync(engine.dir, { recursive: true });
  if (!await netnsExists(engine.netns)) await ip('netns', 'add', engine.netns);
  await writeFile(configFile(engine), '{}\n');
  await installDockerRuntime({ daemonJson: configFile(engine), wrapperFile: path.join(engine.dir, 'skein-runc') });
  await startDockerd(engine);
}

export async function stopEngine(plan: LabPlan): Promise<void> {
  const engine = labEngine(plan);
  await stopDockerd(engine);
  if (await netnsExists(engine.netns)) await ip('netns', 'del', engine.netns);
}

export async function netnsExists(name: string): Promise<boolean> {
  return (await ip('netns', 'list')).split('\n').some((line) => line.split(' ')[0] === name);
}
