// The chaos tests: clients write through all managers while these are killed, paused, cut off and out of disk. In the end
// every acknowledged write is there, all managers hold the same, tasks are the ones they were, and the published port
// never failed twice in a row. SKEIN_CHAOS_SEED repeats a schedule (not its interleaving).

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { cp, mkdir } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { api } from '../../src/lab/dockerapi.js';
import type { LabNode } from '../../src/lab/plan.js';
import { Prng } from '../../src/lib/prng.js';
import { Faults } from './chaos-faults.js';
import { Writers, type Value } from './chaos-writers.js';
import { IMAGE, Lab, eventually, pidsOf } from './fixture.js';

const WRITERS = 4;
/** An election after a silent end takes one to two seconds; a second fault may hit the new leader at once. */
const GAP_MAX_MS = 8000;
const SETTLE_TIMEOUT_MS = 30_000;
const LOOK_MS = 100;

export interface ChaosOptions {
  readonly name: string;
  readonly managers: number;
  readonly faultsMs: number;
  /** The longest a pause or a cut may be. */
  readonly holdMaxMs: number;
}

interface NodeJson {
  readonly Description: { readonly Hostname: string };
  readonly ManagerStatus?: { readonly Leader?: boolean; readonly Reachability: string };
}

export function chaosSuite(options: ChaosOptions): void {
  const { name, managers, faultsMs, holdMaxMs } = options;
  describe(`chaos among ${managers} managers`, { timeout: faultsMs + 120_000 }, () => {
    const seed = BigInt(process.env.SKEIN_CHAOS_SEED ?? randomBytes(4).readUInt32BE());
    let lab: Lab;
    let faults: Faults | undefined;
    before(async () => {
      lab = await Lab.up(name, { managers, workers: 2 });
    });
    after(async () => {
      await faults?.end().catch(() => undefined); // What stands in the way of it is in the lab, which goes.
      await keepLogs(lab);
      await lab?.down();
    });

    test(`seed ${seed}: no acknowledged write is lost, all managers hold the same, traffic goes on`, async () => {
      const started = Date.now();
      const say = (line: string): void => console.error(`${((Date.now() - started) / 1000).toFixed(1)} s  ${line}`);
      say(`SKEIN_CHAOS_SEED=${seed}`);
      faults = new Faults(lab, holdMaxMs, say);
      await faults.ownDisks();
      await lab.docker('service', 'create', '-q', '--name', 'web', '--replicas', '2', '-p', '8080:80', '--constraint',
        'node.role==worker', '--stop-grace-period', '1s', IMAGE, '/bin/probe', 'serve', '80');
      const tasks = pidsOf(await lab.running('web', 2));
      const traffic = new Traffic(lab);
      const sessions = new WorkerSessions(lab);
      const writers = new Writers(lab.managers);
      try {
        writers.start(WRITERS);
        const deadline = Date.now() + faultsMs;
        const random = new Prng(seed);
        // A minority at a time.
        await Promise.all(Array.from({ length: Math.floor((managers - 1) / 2) }, (_, number) =>
          (faults as Faults).lane(number, new Prng(random.uint63()), deadline, () => leaderOf(lab))));
        await faults.end();
        say('the faults are over');
        await sleep(500);
        await writers.end();
        const ended = Date.now();
        await converged(lab, writers);
        say(`all managers agree ${Date.now() - ended} ms after the last write`);
      } finally {
        await Promise.all([writers.end(), traffic.end(), sessions.end()]);
        say(`${writers.summary()}; faults ${JSON.stringify(faults.counts)}; ${traffic.requests} requests, ${traffic.failed} failed, `
          + `in a row at most ${traffic.longestRow} through a worker, ${traffic.longestManagerRow} through a manager; worker without session ${sessions.longestMs} ms at most`);
        say([...writers.findings, ...faults.findings, ...traffic.problems].slice(0, 20).join('\n'));
      }
      assert.deepEqual(pidsOf(await lab.running('web', 2)), tasks, 'the same tasks with the same processes');
      assert.deepEqual([...writers.findings, ...faults.findings], []);
      assert.deepEqual(traffic.problems, []);
      assert.ok(traffic.longestRow <= 1, `${traffic.longestRow} requests in a row failed`);
      assert.ok(writers.acknowledged > faultsMs / 100, `${writers.acknowledged} writes were acknowledged`);
      assert.ok(writers.longestGapMs < GAP_MAX_MS, `no write for ${writers.longestGapMs} ms from ${writers.longestGapAt}`);
    });
  });
}

/** Of the agents, to look into after a failure. */
async function keepLogs(lab: Lab | undefined): Promise<void> {
  const directory = process.env.SKEIN_CHAOS_LOGS;
  if (directory === undefined || lab === undefined) return;
  await mkdir(directory, { recursive: true });
  for (const { name, runDir } of lab.plan.nodes) await cp(path.join(runDir, 'agent.log'), path.join(directory, `${name}.log`));
}

