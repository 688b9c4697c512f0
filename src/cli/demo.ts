// `npm run demo`: a swarm of one manager and two workers, an overlay network, a service of three replicas published
// on 8080, and what a user would look at. With --once every statement is checked and everything is removed.

import path from 'node:path';
import { unwrap } from '../lib/result.js';
import { api, until } from '../lab/dockerapi.js';
import { labDown, labUp, loadPlan } from '../lab/lab.js';
import type { LabPlan } from '../lab/plan.js';
import { inNamespace, run } from '../lab/run.js';

const NAME = 'demo';
const PORT = 8080;
const REPLICAS = 3;
const WHOAMI = path.resolve(import.meta.dirname, '../lab/whoami.js');

interface Answer {
  readonly hostname: string;
  readonly task: string;
  readonly node: string;
  readonly client: string;
}
interface TaskJson {
  readonly ID: string;
  readonly Slot: number;
  readonly NodeID: string;
  readonly Status: { readonly State: string; readonly Err?: string };
}
interface NodeJson {
  readonly ID: string;
  readonly Description: { readonly Hostname: string };
  readonly Status: { readonly State: string; readonly Addr: string };
  readonly Spec: { readonly Role: string };
}

export async function demo(once: boolean): Promise<number> {
  const startedMs = Date.now();
  const problems: string[] = [];
  const expect = (good: boolean, what: string): void => {
    if (!good) problems.push(what);
  };
  if (await loadPlan(NAME) !== undefined) {
    console.log('demo: removing the demo that is there');
    unwrap(await labDown(NAME));
  }
  try {
    const plan = unwrap(await labUp({ name: NAME, managers: 1, workers: 2, engine: 'auto', runtime: 'auto' }, (line) => console.log(`demo: ${line}`)));
    await show(plan, expect);
    console.log(`\nUp and checked in ${((Date.now() - startedMs) / 1000).toFixed(1)} s.`);
    if (!once) howTo(plan);
  } catch (error) {
    if (!once) throw error;
    problems.push(error instanceof Error ? error.message : String(error));
  } finally {
    if (once) unwrap(await labDown(NAME));
  }
  for (const problem of problems) console.error(`demo: WRONG: ${problem}`);
  if (once && problems.length === 0) console.log('demo: everything holds; all of it was removed');
  return problems.length === 0 ? 0 : 1;
}

async function show(plan: LabPlan, expect: (good: boolean, what: string) => void): Promise<void> {
  const socket = (plan.nodes[0] as LabPlan['nodes'][0]).socket;
  const nodes = await api<NodeJson[]>(socket, 'GET', '/v1.50/nodes');
  console.log('\nNodes');
  for (const node of nodes) console.log(`  ${node.Description.Hostname.padEnd(4)} ${node.Spec.Role.padEnd(8)} ${node.Status.State.padEnd(6)} ${node.Status.Addr}`);
  expect(nodes.length === plan.nodes.length && nodes.every((node) => node.Status.State === 'ready'), 'not every node is ready');

  const tasks = await createService(socket);
  console.log(`\nTasks of service web (${REPLICAS} replicas on the workers, published on ${PORT})`);
  const hostname = new Map(nodes.map((node) => [node.ID, node.Description.Hostname]));
  for (const task of tasks) console.log(`  web.${task.Slot}  ${task.Status.State}  on ${hostname.get(task.NodeID) ?? task.NodeID}`);
  expect(tasks.length === REPLICAS, `${tasks.length} of ${REPLICAS} tasks run`);
  expect(tasks.every((task) => hostname.get(task.NodeID) !== 'm1'), 'a task runs on the manager in spite of the constraint');

  console.log(`\nPort ${PORT} of every node, asked from ${plan.clientAddress}`);
  for (const node of plan.nodes) {
    const answer = await ask(plan.clientNetns, node.address);
    const has = tasks.some((task) => hostname.get(task.NodeID) === node.name);
    console.log(`  ${node.name} (${has ? 'has tasks' : 'has no task'}): ${answer.task} on ${answer.node} answered; it saw client ${answer.client}`);
    expect(answer.client === plan.clientAddress, `${node.name}: the service saw ${answer.client} instead of the client's address ${plan.clientAddress}`);
  }
  for (const node of plan.nodes) {
    const local = await ask(node.netns, '127.0.0.1');
    expect(local.task !== '', `${node.name}: 127.0.0.1:${PORT} gave no answer`);
  }
  const seen = new Set<string>();
  for (let i = 0; i < 2 * REPLICAS; i++) seen.add((await ask(plan.clientNetns, (plan.nodes[0] as { address: string }).address)).task);
  console.log(`  ${2 * REPLICAS} requests to one node reached ${seen.size} different tasks`);
  expect(seen.size === REPLICAS, `requests reached ${seen.size} of ${REPLICAS} tasks`);
  await lookUp(plan, socket, tasks, hostname, expect);
}

