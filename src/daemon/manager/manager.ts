// Manager: one manager's view of the replicated store, and what the API and the node protocol need of it; while it leads,
// the loop of all decisions. Those are made by pure core functions on the current state and become Commands; this file
// only gives them time, randomness and their turn. What only the leader knows (sessions, acknowledgements) begins anew
// with each term.

import { randomBytes } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { create } from '@bufbuild/protobuf';
import type { Logger } from 'pino';
import { allocate } from '../../core/allocator/allocator.js';
import { Sessions, heartbeatMs } from '../../core/dispatcher/sessions.js';
import { orchestrate } from '../../core/orchestrator/orchestrator.js';
import { schedule } from '../../core/scheduler/scheduler.js';
import { advanced, known, type Acknowledgements } from '../../core/store/soft.js';
import type { ReadTx, StoreEvent } from '../../core/store/view.js';
import type { Applied } from '../../core/store/store.js';
import type { ManagerClient } from '../../io/grpc/client.js';
import { fail, ok, type Result } from '../../lib/result.js';
import { Signal } from '../../lib/signal.js';
import { timestampFromMs } from '../../lib/time.js';
import type { ChangeContext, ManagerBackend, SwarmUpdate } from '../../api/backend.js';
import type { LogMessage, LogSelector, LogSubscriptionOptions, Node, StoreAction, Task } from '../../model/proto/swarmkit_pb.js';
import { CommandSchema, type Command } from '../../model/proto/skein_pb.js';
import type { Consensus, EventListener } from './consensus.js';
import { updateSwarm } from './clusterupdate.js';
import { GroupKeeper } from './groupkeeper.js';
import { makeId } from './newids.js';
import { Liveness } from './liveness.js';
import { LogBroker } from './logbroker.js';
import { readLogs } from './logreader.js';
import { RootRotationStage } from './rotation.js';
import { expireNodes, nodesUnknown } from '../../core/dispatcher/nodes.js';
import { Stages, isRace, type Propose } from './stages.js';

const COMMIT_TRIES = 20;
/** Without a leader for longer, reads are answered at once from what this manager knows. */
const LEADERLESS_MS = 3000;
const LEADERLESS_LOOK_MS = 100;
/** Timers later than this are no load: the process, or the machine, was stopped. */
const STALL_MS = 1000;
/** Commands that one request may become. */
const PARTS_MAX = 1000;

type Build<T> = (view: ReadTx, context: ChangeContext) => Result<{ actions: readonly StoreAction[]; value: T }>;
type BuildParts = (view: ReadTx, context: ChangeContext) => readonly StoreAction[];

export interface ManagerIdentity {
  readonly nodeId: string;
  /** "ip:port" */
  readonly advertiseAddr: string;
}

export class Manager implements ManagerBackend {
  readonly consensus: Consensus;
  sessions = new Sessions();
  readonly acked = new Map<string, bigint>();
  /** When the last decisions were made, in this term. */
  private known: Acknowledgements | undefined;
  /** Tasks stopped before every node had acknowledged their removal. */
  drainTimeouts = 0;
  /** Nodes that announced an address they cannot have. */
  dataPathsRefused = 0;
  /** Resolves once this node follows the swarm's settings that concern its own keys. */
  settled: () => Promise<void> = async () => undefined;
  readonly broker: LogBroker;
  readonly liveness: Liveness;
  readonly logger: Logger;
  readonly stages: Stages;
  private readonly identity: ManagerIdentity;
  private readonly root: RootRotationStage;
  private readonly dirty = new Signal();
  private timer: NodeJS.Timeout | undefined;
  private stopped = false;
  /** Of the term that is beginning or runs. */
  private ending: AbortController | undefined;
  /** While this manager leads and knows all that was decided before. */
  private leadership: AbortSignal | undefined;
  private loop: Promise<void> = Promise.resolve();
  private readonly unsubscribe: (() => void)[] = [];
  /** Why nodes were lost, until it is written. */
  private readonly lost = new Map<string, string>();

