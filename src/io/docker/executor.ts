// DockerExecutor: tasks as containers of the local Docker Engine, each joined by our runtime wrapper to the network
// namespace made for it. Several agents may share an Engine: each sees only the containers with its own owner label.

import Docker from 'dockerode';
import { AppFailure, appError } from '../../lib/result.js';
import type { NodeDescription } from '../../model/proto/swarmkit_pb.js';
import type { ContainerSummary, Executor } from '../../platform/executor.js';
import { taskIdsOnDisk } from '../oci/controller.js';
import { describeNode } from '../oci/executor.js';
import { DockerController } from './controller.js';
import { ownerLabel } from './create-options.js';
import { call, callOrMissing } from './engine.js';
import { DockerImageStore } from './images.js';
import { defaultNetnsDirectory, defaultRuntimeName } from './wrapper.js';

export interface DockerExecutorOptions {
  readonly stateDir: string;
  readonly socketPath?: string;
  /** Name under which the wrapper is registered in the Engine's `runtimes`. */
  readonly runtimeName?: string;
  /** Where the wrapper looks for namespace paths; the same as at its installation. */
  readonly netnsDirectory?: string;
  /** Tells this agent's containers from another's on the same Engine; the state directory by default. */
  readonly owner?: string;
}

const taskIdPattern = /^[a-zA-Z0-9_-]{1,64}$/;

export class DockerExecutor implements Executor {
  readonly kind = 'docker';
  readonly images: DockerImageStore;
  readonly #docker: Docker;
  readonly #stateDir: string;
  readonly #owner: string;
  readonly #runtimeName: string;
  readonly #netnsDirectory: string;
  readonly #controllers = new Map<string, DockerController>();

  constructor(options: DockerExecutorOptions) {
    this.#docker = new Docker({ socketPath: options.socketPath ?? '/var/run/docker.sock' });
    this.#stateDir = options.stateDir;
    this.#owner = options.owner ?? options.stateDir;
    this.#runtimeName = options.runtimeName ?? defaultRuntimeName;
    this.#netnsDirectory = options.netnsDirectory ?? defaultNetnsDirectory;
    this.images = new DockerImageStore(this.#docker);
  }

  /** Whether the Engine answers and knows our runtime: for `skein doctor`. */
  async probe(): Promise<{ readonly ok: boolean; readonly reason: string; readonly version: string }> {
    try {
      const [info, version] = await Promise.all([call(this.#docker.info()), call(this.#docker.version())]);
      const runtimes = Object.keys((info as { Runtimes?: object }).Runtimes ?? {});
      if (runtimes.includes(this.#runtimeName)) return { ok: true, reason: `Docker Engine ${version.Version} with runtime ${this.#runtimeName}`, version: version.Version };
      return { ok: false, reason: `Docker Engine ${version.Version} lacks the runtime "${this.#runtimeName}": run skein install`, version: version.Version };
    } catch (error) {
      if (!(error instanceof AppFailure)) throw error;
      return { ok: false, reason: error.message, version: '' };
    }
  }

  async describe(hostname: string): Promise<NodeDescription> {
    const version = await call(this.#docker.version());
    return describeNode(hostname, version.Version);
  }

  controller(taskId: string): DockerController {
    if (!taskIdPattern.test(taskId)) throw new AppFailure(appError('invalid_argument', `invalid task id ${JSON.stringify(taskId)}`));
    let controller = this.#controllers.get(taskId);
    if (controller === undefined) {
      controller = new DockerController({
        docker: this.#docker,
        stateDir: this.#stateDir,
        netnsDirectory: this.#netnsDirectory,
        runtimeName: this.#runtimeName,
        owner: this.#owner,
        forget: (id) => this.#controllers.delete(id),
      }, taskId);
      this.#controllers.set(taskId, controller);
    }
    return controller;
  }

  async adopt(): Promise<readonly string[]> {
    const ids = new Set((await taskIdsOnDisk(this.#stateDir)).filter((id) => taskIdPattern.test(id)));
    const filters = { label: ['com.docker.swarm.task.id', `${ownerLabel}=${this.#owner}`] };
    for (const found of await call(this.#docker.listContainers({ all: true, filters }))) {
      const id = found.Labels['com.docker.swarm.task.id'] ?? '';
      if (!taskIdPattern.test(id)) continue;
      const info = await callOrMissing(this.#docker.getContainer(found.Id).inspect());
      if (info === undefined) continue;
      ids.add(id);
      this.controller(id).adopt(info);
    }
    return [...ids].sort();
  }

  async containers(): Promise<readonly ContainerSummary[]> {
    return [...this.#controllers.values()].map((controller) => controller.summary()).filter((summary) => summary !== undefined);
  }

  async close(): Promise<void> {
    for (const controller of this.#controllers.values()) controller.close();
    this.#controllers.clear();
  }
}
