// DockerController: one task as a container of the local Engine. The Engine keeps the state; this object asks it.

import { rm } from 'node:fs/promises';
import path from 'node:path';
import type Docker from 'dockerode';
import { AppFailure, appError, expectedFailure } from '../../lib/result.js';
import type { Task } from '../../model/proto/swarmkit_pb.js';
import type { ContainerState, ContainerSummary, Controller, ExitState, LogOptions, LogRecord, TaskEnvironment } from '../../platform/executor.js';
import { ensureDirectory, exists, gather, writeFileAtomic } from '../oci/files.js';
import { sleep } from '../oci/health.js';
import { mountsBelow, unmountBelow } from '../oci/mounts.js';
import { containerSpec } from '../oci/prepare.js';
import { secretMounts } from '../oci/spec-mounts.js';
import { TaskFiles } from '../oci/task-files.js';
import { createOptions, ownerLabel } from './create-options.js';
import { call, callOrMissing, openStream } from './engine.js';
import { readFrames } from './logs.js';
import { checkNetnsPath } from './wrapper.js';

const healthPollMs = 250;
const retryMs = 500;
const defaultGraceMs = 10_000;

export interface DockerContext {
  readonly docker: Docker;
  readonly stateDir: string;
  readonly netnsDirectory: string;
  readonly runtimeName: string;
  readonly owner: string;
  readonly forget: (taskId: string) => void;
}

export class DockerController implements Controller {
  readonly taskId: string;
  readonly #context: DockerContext;
  readonly #files: TaskFiles;
  readonly #closing = new AbortController();
  #info: Docker.ContainerInspectInfo | undefined;
  #exiting: Promise<ExitState> | undefined;
  #exit: ExitState | undefined;
  #reason: string | undefined;
  #healthy: Promise<void> | undefined;

  constructor(context: DockerContext, taskId: string) {
    this.#context = context;
    this.taskId = taskId;
    this.#files = new TaskFiles(context.stateDir, taskId);
  }

