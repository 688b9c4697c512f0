// A Docker Engine for labs with the docker runtime: one dockerd in a namespace of its own, with our runtime wrapper
// registered, shared by all nodes of the lab (each node sees only its own containers).

import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { readFile, readdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { installDockerRuntime } from '../io/docker/wrapper.js';
import { api, until } from './dockerapi.js';
import { LAB_RUN, LAB_STATE, type LabPlan } from './plan.js';
import { ip } from './run.js';

function engineNetns(plan: LabPlan): string {
  return `skein-${plan.name}-engine`;
}

function paths(plan: LabPlan): { dir: string; data: string; pid: string; config: string } {
  const dir = path.join(LAB_RUN, plan.name, 'engine');
  return { dir, data: path.join(LAB_STATE, plan.name, 'engine'), pid: path.join(dir, 'dockerd.pid'), config: path.join(dir, 'daemon.json') };
}

export async function startEngine(plan: LabPlan): Promise<void> {
  const { dir, data, pid, config } = paths(plan);
  mkdirSync(dir, { recursive: true });
  mkdirSync(data, { recursive: true });
  if (!await netnsExists(plan)) await ip('netns', 'add', engineNetns(plan));
  await writeFile(config, '{}\n');
  await installDockerRuntime({ daemonJson: config, wrapperFile: path.join(dir, 'skein-runc') });
  // Pid files of processes that were killed would stop a new dockerd, or make it wait for a containerd that is gone.
  for (const [file, program] of [[pid, 'dockerd'], [path.join(dir, 'exec/containerd/containerd.pid'), 'containerd']] as const) {
    if (!await pidFileHolds(file, program)) await rm(file, { force: true });
  }
  const log = openSync(path.join(dir, 'dockerd.log'), 'a');
  const child = spawn('nsenter', [`--net=/run/netns/${engineNetns(plan)}`, 'dockerd', '--config-file', config, '--data-root', data,
    '--exec-root', path.join(dir, 'exec'), '--pidfile', pid, '-H', `unix://${plan.dockerSocket}`, '--bridge=none', '--iptables=false',
    '--live-restore'], { detached: true, stdio: ['ignore', log, log] });
  closeSync(log);
  child.unref();
  await until('dockerd', 30_000, async () => {
    await api(plan.dockerSocket, 'GET', '/_ping');
    return true;
  });
}

async function netnsExists(plan: LabPlan): Promise<boolean> {
  return (await ip('netns', 'list')).split('\n').some((line) => line.split(' ')[0] === engineNetns(plan));
}

async function pidFileHolds(file: string, program: string): Promise<boolean> {
  const number = Number((await readFile(file, 'utf8').catch(() => '')).trim());
  return number > 0 && (await readFile(`/proc/${number}/cmdline`, 'utf8').catch(() => '')).includes(program);
}

function isRunning(plan: LabPlan): Promise<boolean> {
  return pidFileHolds(paths(plan).pid, 'dockerd');
}

/**
 * Ends what a killed dockerd left of a lab: containers under their shims, then containerd. Without its Engine nobody
 * else would; a new dockerd does not reliably take over. True when there was an Engine to ask instead.
 */
export async function endRemains(plan: LabPlan): Promise<boolean> {
  if (await isRunning(plan)) return true;
  const { dir } = paths(plan);
  for (const { pid, args } of await processes()) {
    if (!args.some((arg) => arg.startsWith(`${dir}/exec/`))) continue;
    const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
    const isShim = args[0]?.includes('containerd-shim') === true;
    for (const child of isShim ? children.trim().split(' ').filter((text) => text !== '') : []) endProcess(Number(child));
    endProcess(pid);
  }
  return false;
}

async function processes(): Promise<{ pid: number; args: string[] }[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  return Promise.all(pids.map(async (pid) => ({ pid, args: (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0') })));
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // It ended by itself between the look and the kill.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

export async function stopEngine(plan: LabPlan): Promise<void> {
  const { pid } = paths(plan);
  if (await isRunning(plan)) {
    process.kill(Number((await readFile(pid, 'utf8')).trim()), 'SIGTERM');
    await until('dockerd to end', 20_000, async () => (await isRunning(plan) ? undefined : true));
  }
  await rm(pid, { force: true });
  if (await netnsExists(plan)) await ip('netns', 'del', engineNetns(plan));
}
