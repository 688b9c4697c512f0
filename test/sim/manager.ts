// A manager of the simulated world: daemon/manager/manager.ts and its handlers on simulated time. The decisions are the
// real ones; this gives them their turn in a term, carries them into the log, and serves the nodes while it leads.

import type { AssignmentChange, StoreAction, TaskStatus } from '../../src/model/proto/swarmkit_pb.js';
import { EMPTY_SET, type AssignmentSet } from '../../src/core/dispatcher/assignments.js';
import { Sessions } from '../../src/core/dispatcher/sessions.js';
import type { ClusterRows, Parts } from '../../src/core/network/rows.js';
import { inBatches } from '../../src/core/store/batches.js';
import { advanced, known, type Acknowledgements } from '../../src/core/store/soft.js';
import type { ReadTx, StoreEvent } from '../../src/core/store/view.js';
import type { Row } from '../../src/model/proto/skein_pb.js';
import { NodeStatus_State, type NodeDescription } from '../../src/model/proto/swarmkit_pb.js';
import type { Host } from './host.js';
import type { Pipe } from './pipe.js';
import { SimLiveness } from './liveness.js';
import { run, until, type Process } from './process.js';
import { COMMIT_TRIES, Proposer, RETRY_MS, encode } from './proposer.js';
import type { SwarmWorld } from './swarm.js';

export const PERIOD_MS = 1_000;
const PUSH_MS = 6;
const REFUSAL_MS = 1_000;
/** A clock may be put forward while one waits by it. */
const WAIT_MS_MAX = 60_000;

export interface RowUpdate {
  readonly revision: bigint;
  readonly full: boolean;
  readonly upsert: readonly Row[];
  readonly remove: readonly string[];
}
export interface AssignmentUpdate {
  readonly complete: boolean;
  readonly changes: readonly AssignmentChange[];
}

/** What a node has open at the leader. */
export interface Streams {
  readonly nodeId: string;
  readonly sessionId: string;
  readonly assignments: Pipe<AssignmentUpdate>;
  readonly rows: Pipe<RowUpdate>;
  readonly close: () => void;
}
interface Served extends Streams {
  sent: AssignmentSet;
  hasSent: boolean;
  sentRows: Parts;
  sentRevision: bigint;
  first: boolean;
}

interface Term {
  ended: boolean;
  readonly number: bigint;
}

export class SimManager {
  readonly host: Host;
  sessions = new Sessions();
  readonly acked = new Map<string, bigint>();
  readonly liveness: SimLiveness;
  /** Why, by node, until it is told. */
  private readonly lost = new Map<string, string>();
  private known: Acknowledgements | undefined;
  private readonly world: SwarmWorld;
  private ending: Term | undefined;
  private leadership: Term | undefined;
  private wake: (() => void) | undefined;
  private dirty = false;
  private armedMs = Infinity;
  private served = new Map<string, Served>();
  private pushing = false;
  private cache: { readonly index: bigint; readonly rows: ClusterRows; readonly awaited: bigint } | undefined;
  private life = 0;
  readonly proposer: Proposer;

  constructor(world: SwarmWorld, host: Host) {
    this.world = world;
    this.host = host;
    this.liveness = new SimLiveness({
      world, host: host.id, periodMs: PERIOD_MS, view: () => this.view,
      onLost: (nodeId, reason) => {
        this.world.trace?.(`${host.id} takes ${nodeId} for dead: ${reason}`);
        this.lost.set(nodeId, reason);
        this.sessions.lose(nodeId, this.steadyMs);
        this.raise();
      },
    });
    this.proposer = new Proposer(world, host, (delayMs, action) => this.later(delayMs, action));
  }

  get leads(): boolean {
    return this.host.up && this.leadership !== undefined;
  }

  /** A clock that does not jump. */
  private get steadyMs(): number {
    return this.world.clock.nowMs;
  }

  get view(): ReadTx {
    return this.host.store;
  }

  // What the host tells --------------------------------------------------------------------------------------------

  crashed(): void {
    this.life += 1;
    this.pushing = false;
    this.endTerm();
  }

  leading(leading: boolean): void {
    this.endTerm();
    if (!leading) return;
    const term: Term = { ended: false, number: this.host.ledTerm };
    this.ending = term;
    const life = this.life;
    run(this.lead(term), () => this.life === life && (!term.ended || this.world.swarmBugs.has('deposed-goes-on')));
  }

  applied(events: readonly StoreEvent[]): void {
    for (const event of events) if (event.kind === 'node' && event.action === 'remove') this.forget(event.object.id);
    this.changed();
  }

  changed(): void {
    this.raise();
    if (this.pushing || this.leadership === undefined) return;
    this.pushing = true;
    this.later(PUSH_MS, () => {
      this.pushing = false;
      this.push();
    });
  }

  private endTerm(): void {
    if (this.ending !== undefined) this.ending.ended = true;
    this.ending = undefined;
    this.leadership = undefined;
    this.armedMs = Infinity;
    this.liveness.stop();
    for (const served of [...this.served.values()]) this.drop(served);
    this.raise();
  }

