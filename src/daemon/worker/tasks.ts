// Tasks: the worker's loop over its assignments. Each task has one runner that asks core/agent what to do next and
// does it with the executor and the data plane. Reports go out through `report`; a status never goes backwards.

import { create } from '@bufbuild/protobuf';
import type { Logger } from 'pino';
import { decide, type Action } from '../../core/agent/decide.js';
import { freeGatewayAddress, needsGateway, sandboxOf } from '../../core/agent/sandbox.js';
import { AppFailure, expectedFailure } from '../../lib/result.js';
import { durationMs, timestampFromMs } from '../../lib/time.js';
import type { LocalTask } from '../../model/proto/skein_pb.js';
import {
  ContainerStatusSchema, PortStatusSchema, TaskState, TaskStatusSchema, type Config, type Secret, type Task, type TaskStatus,
} from '../../model/proto/swarmkit_pb.js';
import { hostPorts } from '../../model/task.js';
import type { DataPlane } from '../../platform/dataplane.js';
import type { Executor, ExitState } from '../../platform/executor.js';
import type { AssignmentSet } from '../../core/dispatcher/assignments.js';
import { environmentOf, type WorkerIdentity } from './environment.js';
import { backoffMs, Leftovers } from './leftovers.js';
import { newRunner, type Runner } from './runner.js';
import type { TaskStore } from './taskstore.js';

const STOP_GRACE_DEFAULT_MS = 10_000;
/** SwarmKit tries again after a second what failed for the time being. */
const RETRY_MS = 1000;
/** A short absence (an upgrade, a crash) is waited out; what stays away is the task's failure. */
const RETRIES_MAX = 30;
/** A leaving user waits for it. */
const END_TRIES = 5;

export interface TasksOptions {
  readonly executor: Executor;
  readonly dataPlane: DataPlane;
  readonly store: TaskStore;
  readonly gatewayBridge: string;
  readonly logger: Logger;
  readonly identity: () => WorkerIdentity;
  readonly report: (taskId: string, status: TaskStatus) => void;
  /** Host-mode ports or sandboxes changed: the node's own rows have to be computed again. */
  readonly onLocalChange: () => void;
  readonly onBug: (error: unknown) => void;
}

export class Tasks {
  private readonly runners = new Map<string, Runner>();
  private secrets: ReadonlyMap<string, Secret> = new Map();
  private configs: ReadonlyMap<string, Config> = new Map();
  private readonly options: TasksOptions;
  private readonly leftovers: Leftovers;
  private ending = false;
  private closed = false;

  constructor(options: TasksOptions) {
    this.options = options;
    this.leftovers = new Leftovers(options.logger, options.onBug);
  }

  /** Takes up what runs on this machine from before a restart: sandboxes first, then processes. */
  async adopt(saved: readonly LocalTask[]): Promise<void> {
    const { executor, dataPlane } = this.options;
    const [found, sandboxes] = [new Set(await executor.adopt()), new Set(await dataPlane.sandboxes())];
    for (const local of saved) {
      if (local.task === undefined || local.status === undefined) continue;
      // The last agent may have been cut off between the end of a task and its release: what is there is released.
      const sandbox = sandboxes.delete(local.task.id);
      const runner = newRunner(local.task, local.status, { sandbox, gatewayAddress: local.gatewayAddress });
      this.runners.set(local.task.id, runner);
      const active = local.status.state <= TaskState.RUNNING && local.status.state >= TaskState.PREPARING;
      if (active && !await this.takeUp(runner)) continue;
      await this.resume(runner, found.has(local.task.id));
    }
    const unknown = [...found].filter((id) => !this.runners.has(id));
    for (const id of unknown) await this.leftovers.remove(`task ${id}`, () => executor.controller(id).remove());
    for (const id of sandboxes) await this.leftovers.remove(`sandbox ${id}`, () => dataPlane.detach(id));
    for (const runner of this.runners.values()) this.step(runner);
  }

  /** The manager's current word on this node's tasks. A lower desired state than known is ignored. */
  assign(set: AssignmentSet): void {
    this.secrets = set.secrets;
    this.configs = set.configs;
    for (const [id, task] of set.tasks) {
      const runner = this.runners.get(id);
      if (runner === undefined) {
        // Ended before this node ever saw it: nothing to run, nothing to tell.
        if ((task.status?.state ?? TaskState.NEW) > TaskState.RUNNING) continue;
        this.add(task);
      } else if (task.desiredState >= runner.task.desiredState) {
        runner.task = task;
        runner.assigned = true;
        this.step(runner);
      }
    }
    for (const [id, runner] of this.runners) {
      if (set.tasks.has(id)) continue;
      runner.assigned = false;
      this.step(runner);
    }
  }