  constructor(consensus: Consensus, logger: Logger, identity: ManagerIdentity) {
    this.consensus = consensus;
    this.logger = logger;
    this.identity = identity;
    this.broker = new LogBroker(() => this.view(), () => this.leadership);
    this.liveness = new Liveness({
      view: () => this.view(), periodMs: () => this.periodMs(), raftId: consensus.raftId, logger,
      onLost: (nodeId, reason) => {
        this.lost.set(nodeId, reason);
        this.sessions.lose(nodeId, performance.now());
        this.dirty.raise();
      },
    });
    this.root = new RootRotationStage(logger);
    this.stages = new Stages((actions, nowMs) => this.proposeInTerm(actions, nowMs), logger);
  }

  start(onCrash: (error: unknown) => void): void {
    this.unsubscribe.push(this.consensus.onEvents((events) => {
      if (this.leadership !== undefined) this.observe(events);
      // No stage looks at what tasks are given to read.
      if (events.some(({ kind }) => kind !== 'config' && kind !== 'secret')) this.dirty.raise();
    }));
    const changed = (leading: boolean): void => {
      this.endTerm();
      if (!leading) return;
      const term = new AbortController();
      // One for each call that is answered here.
      setMaxListeners(0, term.signal);
      this.ending = term;
      this.loop = this.loop.then(() => this.lead(term.signal));
      this.loop.catch(onCrash);
    };
    this.unsubscribe.push(this.consensus.onLeadership(changed));
    if (this.consensus.leading) changed(true);
  }

  async close(): Promise<void> {
    this.stopped = true;
    for (const unsubscribe of this.unsubscribe) unsubscribe();
    this.endTerm();
    await this.loop;
  }

  /** Set while this manager leads and may answer for the swarm; aborted when that ends. */
  term(): AbortSignal | undefined {
    return this.leadership;
  }

  /** For longer than an election takes. */
  get leaderless(): boolean {
    return this.consensus.leaderlessMs >= LEADERLESS_MS;
  }

  /** An election, or a manager that just started, is waited for; a group without a leader is not. */
  async fresh(): Promise<boolean> {
    const { consensus } = this;
    if (this.leaderless) return false;
    let timer: NodeJS.Timeout | undefined;
    // The leader may be lost while its answer is waited for, in this round and in the next.
    const lost = new Promise<false>((resolve) => {
      timer = setInterval(() => !this.leaderless || resolve(false), LEADERLESS_LOOK_MS);
    });
    const confirmed = await Promise.race([consensus.barrier(), lost]);
    clearInterval(timer);
    return confirmed;
  }

  private endTerm(): void {
    this.leadership = undefined;
    this.ending?.abort();
    this.ending = undefined;
    clearTimeout(this.timer);
    this.liveness.stop();
    this.dirty.raise();
  }

  private observe(events: readonly StoreEvent[]): void {
    for (const event of events) {
      if (event.kind === 'node' && event.action === 'remove') this.forget(event.object.id);
      if (event.kind === 'node' && event.action !== 'remove') this.tellDataPath(event.object, event.old);
      if (event.kind === 'task' && event.object.drainState?.timedOut === true
        && event.old?.drainState?.timedOut === false) this.drainTimedOut(event.object);
    }
  }

  view(): ReadTx {
    return this.consensus.store;
  }

  soft(): Acknowledgements {
    return this.known = known(this.known, this.view(), this.acked, performance.now());
  }

  periodMs(): number {
    return heartbeatMs(this.view().cluster()?.spec?.dispatcher?.heartbeatPeriod);
  }

  onEvents(listener: EventListener): () => void {
    return this.consensus.onEvents(listener);
  }

  /** A node told how far it has got. */
  acknowledge(nodeId: string, revision: bigint): void {
    const before = this.acked.get(nodeId);
    if (before !== undefined && revision <= before) return;
    this.acked.set(nodeId, revision);
    // Of many nodes only the last one changes what can be decided; and a new one may be given tasks.
    if (before === undefined || advanced(this.view(), this.acked, this.known?.installed ?? -1n)) this.dirty.raise();
  }

