// One simulated run: a group that one member begins and others join, clients, faults for a while, then peace, in which it
// must come to rest: a leader, equal replicas, and operations that are answered. All of it from one seed.

import type { RaftNode } from '../../src/core/raft/raft.js';
import { Violation } from './checker.js';
import { Client } from './clients.js';
import { Faults } from './faults.js';
import { Host } from './host.js';
import type { ReadLog } from './logimage.js';
import { newWorld, outcomeOf, type Mark, type Outcome, type RunOptions, type ShellBug, type World } from './world.js';

export interface Options extends RunOptions {
  readonly raftClass?: typeof RaftNode;
  readonly readLog?: ReadLog;
  readonly bugs?: readonly ShellBug[];
}

/** A few dozen election timeouts. */
const REST_MS = 8_000;
/** How much of what each does is reads, and how often it wanders. The faithful reader stays with a leader that was replaced. */
const CLIENTS = [[1, 0.02], [0.3, 0.3], [0.3, 0.3], [0.1, 0.1]] as const;

export function simulate(options: Options): Outcome<Mark> {
  const { raftClass, readLog, bugs } = options;
  const world: World = {
    ...newWorld(options), bugs: new Set(bugs ?? []), ...(raftClass === undefined ? {} : { raftClass }), ...(readLog === undefined ? {} : { readLog }),
  };
  const { clock, random } = world;
  begin(world, random.pick([1, 3, 3, 3, 5]));
  const floors = new Map<string, bigint>();
  const clients = CLIENTS.map(([readRate, wanderRate], i) => new Client(world, `client${i + 1}`, floors, readRate, wanderRate));
  const faults = new Faults(world);
  clients.forEach((client) => client.start());
  faults.start();
  clock.run(clock.nowMs + options.minutes * 60_000);
  faults.stop();
  clock.run(clock.nowMs + REST_MS / 2);
  const before = clients.map(({ stats }) => stats.writes + stats.reads);
  clock.run(clock.nowMs + REST_MS / 2);
  clients.forEach((client, i) => {
    if (client.stats.writes + client.stats.reads === before[i]) throw new Violation(`a client is not served though all is well: ${describe(world)}`);
    client.stop();
  });
  clock.run(clock.nowMs + REST_MS);
  if (faults.repair.open !== undefined) throw new Violation(`${faults.repair.open}; ${describe(world)}`);
  atRest(world);
  const operations = clients.reduce((sum, { stats }) => sum + stats.reads + stats.writes, 0);
  return outcomeOf(world, options.seed, { operations, faults: faults.count, marks: world.marks });
}

/** As a swarm begins: one member, the others join. */
export function begin(world: World, count: number): void {
  const first = new Host(world, 1n, true);
  world.hosts.set(first.id, first);
  world.clock.run(world.clock.nowMs + 500);
  for (let id = 2n; id <= count; id++) {
    world.hosts.set(id, new Host(world, id, false));
    for (const kind of ['addLearner', 'addNode'] as const) {
      const proposed = first.raft.proposeConfChange({ kind, member: id, context: new Uint8Array(0) });
      if (!proposed.ok) throw new Violation(`member ${id} cannot join: ${proposed.refusal}`);
      first.work();
      world.clock.run(world.clock.nowMs + 1_000);
    }
  }
}

export function describe({ hosts }: World): string {
  return [...hosts.values()].map(({ id, raft }) => {
    const { role, leader, term, commit, last, activeConfState: { voters, learners } } = raft.status;
    return `${id} ${role} of ${leader} term ${term} commit ${commit} last ${last} voters ${voters.join(' ')} learners ${learners.join(' ')}`;
  }).join('; ');
}

/** A member that has not applied what the leader has, in words. */
export function replicaBehind({ hosts }: World): string | undefined {
  const leader = [...hosts.values()].find((host) => host.up && host.raft.leader);
  if (leader === undefined) return undefined;
  const { voters, learners } = leader.raft.status.confState;
  const behind = [...voters, ...learners].map((id) => hosts.get(id)).find((host) => host !== undefined && host.applied !== leader.applied);
  return behind === undefined ? undefined : `member ${behind.id} is at ${behind.applied}, the leader at ${leader.applied}`;
}

/** One leader, and every member of its configuration has the same. */
export function atRest(world: World): void {
  const { hosts, checker } = world;
  const leaders = [...hosts.values()].filter((host) => host.up && host.raft.leader);
  const [leader] = leaders;
  if (leader === undefined || leaders.length > 1) throw new Violation(`${leaders.length} leaders though all is well`);
  const { voters, learners } = leader.raft.status.confState;
  for (const id of [...voters, ...learners]) {
    const host = hosts.get(id);
    if (host === undefined) throw new Violation(`member ${id} is in the configuration, but its process was ended`);
    if (host.applied !== leader.applied) throw new Violation(`member ${id} is at ${host.applied}, the leader at ${leader.applied}`);
    checker.state(id, host.applied, host.stateHash());
  }
  if (leader.applied < checker.committedMax) throw new Violation(`${checker.committedMax} was committed, the leader is at ${leader.applied}`);
}
