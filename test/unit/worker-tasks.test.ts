// The worker's task loop over an executor and a data plane that fail as machines do: cut off in the middle, busy, full.

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { pino } from 'pino';
import { Tasks } from '../../src/daemon/worker/tasks.js';
import { TaskStore } from '../../src/daemon/worker/taskstore.js';
import { AppFailure, appError } from '../../src/lib/result.js';
import { ContainerSpecSchema, TaskSchema, TaskSpecSchema, TaskState, TaskStatusSchema, type Task,
  type TaskStatus } from '../../src/model/proto/swarmkit_pb.js';
import type { DataPlane } from '../../src/platform/dataplane.js';
import type { ContainerState, Controller, Executor, ExitState } from '../../src/platform/executor.js';

const busy = (): Error => Object.assign(new Error("EBUSY: resource busy or locked, rmdir '/sys/fs/cgroup/x'"), { code: 'EBUSY' });

/** A machine: what runs on it stays when the agent (Tasks) is made anew. */
class Machine {
  readonly running = new Map<string, { state: ContainerState; end: (exit: ExitState) => void; ended: Promise<ExitState> }>();
  readonly prepared = new Set<string>();
  readonly sandboxes = new Set<string>();
  /** Errors of the next calls, by verb. */
  readonly failures = new Map<string, unknown[]>();
  readonly calls: string[] = [];

  private async verb(name: string, id: string): Promise<void> {
    this.calls.push(`${name} ${id}`);
    const error = this.failures.get(name)?.shift();
    if (error !== undefined) throw error as Error;
  }

  readonly executor = {
    controller: (id: string): Controller => this.controller(id),
    adopt: async (): Promise<string[]> => [...new Set([...this.prepared, ...this.running.keys()])],
  } as unknown as Executor;

  readonly dataPlane = {
    attach: async ({ id }: { id: string }) => {
      await this.verb('attach', id);
      this.sandboxes.add(id);
      return { netns: `/run/netns/${id}` };
    },
    detach: async (id: string) => {
      await this.verb('detach', id);
      this.sandboxes.delete(id);
    },
    sandboxes: async () => [...this.sandboxes],
  } as unknown as DataPlane;

  private controller(id: string): Controller {
    return {
      prepare: async () => {
        await this.verb('prepare', id);
        this.prepared.add(id);
      },
      start: async () => {
        await this.verb('start', id);
        let end!: (exit: ExitState) => void;
        const ended = new Promise<ExitState>((resolve) => { end = resolve; });
        const state = { containerId: `c-${id}`, pid: 4000 + this.running.size, startedAtMs: 1 };
        this.running.set(id, { state, end, ended });
        return state;
      },
      healthy: async () => undefined,
      wait: async () => {
        const found = this.running.get(id);
        // As the real ones: asking for the end of what never began is a mistake of the caller.
        if (found === undefined) throw new AppFailure(appError('failed_precondition', `task ${id} is not started`));
        return found.ended;
      },
      shutdown: async () => {
        await this.verb('shutdown', id);
        this.running.get(id)?.end({ exitCode: 0, finishedAtMs: 2, reason: undefined });
      },
      terminate: async () => {
        await this.verb('terminate', id);
        this.running.get(id)?.end({ exitCode: 137, finishedAtMs: 2, reason: undefined });
      },
      remove: async () => {
        await this.verb('remove', id);
        this.prepared.delete(id);
        this.running.delete(id);
      },
      async *logs() {},
      state: () => this.running.get(id)?.state,
    };
  }
}

const task = (id: string, desiredState = TaskState.RUNNING): Task => create(TaskSchema, {
  id, desiredState, spec: create(TaskSpecSchema, { runtime: { case: 'container', value: create(ContainerSpecSchema, { image: 'x' }) } }),
});