async function createService(socket: string): Promise<TaskJson[]> {
  await api(socket, 'POST', '/v1.50/networks/create', { Name: 'demo-net', Driver: 'overlay', CheckDuplicate: true });
  await api(socket, 'POST', '/v1.50/services/create', {
    Name: 'web',
    TaskTemplate: {
      ContainerSpec: {
        // The pseudo image hides /root and /tmp, where this may have been cloned to: what is run comes by bind mounts (.mjs: no package.json tells there that it is a module).
        Image: 'host', Command: ['/mnt/node', '/mnt/whoami.mjs'],
        Mounts: [{ Type: 'bind', Source: process.execPath, Target: '/mnt/node', ReadOnly: true }, { Type: 'bind', Source: WHOAMI, Target: '/mnt/whoami.mjs', ReadOnly: true }],
        Env: ['PORT=80', 'TASK={{.Service.Name}}.{{.Task.Slot}}', 'NODE={{.Node.Hostname}}'],
      },
      Networks: [{ Target: 'demo-net' }],
      Placement: { Constraints: ['node.role==worker'] },
    },
    Mode: { Replicated: { Replicas: REPLICAS } },
    EndpointSpec: { Ports: [{ Protocol: 'tcp', TargetPort: 80, PublishedPort: PORT, PublishMode: 'ingress' }] },
  });
  const filters = encodeURIComponent(JSON.stringify({ service: { web: true }, 'desired-state': { running: true } }));
  return until('the service to run', 30_000, async () => {
    const tasks = await api<TaskJson[]>(socket, 'GET', `/v1.50/tasks?filters=${filters}`);
    const failed = tasks.find((task) => task.Status.Err !== undefined && task.Status.Err !== '');
    if (failed !== undefined && failed.Status.State !== 'running') throw new Error(`task ${failed.Slot}: ${failed.Status.State}: ${failed.Status.Err}`);
    return tasks.filter((task) => task.Status.State === 'running').length === REPLICAS ? tasks.sort((a, b) => a.Slot - b.Slot) : undefined;
  });
}

/** An HTTP request from inside a namespace; a few tries, for the tables of a port just published to arrive. */
async function ask(netns: string, address: string): Promise<Answer> {
  return until(`http://${address}:${PORT}`, 5000, async () =>
    JSON.parse(await inNamespace(netns, 'curl', ['-sS', '--max-time', '2', `http://${address}:${PORT}/`])) as Answer);
}

async function lookUp(plan: LabPlan, socket: string, tasks: readonly TaskJson[], hostname: ReadonlyMap<string, string>, expect: (good: boolean, what: string) => void): Promise<void> {
  const task = tasks[0] as TaskJson;
  const node = plan.nodes.find((n) => n.name === hostname.get(task.NodeID)) as LabPlan['nodes'][0];
  const script = "const d=require('dns');d.setServers(['127.0.0.11']);Promise.all(['web','tasks.web'].map(n=>d.promises.resolve4(n))).then(r=>console.log(JSON.stringify(r)))";
  const netns = path.join(node.runDir, 'netns', task.ID);
  const [vip, all] = JSON.parse(await run('nsenter', [`--net=${netns}`, process.execPath, '-e', script])) as [string[], string[]];
  const service = await api<{ Endpoint: { VirtualIPs?: { Addr: string }[] } }>(socket, 'GET', '/v1.50/services/web');
  const wanted = service.Endpoint.VirtualIPs?.map((v) => v.Addr.split('/')[0]) ?? [];
  console.log(`\nDNS inside task web.${task.Slot}\n  web        ${vip.join(' ')}\n  tasks.web  ${all.sort().join(' ')}`);
  expect(vip.length === 1 && wanted.includes(vip[0]), `web resolves to ${vip.join(' ')}, not to the service's address ${wanted.join(' ')}`);
  expect(all.length === REPLICAS, `tasks.web resolves to ${all.length} addresses instead of ${REPLICAS}`);
}

function howTo(plan: LabPlan): void {
  const socket = (plan.nodes[0] as LabPlan['nodes'][0]).socket;
  console.log(`
The swarm goes on running. Point the docker CLI at it:
  export DOCKER_HOST=unix://${socket}
  docker node ls
  docker service ps web
  docker service scale web=6
Ask it from outside:    npm run -s skein -- lab exec --name ${NAME} client -- curl -s http://${plan.nodes[0]?.address}:${PORT}/
Stop and remove it:     npm run -s skein -- lab down --name ${NAME}`);
}
