// A Docker Engine for labs with the docker runtime: one dockerd in a namespace of its own, with our runtime wrapper
// registered, shared by all nodes of the lab (each node sees only its own containers).

import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
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
  await ip('netns', 'add', engineNetns(plan));
  await writeFile(config, '{}\n');
  await installDockerRuntime({ daemonJson: config, wrapperFile: path.join(dir, 'skein-runc') });
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

export async function stopEngine(plan: LabPlan): Promise<void> {
  const { pid } = paths(plan);
  const number = Number((await readFile(pid, 'utf8').catch(() => '')).trim());
  const alive = async (): Promise<boolean> => (await readFile(`/proc/${number}/cmdline`, 'utf8').catch(() => '')).includes('dockerd');
  if (number > 0 && await alive()) {
    process.kill(number, 'SIGTERM');
    await until('dockerd to end', 20_000, async () => (await alive() ? undefined : true));
  }
  await rm(pid, { force: true });
  const known = (await ip('netns', 'list')).split('\n').map((line) => line.split(' ')[0]);
  if (known.includes(engineNetns(plan))) await ip('netns', 'del', engineNetns(plan));
}
