// Endpoint changes of the Docker Swarm in the control bench: a service loses a task on an overlay network; when do the DNS
// of all nodes no longer know its address, as a container there sees it, and when is the task told to end.

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { promisify } from 'node:util';
import type { Answered } from './dnswatch.js';
import type { DockerNode } from './dockernode.js';

export interface EndpointChange {
  /** Until the last node's DNS no longer had it. */
  readonly goneMs: number;
  /** Until its task was sent SIGTERM: Docker waits, for nobody acknowledges. */
  readonly toldMs: number;
}

const SOURCE = path.resolve(import.meta.dirname, '../../../bench/peers/task.c');
const WATCH = path.resolve(import.meta.dirname, 'dnswatch.js');
const IMAGE = 'task';
const TAG = '1';
const NETWORK = 'endpoints';
const SERVICE = 'endpoints';
const WATCHER = 'watch';
const SECOND_NS = 1e9;
const REPLICAS = 6;

const run = promisify(execFile);
const now = (): number => performance.timeOrigin + performance.now();

interface ServiceJson {
  readonly ID: string;
  readonly Version: { readonly Index: number };
  readonly Spec: object;
}

export class DockerEndpoints {
  private readonly nodes: readonly DockerNode[];
  private readonly answers: Answered[][];
  private readonly watchers: ChildProcess[] = [];
  private readonly streams: http.ClientRequest[] = [];
  private toldAt: number[] = [];

  constructor(nodes: readonly DockerNode[]) {
    this.nodes = nodes;
    this.answers = nodes.map(() => []);
  }

  async measure(samples: number, directory: string): Promise<EndpointChange[]> {
    try {
      await this.start(directory);
      const changes: EndpointChange[] = [];
      for (let i = 0; i < samples; i++) changes.push(await this.change());
      return changes;
    } finally {
      await this.end();
    }
  }

  private get first(): DockerNode {
    return this.nodes[0] as DockerNode;
  }

  private async start(directory: string): Promise<void> {
    const root = path.join(directory, 'image');
    await mkdir(root);
    await run('gcc', ['-static', '-O2', '-o', path.join(root, 'task'), SOURCE]);
    await run('tar', ['-C', root, '-cf', `${root}.tar`, '.']);
    for (const node of this.nodes) await importImage(node, `${root}.tar`);
    await this.first.api('POST', '/networks/create', { Name: NETWORK, Driver: 'overlay' });
    await this.make(WATCHER, { Global: {} });
    await this.make(SERVICE, { Replicated: { Replicas: REPLICAS } });
    for (const [i, node] of this.nodes.entries()) {
      const pid = await node.until('a container to look from', () => containerPid(node));
      this.watch(i, pid);
      this.listen(node);
    }
    await this.settled();
  }

  private async make(name: string, mode: object): Promise<void> {
    await this.first.api('POST', '/services/create', {
      Name: name, Mode: mode, EndpointSpec: { Mode: 'dnsrr' },
      TaskTemplate: {
        ContainerSpec: { Image: `${IMAGE}:${TAG}`, Command: ['/task'], StopGracePeriod: SECOND_NS }, Networks: [{ Target: NETWORK }],
      },
    });
  }