  statuses(): ReadonlyMap<string, TaskStatus> {
    return new Map([...this.runners].filter(([, r]) => r.assigned).map(([id, r]) => [id, r.status]));
  }

  get(taskId: string): Task | undefined {
    return this.runners.get(taskId)?.task;
  }

  list(): Task[] {
    return [...this.runners.values()].map((runner) => runner.task);
  }

  /** Running tasks and their gateway addresses, for the node's own rows. */
  serving(): { readonly tasks: Task[]; readonly gatewayAddress: (taskId: string) => string | undefined } {
    const up = [...this.runners.values()].filter((r) => r.status.state === TaskState.RUNNING && r.sandbox && !r.stopping);
    return { tasks: up.map((r) => r.task), gatewayAddress: (id) => this.runners.get(id)?.gatewayAddress.split('/')[0] || undefined };
  }

  /** The data plane came back empty-handed: give it the sandboxes of all tasks again. */
  async reattach(): Promise<void> {
    for (const runner of this.runners.values()) if (runner.sandbox) await this.takeUp(runner);
  }

  /** Attaches what runs from before. A task whose network cannot be had again has failed; the others are not concerned. */
  private async takeUp(runner: Runner): Promise<boolean> {
    try {
      await this.attach(runner);
      return true;
    } catch (error) {
      const failure = expectedFailure(error);
      // The whole data plane is away, or hangs, not this task's part of it.
      if (failure === undefined || failure.code === 'unavailable' || failure.code === 'deadline_exceeded') throw failure ?? error;
      // What there is of its sandbox goes with it.
      runner.sandbox = true;
      this.options.logger.warn({ taskId: runner.task.id, error: failure.message }, 'task failed: its network cannot be restored');
      this.follow(runner, this.set(runner, TaskState.FAILED, 'attaching', failure.message));
      return false;
    }
  }

  /**
   * Stops and removes every task (the node leaves its swarm); nothing is done with them afterwards. What cannot be removed is
   * tried again for a while; then AppFailure tells of it, and the tasks that are left go on being looked after.
   */
  async stopAll(): Promise<void> {
    this.ending = true;
    const results = await Promise.allSettled([...this.runners.values()].map((runner) => this.end(runner)));
    const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
    if (errors.length === 0) return this.leftovers.close();
    this.ending = this.closed;
    for (const runner of this.runners.values()) {
      runner.stopping = false;
      this.step(runner);
    }
    const failures = errors.map(expectedFailure);
    if (failures.includes(undefined)) throw errors[failures.indexOf(undefined)];
    const words = [...new Set(failures.map((failure) => failure?.message))].join('; ').slice(0, 1000);
    throw new AppFailure({ code: 'unavailable', message: `some tasks cannot be removed: ${words}` });
  }

  /** Lets go: what runs goes on, what was to be tried again is the next agent's. */
  close(): void {
    this.ending = this.closed = true;
    this.leftovers.close();
  }

