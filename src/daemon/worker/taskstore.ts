// What a worker keeps of its tasks across its own restart: one small file a task, written aside and renamed.
// It is rebuildable: the manager sends the tasks again, the executor finds what runs.

import { mkdir, readFile, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { LocalTaskSchema, type LocalTask } from '../../model/proto/skein_pb.js';
import { AtomicFiles } from '../../io/atomicfile.js';
import type { Task, TaskStatus } from '../../model/proto/swarmkit_pb.js';

export class TaskStore {
  private readonly directory: string;
  private readonly files = new AtomicFiles();

  constructor(directory: string) {
    this.directory = directory;
  }

  async load(): Promise<LocalTask[]> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    const tasks: LocalTask[] = [];
    for (const file of (await readdir(this.directory)).sort()) {
      if (!file.endsWith('.task')) {
        await rm(path.join(this.directory, file), { force: true });
        continue;
      }
      tasks.push(fromBinary(LocalTaskSchema, await readFile(path.join(this.directory, file))));
    }
    return tasks;
  }

  async save(task: Task, status: TaskStatus, gatewayAddress: string): Promise<void> {
    const content = toBinary(LocalTaskSchema, create(LocalTaskSchema, { task, status, gatewayAddress }));
    await this.files.write(path.join(this.directory, `${task.id}.task`), content, { mode: 0o600, sync: false });
  }

  async remove(taskId: string): Promise<void> {
    await this.files.remove(path.join(this.directory, `${taskId}.task`));
  }
}
