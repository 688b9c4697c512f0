// The world of the overlay bench: a lab with two workers and a task on each, and beside it, on the same wire, two plain
// hosts that are both the veth peer and, with kernel VXLAN and bridges, the VXLAN peer. Nothing filters on the peers.

import path from 'node:path';
import { api, until } from '../src/lab/dockerapi.js';
import { labDown, labUp, loadPlan } from '../src/lab/lab.js';
import type { LabNode, LabPlan } from '../src/lab/plan.js';
import { inNamespace, ip } from '../src/lab/run.js';
import { datapathPid, labNames } from '../src/lab/teardown.js';
import { unwrap } from '../src/lib/result.js';
import type { Path } from './netload.js';

const PREFIX = 'bench';
const INNER_MTU = '1450';
const WIRE_MTU = 1500;
const SIDES = [1, 2] as const;

interface TaskJson {
  readonly ID: string;
  readonly Status: { readonly State: string; readonly Err?: string };
  readonly NetworksAttachments?: readonly { readonly Network: { readonly Spec: { readonly Name: string } }; readonly Addresses: readonly string[] }[];
}

/** One name per process, so that benches run side by side and a killed one can be told from a living one. */
export function worldName(pid: number): string {
  return `${PREFIX}${pid}`;
}

/** Removes what benches left that were killed. */
export async function removeDead(): Promise<void> {
  for (const name of await labNames()) {
    const pid = /^bench(\d+)$/.exec(name)?.[1];
    if (pid !== undefined && !isAlive(Number(pid))) await removeWorld(name);
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

export async function removeWorld(name: string): Promise<void> {
  const known = (await ip('netns', 'list')).split('\n').map((line) => line.split(' ')[0] ?? '');
  for (const netns of known.filter((n) => n.startsWith(`skein-${name}-peer`))) await ip('netns', 'del', netns);
  if (await loadPlan(name) !== undefined) unwrap(await labDown(name));
}

export async function makeWorld(name: string, wire: boolean, progress: (line: string) => void): Promise<Path[]> {
  const plan = unwrap(await labUp({ name, managers: 1, workers: 2, engine: 'userspace', runtime: 'oci' }, progress));
  progress('making the peers');
  for (const side of SIDES) await makePeer(plan, side);
  progress('starting a task on each worker');
  const skein = await makeTasks(plan);
  const uplinks = [...SIDES.map((side) => peer(plan, 'peer', side)), ...plan.nodes.map((node) => node.netns)];
  // No super-packet leaves: the kernel cuts everything to the MTU above the device, as for a card without offloads. By
  // size too: what a TAP hands in has no count of segments until it is cut.
  if (wire) for (const netns of uplinks) await inNamespace(netns, 'ip', ['link', 'set', 'eth0', 'gso_max_size', String(WIRE_MTU + 15), 'gso_max_segs', '1']);
  return [
    { name: 'veth', client: file(peer(plan, 'peer', 1)), server: file(peer(plan, 'peer', 2)), address: outer(2), carriers: [] },
    { name: 'vxlan', client: file(peer(plan, 'peertask', 1)), server: file(peer(plan, 'peertask', 2)), address: inner(2), carriers: [] },
    skein,
  ];
}

function peer(plan: LabPlan, role: 'peer' | 'peertask', side: number): string {
  return `skein-${plan.name}-${role}${side}`;
}

function file(netns: string): string {
  return `/run/netns/${netns}`;
}

function outer(side: number): string {
  return `192.168.99.${200 + side}`;
}

function inner(side: number): string {
  return `10.199.0.${side}`;
}

async function makePeer(plan: LabPlan, side: 1 | 2): Promise<void> {
  const [host, task] = [peer(plan, 'peer', side), peer(plan, 'peertask', side)];
  await ip('netns', 'add', host);
  await ip('netns', 'add', task);
  const on = (netns: string, args: string): Promise<string> => inNamespace(netns, 'ip', args.split(' '));
  // Where br_netfilter is loaded, new namespaces begin with it on.
  await inNamespace(host, 'sysctl', ['-e', '-qw', 'net.bridge.bridge-nf-call-iptables=0', 'net.bridge.bridge-nf-call-ip6tables=0', 'net.bridge.bridge-nf-call-arptables=0']);
  await on(plan.switchNetns, `link add v-peer${side} type veth peer name eth0 netns ${file(host)}`);
  await on(plan.switchNetns, `link set v-peer${side} master br0 up`);
  await on(host, `addr add ${outer(side)}/24 dev eth0`);
  for (const device of ['lo', 'eth0']) await on(host, `link set ${device} up`);
  await on(host, 'link add br0 type bridge forward_delay 0');
  await on(host, `link add vx0 type vxlan id 4097 dstport 4789 local ${outer(side)} remote ${outer(3 - side)}`);
  await on(host, `link set vx0 mtu ${INNER_MTU} master br0 up`);
  await on(host, `link add v0 mtu ${INNER_MTU} type veth peer name eth0 mtu ${INNER_MTU} netns ${file(task)}`);
  await on(host, 'link set v0 master br0 up');
  await on(host, 'link set br0 up');
  await on(task, `addr add ${inner(side)}/24 dev eth0`);
  for (const device of ['lo', 'eth0']) await on(task, `link set ${device} up`);
}

async function makeTasks(plan: LabPlan): Promise<Path> {
  const [manager, ...workers] = plan.nodes as [LabNode, LabNode, LabNode];
  await api(manager.socket, 'POST', '/v1.50/networks/create', { Name: 'bench', Driver: 'overlay', CheckDuplicate: true });
  const tasks = await Promise.all(workers.map(async (node) => {
    const name = `bench-${node.name}`;
    await api(manager.socket, 'POST', '/v1.50/services/create', {
      Name: name,
      TaskTemplate: {
        ContainerSpec: { Image: 'host', Command: ['sleep', 'infinity'], StopGracePeriod: 0 },
        Networks: [{ Target: 'bench' }], Placement: { Constraints: [`node.hostname==${node.name}`] },
      },
      Mode: { Replicated: { Replicas: 1 } },
    });
    const filters = encodeURIComponent(JSON.stringify({ service: { [name]: true }, 'desired-state': { running: true } }));
    return until(`the task on ${node.name}`, 30_000, async () =>
      (await api<TaskJson[]>(manager.socket, 'GET', `/v1.50/tasks?filters=${filters}`)).find((task) => task.Status.State === 'running'));
  }));
  const netns = (i: 0 | 1): string => path.join((workers[i] as LabNode).runDir, 'netns', (tasks[i] as TaskJson).ID);
  const address = tasks[1]?.NetworksAttachments?.find((a) => a.Network.Spec.Name === 'bench')?.Addresses[0]?.split('/')[0];
  if (address === undefined) throw new Error('the task has no address in the network "bench"');
  return { name: 'skein', client: netns(0), server: netns(1), address, carriers: await Promise.all(workers.map(datapathPid)) };
}
