// FakeExecutor: images in a map, containers as a mirror of the running tasks; nothing runs.

import { createHash } from 'node:crypto';
import { TaskState, type NodeDescription, type Task } from '../../src/model/proto/swarmkit_pb.js';
import type {
  ContainerSummary, Controller, Executor, ImageStore, ImageSummary, LogOptions, LogRecord,
} from '../../src/platform/executor.js';
import { AppFailure } from '../../src/lib/result.js';
import { taskName } from '../../src/model/task.js';
import { describe } from './fake-node.js';

async function size(tar: AsyncIterable<Uint8Array>): Promise<number> {
  let total = 0;
  for await (const chunk of tar) total += chunk.length;
  return total;
}

class FakeImages implements ImageStore {
  /** The error of the next load. */
  failWith: string | undefined;
  private readonly images = new Map<string, ImageSummary>();

  async list(): Promise<readonly ImageSummary[]> {
    return [...this.images.values()];
  }
  async inspect(reference: string): Promise<ImageSummary | undefined> {
    return [...this.images.values()].find((image) => image.id === reference || image.id === `sha256:${reference}`
      || image.repoTags.includes(reference) || image.repoTags.includes(`${reference}:latest`));
  }
  async load(tar: AsyncIterable<Uint8Array>): Promise<readonly string[]> {
    if (this.failWith !== undefined) {
      for await (const _ of tar) throw new AppFailure({ code: 'invalid_argument', message: this.failWith });
    }
    this.put('loaded:latest', await size(tar));
    return ['loaded:latest'];
  }
  async importTar(tar: AsyncIterable<Uint8Array>, options: { reference: string | undefined }): Promise<string> {
    return this.put(options.reference ?? 'none:none', await size(tar));
  }
  async remove(reference: string): Promise<boolean> {
    const image = await this.inspect(reference);
    return image !== undefined && this.images.delete(image.id);
  }
  put(tag: string, sizeBytes: number): string {
    const id = `sha256:${createHash('sha256').update(tag).digest('hex')}`;
    this.images.set(id, {
      id, repoTags: [tag], repoDigests: [], createdMs: Date.now() - 60_000, sizeBytes, os: 'linux', architecture: 'amd64',
      config: { Cmd: ['sh'] },
    });
    return id;
  }
}

export class FakeExecutor implements Executor {
  readonly kind = 'oci' as const;
  readonly images = new FakeImages();
  private tasks: readonly Task[] = [];

  sync(tasks: readonly Task[]): void {
    this.tasks = tasks;
  }
  async describe(hostname: string): Promise<NodeDescription> {
    return describe(hostname);
  }
  controller(taskId: string): Controller {
    const unused = (): never => { throw new Error('not used by the API'); };
    return {
      prepare: unused, start: unused, healthy: unused, wait: unused, shutdown: unused, terminate: unused, remove: unused,
      state: unused,
      async *logs(options: LogOptions): AsyncGenerator<LogRecord> {
        yield { stream: 'stdout', timestampNs: 1_700_000_000_123_456_789n, data: Buffer.from(`hello from ${taskId}\n`) };
        if (options.stderr) yield { stream: 'stderr', timestampNs: 1n, data: Buffer.from('oops\n') };
      },
    };
  }
  async adopt(): Promise<readonly string[]> {
    return [];
  }
  async containers(): Promise<readonly ContainerSummary[]> {
    return this.tasks.filter((task) => task.status?.state === TaskState.RUNNING).map((task) => ({
      id: task.id.padEnd(64, '0'), name: taskName(task), image: 'app:1', imageId: 'sha256:0', command: 'sleep 100',
      createdMs: Date.now() - 120_000, state: 'running', startedAtMs: Date.now() - 120_000, exit: undefined, pid: 4242,
      labels: { 'com.docker.swarm.task.id': task.id },
    }));
  }
  async close(): Promise<void> {}
}
