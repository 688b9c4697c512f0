// LostTasks: tasks that a manager believes to run here and this node knows nothing of: their state file, or the whole
// state directory, did not survive. They are told to have failed, so that others take their place.

import { create } from '@bufbuild/protobuf';
import type { AssignmentSet } from '../../core/dispatcher/assignments.js';
import { timestampFromMs } from '../../lib/time.js';
import { TaskState, TaskStatusSchema, type TaskStatus } from '../../model/proto/swarmkit_pb.js';

export class LostTasks {
  private lost = new Map<string, TaskStatus>();
  private readonly report: (taskId: string, status: TaskStatus) => void;

  constructor(report: (taskId: string, status: TaskStatus) => void) {
    this.report = report;
  }

  /** The set without them. A task that is only about to run is none: it is done from the beginning. */
  sift(set: AssignmentSet, known: (taskId: string) => boolean): AssignmentSet {
    const before = this.lost;
    this.lost = new Map();
    for (const [id, task] of set.tasks) {
      const state = task.status?.state ?? TaskState.NEW;
      if (known(id) || state < TaskState.STARTING || state > TaskState.RUNNING) continue;
      const told = before.get(id);
      const status = told ?? create(TaskStatusSchema, {
        state: TaskState.FAILED, message: 'started', err: 'task was lost: this node has no record of it',
        timestamp: timestampFromMs(Date.now()),
      });
      this.lost.set(id, status);
      if (told === undefined) this.report(id, status);
    }
    return this.lost.size === 0 ? set : { ...set, tasks: new Map([...set.tasks].filter(([id]) => !this.lost.has(id))) };
  }

  statuses(): ReadonlyMap<string, TaskStatus> {
    return this.lost;
  }
}