  private forget(nodeId: string): void {
    this.sessions.forget(nodeId);
    this.liveness.forget(nodeId);
    this.acked.delete(nodeId);
  }

  private later(delayMs: number, action: () => void): void {
    const { life } = this;
    this.world.clock.after(delayMs, () => {
      if (this.life === life) action();
    });
  }

  // The loop of a term ---------------------------------------------------------------------------------------------

  private raise(): void {
    this.dirty = true;
    const { wake } = this;
    this.wake = undefined;
    wake?.();
  }

  private* lead(term: Term): Process {
    yield* until<void>((resume) => this.barrier(term, resume));
    this.sessions = new Sessions();
    this.acked.clear();
    this.known = undefined;
    yield* this.commitInTerm(term, (view) => this.world.core.nodesUnknown(view));
    for (const node of this.view.list('node')) this.sessions.expect(node.id, this.steadyMs, PERIOD_MS);
    if (term.ended) return;
    this.leadership = term;
    this.lost.clear();
    this.liveness.start();
    this.world.swarmChecker.took(term.number);
    this.world.trace?.(`${this.host.id} decides in term ${term.number}`);
    this.dirty = true;
    while (!term.ended || this.world.swarmBugs.has('deposed-goes-on')) {
      if (!this.dirty) yield* until<void>((resume) => { this.wake = () => this.later(0, resume); });
      this.dirty = false;
      yield* this.reconcile(term);
    }
  }

  private barrier(term: Term, done: () => void): void {
    let passed = false;
    const asked = this.host.read(() => {
      passed = true;
      done();
    });
    this.later(asked ? 500 : RETRY_MS, () => {
      if (!passed && !term.ended) this.barrier(term, done);
      passed = true;
    });
  }

  private* reconcile(term: Term): Process {
    const { core } = this.world;
    const nowMs = this.host.nowMs();
    const expired = this.sessions.expire(this.steadyMs);
    for (const nodeId of expired) this.acked.delete(nodeId);
    if (expired.length > 0) {
      const reasons = new Map(this.lost);
      this.lost.clear();
      this.world.swarmChecker.expired(this, expired, reasons);
      yield* this.commitInTerm(term, (view) => core.expireNodes(view, expired, reasons));
    }
    const input = { nowMs, newId: this.world.newId };
    const outcome = core.orchestrate({ ...input, view: this.view, soft: this.soft() });
    let changed = yield* this.stage(term, outcome.actions, nowMs);
    changed = (yield* this.stage(term, core.allocate({ ...input, view: this.view, soft: this.soft() }), nowMs)) === true || changed;
    changed = (yield* this.stage(term, core.schedule({ ...input, view: this.view, soft: this.soft() }), nowMs)) === true || changed;
    if (changed === true) this.raise();
    if (term.ended) return;
    const waitMs = Math.min((outcome.wakeMs ?? Infinity) - this.host.nowMs(), (this.sessions.nextDeadlineMs() ?? Infinity) - this.steadyMs,
      changed === undefined ? REFUSAL_MS : Infinity);
    this.arm(this.steadyMs + Math.min(Math.max(waitMs, 1), WAIT_MS_MAX));
  }

  private soft(): Acknowledgements {
    return this.known = known(this.known, this.view, this.acked, this.steadyMs);
  }

  private arm(dueMs: number): void {
    if (dueMs >= this.armedMs) return;
    this.armedMs = dueMs;
    this.later(dueMs - this.steadyMs, () => {
      if (this.armedMs !== dueMs) return;
      this.armedMs = Infinity;
      this.raise();
    });
  }

  /** True when something was changed, undefined when it was refused. */
  private* stage(term: Term, actions: readonly StoreAction[], nowMs: number): Process<boolean | undefined> {
    if (actions.length === 0) return false;
    const deposed = this.world.swarmBugs.has('deposed-goes-on');
    for (const batch of inBatches(actions).batches) {
      if (term.ended && !deposed) return undefined;
      const id = this.proposer.newId(`stage ${term.number} ${this.view.index}`);
      const data = encode(id, nowMs, batch, this.view.index);
      const result = deposed ? yield* this.proposer.propose(id, data) : yield* this.proposeInTerm(id, data);
      if (!result) return undefined;
    }
    return true;
  }

  private* proposeInTerm(id: string, data: Uint8Array): Process<boolean> {
    if (!this.host.offerInTerm(data)) {
      yield* until<void>((resume) => this.later(RETRY_MS, resume));
      return false;
    }
    return yield* until<boolean>((resume) => this.host.await(id, (accepted) => resume(accepted)));
  }

  // Changes by whoever asks ----------------------------------------------------------------------------------------

  /** What the leader decides of the nodes: it counts in its term only, and is decided anew after a race. */
  private* commitInTerm(term: Term, build: (view: ReadTx) => readonly StoreAction[]): Process<boolean> {
    for (let attempt = 0; attempt < COMMIT_TRIES && !term.ended; attempt++) {
      if ((yield* this.stage(term, build(this.view), this.host.nowMs())) !== undefined) return true;
    }
    return false;
  }

