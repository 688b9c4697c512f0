// OciController: one task under conmon and runc or crun. The truth is on disk (TaskFiles); this object only watches
// it, so a new agent's controller continues where the last one's stopped.
// State: nothing -> prepared (record) -> started (record.process) -> ended (exit.json) -> removed.

import { readdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { AppFailure, appError, expectedFailure } from '../../lib/result.js';
import type { Task } from '../../model/proto/swarmkit_pb.js';
import type { ContainerState, ContainerSummary, Controller, ExitState, LogOptions, LogRecord, TaskEnvironment } from '../../platform/executor.js';
import type { LocalImageStore } from '../images/store.js';
import { createUnderConmon, type Runtime, runtimeError } from './conmon.js';
import { removeCgroups, waitForExit } from './exit.js';
import { ensureDirectory, exists, gather, readText } from './files.js';
import { sleep, watchHealth, type HealthCheck } from './health.js';
import { readLogFile } from './logs.js';
import { mountsBelow, unmountBelow } from './mounts.js';
import { prepareTask } from './prepare.js';
import { bootId, isAlive, processStart, signalProcess } from './processes.js';
import { run } from './run.js';
import { TaskFiles, type TaskProcess, type TaskRecord } from './task-files.js';

const sigKill = 9;
const conmonEndMs = 5_000;
const conmonPollMs = 20;
const lookAgainMs = 500;

export interface ControllerContext {
  readonly stateDir: string;
  readonly images: LocalImageStore;
  readonly runtime: () => Promise<Runtime>;
  readonly cgroupParent: string;
  readonly hiddenPaths: readonly string[];
  readonly forget: (taskId: string) => void;
}

export class OciController implements Controller {
  readonly taskId: string;
  readonly #context: ControllerContext;
  readonly #files: TaskFiles;
  readonly #closing = new AbortController();
  #record: TaskRecord | undefined;
  #exit: ExitState | undefined;
  #exiting: Promise<ExitState> | undefined;
  #healthy: { readonly promise: Promise<void>; readonly resolve: () => void; readonly reject: (error: Error) => void } | undefined;
  #reason: string | undefined;

  constructor(context: ControllerContext, taskId: string) {
    this.#context = context;
    this.taskId = taskId;
    this.#files = new TaskFiles(context.stateDir, taskId);
    this.#record = this.#files.readRecord();
    this.#exit = this.#files.readExit();
    if (this.#record?.process?.started === true && this.#exit === undefined) this.#watch(this.#record);
  }

  get #cgroupsPath(): string {
    return `${this.#context.cgroupParent}/${this.taskId}`;
  }

  async prepare(task: Task, environment: TaskEnvironment): Promise<void> {
    // Prepared by a former agent and not undone by a reboot: good as it is.
    if (this.#record !== undefined && (this.#record.process?.started === true || mountsBelow(this.#files.merged).length > 0)) return;
    if (task.id !== this.taskId) throw new AppFailure(appError('invalid_argument', `task ${task.id} given to the controller of ${this.taskId}`));
    await this.#clean();
    await ensureDirectory(this.#files.directory);
    const { stateDir, images, hiddenPaths } = this.#context;
    try {
      const record = await prepareTask({ stateDir, images, hiddenPaths, files: this.#files, cgroupsPath: this.#cgroupsPath }, task, environment);
      await this.#files.writeRecord(record);
      this.#record = record;
    } catch (error) {
      await this.#clean();
      throw error;
    }
  }

  async start(): Promise<ContainerState> {
    const record = this.#record;
    if (record === undefined) throw new AppFailure(appError('failed_precondition', `task ${this.taskId} is not prepared`));
    const running = this.state();
    if (running !== undefined) return running;
    const runtime = await this.#context.runtime();
    const created = await this.#create(runtime, record);
    const result = await run(runtime.path, ['--root', runtime.root, '--log-format=json', `--log=${this.#files.at('oci.log')}`, 'start', record.containerId]);
    // A former agent may have died after the start it did not record.
    const ran = result.code === 0 || /already running/.test(result.stderr) || (await exists(path.join(this.#files.exits, record.containerId)));
    if (!ran) {
      const message = await runtimeError(this.#files, result.stderr || 'the task ended before it started');
      await this.#discard(record);
      throw new AppFailure(appError('invalid_argument', message));
    }
    const started: TaskRecord = { ...record, process: { ...created, started: true, startedAtMs: Date.now() } };
    await this.#files.writeRecord(started);
    this.#record = started;
    this.#watch(started);
    return { containerId: record.containerId, pid: created.pid, startedAtMs: started.process?.startedAtMs ?? 0 };
  }

  /** The container, created and waiting for its start, recorded: never two of them for one task. */
  async #create(runtime: Runtime, record: TaskRecord): Promise<TaskProcess> {
    const found = record.process;
    if (found !== undefined && found.boot === bootId() && isAlive(found.pid, found.start)) return found;
    // A former agent may have died between creating the container and recording it.
    if (await exists(this.#files.at('conmon.pid'))) await this.#discard(record);
    const pid = await createUnderConmon(runtime, this.#files, record);
    const process: TaskProcess = { pid, start: processStart(pid) ?? '', boot: bootId(), startedAtMs: Date.now(), started: false };
    this.#record = { ...record, process };
    await this.#files.writeRecord(this.#record);
    return process;
  }

  /** Undoes #create, waiting for conmon so that it cannot write the exit status of the old container later. */
  async #discard(record: TaskRecord): Promise<void> {
    await this.#deleteContainer(record);
    const conmonPid = Number((await readText(this.#files.at('conmon.pid'))) ?? 0);
    for (let waited = 0; processStart(conmonPid) !== undefined && waited < conmonEndMs; waited += conmonPollMs) await sleep(conmonPollMs);
    for (const name of ['exits', 'persist', 'conmon.pid', 'pid', 'log']) await rm(this.#files.at(name), { recursive: true, force: true });
    this.#record = { ...record, process: undefined };
    await this.#files.writeRecord(this.#record);
  }

  healthy(): Promise<void> {
    if (this.#record?.health === undefined || this.#healthy === undefined) return Promise.resolve();
    return this.#healthy.promise;
  }

  async wait(): Promise<ExitState> {
    if (this.#exit !== undefined) return this.#exit;
    if (this.#exiting === undefined) throw new AppFailure(appError('failed_precondition', `task ${this.taskId} is not started`));
    return this.#exiting;
  }

  async shutdown(graceMs: number): Promise<void> {
    const signal = this.#record?.stopSignal;
    if (signal === undefined || this.#exiting === undefined || this.#exit !== undefined) return;
    this.#signal(signal);
    const timer = new AbortController();
    const ended = await Promise.race([this.#exiting.then(() => true), sleep(graceMs, timer.signal).then(() => false)]);
    timer.abort();
    if (!ended) await this.terminate();
  }

  async terminate(): Promise<void> {
    if (this.#exiting === undefined || this.#exit !== undefined) return;
    this.#signal(sigKill);
    await this.#exiting;
  }

  async remove(): Promise<void> {
    if (this.#exiting !== undefined && this.#exit === undefined) this.#signal(sigKill);
    // Whatever tearing down left is met again below.
    await this.#exiting?.catch(() => undefined);
    this.close();
    await this.#clean();
    this.#record = undefined;
    this.#exit = undefined;
    this.#exiting = undefined;
    this.#context.forget(this.taskId);
  }

  logs(options: LogOptions): AsyncIterable<LogRecord> {
    if (this.#record?.logs === false) throw new AppFailure(appError('unimplemented', 'configured logging driver does not support reading'));
    return readLogFile(this.#files.log, options, () => this.#exit !== undefined || this.#closing.signal.aborted);
  }

  state(): ContainerState | undefined {
    const record = this.#record;
    if (record?.process?.started !== true) return undefined;
    return { containerId: record.containerId, pid: record.process.pid, startedAtMs: record.process.startedAtMs };
  }

  summary(): ContainerSummary | undefined {
    const record = this.#record;
    if (record === undefined) return undefined;
    const { containerId: id, name, image, imageId, command, createdMs, labels } = record;
    const state = this.#exit !== undefined ? 'exited' : record.process?.started === true ? 'running' : 'created';
    return {
      id, name, image, imageId, command, createdMs, labels, state,
      startedAtMs: this.state()?.startedAtMs, exit: this.#exit, pid: state === 'running' ? (record.process?.pid ?? 0) : 0,
    };
  }

  /** Stops watching; the task goes on. */
  close(): void {
    this.#closing.abort();
  }

  #signal(signal: number): void {
    const own = this.#record?.process;
    if (own !== undefined && own.boot === bootId()) signalProcess(own.pid, own.start, signal);
  }

  #watch(record: TaskRecord): void {
    const ended = new AbortController();
    this.#exiting = this.#awaitExit(record).finally(() => ended.abort());
    // Whoever calls wait() sees a rejection; without a caller it must not end the agent.
    this.#exiting.catch(() => undefined);
    if (record.health === undefined) return;
    const { promise, resolve, reject } = withResolvers();
    promise.catch(() => undefined);
    this.#healthy = { promise, resolve, reject };
    this.#exiting.then(() => reject(new AppFailure(appError('failed_precondition', this.#reason ?? 'task ended before it was healthy'))), reject);
    void this.#watchHealth(record, record.health, AbortSignal.any([ended.signal, this.#closing.signal]));
  }

  async #awaitExit(record: TaskRecord): Promise<ExitState> {
    const found = await this.#lookForExit(record);
    if (found === undefined) return new Promise<never>(() => undefined); // Closed: nobody will know.
    const exit: ExitState = { ...found, reason: this.#reason ?? found.reason };
    this.#exit = exit;
    await gather(`task ${this.taskId}`, [
      () => this.#files.writeExit(exit),
      () => this.#deleteContainer(record),
      () => unmountBelow(this.#files.directory),
    ]).catch((error: unknown) => {
      // It has ended whatever its remains do: conmon's file tells a later agent, remove() meets what is left and says so.
      if (expectedFailure(error) === undefined) throw error;
    });
    return exit;
  }

  /** Looks until it knows: a machine out of files or memory for a while does not end a task. */
  async #lookForExit(record: TaskRecord): Promise<ExitState | undefined> {
    for (;;) {
      try {
        return await waitForExit(this.#files, record, this.#cgroupsPath, this.#closing.signal);
      } catch (error) {
        if (expectedFailure(error) === undefined) throw error;
        await sleep(lookAgainMs, this.#closing.signal);
      }
    }
  }

  async #watchHealth(record: TaskRecord, health: HealthCheck, signal: AbortSignal): Promise<void> {
    const flag = this.#files.at('healthy');
    const wasHealthy = await exists(flag);
    if (wasHealthy) this.#healthy?.resolve();
    await watchHealth(health, record.process?.startedAtMs ?? 0, wasHealthy, {
      check: (check) => this.#check(record, check),
      onHealthy: () => {
        this.#healthy?.resolve();
        void writeFile(flag, '').catch(() => undefined); // Removed meanwhile: then nobody needs it.
      },
      onUnhealthy: () => {
        this.#reason = 'unhealthy container';
        void this.shutdown(record.stopGraceMs).catch(() => undefined); // wait() tells of the failure.
      },
    }, signal);
  }

  async #check(record: TaskRecord, health: HealthCheck): Promise<boolean> {
    const runtime = await this.#context.runtime();
    const pidFile = this.#files.at('health.pid');
    await rm(pidFile, { force: true });
    const args = ['--root', runtime.root, 'exec', '--pid-file', pidFile, record.containerId, ...health.args];
    const result = await run(runtime.path, args, { timeoutMs: health.timeoutMs }).catch((error: unknown) => {
      if (error instanceof AppFailure) return undefined; // Out of processes or memory counts as a failed check.
      throw error;
    });
    if (result?.timedOut === true) {
      const pid = Number((await readText(pidFile)) ?? 0);
      const start = processStart(pid);
      if (start !== undefined) signalProcess(pid, start, sigKill);
    }
    return result?.code === 0;
  }

  async #deleteContainer(record: TaskRecord): Promise<void> {
    const runtime = await this.#context.runtime();
    const result = await run(runtime.path, ['--root', runtime.root, 'delete', '--force', record.containerId]);
    if (result.code !== 0 && !/does not exist|No such file/.test(result.stderr)) {
      throw new AppFailure(appError('internal', `${runtime.name} delete: ${result.stderr.trim().slice(0, 4096)}`));
    }
  }

  /** Brings the task's place on the machine to nothing, whatever was there. */
  async #clean(): Promise<void> {
    const files = this.#files;
    if (!(await exists(files.directory))) return;
    const record = files.readRecord();
    await gather(`remove task ${this.taskId}`, [
      async () => record === undefined ? undefined : this.#deleteContainer(record),
      () => unmountBelow(files.directory),
      () => removeCgroups(this.#cgroupsPath),
      () => removeVolumes(this.#context.stateDir, record?.anonymousVolumes ?? []),
      async () => {
        // Deleting through a mount that is still there would delete what it shows.
        const left = mountsBelow(files.directory);
        if (left.length > 0) throw new AppFailure(appError('unavailable', `still mounted: ${left.join(', ')}`));
        await rm(files.directory, { recursive: true, force: true, maxRetries: 3 });
      },
    ]);
  }
}

async function removeVolumes(stateDir: string, names: readonly string[]): Promise<void> {
  for (const name of names) await rm(path.join(stateDir, 'volumes', name), { recursive: true, force: true });
}

function withResolvers(): { promise: Promise<void>; resolve: () => void; reject: (error: Error) => void } {
  let resolve!: () => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

/** Ids of the tasks that have a directory. */
export async function taskIdsOnDisk(stateDir: string): Promise<string[]> {
  const directory = path.join(stateDir, 'tasks');
  await ensureDirectory(directory);
  return (await readdir(directory, { withFileTypes: true })).filter((entry) => entry.isDirectory()).map((entry) => entry.name).sort();
}