  private watch(i: number, pid: number): void {
    const args = ['--pdeathsig', 'KILL', 'nsenter', `--net=/proc/${pid}/ns/net`, process.execPath, WATCH, `tasks.${SERVICE}`];
    const child = spawn('setpriv', args, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    child.on('message', (answer: Answered) => this.answers[i]?.push(answer));
    this.watchers.push(child);
  }

  private listen(node: DockerNode): void {
    const filters = encodeURIComponent(JSON.stringify({ type: ['container'], event: ['kill'] }));
    const request = http.get({ socketPath: node.socket, path: `/events?filters=${filters}` }, (response) => {
      response.on('data', () => this.toldAt.push(now()));
      // It ends when the node does, or the bench with it.
      response.on('error', () => undefined);
    });
    request.on('error', () => undefined);
    this.streams.push(request);
  }

  /** Until the DNS of every node has so many. */
  private async all(addresses: number): Promise<void> {
    await this.first.until(`${addresses} addresses in the DNS of every node`, async () =>
      (this.answers.every((of) => of.at(-1)?.addresses === addresses) ? true : undefined));
  }

  /** As many as there shall be, and known to the managers as running: of others they would take one away first. */
  private async settled(): Promise<void> {
    await this.all(REPLICAS);
    const filters = encodeURIComponent(JSON.stringify({ service: { [SERVICE]: true }, 'desired-state': { running: true } }));
    await this.first.until('all tasks to run', async () => {
      const tasks = await this.first.attempt<{ Status: { State: string } }[]>('GET', `/tasks?filters=${filters}`);
      return tasks?.filter(({ Status }) => Status.State === 'running').length === REPLICAS ? true : undefined;
    });
  }

  private async change(): Promise<EndpointChange> {
    this.toldAt = [];
    for (const of of this.answers) of.splice(0, of.length - 1);
    const from = now();
    await this.scale(REPLICAS - 1);
    await this.all(REPLICAS - 1);
    const goneMs = Math.max(...this.answers.map((of) => (of.at(-1) as Answered).at)) - from;
    await this.first.until('the task to be told to end', async () => (this.toldAt.length > 0 ? true : undefined));
    const toldMs = (this.toldAt[0] as number) - from;
    await this.scale(REPLICAS);
    await this.settled();
    return { goneMs, toldMs };
  }

  private async scale(replicas: number): Promise<void> {
    const { ID, Version, Spec } = await this.first.api<ServiceJson>('GET', `/services/${SERVICE}`);
    const next = { ...Spec, Mode: { Replicated: { Replicas: replicas } } };
    await this.first.api('POST', `/services/${ID}/update?version=${Version.Index}`, next);
  }

  private async end(): Promise<void> {
    for (const stream of this.streams) stream.destroy();
    await Promise.all(this.watchers.map(async (watcher) => {
      if (watcher.exitCode !== null || watcher.signalCode !== null) return;
      const ended = new Promise((resolve) => watcher.once('exit', resolve));
      watcher.kill('SIGKILL');
      await ended;
    }));
    for (const service of [SERVICE, WATCHER]) await this.first.attempt('DELETE', `/services/${service}`);
    for (const node of this.nodes) {
      const containers = (): Promise<unknown[] | undefined> => node.attempt('GET', '/containers/json');
      await node.until('no container', async () => ((await containers())?.length === 0 ? true : undefined));
    }
  }
}

/** Of the container of the watching service, as this process knows it. */
async function containerPid(node: DockerNode): Promise<number | undefined> {
  const filters = encodeURIComponent(JSON.stringify({ label: { [`com.docker.swarm.service.name=${WATCHER}`]: true } }));
  const id = (await node.attempt<{ Id: string }[]>('GET', `/containers/json?filters=${filters}`))?.[0]?.Id;
  if (id === undefined) return undefined;
  const inner = (await node.attempt<{ State: { Pid: number } }>('GET', `/containers/${id}/json`))?.State.Pid ?? 0;
  return inner === 0 ? undefined : node.hostPid(inner);
}

async function importImage(node: DockerNode, tar: string): Promise<void> {
  const target = { socketPath: node.socket, method: 'POST', path: `/images/create?fromSrc=-&repo=${IMAGE}&tag=${TAG}` };
  await new Promise<void>((resolve, reject) => {
    const request = http.request({ ...target, headers: { 'content-type': 'application/x-tar' } }, (response) => {
      response.resume();
      response.on('error', reject);
      response.on('end', () => (response.statusCode === 200 ? resolve() : reject(new Error(`the image: ${response.statusCode}`))));
    });
    request.on('error', reject);
    createReadStream(tar).on('error', reject).pipe(request);
  });
}
