// Docker Swarm, a peer of the control bench: three managers of Debian's docker.io, each with namespaces of its own, on the
// same disk as ours. Everything is asked of it through its API, as a user would.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { apiLoad } from '../apiload.js';
import type { ApiGroup, LoadResult } from '../control.js';
import { cpuSeconds, residentMiB } from '../processes.js';
import { DockerEndpoints, type EndpointChange } from './dockerendpoints.js';
import { DockerNode, makeBridge } from './dockernode.js';
import { longestGap } from './etcd.js';

const MANAGERS = 3;
const SWARM_PORT = 2377;
/** So many writes, so long after the old leader's process is gone, can only have been done under another one. */
const WRITES_AFTER = 20;
const LATE_MS = 500;
const WRITE_TIMEOUT_MS = 500;
const RETRY_MS = 5;
const BEFORE_MS = 300;
const VALUE = Buffer.alloc(256, 'x').toString('base64');

interface NodeJson {
  readonly ID: string;
  readonly Description: { readonly Hostname: string };
  readonly Status: { readonly State: string };
  readonly ManagerStatus?: { readonly Leader?: boolean; readonly Reachability: string };
}

interface Writing {
  readonly times: number[];
  stop: boolean;
}

export class DockerGroup implements ApiGroup {
  readonly name = 'docker';
  private readonly directory: string;
  private readonly nodes: readonly DockerNode[];
  private readonly worker: DockerNode;
  private gaps = 0;

  constructor(directory: string) {
    this.directory = directory;
    this.nodes = Array.from({ length: MANAGERS }, (_, i) => new DockerNode(directory, i + 1));
    this.worker = new DockerNode(directory, MANAGERS + 1);
  }

  static async version(): Promise<string> {
    return (await promisify(execFile)('dockerd', ['--version'])).stdout.trim();
  }

  private get first(): DockerNode {
    return this.nodes[0] as DockerNode;
  }

  async start(): Promise<void> {
    await makeBridge();
    await Promise.all([...this.nodes, this.worker].map((node) => node.start()));
    const at = ({ address }: DockerNode): object => ({ ListenAddr: `${address}:${SWARM_PORT}`, AdvertiseAddr: address });
    await this.first.api('POST', '/swarm/init', at(this.first));
    const { JoinTokens: tokens } = await this.first.api<{ JoinTokens: { Manager: string; Worker: string } }>('GET', '/swarm');
    for (const node of [...this.nodes.slice(1), this.worker]) {
      const token = node === this.worker ? tokens.Worker : tokens.Manager;
      const join = { ...at(node), RemoteAddrs: [`${this.first.address}:${SWARM_PORT}`], JoinToken: token };
      await node.api('POST', '/swarm/join', join);
    }
    await this.complete(this.first, MANAGERS + 1);
  }

  /** Every node is ready, and every manager reached. */
  private async complete(from: DockerNode, nodes: number): Promise<void> {
    await from.until(`${nodes} nodes`, async () => {
      const all = await from.attempt<NodeJson[]>('GET', '/nodes') ?? [];
      const reached = all.filter(({ ManagerStatus }) => ManagerStatus?.Reachability === 'reachable').length;
      return reached === MANAGERS && all.filter(({ Status }) => Status.State === 'ready').length === nodes ? true : undefined;
    });
  }

  private async leader(): Promise<DockerNode> {
    return this.first.until('a leader', async () => {
      const all = await this.first.attempt<NodeJson[]>('GET', '/nodes') ?? [];
      const name = all.find(({ ManagerStatus }) => ManagerStatus?.Leader === true)?.Description.Hostname;
      return this.nodes.find((node) => node.name === name);
    });
  }

  async apiLoad(inFlight: number, ms: number): Promise<LoadResult> {
    const leader = await this.leader();
    const pids = [process.pid, ...(await Promise.all(this.nodes.map((node) => node.pids()))).flat()];
    const before = await cpuSeconds(pids);
    const result = await apiLoad(leader.socket, inFlight, ms);
    return { ...result, cpuSeconds: await cpuSeconds(pids) - before };
  }

  /** Watched until there is another leader, which takes it 10 to 26 s, and not as long as others need. */
  async gap(signal: 'SIGKILL' | 'SIGTERM'): Promise<number> {
    const leader = await this.leader();
    const others = this.nodes.filter((node) => node !== leader);
    const writing: Writing = { times: [], stop: false };
    const run = ++this.gaps;
    const writers = others.map((node) => write(node, writing, `gap-${run}-${node.name}`));
    let from = 0;
    try {
      await new Promise((resolve) => setTimeout(resolve, BEFORE_MS));
      from = performance.timeOrigin + performance.now();
      await leader.signal(signal);
      const late = performance.timeOrigin + performance.now() + LATE_MS;
      await (others[0] as DockerNode).until('writes under another leader', async () =>
        (writing.times.filter((time) => time > late).length >= WRITES_AFTER ? true : undefined));
    } finally {
      writing.stop = true;
      await Promise.all(writers);
    }
    await leader.startDockerd();
    await this.complete(leader, MANAGERS);
    return longestGap(writing.times, from);
  }

  async memory(): Promise<Readonly<Record<string, number>>> {
    const ofEach = async (node: DockerNode): Promise<number> => {
      const pids = await node.pids();
      return await residentMiB(pids) * pids.length;
    };
    const managers = await Promise.all(this.nodes.map(ofEach));
    return { manager: managers.reduce((sum, mib) => sum + mib, 0) / MANAGERS, worker: await ofEach(this.worker) };
  }

  /** On the managers alone. */
  async endpoints(samples: number): Promise<EndpointChange[]> {
    return new DockerEndpoints(this.nodes).measure(samples, this.directory);
  }

  /** All nodes but the managers. */
  async dismiss(): Promise<void> {
    const left = (await this.first.api<NodeJson[]>('GET', '/nodes')).find(({ Description }) => Description.Hostname === this.worker.name);
    await this.worker.close();
    await this.first.api('DELETE', `/nodes/${left?.ID ?? ''}?force=1`);
  }

  async close(): Promise<void> {
    await Promise.all([...this.nodes, this.worker].map((node) => node.close()));
  }
}

/** One write after another, each with a name of its own: what timed out may have been done. */
async function write(node: DockerNode, writing: Writing, name: string): Promise<void> {
  const done = <T>(answer: T | undefined): T | undefined => {
    if (answer !== undefined) writing.times.push(performance.timeOrigin + performance.now());
    return answer;
  };
  for (let i = 0; !writing.stop; i++) {
    const config = { Name: `${name}-${i}`, Data: VALUE };
    const made = done(await node.attempt<{ ID: string }>('POST', '/configs/create', config, WRITE_TIMEOUT_MS));
    const removed = made && done(await node.attempt('DELETE', `/configs/${made.ID}`, undefined, WRITE_TIMEOUT_MS));
    if (removed === undefined) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}