  private* commitParts(who: string, build: (view: ReadTx, nowMs: number) => readonly StoreAction[]): Process<boolean> {
    const result = yield* this.proposer.commit(who, (view, nowMs) => ({ ok: true, value: { actions: build(view, nowMs) } }));
    return result === 'done';
  }

  start(process: Process): void {
    const { life } = this;
    run(process, () => this.life === life && this.host.up);
  }

  // What nodes ask -------------------------------------------------------------------------------------------------

  session(nodeId: string, previousId: string, description: NodeDescription, address: string, answer: (sessionId: string | undefined) => void): void {
    const term = this.leadership;
    if (!this.leads || term === undefined || this.view.get('node', nodeId) === undefined) {
      answer(undefined);
      return;
    }
    const registered = this.sessions.register(nodeId, previousId, this.world.newId(), this.steadyMs, PERIOD_MS);
    if (!registered.ok) {
      answer(undefined);
      return;
    }
    const { world } = this;
    this.start((function* (this: SimManager): Process {
      const done = yield* this.commitInTerm(term, (view) => world.core.nodeReady(view, nodeId, description, address));
      if (done) {
        this.sessions.registered(nodeId, this.steadyMs);
        this.liveness.agentCame(nodeId, previousId !== '');
        this.raise();
      }
      answer(done ? registered.sessionId : undefined);
    }).call(this));
  }

  heartbeat(nodeId: string, sessionId: string): boolean {
    const good = this.leads && this.sessions.heartbeat(nodeId, sessionId, this.steadyMs, PERIOD_MS) === 'ok';
    if (good) this.liveness.agentHeard(nodeId);
    return good;
  }

  report(nodeId: string, sessionId: string, updates: readonly { taskId: string; status: TaskStatus }[], answer: (taken: boolean) => void): void {
    if (!this.leads || this.sessions.check(nodeId, sessionId) !== 'ok') {
      answer(false);
      return;
    }
    const { world } = this;
    this.start((function* (this: SimManager): Process {
      answer(yield* this.commitParts(`node ${nodeId}`, (view, nowMs) => world.core.taskStatuses(view, nodeId, updates, nowMs).actions));
    }).call(this));
  }

  open(streams: Streams): void {
    const { nodeId, sessionId } = streams;
    if (!this.leads || this.sessions.check(nodeId, sessionId) !== 'ok') {
      streams.close();
      return;
    }
    const before = this.served.get(nodeId);
    if (before !== undefined) this.drop(before);
    this.served.set(nodeId, { ...streams, sent: EMPTY_SET, hasSent: false, sentRows: new Map(), sentRevision: 0n, first: true });
    this.acknowledge(nodeId, 0n);
    this.changed();
  }

  /** Never beyond what it was sent. */
  acks(nodeId: string, sessionId: string, revision: bigint): void {
    const served = this.served.get(nodeId);
    if (served === undefined || served.sessionId !== sessionId || revision > served.sentRevision) return;
    this.acknowledge(nodeId, revision);
  }

  private acknowledge(nodeId: string, revision: bigint): void {
    const before = this.acked.get(nodeId);
    if (before !== undefined && revision <= before) return;
    this.acked.set(nodeId, revision);
    if (before === undefined || advanced(this.view, this.acked, this.known?.installed ?? -1n)) this.raise();
  }

  closed(nodeId: string, rows: Pipe<RowUpdate>): void {
    if (this.served.get(nodeId)?.rows === rows) this.served.delete(nodeId);
  }

  private drop(served: Served): void {
    this.served.delete(served.nodeId);
    served.assignments.close();
    served.rows.close();
    this.world.clock.after(this.world.random.between(20, 500), served.close);
  }

  private push(): void {
    if (this.leadership === undefined) return;
    for (const served of [...this.served.values()]) {
      const node = this.view.get('node', served.nodeId);
      if (this.sessions.check(served.nodeId, served.sessionId) !== 'ok' || node === undefined || node.status?.state === NodeStatus_State.DOWN) {
        this.drop(served);
        continue;
      }
      this.pushAssignments(served);
      this.pushRows(served);
    }
  }

  private pushAssignments(served: Served): void {
    const { core } = this.world;
    const set = core.assignmentsOf(this.view, served.nodeId);
    const changes = core.diffAssignments(served.sent, set);
    const complete = !served.hasSent;
    served.sent = set;
    if (!complete && changes.length === 0) return;
    served.hasSent = true;
    served.assignments.send({ complete, changes });
  }

  private pushRows(served: Served): void {
    const { core } = this.world;
    if (this.cache?.index !== this.view.index) {
      this.cache = { index: this.view.index, rows: core.clusterRows(this.view, this.cache?.rows), awaited: core.awaitedRevision(this.view) };
    }
    const wanted = core.partsForNode(this.view, this.cache.rows, served.nodeId);
    const { upsert, remove } = core.diffParts(served.sentRows, wanted);
    if (!served.first && upsert.length === 0 && remove.length === 0 && this.cache.awaited <= served.sentRevision) return;
    const full = served.first;
    served.first = false;
    served.sentRows = wanted;
    served.sentRevision = this.view.index;
    served.rows.send({ revision: this.view.index, full, upsert, remove });
  }
}
