// Runner: what the worker knows of one task while it looks after it.

import type { Action } from '../../core/agent/decide.js';
import type { Task, TaskStatus } from '../../model/proto/swarmkit_pb.js';

export interface Runner {
  task: Task;
  assigned: boolean;
  status: TaskStatus;
  busy: Action | undefined;
  /** How often the current action was tried again. */
  retries: number;
  /** The action that runs, and what follows from it. */
  work: Promise<void>;
  sandbox: boolean;
  gatewayAddress: string;
  /** The process is watched for its end. */
  watched: boolean;
  stopping: boolean;
}

const NOTHING = { sandbox: false, gatewayAddress: '' };

/** `kept`: what there is of the task from before a restart. */
export function newRunner(task: Task, status: TaskStatus, kept: Pick<Runner, 'sandbox' | 'gatewayAddress'> = NOTHING): Runner {
  return {
    task, status, ...kept,
    assigned: true, busy: undefined, retries: 0, work: Promise.resolve(), watched: false, stopping: false,
  };
}