  /** Takes over a container that the Engine already has. */
  adopt(info: Docker.ContainerInspectInfo): void {
    this.#info = info;
    if (wasStarted(info) && this.#exiting === undefined) this.#watch(info);
  }

  async prepare(task: Task, environment: TaskEnvironment): Promise<void> {
    const spec = containerSpec(task);
    const found = this.#info ?? (await this.#find());
    if (found !== undefined) {
      // A former agent may have died before it wrote the namespace's path.
      await this.#writeNetns(found.Id, environment.netns);
      this.adopt(found);
      return;
    }
    const { docker, owner, runtimeName } = this.#context;
    await ensureDirectory(this.#files.directory);
    try {
      const secrets = await secretMounts(this.#files, spec, environment);
      const container = await call(docker.createContainer(createOptions({ task, spec, environment, secrets, runtimeName, owner })));
      await this.#writeNetns(container.id, environment.netns);
      this.#info = await call(container.inspect());
    } catch (error) {
      await this.#clean();
      throw error;
    }
  }

  async start(): Promise<ContainerState> {
    const info = this.#info;
    if (info === undefined) throw new AppFailure(appError('failed_precondition', `task ${this.taskId} is not prepared`));
    const present = this.state();
    if (present !== undefined) return present;
    const container = this.#context.docker.getContainer(info.Id);
    await call(container.start());
    const started = await call(container.inspect());
    this.#info = started;
    this.#watch(started);
    return { containerId: started.Id, pid: started.State.Pid, startedAtMs: Date.parse(started.State.StartedAt) };
  }

  healthy(): Promise<void> {
    return this.#healthy ?? Promise.resolve();
  }

  async wait(): Promise<ExitState> {
    if (this.#exiting === undefined) throw new AppFailure(appError('failed_precondition', `task ${this.taskId} is not started`));
    return this.#exiting;
  }

  async shutdown(graceMs: number): Promise<void> {
    if (this.#info === undefined || this.#exiting === undefined || this.#exit !== undefined) return;
    // The Engine counts in whole seconds; its kill comes no earlier than asked for.
    const stopping = callOrMissing(this.#context.docker.getContainer(this.#info.Id).stop({ t: Math.ceil(graceMs / 1000) }));
    await stopping.catch((error: unknown) => {
      // 304: it had ended already.
      if (!/container already stopped/.test((error as Error).message)) throw error;
    });
    await this.#exiting;
  }

  async terminate(): Promise<void> {
    if (this.#info === undefined || this.#exiting === undefined || this.#exit !== undefined) return;
    await callOrMissing(this.#context.docker.getContainer(this.#info.Id).kill()).catch((error: unknown) => {
      if (!/is not running/.test((error as Error).message)) throw error;
    });
    await this.#exiting;
  }

  async remove(): Promise<void> {
    this.#info ??= await this.#find();
    this.close();
    await this.#clean();
    this.#info = undefined;
    this.#exiting = undefined;
    this.#context.forget(this.taskId);
  }

  async *logs(options: LogOptions): AsyncGenerator<LogRecord> {
    let lastNs = options.sinceNs;
    let seenAtLast = 0;
    for await (const record of this.#readLogs(options)) {
      seenAtLast = record.timestampNs === lastNs ? seenAtLast + 1 : 1;
      lastNs = record.timestampNs;
      yield record;
    }
    if (!options.follow || options.signal.aborted || this.#exiting === undefined) return;
    // An Engine may end a follower before what the task wrote last, so the rest is read once it has ended.
    await Promise.race([this.#exiting, aborted(options.signal)]);
    for await (const record of this.#readLogs({ ...options, follow: false, tail: lastNs === undefined ? options.tail : undefined, sinceNs: lastNs })) {
      if (record.timestampNs === lastNs && seenAtLast > 0) seenAtLast--;
      else yield record;
    }
  }

  async *#readLogs(options: LogOptions): AsyncGenerator<LogRecord> {
    const info = this.#info;
    if (info === undefined || options.signal.aborted || (!options.stdout && !options.stderr)) return;
    const query = new URLSearchParams({ timestamps: '1', follow: options.follow ? '1' : '0', stdout: options.stdout ? '1' : '0', stderr: options.stderr ? '1' : '0' });
    query.set('tail', options.tail === undefined ? 'all' : String(options.tail));
    if (options.sinceNs !== undefined) query.set('since', `${options.sinceNs / 1_000_000_000n}.${String(options.sinceNs % 1_000_000_000n).padStart(9, '0')}`);
    const stream = await openStream(this.#context.docker, 'GET', `/containers/${info.Id}/logs`, query);
    const stop = (): void => void stream.destroy();
    options.signal.addEventListener('abort', stop);
    try {
      for await (const record of readFrames(stream, info.Config.Tty)) {
        if (options.signal.aborted) return;
        yield record;
      }
    } catch (error) {
      // Destroyed by the abort, which ends the iteration, not fails it.
      if (!options.signal.aborted) throw error;
    } finally {
      options.signal.removeEventListener('abort', stop);
      stream.destroy();
    }
  }

  state(): ContainerState | undefined {
    const info = this.#info;
    if (info === undefined || !wasStarted(info)) return undefined;
    return { containerId: info.Id, pid: info.State.Pid, startedAtMs: Date.parse(info.State.StartedAt) };
  }

  summary(): ContainerSummary | undefined {
    const info = this.#info;
    if (info === undefined) return undefined;
    const state = this.#exit !== undefined ? 'exited' : wasStarted(info) ? 'running' : 'created';
    return {
      id: info.Id, name: info.Name.replace(/^\//, ''), image: info.Config.Image, imageId: info.Image,
      command: [info.Path, ...info.Args].join(' '), createdMs: Date.parse(info.Created), state,
      startedAtMs: this.state()?.startedAtMs, exit: this.#exit, pid: state === 'running' ? info.State.Pid : 0, labels: info.Config.Labels,
    };
  }

  close(): void {
    this.#closing.abort();
  }

  async #writeNetns(containerId: string, netns: string): Promise<void> {
    if (netns === '') return;
    checkNetnsPath(netns);
    await ensureDirectory(this.#context.netnsDirectory);
    await writeFileAtomic(path.join(this.#context.netnsDirectory, containerId), netns);
  }

  async #find(): Promise<Docker.ContainerInspectInfo | undefined> {
    const filters = { label: [`com.docker.swarm.task.id=${this.taskId}`, `${ownerLabel}=${this.#context.owner}`] };
    const [found] = await call(this.#context.docker.listContainers({ all: true, filters }));
    return found === undefined ? undefined : callOrMissing(this.#context.docker.getContainer(found.Id).inspect());
  }

  #watch(info: Docker.ContainerInspectInfo): void {
    this.#exiting = this.#awaitExit(info.Id);
    this.#exiting.catch(() => undefined); // Seen by whoever calls wait().
    const test = info.Config.Healthcheck?.Test ?? [];
    if (test.length === 0 || test[0] === 'NONE') return;
    this.#healthy = this.#watchHealth(info);
    this.#healthy.catch(() => undefined);
  }

  /** Survives restarts of the Engine: asks again until it has an answer. */
  async #awaitExit(id: string): Promise<ExitState> {
    const container = this.#context.docker.getContainer(id);
    const { signal } = this.#closing;
    for (;;) {
      try {
        await call(container.wait({ abortSignal: signal }));
        const info = await callOrMissing(container.inspect());
        if (info === undefined || !info.State.Running) return this.#ended(info);
      } catch (error) {
        if (signal.aborted) return new Promise<never>(() => undefined); // Closed: nobody will know.
        if (error instanceof AppFailure && error.code === 'not_found') return this.#ended(undefined);
        // A lost connection is a restarting Engine, and one that fails inside says nothing about the task.
        if (error instanceof AppFailure && error.code === 'invalid_argument') throw error;
      }
      await sleep(retryMs, signal);
    }
  }

  #ended(info: Docker.ContainerInspectInfo | undefined): ExitState {
    if (info !== undefined) this.#info = info;
    const exit: ExitState = info === undefined
      ? { exitCode: -1, finishedAtMs: Date.now(), reason: this.#reason ?? 'container was removed' }
      : {
        exitCode: info.State.ExitCode,
        finishedAtMs: Date.parse(info.State.FinishedAt),
        reason: this.#reason ?? (info.State.OOMKilled ? 'OOM killed' : undefined),
      };
    this.#exit = exit;
    return exit;
  }

  /** Resolves at the first healthy state and goes on watching; rejects when it ended or became unhealthy before. */
  #watchHealth(info: Docker.ContainerInspectInfo): Promise<void> {
    return new Promise((resolve, reject) => {
      const container = this.#context.docker.getContainer(info.Id);
      const watch = async (): Promise<void> => {
        while (this.#exit === undefined && !this.#closing.signal.aborted) {
          try {
            const present = await callOrMissing(container.inspect());
            const status = present?.State.Health?.Status;
            if (status === 'healthy') resolve();
            if (status === 'unhealthy') {
              this.#reason = 'unhealthy container';
              await this.shutdown(((info.Config as { StopTimeout?: number }).StopTimeout ?? defaultGraceMs / 1000) * 1000);
              break;
            }
          } catch (error) {
            // The Engine restarts: the task has not become healthy, nor unhealthy, by that.
            if (expectedFailure(error) === undefined) throw error;
          }
          await sleep(healthPollMs, this.#closing.signal);
        }
        reject(new AppFailure(appError('failed_precondition', this.#reason ?? 'task ended before it was healthy')));
      };
      watch().catch(reject);
    });
  }

  async #clean(): Promise<void> {
    const id = this.#info?.Id ?? (await this.#find())?.Id;
    const { docker, netnsDirectory } = this.#context;
    await gather(`remove task ${this.taskId}`, [
      async () => {
        if (id === undefined) return;
        await callOrMissing(docker.getContainer(id).remove({ force: true, v: true }));
        await rm(path.join(netnsDirectory, id), { force: true });
      },
      async () => {
        if (await exists(this.#files.directory)) await unmountBelow(this.#files.directory);
      },
      async () => {
        const left = mountsBelow(this.#files.directory);
        if (left.length > 0) throw new AppFailure(appError('unavailable', `still mounted: ${left.join(', ')}`));
        await rm(this.#files.directory, { recursive: true, force: true });
      },
    ]);
  }
}

function wasStarted(info: Docker.ContainerInspectInfo): boolean {
  return info.State.Status !== 'created';
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
