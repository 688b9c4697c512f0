// OciExecutor: the embedded runtime. Tasks are containers of runc or crun, one conmon each, over unpacked images.

import { createHash } from 'node:crypto';
import { rmdir } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { create } from '@bufbuild/protobuf';
import { AppFailure, appError } from '../../lib/result.js';
import { engineVersion } from '../../lib/version.js';
import { type NodeDescription, NodeDescriptionSchema } from '../../model/proto/swarmkit_pb.js';
import type { ContainerSummary, Executor } from '../../platform/executor.js';
import { LocalImageStore } from '../images/store.js';
import type { Runtime } from './conmon.js';
import { OciController, taskIdsOnDisk } from './controller.js';
import { ensureDirectory } from './files.js';
import { type OciProbe, probeOci } from './probe.js';

export interface OciExecutorOptions {
  /** Holds images, tasks and volumes. Absolute; no ':' ',' or '\' (overlayfs options cannot name such paths). */
  readonly stateDir: string;
  readonly runtime?: 'auto' | 'runc' | 'crun';
  /** Cgroup below which the tasks' groups are made. */
  readonly cgroupParent?: string;
  /** Host paths that tasks on the pseudo image `host` must not see, besides the state directory and Docker's. */
  readonly hiddenPaths?: readonly string[];
}

const taskIdPattern = /^[a-zA-Z0-9_-]{1,64}$/;

export class OciExecutor implements Executor {
  readonly kind = 'oci';
  readonly images: LocalImageStore;
  readonly #stateDir: string;
  readonly #wanted: 'auto' | 'runc' | 'crun';
  readonly #cgroupParent: string;
  readonly #hiddenPaths: readonly string[];
  readonly #controllers = new Map<string, OciController>();
  #probe: Promise<OciProbe> | undefined;

  constructor(options: OciExecutorOptions) {
    if (!path.isAbsolute(options.stateDir) || /[:,\\]/.test(options.stateDir)) {
      throw new AppFailure(appError('invalid_argument', `state directory must be absolute and free of ':', ',' and '\\': ${options.stateDir}`));
    }
    this.#stateDir = path.normalize(options.stateDir).replace(/\/$/, '');
    this.#wanted = options.runtime ?? 'auto';
    this.#cgroupParent = options.cgroupParent ?? '/skein';
    this.#hiddenPaths = [this.#stateDir, '/var/lib/docker', '/var/lib/containerd', '/var/lib/skein', ...(options.hiddenPaths ?? [])];
    this.images = new LocalImageStore(path.join(this.#stateDir, 'images'));
    this.images.usage = () => new Map([...this.#summaries()].map((container) => [container.imageId, container.id]));
  }

  /** Which runtime works here, tried once. */
  probe(): Promise<OciProbe> {
    this.#probe ??= probeOci(path.join(this.#stateDir, 'probe'), this.#wanted);
    return this.#probe;
  }

  async describe(hostname: string): Promise<NodeDescription> {
    return describeNode(hostname, engineVersion);
  }

  controller(taskId: string): OciController {
    if (!taskIdPattern.test(taskId)) throw new AppFailure(appError('invalid_argument', `invalid task id ${JSON.stringify(taskId)}`));
    let controller = this.#controllers.get(taskId);
    if (controller === undefined) {
      controller = new OciController({
        stateDir: this.#stateDir,
        images: this.images,
        runtime: () => this.runtime(),
        cgroupParent: this.#cgroupParent,
        hiddenPaths: this.#hiddenPaths,
        forget: (id) => this.#controllers.delete(id),
      }, taskId);
      this.#controllers.set(taskId, controller);
    }
    return controller;
  }

  async adopt(): Promise<readonly string[]> {
    const ids = (await taskIdsOnDisk(this.#stateDir)).filter((id) => taskIdPattern.test(id));
    for (const id of ids) this.controller(id);
    return ids;
  }

  async containers(): Promise<readonly ContainerSummary[]> {
    return [...this.#summaries()];
  }

  async close(): Promise<void> {
    for (const controller of this.#controllers.values()) controller.close();
    this.#controllers.clear();
    await rmdir(this.#runtimeRoot).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'ENOENT') throw error;
    });
  }

  /** Under /run because a runtime's state does not survive a reboot; one directory per state directory. */
  get #runtimeRoot(): string {
    return path.join('/run/skein-oci', createHash('sha256').update(this.#stateDir).digest('hex').slice(0, 16));
  }

  *#summaries(): Generator<ContainerSummary> {
    for (const controller of this.#controllers.values()) {
      const summary = controller.summary();
      if (summary !== undefined) yield summary;
    }
  }

  /** The runtime that the probe chose. */
  async runtime(): Promise<Runtime> {
    const probe = await this.probe();
    if (probe.runtime === undefined) throw new AppFailure(appError('unavailable', `no OCI runtime works on this machine: ${probe.reason}`));
    await ensureDirectory(this.#runtimeRoot);
    return { name: probe.runtime, path: probe.path, root: this.#runtimeRoot };
  }
}

/** What dockerd of this version would report, without tls_info. */
export function describeNode(hostname: string, version: string): NodeDescription {
  const architecture = process.arch === 'x64' ? 'x86_64' : process.arch === 'arm64' ? 'aarch64' : process.arch;
  const plugins = [
    ['Log', 'json-file'],
    ...['bridge', 'host', 'ipvlan', 'macvlan', 'null', 'overlay'].map((name) => ['Network', name] as const),
    ['Volume', 'local'],
  ].map(([type, name]) => ({ type: type ?? '', name: name ?? '' }));
  return create(NodeDescriptionSchema, {
    hostname,
    platform: { architecture, os: 'linux' },
    resources: { nanoCpus: BigInt(os.cpus().length) * 1_000_000_000n, memoryBytes: BigInt(os.totalmem()) },
    engine: { engineVersion: version, plugins },
  });
}
