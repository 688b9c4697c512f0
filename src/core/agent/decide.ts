// What to do next with one task: exactly one transition per call (SwarmKit's exec.Do). A function of what is wanted
// and what was observed; the worker carries the action out and asks again.

import { TaskState } from '../../model/proto/swarmkit_pb.js';

export type Action = 'none' | 'accept' | 'prepare' | 'start' | 'shutdown' | 'release' | 'remove';

export interface Observed {
  /** Last state this node reported. */
  readonly state: TaskState;
  /** An action runs; only a shutdown may overtake the wait for health. */
  readonly busy: Action | undefined;
  /** The network namespace exists. */
  readonly sandbox: boolean;
}

export interface Wanted {
  /** False once the manager took the task off this node. */
  readonly assigned: boolean;
  readonly desired: TaskState;
}

export function decide(wanted: Wanted, observed: Observed): Action {
  const { state, busy } = observed;
  const stop = !wanted.assigned || wanted.desired >= TaskState.SHUTDOWN;
  if (busy !== undefined) return 'none';
  if (state > TaskState.RUNNING) {
    if (!wanted.assigned) return 'remove';
    return observed.sandbox ? 'release' : 'none';
  }
  if (stop) return 'shutdown';
  switch (state) {
    case TaskState.NEW: case TaskState.PENDING: case TaskState.ASSIGNED:
      return 'accept';
    case TaskState.ACCEPTED: case TaskState.PREPARING:
      return 'prepare';
    case TaskState.READY:
      return wanted.desired >= TaskState.RUNNING ? 'start' : 'none';
    default:
      // STARTING and RUNNING: the process tells when it is up or over.
      return 'none';
  }
}
