// A simulated worker node: its agent (session, heartbeats, assignments, reports) and its data plane, which installs rows
// late, tells how far it is, and goes on without the agent.

import { create } from '@bufbuild/protobuf';
import { EMPTY_SET, applyChanges, type AssignmentSet } from '../../src/core/dispatcher/assignments.js';
import { DATA_PATH_LABEL } from '../../src/model/network.js';
import { toPairs } from '../../src/model/pairs.js';
import type { Row } from '../../src/model/proto/skein_pb.js';
import {
  EngineDescriptionSchema, NodeDescriptionSchema, ResourcesSchema, type NodeDescription, type TaskStatus,
} from '../../src/model/proto/swarmkit_pb.js';
import type { Host } from './host.js';
import { PERIOD_MS, type AssignmentUpdate, type RowUpdate, type SimManager } from './manager.js';
import { Pipe } from './pipe.js';
import { Runners } from './runners.js';
import type { SwarmWorld } from './swarm.js';

const REPORT_MS = 10;
const ANSWER_MS = 3_000;
/** Of the calls that are late, those that are very late. */
const HELD_SHARE = 0.3;
const HELD_MS_MAX = 8_000;

interface Session {
  readonly id: string;
  readonly manager: SimManager;
  readonly acks: Pipe<bigint>;
  readonly rows: Pipe<RowUpdate>;
  closed: boolean;
}

export class SimWorker {
  readonly id: string;
  readonly port: bigint;
  readonly runners: Runners;
  up = false;
  /** Of the data plane. */
  rows = new Map<string, Row>();
  /** Of the rows. */
  revision = 0n;
  /** Rows take this long to install, at most. */
  installMsMax = 40;
  readonly description: NodeDescription;
  readonly address: string;
  private readonly world: SwarmWorld;
  private session: Session | undefined;
  private previousId = '';
  private target: bigint = 1n;
  private life = 0;
  private set: AssignmentSet = EMPTY_SET;
  private readonly reports = new Map<string, TaskStatus>();
  private reporting = false;
  private installAtMs = 0;
  /** Since when the machine is as it is: up, or not. */
  private machineUp = false;
  private machineSinceMs = -Infinity;

  constructor(world: SwarmWorld, number: number) {
    this.world = world;
    this.id = `node${number}`;
    this.port = 1_000n + BigInt(number);
    this.address = `192.0.2.${number}`;
    this.description = create(NodeDescriptionSchema, {
      hostname: this.id, resources: create(ResourcesSchema, { nanoCpus: 4_000_000_000n, memoryBytes: 2n ** 33n }),
      engine: create(EngineDescriptionSchema, { labels: toPairs({ [DATA_PATH_LABEL]: this.address }) }),
    });
    this.runners = new Runners(world, this.id, (taskId, status) => {
      this.reports.set(taskId, status);
      this.flush(REPORT_MS);
    });
  }

  start(): void {
    if (this.up) return;
    this.up = true;
    this.machine(true);
    this.life += 1;
    this.session = undefined;
    this.previousId = '';
    this.reporting = false;
    this.set = EMPTY_SET;
    this.runners.start();
    this.later(this.world.random.between(1, 100), () => this.connect());
  }

  /** The agent ends; processes and tables stay. */
  stop(): void {
    this.up = false;
    this.life += 1;
    this.runners.stop();
    this.reports.clear();
    this.hangUp();
  }

  crash(): void {
    this.stop();
    this.machine(false);
    this.runners.crash();
    this.rows = new Map();
  }

  private machine(up: boolean): void {
    if (up !== this.machineUp) this.machineSinceMs = this.world.clock.nowMs;
    this.machineUp = up;
  }

  /** Probes are answered as long as the machine is up, whatever becomes of the agent; asked of a moment ago. */
  planeAnswered(atMs: number): boolean {
    return this.machineUp === (atMs >= this.machineSinceMs);
  }

  /** The data plane ends and begins empty-handed. */
  crashPlane(): void {
    this.rows = new Map();
    if (this.session !== undefined) this.reconnect();
  }

  private later(delayMs: number, action: () => void): void {
    const { life } = this;
    this.world.clock.after(delayMs, () => {
      if (this.life === life) action();
    });
  }

  // Session -------------------------------------------------------------------------------------------------------------

  private connect(): void {
    const { random, hosts, managers } = this.world;
    const host: Host | undefined = hosts.get(this.target);
    const manager = managers.get(this.target);
    if (host?.up !== true || manager === undefined || !manager.leads) {
      const leader = host?.up === true && random.chance(0.7) ? host.raft.status.leader : 0n;
      this.target = leader !== 0n && leader !== this.target ? leader : random.pick([...hosts.keys()]);
      this.later(random.between(50, 400), () => this.connect());
      return;
    }
    this.ask<string | undefined>(
      host, (answer) => manager.session(this.id, this.previousId, this.description, this.address, answer),
      (id) => {
        if (id === undefined) this.later(random.between(100, 2_000), () => this.connect());
        else this.open(manager, id);
      },
    );
  }