/** Who leads, as any manager that answers at once says. */
async function leaderOf(lab: Lab): Promise<LabNode | undefined> {
  const asked = lab.managers.map(async ({ socket }) => {
    const nodes = await api<NodeJson[]>(socket, 'GET', '/v1.40/nodes', undefined, 1000);
    const leader = nodes.find(({ ManagerStatus }) => ManagerStatus?.Leader === true);
    return lab.node(leader?.Description.Hostname ?? '');
  });
  return Promise.any(asked).catch(() => undefined);
}

/** Every manager holds the same objects at the same versions, and what was acknowledged. */
async function converged(lab: Lab, writers: Writers): Promise<void> {
  await eventually('all managers agree', SETTLE_TIMEOUT_MS, async () => {
    const [first, ...others] = await Promise.all(lab.managers.map(stateOf)) as [State, ...State[]];
    for (const [position, other] of others.entries()) {
      for (const [url, text] of first.entries()) assert.ok(other.get(url) === text, `${url} of ${lab.managers[position + 1]?.name}`);
    }
    const nodes = JSON.parse(first.get('nodes') as string) as NodeJson[];
    assert.equal(nodes.filter(({ ManagerStatus }) => ManagerStatus?.Reachability === 'reachable').length, lab.managers.length);
  });
  for (const node of lab.managers) assert.deepEqual(writers.compare(await written(node)), [], `as ${node.name} has it`);
}

const SWARM_SCOPE = `?filters=${encodeURIComponent(JSON.stringify({ scope: { swarm: true } }))}`;

type State = ReadonlyMap<string, string>;

async function stateOf({ socket }: LabNode): Promise<State> {
  const kinds = ['nodes', 'services', 'tasks', 'networks', 'configs', 'secrets', 'swarm'];
  return new Map(await Promise.all(kinds.map(async (kind): Promise<[string, string]> =>
    [kind, JSON.stringify(await api(socket, 'GET', `/v1.40/${kind}${kind === 'networks' ? SWARM_SCOPE : ''}`))])));
}

async function written({ socket }: LabNode): Promise<Map<string, Value>> {
  const services = await api<{ Spec: { Name: string; Labels: { label?: string } } }[]>(socket, 'GET', '/v1.40/services');
  const configs = await api<{ Spec: { Name: string } }[]>(socket, 'GET', '/v1.40/configs');
  const all: [string, Value][] = [...services.map(({ Spec }): [string, Value] => [Spec.Name, Spec.Labels.label]),
    ...configs.map(({ Spec }): [string, Value] => [Spec.Name, ''])];
  return new Map(all.filter(([called]) => called !== 'web'));
}

/**
 * Requests to the published port of every node, one after the other on each. Through a manager that its leader cannot hear,
 * and so takes for dead, they may fail: a client's retry goes to another node. Through the workers never twice in a row.
 */
class Traffic {
  requests = 0;
  failed = 0;
  /** Through workers; and through managers. */
  longestRow = 0;
  longestManagerRow = 0;
  readonly problems: string[] = [];
  private stopped = false;
  private readonly done: Promise<unknown>;

  constructor(lab: Lab) {
    this.done = Promise.all(lab.plan.nodes.map(async ({ address, name, role }) => {
      for (let row = 0; !this.stopped; await sleep(LOOK_MS)) {
        this.requests += 1;
        const { code, stderr } = await lab.inside(lab.plan.clientNetns, 'curl', ['-sS', '--max-time', '2', '-o', '/dev/null',
          `http://${address}:8080/`]);
        row = code === 0 ? 0 : row + 1;
        if (code !== 0) this.failed += 1;
        if (role === 'manager') {
          this.longestManagerRow = Math.max(this.longestManagerRow, row);
          continue;
        }
        if (row > 1) this.problems.push(`${new Date().toISOString()} ${name}: ${stderr.trim()}`);
        this.longestRow = Math.max(this.longestRow, row);
      }
    }));
  }

  async end(): Promise<void> {
    this.stopped = true;
    await this.done;
  }
}

/** How long the workers are without a session. */
class WorkerSessions {
  longestMs = 0;
  private stopped = false;
  private readonly done: Promise<unknown>;

  constructor(lab: Lab) {
    this.done = Promise.all(lab.workers.map(async ({ socket }) => {
      let since: number | undefined;
      for (; !this.stopped; await sleep(LOOK_MS)) {
        const { Swarm } = await api<{ Swarm: { LocalNodeState: string } }>(socket, 'GET', '/v1.40/info');
        since = Swarm.LocalNodeState === 'active' ? undefined : since ?? Date.now();
        if (since !== undefined) this.longestMs = Math.max(this.longestMs, Date.now() - since);
      }
    }));
  }

  async end(): Promise<void> {
    this.stopped = true;
    await this.done;
  }
}
