// What a worker keeps of its tasks across its own restart: one small file a task, written aside and renamed, not synced.
// It is rebuildable: the manager sends the tasks again, the executor finds what runs. A file that is not whole after a
// power loss is dropped: what is left of its task is removed, and the manager is told that it failed.

import { mkdir, readFile, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { LocalTaskSchema, type LocalTask } from '../../model/proto/skein_pb.js';
import { AtomicFiles } from '../../io/atomicfile.js';
import { checkedContent, withChecksum } from '../../io/checkedfile.js';
import type { Task, TaskStatus } from '../../model/proto/swarmkit_pb.js';

export class TaskStore {
  private readonly directory: string;
  private readonly files = new AtomicFiles();

  private readonly onDropped: (file: string) => void;

  constructor(directory: string, onDropped: (file: string) => void = () => undefined) {
    this.directory = directory;
    this.onDropped = onDropped;
  }

  async load(): Promise<LocalTask[]> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    const tasks: LocalTask[] = [];
    for (const file of (await readdir(this.directory)).sort()) {
      const full = path.join(this.directory, file);
      const content = file.endsWith('.task') ? checkedContent(await readFile(full)) : undefined;
      if (content !== undefined) {
        tasks.push(fromBinary(LocalTaskSchema, content));
        continue;
      }
      if (file.endsWith('.task')) this.onDropped(full);
      await rm(full, { force: true });
    }
    return tasks;
  }

  async save(task: Task, status: TaskStatus, gatewayAddress: string): Promise<void> {
    const content = toBinary(LocalTaskSchema, create(LocalTaskSchema, { task, status, gatewayAddress }));
    await this.files.write(path.join(this.directory, `${task.id}.task`), withChecksum(content), { mode: 0o600, sync: false });
  }

  async remove(taskId: string): Promise<void> {
    await this.files.remove(path.join(this.directory, `${taskId}.task`));
  }
}
