// The lab: a whole swarm on one machine, one network namespace a node. up() plans, records the plan, builds, starts
// the agents and forms the swarm through the Docker API, as a user would. Whatever went wrong before is cleaned first.

import { spawn } from 'node:child_process';
import { closeSync, existsSync, openSync } from 'node:fs';
import { mkdir, readFile, writeFile, rename } from 'node:fs/promises';
import path from 'node:path';
import { fail, ok, type Result } from '../lib/result.js';
import { startTime } from '../daemon/agent.js';
import { api, until } from './dockerapi.js';
import { startEngine } from './engine.js';
import { LAB_RUN, LAB_STATE, planFile, planLab, type LabNode, type LabPlan, type LabRequest } from './plan.js';
import { agentPid, datapathPid, labNames, tearDown } from './teardown.js';
import { buildUnderlay } from './underlay.js';

export interface NodeInfo {
  readonly name: string;
  readonly role: 'manager' | 'worker';
  readonly netns: string;
  readonly address: string;
  readonly socket: string;
  readonly stateDir: string;
  readonly agentPid: number;
  readonly datapathPid: number;
}

export type Progress = (line: string) => void;

const MAIN = path.resolve(import.meta.dirname, '../main.js');
const AGENT_TIMEOUT_MS = 30_000;

export async function loadPlan(name: string): Promise<LabPlan | undefined> {
  const text = await readFile(planFile(name), 'utf8').catch(() => undefined);
  return text === undefined ? undefined : JSON.parse(text) as LabPlan;
}

export async function labUp(request: LabRequest, progress: Progress): Promise<Result<LabPlan>> {
  const planned = planLab(request);
  if (!planned.ok) return planned;
  const plan = planned.value;
  const old = await loadPlan(plan.name);
  if (old !== undefined) {
    if (await isBeingMade(old)) return fail('already_exists', `lab "${plan.name}" is being made by process ${old.builder?.pid}`);
    if (old.builder === undefined && (await Promise.all(old.nodes.map(agentPid))).every((pid) => pid > 0)) {
      return fail('already_exists', `lab "${plan.name}" is up: stop it first with "skein lab down --name ${plan.name}"`);
    }
    progress(`cleaning up what an earlier lab "${plan.name}" left behind`);
    await tearDown(old);
  } else if (existsSync(path.join(LAB_STATE, plan.name))) {
    // The plan is gone with /run, the state is not: the machine was restarted.
    progress(`cleaning up what a lab "${plan.name}" left behind before the machine was restarted`);
    await tearDown(plan);
  }
  await mkdir(LAB_RUN, { recursive: true });
  await savePlan({ ...plan, builder: { pid: process.pid, start: await startTime(process.pid) ?? '' } });
  progress(`making ${plan.nodes.length} network namespaces`);
  await buildUnderlay(plan);
  if (plan.runtime === 'docker') {
    progress('starting a Docker Engine for the tasks');
    await startEngine(plan);
  }
  progress('starting the agents');
  await Promise.all(plan.nodes.map((node) => startAgent(plan, node)));
  progress('forming the swarm');
  await formSwarm(plan);
  await savePlan(plan);
  return ok(plan);
}

async function savePlan(plan: LabPlan): Promise<void> {
  await writeFile(`${planFile(plan.name)}.tmp`, JSON.stringify(plan, undefined, 2));
  await rename(`${planFile(plan.name)}.tmp`, planFile(plan.name));
}

/** Another process is at it right now. */
async function isBeingMade({ builder }: LabPlan): Promise<boolean> {
  return builder !== undefined && builder.pid !== process.pid && await startTime(builder.pid) === builder.start;
}

export async function labDown(name: string): Promise<Result<void>> {
  const plan = await loadPlan(name);
  if (plan === undefined) {
    const known = await labNames();
    return fail('not_found', `no lab "${name}"${known.length === 0 ? '' : ` (there is: ${known.join(', ')})`}`);
  }
  if (await isBeingMade(plan)) return fail('failed_precondition', `lab "${name}" is being made by process ${plan.builder?.pid}: stop that first`);
  await tearDown(plan);
  return ok(undefined);
}

