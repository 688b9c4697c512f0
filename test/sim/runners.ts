// The tasks of one simulated machine: core/agent decides each step, as daemon/worker/tasks.ts asks it; executors and
// sandboxes are only times and states. What is saved survives an agent that ends; processes survive it too, but not
// their machine.

import { create } from '@bufbuild/protobuf';
import type { Action } from '../../src/core/agent/decide.js';
import { EMPTY_SET, type AssignmentSet } from '../../src/core/dispatcher/assignments.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { TaskState, TaskStatusSchema, type Task, type TaskStatus } from '../../src/model/proto/swarmkit_pb.js';
import type { SwarmWorld } from './swarm.js';

export interface Runner {
  task: Task;
  status: TaskStatus;
  assigned: boolean;
  busy: Action | undefined;
  sandbox: boolean;
  /** Its process is there. */
  running: boolean;
  stopping: boolean;
}

export class Runners {
  readonly all = new Map<string, Runner>();
  private readonly world: SwarmWorld;
  private readonly nodeId: string;
  private readonly report: (taskId: string, status: TaskStatus) => void;
  private set: AssignmentSet = EMPTY_SET;
  private life = 0;
  private up = false;

  constructor(world: SwarmWorld, nodeId: string, report: (taskId: string, status: TaskStatus) => void) {
    this.world = world;
    this.nodeId = nodeId;
    this.report = report;
  }

  /** The agent begins: what runs is taken up, what was on its way is begun again. */
  start(): void {
    this.up = true;
    this.life += 1;
    for (const runner of this.all.values()) {
      runner.busy = undefined;
      const { state } = runner.status;
      if (state >= TaskState.STARTING && state <= TaskState.RUNNING) {
        if (!runner.running) this.become(runner, TaskState.FAILED);
        else this.live(runner);
      } else if (state >= TaskState.PREPARING && state < TaskState.STARTING) {
        runner.status = create(TaskStatusSchema, { ...runner.status, state: TaskState.ACCEPTED });
      }
      this.step(runner);
    }
  }

  stop(): void {
    this.up = false;
    this.life += 1;
  }

  /** With the machine. */
  crash(): void {
    this.stop();
    for (const runner of this.all.values()) {
      runner.running = false;
      runner.sandbox = false;
    }
  }

  /** As Tasks.assign. */
  assign(set: AssignmentSet): void {
    this.set = set;
    for (const [id, task] of set.tasks) {
      const runner = this.all.get(id);
      if (runner === undefined) {
        const status = task.status ?? create(TaskStatusSchema, { state: TaskState.ASSIGNED });
        if (status.state > TaskState.RUNNING) continue;
        const added: Runner = { task, status, assigned: true, busy: undefined, sandbox: false, running: false, stopping: false };
        this.all.set(id, added);
        this.step(added);
      } else if (task.desiredState >= runner.task.desiredState) {
        runner.task = task;
        runner.assigned = true;
        this.step(runner);
      }
    }
    for (const [id, runner] of this.all) {
      if (set.tasks.has(id)) continue;
      runner.assigned = false;
      this.step(runner);
    }
  }

  statuses(): { taskId: string; status: TaskStatus }[] {
    return [...this.all].filter(([, { assigned }]) => assigned).map(([taskId, { status }]) => ({ taskId, status }));
  }

  private later(delayMs: number, action: () => void): void {
    const { life } = this;
    this.world.clock.after(delayMs, () => {
      if (this.life === life) action();
    });
  }

  private step(runner: Runner): void {
    if (!this.up || this.all.get(runner.task.id) !== runner) return;
    const action = this.world.core.decide(
      { assigned: runner.assigned, desired: runner.task.desiredState },
      { state: runner.status.state, busy: runner.busy, sandbox: runner.sandbox },
    );
    if (action === 'none') return;
    const { random } = this.world;
    runner.busy = action;
    if (action === 'prepare') {
      // As the agent does: what a task names is read when its files are made.
      if (runner.assigned) this.world.swarmChecker.begun(this.nodeId, runner.task, this.set);
      this.become(runner, TaskState.PREPARING);
    }
    if (action === 'start') this.become(runner, TaskState.STARTING);
    if (action === 'shutdown') runner.stopping = true;
    const slow = random.chance(0.05) ? 10 : 1;
    this.later(random.between(1, action === 'accept' || action === 'release' ? 5 : 120) * slow, () => {
      runner.busy = undefined;
      this.perform(runner, action);
      this.step(runner);
    });
  }

  private perform(runner: Runner, action: Action): void {
    const { random, failRate } = this.world;
    switch (action) {
      case 'accept':
        return this.become(runner, TaskState.ACCEPTED);
      case 'prepare':
        runner.sandbox = true;
        return this.become(runner, random.chance(failRate()) ? TaskState.REJECTED : TaskState.READY);
      case 'start':
        if (random.chance(failRate())) return this.become(runner, TaskState.FAILED);
        runner.running = true;
        this.world.swarmChecker.started(this.nodeId, runner.task);
        return this.live(runner);
      case 'shutdown':
        runner.running = false;
        return this.become(runner, TaskState.SHUTDOWN);
      case 'release':
        runner.sandbox = false;
        return undefined;
      case 'remove':
        this.all.delete(runner.task.id);
        return undefined;
      case 'none':
        return undefined;
    }
  }

  /** Comes up, and perhaps ends by itself some time. */
  private live(runner: Runner): void {
    const { random, failRate } = this.world;
    if (runner.status.state === TaskState.STARTING) {
      this.later(random.between(1, 100), () => {
        if (runner.status.state === TaskState.STARTING && !runner.stopping && runner.running) this.become(runner, TaskState.RUNNING);
      });
    }
    if (!random.chance(failRate())) return;
    this.later(random.between(100, 8_000), () => {
      if (!runner.running || runner.stopping) return;
      runner.running = false;
      this.become(runner, random.chance(0.3) ? TaskState.COMPLETE : TaskState.FAILED);
      this.step(runner);
    });
  }

  private become(runner: Runner, state: TaskState): void {
    if (state < runner.status.state) return;
    if (state > TaskState.RUNNING) runner.running = false;
    runner.status = create(TaskStatusSchema, { state, timestamp: timestampFromMs(this.world.nowMs()) });
    this.report(runner.task.id, runner.status);
  }
}