  private drainTimedOut(task: Task): void {
    const revision = task.drainState?.revision ?? 0n;
    const waitedFor = [...this.acked].filter(([, acked]) => acked < revision).map(([nodeId]) => nodeId);
    this.drainTimeouts += 1;
    this.logger.warn({ taskId: task.id, waitedFor, drainTimeouts: this.drainTimeouts }, 'drain timed out: the task is stopped although not every node let go of it');
  }

  private tellDataPath(node: Node, old: Node | undefined): void {
    const problem = node.dataPath?.problem ?? '';
    if (problem === '' || problem === old?.dataPath?.problem) return;
    this.dataPathsRefused += 1;
    this.logger.warn({ nodeId: node.id, problem, dataPathsRefused: this.dataPathsRefused }, 'a node is not sent traffic at the address it announces');
  }

  /** The node left, or was removed from, the swarm. */
  forget(nodeId: string): void {
    this.sessions.forget(nodeId);
    this.liveness.forget(nodeId);
    this.acked.delete(nodeId);
  }

  /** Deadlines changed: look again. */
  nudge(): void {
    this.dirty.raise();
  }

  async commit<T>(build: Build<T>): Promise<Result<T>> {
    return this.commitBy(build, (actions, nowMs) => this.propose(actions, nowMs));
  }

  /**
   * What is true only as long as this manager leads: that a node has a session with it. Carried on into another term it would say so of
   * a node that the next leader has found dead.
   */
  async commitInTerm<T>(build: Build<T>): Promise<Result<T>> {
    return this.commitBy(build, (actions, nowMs) => this.proposeInTerm(actions, nowMs));
  }

  private async commitBy<T>(build: Build<T>, propose: Propose): Promise<Result<T>> {
    for (let attempt = 0; attempt < COMMIT_TRIES; attempt++) {
      const context: ChangeContext = { nowMs: Date.now(), newId: makeId, randomBytes };
      const built = build(this.view(), context);
      if (!built.ok) return built;
      if (built.value.actions.length === 0) return ok(built.value.value);
      const applied = await propose(built.value.actions, context.nowMs);
      if (applied.ok) return ok(built.value.value);
      // Builders check the user's own version; what apply refuses as stale or taken was a race.
      if (!isRace(applied.error)) return applied;
    }
    return fail('aborted', 'the object kept changing: try again');
  }

  /**
   * For changes of many objects that need not be one: as many commands as it takes. `build` sees what the ones before
   * changed, and returns what is left to do.
   */
  async commitParts(what: string, build: BuildParts): Promise<Result<void>> {
    return this.commitPartsBy(what, build, (actions, nowMs) => this.propose(actions, nowMs));
  }

  /**
   * What this manager decides as the leader. Not passed on to the next one: a leader that slept would tell it that
   * every node is lost.
   */
  private decideParts(what: string, build: BuildParts): Promise<Result<void>> {
    return this.commitPartsBy(what, build, (actions, nowMs) => this.proposeInTerm(actions, nowMs));
  }

  private async commitPartsBy(what: string, build: BuildParts, propose: Propose): Promise<Result<void>> {
    for (let part = 0; part < PARTS_MAX; part++) {
      const done = await this.commitBy((view, context) => {
        const portions = this.stages.portions(what, build(view, context));
        return ok({ actions: portions[0] ?? [], value: portions.length <= 1 });
      }, propose);
      if (!done.ok) return done;
      if (done.value) return ok(undefined);
    }
    return fail('aborted', `${what}: the objects kept changing`);
  }

  async updateSwarm(request: SwarmUpdate): Promise<Result<void>> {
    const updated = await updateSwarm(this, request);
    await this.settled();
    return updated;
  }

  logs(selector: LogSelector, options: LogSubscriptionOptions, signal: AbortSignal): AsyncIterable<LogMessage> {
    return readLogs(this, selector, options, signal);
  }

  /** To the manager that leads, when that is another one. */
  leaderClient(): ManagerClient | undefined {
    return this.consensus.leaderClient();
  }

  private command(actions: readonly StoreAction[], nowMs: number): Command {
    return create(CommandSchema, { id: makeId(), time: timestampFromMs(nowMs), seen: this.view().index, actions: [...actions] });
  }