  private async end(runner: Runner): Promise<void> {
    runner.assigned = false;
    runner.stopping = true;
    for (let tries = 1; ; tries++) {
      try {
        const controller = this.options.executor.controller(runner.task.id);
        // Ends what an action waits for; then the action itself: nothing may be removed while it is being made.
        await controller.terminate();
        await runner.work;
        await controller.terminate();
        await this.remove(runner);
        return;
      } catch (error) {
        if (expectedFailure(error) === undefined || tries >= END_TRIES) throw error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  private add(task: Task): void {
    const runner = newRunner(task, task.status ?? create(TaskStatusSchema, { state: TaskState.ASSIGNED }));
    this.runners.set(task.id, runner);
    this.step(runner);
  }

  private async resume(runner: Runner, onDisk: boolean): Promise<void> {
    const { state } = runner.status;
    if (state > TaskState.RUNNING) return;
    const controller = this.options.executor.controller(runner.task.id);
    const started = onDisk && controller.state() !== undefined;
    if (started && state >= TaskState.STARTING) {
      this.watch(runner);
      if (state === TaskState.STARTING) this.awaitHealth(runner);
    } else if (state === TaskState.RUNNING || (state === TaskState.STARTING && !onDisk)) {
      this.ended(runner, { exitCode: -1, finishedAtMs: Date.now(), reason: 'task was lost while the agent was away' });
    } else if (state >= TaskState.PREPARING) {
      // Cut off on its way up, perhaps with its container made but not started: prepare and start find what there is.
      runner.status = create(TaskStatusSchema, { ...runner.status, state: TaskState.ACCEPTED });
    }
  }

  /** Runs the next action, if any; comes back to itself when it is done. */
  private step(runner: Runner): void {
    // Removed: there is nothing to decide any more.
    if (this.ending || this.runners.get(runner.task.id) !== runner) return;
    const action = decide(
      { assigned: runner.assigned, desired: runner.task.desiredState },
      { state: runner.status.state, busy: runner.busy, sandbox: runner.sandbox },
    );
    if (action === 'none') return;
    this.act(runner, action);
  }

  private act(runner: Runner, action: Action): void {
    runner.busy = action;
    runner.work = this.perform(runner, action).then(
      () => {
        runner.busy = undefined;
        runner.retries = 0;
        this.step(runner);
      },
      (error) => this.failed(runner, action, error),
    );
  }

  private async failed(runner: Runner, action: Action, error: unknown): Promise<void> {
    const failure = expectedFailure(error);
    if (failure === undefined) {
      this.options.onBug(error);
      return;
    }
    const { logger } = this.options;
    const taskId = runner.task.id;
    // What has ended is cleaned up, however long it takes: its address and its place must not be forgotten.
    const cleaning = action === 'release' || action === 'remove';
    if (!this.ending && (cleaning || (failure.code === 'unavailable' && runner.retries < RETRIES_MAX))) {
      logger.warn({ taskId, action, retries: runner.retries, error: failure.message }, 'task action is tried again');
      // An agent that ends does not wait for it.
      await new Promise((resolve) => setTimeout(resolve, cleaning ? backoffMs(runner.retries) : RETRY_MS).unref());
      runner.retries += 1;
      // The Engine or the data plane is just away: tried again, unless the task is to stop before it ran.
      const early = action === 'prepare' || action === 'start';
      if (!this.ending && !(early && (!runner.assigned || runner.task.desiredState >= TaskState.SHUTDOWN))) {
        this.act(runner, action);
        return;
      }
    }
    runner.busy = undefined;
    runner.retries = 0;
    if (cleaning) return;
    const state = runner.status.state < TaskState.STARTING ? TaskState.REJECTED : TaskState.FAILED;
    logger.warn({ taskId, action, error: failure.message }, 'task failed');
    await this.set(runner, state, action === 'prepare' ? 'preparing' : action === 'start' ? 'starting' : action, failure.message)
      .then(() => this.step(runner), this.options.onBug);
  }

  private async perform(runner: Runner, action: Action): Promise<void> {
    const { executor } = this.options;
    switch (action) {
      case 'accept':
        return this.set(runner, TaskState.ACCEPTED, 'accepted');
      case 'prepare':
        return this.prepare(runner);
      case 'start':
        return this.start(runner);
      case 'shutdown':
        return this.shutdown(runner);
      case 'release':
        await executor.controller(runner.task.id).terminate();
        return this.detach(runner);
      case 'remove':
        return this.remove(runner);
      case 'none':
        return undefined;
    }
  }

  private async prepare(runner: Runner): Promise<void> {
    const { task } = runner;
    await this.set(runner, TaskState.PREPARING, 'preparing');
    if (needsGateway(task) && runner.gatewayAddress === '') {
      const used = new Set([...this.runners.values()].map((r) => r.gatewayAddress));
      const address = freeGatewayAddress(this.options.gatewayBridge, used);
      if (address === undefined) throw new AppFailure({ code: 'resource_exhausted', message: 'no free address in the gateway network' });
      runner.gatewayAddress = address;
    }
    const netns = await this.attach(runner);
    const environment = await environmentOf(task, this.options.identity(), netns, this.secrets, this.configs);
    await this.options.executor.controller(task.id).prepare(task, environment);
    await this.set(runner, TaskState.READY, 'prepared');
  }

  private async start(runner: Runner): Promise<void> {
    await this.set(runner, TaskState.STARTING, 'starting');
    await this.options.executor.controller(runner.task.id).start();
    this.watch(runner);
    this.awaitHealth(runner);
  }

  private awaitHealth(runner: Runner): void {
    this.options.executor.controller(runner.task.id).healthy().then(() => {
      if (runner.status.state !== TaskState.STARTING || runner.stopping) return;
      this.follow(runner, this.set(runner, TaskState.RUNNING, 'started'));
    }, (error) => {
      // Ended before it was ever healthy: wait() says how.
      if (!(error instanceof AppFailure)) this.options.onBug(error);
    });
  }

  private watch(runner: Runner): void {
    if (runner.watched) return;
    runner.watched = true;
    this.options.executor.controller(runner.task.id).wait().then((exit) => {
      if (!runner.stopping) this.ended(runner, exit);
    }, this.options.onBug);
  }

  private ended(runner: Runner, exit: ExitState): void {
    if (runner.status.state > TaskState.RUNNING) return;
    const good = exit.exitCode === 0 && exit.reason === undefined;
    const error = exit.reason ?? `task: non-zero exit (${exit.exitCode})`;
    const state = good ? TaskState.COMPLETE : TaskState.FAILED;
    this.follow(runner, this.set(runner, state, good ? 'finished' : 'started', good ? '' : error, exit.exitCode));
  }

  /** The next step after a change that no action made. */
  private follow(runner: Runner, change: Promise<void>): void {
    const done = change.then(() => this.step(runner), this.options.onBug);
    runner.work = Promise.all([runner.work, done]).then(() => undefined);
  }

  private async shutdown(runner: Runner): Promise<void> {
    const { task } = runner;
    const ran = runner.status.state >= TaskState.STARTING;
    runner.stopping = true;
    let exitCode = 0;
    if (ran) {
      const controller = this.options.executor.controller(task.id);
      const spec = task.spec?.runtime.case === 'container' ? task.spec.runtime.value : undefined;
      await controller.shutdown(spec?.stopGracePeriod === undefined ? STOP_GRACE_DEFAULT_MS : durationMs(spec.stopGracePeriod));
      exitCode = (await controller.wait()).exitCode;
    }
    await this.set(runner, TaskState.SHUTDOWN, 'shutdown', '', exitCode);
  }

  private async remove(runner: Runner): Promise<void> {
    await this.options.executor.controller(runner.task.id).remove();
    await this.detach(runner);
    await this.options.store.remove(runner.task.id);
    this.runners.delete(runner.task.id);
  }

  private async attach(runner: Runner): Promise<string> {
    const gateway = runner.gatewayAddress === '' ? undefined : runner.gatewayAddress;
    const { netns } = await this.options.dataPlane.attach(sandboxOf(runner.task, gateway));
    runner.sandbox = true;
    return netns;
  }

  private async detach(runner: Runner): Promise<void> {
    if (runner.sandbox) await this.options.dataPlane.detach(runner.task.id);
    runner.sandbox = false;
    runner.gatewayAddress = '';
    this.options.onLocalChange();
  }

  private async set(runner: Runner, state: TaskState, message: string, err = '', exitCode = 0): Promise<void> {
    if (state < runner.status.state) return;
    const container = this.options.executor.controller(runner.task.id).state();
    const status = create(TaskStatusSchema, { state, message, err, timestamp: timestampFromMs(Date.now()) });
    if (state >= TaskState.STARTING) {
      const before = runner.status.runtimeStatus.case === 'container' ? runner.status.runtimeStatus.value : undefined;
      status.runtimeStatus = {
        case: 'container',
        value: create(ContainerStatusSchema, {
          containerId: container?.containerId ?? before?.containerId ?? '',
          pid: state > TaskState.RUNNING ? 0 : container?.pid ?? before?.pid ?? 0,
          exitCode,
        }),
      };
      const ports = hostPorts(runner.task.endpoint?.ports);
      if (ports.length > 0 && state <= TaskState.RUNNING) status.portStatus = create(PortStatusSchema, { ports });
    }
    runner.status = status;
    await this.options.store.save(runner.task, status, runner.gatewayAddress).catch((error: unknown) => {
      const failure = expectedFailure(error);
      // On its way up a task waits for its file; what it is beyond that is true whether or not the disk takes it.
      if (failure === undefined || state < TaskState.RUNNING) throw error;
      this.options.logger.warn({ taskId: runner.task.id, error: failure.message }, 'task state is not on disk: the next agent will look');
    });
    this.options.report(runner.task.id, status);
    this.options.onLocalChange();
  }
}
