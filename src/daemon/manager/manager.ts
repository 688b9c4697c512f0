// Manager: the leader's loop over the replicated store, and what the API and the node protocol need of it.
// Every decision is made by pure core functions on the current state and becomes a Command; this file only gives them
// time, randomness and their turn.

import { randomBytes } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import type { Logger } from 'pino';
import { allocate } from '../../core/allocator/allocator.js';
import { Sessions, HEARTBEAT_DEFAULT_MS } from '../../core/dispatcher/sessions.js';
import { orchestrate } from '../../core/orchestrator/orchestrator.js';
import { schedule } from '../../core/scheduler/scheduler.js';
import type { Acknowledgements } from '../../core/store/soft.js';
import type { ReadTx } from '../../core/store/view.js';
import { newId } from '../../lib/ids.js';
import { fail, ok, type Result } from '../../lib/result.js';
import { Signal } from '../../lib/signal.js';
import { durationMs, timestampFromMs } from '../../lib/time.js';
import type { ChangeContext, ManagerBackend } from '../../api/backend.js';
import type { LogMessage, LogSelector, LogSubscriptionOptions, Node, StoreAction, Task } from '../../model/proto/swarmkit_pb.js';
import { CommandSchema } from '../../model/proto/skein_pb.js';
import type { Consensus, EventListener } from './consensus.js';
import { LogBroker } from './logbroker.js';
import { expireNodes, nodesUnknown } from '../../core/dispatcher/nodes.js';
import { Stages, isRace } from './stages.js';

const COMMIT_TRIES = 20;
/** Commands that one request may become. */
const PARTS_MAX = 1000;

export class Manager implements ManagerBackend {
  readonly consensus: Consensus;
  readonly sessions = new Sessions();
  readonly acked = new Map<string, bigint>();
  /** Tasks stopped before every node had acknowledged their removal. */
  drainTimeouts = 0;
  /** Nodes that announced an address they cannot have. */
  dataPathsRefused = 0;
  readonly broker: LogBroker;
  readonly logger: Logger;
  readonly stages: Stages;
  private readonly dirty = new Signal();
  private timer: NodeJS.Timeout | undefined;
  private stopped = false;
  private loop: Promise<void> | undefined;
  private unsubscribe: (() => void) | undefined;

  constructor(consensus: Consensus, logger: Logger) {
    this.consensus = consensus;
    this.logger = logger;
    this.broker = new LogBroker(() => this.view());
    this.stages = new Stages((actions, nowMs) => this.propose(actions, nowMs), logger);
  }

  start(onCrash: (error: unknown) => void): void {
    this.unsubscribe = this.consensus.onEvents((events) => {
      for (const event of events) {
        if (event.kind === 'node' && event.action === 'remove') this.forget(event.object.id);
        if (event.kind === 'node' && event.action !== 'remove') this.tellDataPath(event.object, event.old);
        if (event.kind === 'task' && event.object.drainState?.timedOut === true && event.old?.drainState?.timedOut === false) this.drainTimedOut(event.object);
      }
      this.dirty.raise();
    });
    this.loop = this.run();
    this.loop.catch(onCrash);
    this.dirty.raise();
  }

  async close(): Promise<void> {
    this.stopped = true;
    this.unsubscribe?.();
    clearTimeout(this.timer);
    this.dirty.raise();
    await this.loop;
  }

  view(): ReadTx {
    return this.consensus.store;
  }

  soft(): Acknowledgements {
    return { acked: this.acked };
  }

  periodMs(): number {
    const period = this.view().cluster()?.spec?.dispatcher?.heartbeatPeriod;
    return period === undefined ? HEARTBEAT_DEFAULT_MS : durationMs(period) || HEARTBEAT_DEFAULT_MS;
  }

  onEvents(listener: EventListener): () => void {
    return this.consensus.onEvents(listener);
  }

  /** A node told how far it has got. */
  acknowledge(nodeId: string, revision: bigint): void {
    const before = this.acked.get(nodeId);
    if (before === undefined || revision > before) {
      this.acked.set(nodeId, revision);
      this.dirty.raise();
    }
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
    this.acked.delete(nodeId);
  }

