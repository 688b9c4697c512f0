// Taking a lab away, whatever state it is in: also after SIGKILL of the lab, of agents or of data planes. Every error
// is gathered and told at the end; what can be removed is removed.

import { readFile, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { DockerExecutor } from '../io/docker/executor.js';
import { OciExecutor } from '../io/oci/executor.js';
import type { Executor } from '../platform/executor.js';
import { LAB_RUN, LAB_STATE, planFile, type LabNode, type LabPlan } from './plan.js';
import { run } from './run.js';
import { removeUnderlay } from './underlay.js';
import { endRemains, labEngine, stopEngine } from './engine.js';

const KILL_TIMEOUT_MS = 5000;

export async function tearDown(plan: LabPlan): Promise<void> {
  const errors: Error[] = [];
  const attempt = async (work: Promise<unknown>): Promise<void> => {
    try {
      await work;
    } catch (error) {
      errors.push(error instanceof Error ? error : new Error(String(error)));
    }
  };
  // Agents first: they start data planes. By their arguments, not by pid files: a lab that was killed on its way up has
  // agents that have not written theirs yet.
  await attempt(killBy('--state-dir', plan.nodes.map((node) => node.stateDir)));
  await attempt(killBy('--run-dir', plan.nodes.map((node) => node.runDir)));
  let engine = false;
  if (plan.runtime === 'docker') await attempt(endRemains(labEngine(plan)).then((running) => { engine = running; }));
  await Promise.all(plan.nodes.map(async (node) => {
    await attempt(removeTasks(plan, node, engine));
    await attempt(unmountAll(path.join(node.runDir, 'netns')));
    await attempt(unmountAll(node.stateDir));
  }));
  await attempt(stopEngine(plan));
  // A killed dockerd leaves its data root mounted on itself.
  await attempt(unmountAll(path.join(LAB_STATE, plan.name)));
  await attempt(unmountAll(path.join(LAB_RUN, plan.name)));
  await attempt(removeUnderlay(plan));
  if (errors.length === 0) {
    await attempt(rm(path.join(LAB_STATE, plan.name), { recursive: true, force: true }));
    await attempt(rm(path.join(LAB_RUN, plan.name), { recursive: true, force: true }));
    await attempt(rm(planFile(plan.name), { force: true }));
  }
  if (errors.length > 0) throw new AggregateError(errors, `lab ${plan.name} could not be removed completely: ${errors.map((e) => e.message).join('; ')}`);
}

export async function agentPid(node: LabNode): Promise<number> {
  return pidFrom(path.join(node.stateDir, 'agent.pid'), 'main.js');
}

export async function datapathPid(node: LabNode): Promise<number> {
  return pidFrom(path.join(node.runDir, 'datapath.pid'), 'skein-datapath');
}

/** The pid in a file, if that process still is what the file is about; else 0. */
async function pidFrom(file: string, program: string): Promise<number> {
  const text = await readFile(file, 'utf8').catch(() => '');
  const pid = Number(text.trim().split(' ')[0]);
  return pid > 0 && await isProgram(pid, program) ? pid : 0;
}

async function isProgram(pid: number, program: string): Promise<boolean> {
  const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  return command.includes(program);
}

/** Ends every process that has the option with one of the values, and waits until there is none. */
async function killBy(option: string, values: readonly string[]): Promise<void> {
  const deadline = Date.now() + KILL_TIMEOUT_MS;
  for (;;) {
    const found: number[] = [];
    for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)) {
      const args = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
      const at = args.indexOf(option);
      if (pid !== process.pid && at >= 0 && values.includes(args[at + 1] ?? '')) found.push(pid);
    }
    if (found.length === 0) return;
    if (Date.now() > deadline) throw new Error(`processes ${found.join(', ')} do not end`);
    for (const pid of found) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It ended by itself.
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function removeTasks(plan: LabPlan, node: LabNode, engine: boolean): Promise<void> {
  const executors: Executor[] = [new OciExecutor({ stateDir: node.stateDir })];
  if (engine) executors.push(new DockerExecutor({ stateDir: node.stateDir, socketPath: plan.dockerSocket }));
  for (const executor of executors) {
    for (const id of await executor.adopt()) await executor.controller(id).remove();
    await executor.close();
  }
}

/** Unmounts everything below a directory, deepest first. */
export async function unmountAll(directory: string): Promise<void> {
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n')
    .map((line) => line.split(' ')[1]?.replaceAll('\\040', ' ') ?? '')
    .filter((target) => target.startsWith(`${directory}/`));
  for (const target of mounts.reverse()) await run('umount', ['-l', target]);
}

export async function labNames(): Promise<string[]> {
  const files = await readdir(LAB_RUN).catch(() => [] as string[]);
  return files.filter((file) => file.endsWith('.json')).map((file) => file.slice(0, -'.json'.length)).sort();
}