  /** One call: answered, or undefined after a while. */
  private ask<T>(host: Host, call: (answer: (value: T) => void) => void, answered: (value: T | undefined) => void): void {
    const { network, random } = this.world;
    let done = false;
    const end = (value: T | undefined): void => {
      if (done) return;
      done = true;
      answered(value);
    };
    const { life } = this;
    let called = false;
    const send = (): void => network.send(this.port, host.id, () => {
      if (called || !host.up) return;
      called = true;
      call((value) => network.send(host.id, this.port, () => {
        if (this.life === life) end(value);
      }));
    });
    // Held up somewhere, it may arrive when its caller has given up, and has told something newer.
    if (random.chance(network.lateRate * HELD_SHARE)) this.world.clock.after(random.between(1_000, HELD_MS_MAX), send);
    else send();
    this.later(ANSWER_MS, () => end(undefined));
  }

  private open(manager: SimManager, id: string): void {
    const { host } = manager;
    const { world, life } = this;
    const mine = (): boolean => this.life === life && this.session === session;
    const lost = (): void => {
      if (mine()) this.reconnect();
    };
    const assignments = new Pipe<AssignmentUpdate>(world, host.id, this.port, (update) => {
      if (mine()) this.assigned(update);
    }, lost);
    const rows = new Pipe<RowUpdate>(world, host.id, this.port, (update) => {
      if (mine()) this.install(session, update);
    }, lost);
    const acks = new Pipe<bigint>(world, this.port, host.id, (revision) => manager.acks(this.id, id, revision), lost);
    const session: Session = { id, manager, acks, rows, closed: false };
    this.session = session;
    this.previousId = id;
    this.set = EMPTY_SET;
    world.network.send(this.port, host.id, () => {
      if (session.closed) return;
      if (host.up && !assignments.closed) manager.open({ nodeId: this.id, sessionId: id, assignments, rows, close: lost });
      else lost();
    }, lost);
    for (const report of this.runners.statuses()) this.reports.set(report.taskId, report.status);
    this.flush(REPORT_MS);
    this.beat(session);
  }

  private hangUp(): void {
    const { session } = this;
    if (session === undefined) return;
    this.session = undefined;
    session.closed = true;
    session.acks.close();
    const { manager } = session;
    this.world.clock.after(this.world.random.between(1, 500), () => manager.closed(this.id, session.rows));
  }

  get sessionText(): string {
    return this.session === undefined ? `no session, asks ${this.target}` : `session at ${this.session.manager.host.id}`;
  }

  private reconnect(): void {
    this.hangUp();
    if (this.up) this.later(this.world.random.between(10, 300), () => this.connect());
  }

  private beat(session: Session): void {
    if (this.session !== session) return;
    const { manager } = session;
    this.ask<boolean>(manager.host, (answer) => answer(manager.heartbeat(this.id, session.id)), (good) => {
      if (this.session !== session) return;
      if (good === true) this.later(this.world.random.between(PERIOD_MS / 4, PERIOD_MS / 2), () => this.beat(session));
      else this.reconnect();
    });
  }

  private flush(delayMs: number): void {
    if (this.reporting || this.reports.size === 0) return;
    this.reporting = true;
    this.later(delayMs, () => {
      const { session } = this;
      if (session === undefined) {
        this.reporting = false;
        return;
      }
      const updates = [...this.reports].map(([taskId, status]) => ({ taskId, status }));
      this.reports.clear();
      this.ask<boolean>(session.manager.host, (answer) => session.manager.report(this.id, session.id, updates, answer), (taken) => {
        this.reporting = false;
        // Newer ones say more; what was not taken goes again.
        if (taken !== true) for (const { taskId, status } of updates) if (!this.reports.has(taskId)) this.reports.set(taskId, status);
        this.flush(taken === true ? REPORT_MS : 200);
      });
    });
  }

  // Assignments and rows ------------------------------------------------------------------------------------------------

  private assigned({ complete, changes }: AssignmentUpdate): void {
    this.set = applyChanges(this.set, complete, changes);
    this.world.swarmChecker.assigned(this.id, this.set);
    this.runners.assign(this.set);
  }

  private install(session: Session, update: RowUpdate): void {
    const { clock, random } = this.world;
    const late = random.chance(0.03) ? 20 : 1;
    this.installAtMs = Math.max(this.installAtMs, clock.nowMs + random.between(1, this.installMsMax) * late);
    this.later(this.installAtMs - clock.nowMs, () => {
      if (this.session !== session) return;
      if (this.world.swarmBugs.has('acks-before-installed')) return;
      this.put(update);
      session.acks.send(update.revision);
    });
    if (!this.world.swarmBugs.has('acks-before-installed')) return;
    session.acks.send(update.revision);
    this.later(2 * (this.installAtMs - clock.nowMs) + 500, () => this.put(update));
  }

  private put({ revision, full, upsert, remove }: RowUpdate): void {
    this.revision = revision;
    if (full) this.rows = new Map();
    for (const key of remove) this.rows.delete(key);
    for (const row of upsert) this.rows.set(row.key, row);
  }
}