  /** Deadlines changed: look again. */
  nudge(): void {
    this.dirty.raise();
  }

  async commit<T>(build: (view: ReadTx, context: ChangeContext) => Result<{ actions: readonly StoreAction[]; value: T }>): Promise<Result<T>> {
    for (let attempt = 0; attempt < COMMIT_TRIES; attempt++) {
      const context: ChangeContext = { nowMs: Date.now(), newId: () => newId(randomBytes), randomBytes };
      const built = build(this.view(), context);
      if (!built.ok) return built;
      if (built.value.actions.length === 0) return ok(built.value.value);
      const applied = await this.propose(built.value.actions, context.nowMs);
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
  async commitParts(what: string, build: (view: ReadTx, context: ChangeContext) => readonly StoreAction[]): Promise<Result<void>> {
    for (let part = 0; part < PARTS_MAX; part++) {
      const done = await this.commit((view, context) => {
        const portions = this.stages.portions(what, build(view, context));
        return ok({ actions: portions[0] ?? [], value: portions.length <= 1 });
      });
      if (!done.ok) return done;
      if (done.value) return ok(undefined);
    }
    return fail('aborted', `${what}: the objects kept changing`);
  }

  async *logs(selector: LogSelector, options: LogSubscriptionOptions, signal: AbortSignal): AsyncIterable<LogMessage> {
    yield* this.broker.subscribe(selector, options, signal);
  }

  private async propose(actions: readonly StoreAction[], nowMs: number) {
    return this.consensus.propose(create(CommandSchema, {
      id: newId(randomBytes), time: timestampFromMs(nowMs), actions: [...actions],
    }));
  }

  private async run(): Promise<void> {
    this.report('nodes of unknown state', await this.commitParts('nodes of unknown state', (view) => nodesUnknown(view)));
    for (const node of this.view().list('node')) this.sessions.expect(node.id, Date.now(), this.periodMs());
    while (!this.stopped) {
      await this.dirty.wait();
      await this.reconcile();
    }
  }

  /** One pass of every stage, in the order a task goes through them. Comes again while there is something to do. */
  private async reconcile(): Promise<void> {
    const nowMs = Date.now();
    let changed = false;
    const stage = async (name: string, actions: readonly StoreAction[]): Promise<void> => {
      if (!this.stopped && await this.stages.run(name, actions, nowMs)) changed = true;
    };
    const expired = this.sessions.expire(nowMs);
    for (const nodeId of expired) this.acked.delete(nodeId);
    // Each is named once only: a race must not leave it up for good.
    if (expired.length > 0) this.report('expired nodes', await this.commitParts('expired nodes', (view) => expireNodes(view, expired, nowMs)));
    const outcome = orchestrate({ view: this.view(), soft: this.soft(), nowMs, newId: () => newId(randomBytes) });
    await stage('orchestrator', outcome.actions);
    await stage('allocator', allocate({ view: this.view(), soft: this.soft(), nowMs }));
    await stage('scheduler', schedule({ view: this.view(), soft: this.soft(), nowMs }));
    if (changed) this.dirty.raise();
    const retryMs = this.stages.endPass();
    this.arm(retryMs === undefined ? outcome.wakeMs : Math.min(outcome.wakeMs ?? Infinity, Date.now() + retryMs));
  }

  private report(what: string, done: Result<void>): void {
    if (!done.ok && !this.stopped) this.logger.error({ what, error: done.error.message }, 'a change of the manager was refused');
  }

  private arm(wakeMs: number | undefined): void {
    clearTimeout(this.timer);
    const deadline = this.sessions.nextDeadlineMs();
    const next = Math.min(wakeMs ?? Infinity, deadline ?? Infinity);
    if (next === Infinity || this.stopped) return;
    this.timer = setTimeout(() => this.dirty.raise(), Math.min(Math.max(next - Date.now(), 1), 60_000));
  }
}