export async function labList(name: string): Promise<NodeInfo[]> {
  const plan = await loadPlan(name);
  return plan === undefined ? [] : Promise.all(plan.nodes.map(nodeInfo));
}

export async function nodeInfo(node: LabNode): Promise<NodeInfo> {
  const { name, role, netns, address, socket, stateDir } = node;
  return { name, role, netns, address, socket, stateDir, agentPid: await agentPid(node), datapathPid: await datapathPid(node) };
}

/** Starts a node's agent in its namespace and waits until its API answers. Also after it was killed. */
export async function startAgent(plan: LabPlan, node: LabNode): Promise<void> {
  await mkdir(node.stateDir, { recursive: true, mode: 0o700 });
  await mkdir(node.runDir, { recursive: true, mode: 0o711 });
  const log = openSync(path.join(node.runDir, 'agent.log'), 'a');
  const args = [`--net=/run/netns/${node.netns}`, process.execPath, MAIN, 'agent',
    '--hostname', node.name, '--state-dir', node.stateDir, '--run-dir', node.runDir, '--socket', node.socket,
    '--advertise-addr', node.address, '--engine', plan.engine, '--runtime', plan.runtime, '--docker-socket', plan.dockerSocket];
  const child = spawn('nsenter', args, { detached: true, stdio: ['ignore', log, log], cwd: '/' });
  closeSync(log);
  let exited: string | undefined;
  child.on('exit', (code, signal) => {
    exited = `exit ${code ?? signal}`;
  });
  child.unref();
  await until(`agent of ${node.name}`, AGENT_TIMEOUT_MS, async () => {
    if (exited !== undefined) {
      const tail = (await readFile(path.join(node.runDir, 'agent.log'), 'utf8')).trim().split('\n').slice(-5).join('\n');
      throw Object.assign(new Error(`agent of ${node.name} ended (${exited}):\n${tail}`), { fatal: true });
    }
    await api(node.socket, 'GET', '/_ping');
    return true;
  });
}

async function formSwarm(plan: LabPlan): Promise<void> {
  const [first, ...others] = plan.nodes as [LabNode, ...LabNode[]];
  await api(first.socket, 'POST', '/v1.50/swarm/init', { ListenAddr: '0.0.0.0:2377', AdvertiseAddr: first.address, SubnetSize: 24, Spec: {} });
  const swarm = await api<{ JoinTokens: { Worker: string; Manager: string } }>(first.socket, 'GET', '/v1.50/swarm');
  await Promise.all(others.map((node) => api(node.socket, 'POST', '/v1.50/swarm/join', {
    ListenAddr: '0.0.0.0:2377', AdvertiseAddr: node.address, RemoteAddrs: [`${first.address}:2377`],
    JoinToken: node.role === 'manager' ? swarm.JoinTokens.Manager : swarm.JoinTokens.Worker,
  })));
  await until('all nodes to be ready', 20_000, async () => {
    const nodes = await api<{ Status: { State: string } }[]>(first.socket, 'GET', '/v1.50/nodes');
    return nodes.length === plan.nodes.length && nodes.every((node) => node.Status.State === 'ready') ? true : undefined;
  });
}

/** Runs a command in a node's (or the client's) namespace with the docker CLI pointed at the node; resolves with its exit code. */
export async function labExec(name: string, nodeName: string, command: readonly string[]): Promise<Result<number>> {
  const plan = await loadPlan(name);
  if (plan === undefined) return fail('not_found', `no lab "${name}"`);
  const node = plan.nodes.find((n) => n.name === nodeName);
  const netns = nodeName === 'client' ? plan.clientNetns : node?.netns;
  if (netns === undefined) {
    return fail('not_found', `no node "${nodeName}" in lab "${name}" (there is: ${[...plan.nodes.map((n) => n.name), 'client'].join(', ')})`);
  }
  const child = spawn('nsenter', [`--net=/run/netns/${netns}`, ...command], {
    stdio: 'inherit', env: { ...process.env, ...(node === undefined ? {} : { DOCKER_HOST: `unix://${node.socket}` }) },
  });
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (exit, signal) => resolve(exit ?? (signal === null ? 1 : 128)));
  });
  return ok(code);
}