describe('worker tasks', () => {
  let directory: string;
  let machine: Machine;
  let bugs: unknown[];
  let reports: Map<string, TaskStatus>;

  beforeEach(async () => {
    directory = await mkdtemp(path.join(os.tmpdir(), 'skein-tasks-'));
    machine = new Machine();
    bugs = [];
    reports = new Map();
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
    assert.deepEqual(bugs, []);
  });

  const agent = (): { tasks: Tasks; store: TaskStore } => {
    const store = new TaskStore(path.join(directory, 'tasks'));
    const tasks = new Tasks({
      executor: machine.executor, dataPlane: machine.dataPlane, store, gatewayBridge: '172.18.0.1/16', logger: pino({ level: 'silent' }),
      identity: () => ({ nodeId: 'n1', description: undefined }), report: (id, status) => reports.set(id, status),
      onLocalChange: () => undefined, onBug: (error) => bugs.push(error),
    });
    return { tasks, store };
  };
  const assign = (tasks: Tasks, ...list: Task[]): void =>
    tasks.assign({ tasks: new Map(list.map((t) => [t.id, t])), secrets: new Map(), configs: new Map() });
  const until = async (what: string, check: () => boolean, timeoutMs = 8000): Promise<void> => {
    for (const end = Date.now() + timeoutMs; !check(); await new Promise((resolve) => setTimeout(resolve, 5))) {
      assert.deepEqual(bugs, []);
      const seen = JSON.stringify([...reports].map(([id, s]) => [id, TaskState[s.state], s.err]));
      assert.ok(Date.now() < end, `${what}: ${seen} ${machine.calls.join(', ')}`);
    }
  };
  const state = (id: string): TaskState | undefined => reports.get(id)?.state;
  const save = async (id: string, at: TaskState): Promise<void> => {
    await agent().store.load();
    await agent().store.save(task(id), create(TaskStatusSchema, { state: at }), '');
  };

  for (const at of [TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY, TaskState.STARTING]) {
    for (const prepared of [false, true]) {
      it(`an agent killed while a task was ${TaskState[at]}${prepared ? ' with its container made' : ''}`, async () => {
        await save('t1', at);
        if (prepared) machine.prepared.add('t1');
        const { tasks, store } = agent();
        await tasks.adopt(await store.load());
        if (at === TaskState.STARTING && !prepared) {
          await until('its failure', () => state('t1') === TaskState.FAILED);
          return;
        }
        await until('the task runs', () => state('t1') === TaskState.RUNNING);
        assert.equal(machine.calls.filter((call) => call === 'start t1').length, 1);
      });
    }
  }

  it('a task that started but is not told to have: adopted, not started again', async () => {
    await save('t1', TaskState.STARTING);
    await machine.executor.controller('t1').start();
    machine.calls.length = 0;
    const { tasks, store } = agent();
    await tasks.adopt(await store.load());
    await until('the task runs', () => state('t1') === TaskState.RUNNING);
    assert.ok(!machine.calls.includes('start t1'));
  });

  it('clean-up that fails is tried again with growing pauses until it is done; the agent goes on', async () => {
    const { tasks } = agent();
    assign(tasks, task('t1'), task('t2'));
    await until('both run', () => state('t1') === TaskState.RUNNING && state('t2') === TaskState.RUNNING);
    machine.failures.set('remove', [busy(), new AppFailure(appError('internal', 'runc delete: device or resource busy'))]);
    machine.failures.set('detach', [new AggregateError([busy(), new AppFailure(appError('unavailable', 'still mounted'))], 'two things')]);
    assign(tasks, task('t2'));
    await until('its removal', () => machine.calls.filter((call) => call === 'remove t1').length > 0);
    await until('nothing left of it', () => !machine.running.has('t1') && !machine.sandboxes.has('t1'), 12_000);
    await new Promise((resolve) => setTimeout(resolve, 300));
    const tries = machine.calls.filter((call) => call === 'remove t1' || call === 'detach t1').length;
    assert.ok(tries <= 7, `${tries} attempts, not a loop`);
    assert.ok(machine.running.has('t2'));
    assign(tasks, task('t2'), task('t3'));
    await until('another task runs', () => state('t3') === TaskState.RUNNING);
  });

  it('remains of unknown tasks do not keep an agent from starting, and go when they can', async () => {
    for (const id of ['lost1', 'lost2']) {
      machine.prepared.add(id);
      machine.sandboxes.add(id);
    }
    machine.failures.set('remove', [busy()]);
    machine.failures.set('detach', [new AppFailure(appError('unavailable', 'away'))]);
    await save('t1', TaskState.READY);
    const { tasks, store } = agent();
    await tasks.adopt(await store.load());
    await until('the task runs', () => state('t1') === TaskState.RUNNING, 900);
    assert.ok(machine.prepared.size + machine.sandboxes.size > 2, 'they are still there');
    await until('they are gone', () => machine.prepared.size === 1 && machine.sandboxes.size === 1);
  });

  it('an agent that ends leaves what it was to try again to the next one', async () => {
    const { tasks } = agent();
    assign(tasks, task('t1'));
    await until('the task runs', () => state('t1') === TaskState.RUNNING);
    machine.failures.set('remove', Array.from({ length: 40 }, busy));
    assign(tasks);
    await until('its removal was tried', () => machine.calls.includes('remove t1'));
    tasks.close();
    const count = machine.calls.length;
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.equal(machine.calls.length, count);
  });

  it('a task whose network cannot be restored fails alone', async () => {
    await save('t1', TaskState.RUNNING);
    await save('t2', TaskState.RUNNING);
    for (const id of ['t1', 't2']) await machine.executor.controller(id).start();
    machine.failures.set('attach', [new AppFailure(appError('resource_exhausted', 'no more endpoints'))]);
    const { tasks, store } = agent();
    await tasks.adopt(await store.load());
    await until('its failure', () => state('t1') === TaskState.FAILED);
    assert.equal(reports.get('t1')?.err, 'no more endpoints');
    await until('its process is ended', () => machine.calls.includes('terminate t1') && machine.calls.includes('detach t1'));
    assert.equal(tasks.statuses().get('t2')?.state, TaskState.RUNNING);
  });

  it('a disk that is full for a while delays a task, and does not end one that runs', async () => {
    const { tasks, store } = agent();
    const full = (): Error => Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    const failures = [full(), full()];
    const write = store.save.bind(store);
    store.save = async (...args) => {
      const error = failures.shift();
      if (error !== undefined) throw error;
      return write(...args);
    };
    assign(tasks, task('t1'));
    await until('the task runs', () => state('t1') === TaskState.RUNNING);
    failures.push(...Array.from({ length: 20 }, full));
    machine.running.get('t1')?.end({ exitCode: 3, finishedAtMs: 2, reason: undefined });
    await until('its end is told', () => state('t1') === TaskState.FAILED);
    assert.match(reports.get('t1')?.err ?? '', /non-zero exit \(3\)/);
  });

  for (const removed of [false, true]) {
    const also = removed ? ', also when it is gone from its set' : '';
    it(`cut off after a task ended and before its release: the next agent releases it${also}`, async () => {
      const first = agent();
      assign(first.tasks, task('t1'));
      await until('the task runs', () => state('t1') === TaskState.RUNNING);
      // Killed at the moment the state is written.
      const save = first.store.save.bind(first.store);
      first.store.save = async (...args) => {
        await save(...args);
        first.tasks.close();
      };
      machine.running.get('t1')?.end({ exitCode: 3, finishedAtMs: 2, reason: undefined });
      await until('its end is told', () => state('t1') === TaskState.FAILED);
      assert.ok(machine.sandboxes.has('t1'));
      const second = agent();
      await second.tasks.adopt(await second.store.load());
      if (removed) assign(second.tasks);
      await until('nothing holds its addresses', () => !machine.sandboxes.has('t1'));
      second.tasks.close();
    });
  }

  it('leaving: what cannot be removed is tried again, then told; leaving again ends it', async () => {
    const { tasks } = agent();
    assign(tasks, task('t1'), task('t2'));
    await until('both run', () => state('t1') === TaskState.RUNNING && state('t2') === TaskState.RUNNING);
    machine.failures.set('remove', Array.from({ length: 40 }, busy));
    await assert.rejects(tasks.stopAll(), (error) => error instanceof AppFailure
      && /some tasks cannot be removed: EBUSY/.test(error.message));
    machine.failures.clear();
    await tasks.stopAll();
    assert.deepEqual([machine.running.size, machine.prepared.size, machine.sandboxes.size], [0, 0, 0]);
  });
});