  private propose(actions: readonly StoreAction[], nowMs: number): Promise<Result<Applied>> {
    return this.consensus.propose(this.command(actions, nowMs));
  }

  /** A decision of the leader: it counts only while this manager still leads. */
  private proposeInTerm(actions: readonly StoreAction[], nowMs: number): Promise<Result<Applied>> {
    return this.consensus.proposeAsLeader(this.command(actions, nowMs));
  }

  private async lead(term: AbortSignal): Promise<void> {
    // What was decided before comes first.
    while (!term.aborted && !await this.consensus.barrier());
    if (term.aborted) return;
    this.sessions = new Sessions();
    this.acked.clear();
    this.known = undefined;
    this.report('nodes of unknown state', await this.decideParts('nodes of unknown state', (view) => nodesUnknown(view)));
    for (const node of this.view().list('node')) this.sessions.expect(node.id, performance.now(), this.periodMs());
    if (term.aborted) return;
    this.leadership = term;
    this.lost.clear();
    const listening = this.liveness.start();
    const keeper = new GroupKeeper({
      consensus: this.consensus, logger: this.logger, ...this.identity,
      commit: (build) => this.commitBy((view) => ok({ actions: build(view), value: undefined }), (actions, nowMs) =>
        this.proposeInTerm(actions, nowMs)),
    });
    const keeping = keeper.run(term);
    this.dirty.raise();
    while (!term.aborted) {
      await this.dirty.wait();
      if (!term.aborted) await this.reconcile(term);
    }
    await Promise.all([keeping, listening]);
  }

  /** One pass of every stage, in the order a task goes through them. Comes again while there is something to do. */
  private async reconcile(term: AbortSignal): Promise<void> {
    const nowMs = Date.now();
    let changed = false;
    const stage = async (name: string, actions: readonly StoreAction[]): Promise<void> => {
      if (!term.aborted && await this.stages.run(name, actions, nowMs)) changed = true;
    };
    const expired = this.sessions.expire(performance.now());
    for (const nodeId of expired) this.acked.delete(nodeId);
    // Each is named once only: a race must not leave it up for good.
    if (expired.length > 0) {
      const reasons = new Map(this.lost);
      this.lost.clear();
      this.report('expired nodes', await this.decideParts('expired nodes', (view) => expireNodes(view, expired, reasons)));
    }
    const outcome = orchestrate({ view: this.view(), soft: this.soft(), nowMs, newId: makeId });
    await stage('orchestrator', outcome.actions);
    await stage('allocator', allocate({ view: this.view(), soft: this.soft(), nowMs }));
    await stage('scheduler', schedule({ view: this.view(), soft: this.soft(), nowMs }));
    const root = this.root.decide(this.view(), nowMs);
    await stage('root CA', root.actions);
    if (changed) this.dirty.raise();
    const retryMs = this.stages.endPass();
    if (!term.aborted) this.arm(Math.min(outcome.wakeMs ?? Infinity, root.wakeMs ?? Infinity, retryMs === undefined ? Infinity
      : Date.now() + retryMs));
  }

  private report(what: string, done: Result<void>): void {
    if (!done.ok && !this.stopped && this.consensus.leading) this.logger.error({ what, error: done.error.message }, 'a change of the manager was refused');
  }

  private arm(wakeMs: number | undefined): void {
    clearTimeout(this.timer);
    const deadline = this.sessions.nextDeadlineMs();
    // Sessions go by a clock that does not jump; what the store tells goes by the time of day.
    const next = Math.min((wakeMs ?? Infinity) - Date.now(), (deadline ?? Infinity) - performance.now());
    if (next === Infinity || this.stopped) return;
    const waitMs = Math.min(Math.max(next, 1), 60_000);
    const due = performance.now() + waitMs;
    this.timer = setTimeout(() => {
      // A manager that was stopped has not waited for anybody meanwhile.
      const lateMs = performance.now() - due;
      if (lateMs > STALL_MS) this.sessions.stalled(lateMs);
      this.dirty.raise();
    }, waitMs);
  }
}
