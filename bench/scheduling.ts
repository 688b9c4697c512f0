// How the time to place all tasks grows when there are ten times the tasks and ten times the nodes: passes of the scheduler
// on a store in memory until nothing is pending, the processor's time of the scheduler alone.

import { create } from '@bufbuild/protobuf';
import { schedule } from '../src/core/scheduler/scheduler.js';
import { createAction } from '../src/core/store/actions.js';
import { Store } from '../src/core/store/store.js';
import { timestampFromMs } from '../src/lib/time.js';
import { CommandSchema } from '../src/model/proto/skein_pb.js';
import {
  NodeSchema, NodeStatus_State, TaskSchema, TaskState, type StoreAction,
} from '../src/model/proto/swarmkit_pb.js';

export const SMALL = { tasks: 10_000, nodes: 500 } as const;
export const LARGE = { tasks: 100_000, nodes: 5000 } as const;
const TASKS_PER_SERVICE = 1000;
const NOW_MS = 1_700_000_000_000;
const ROUNDS_MAX = 3;

interface Size {
  readonly tasks: number;
  readonly nodes: number;
}

/** Ratios, one a round. */
export function scheduling(rounds: number, small: Size = SMALL, large: Size = LARGE): number[] {
  placeAll(small);
  return Array.from({ length: Math.min(rounds, ROUNDS_MAX) }, () => {
    const less = placeAll(small);
    return placeAll(large) / less;
  });
}

/** In ms of the processor. */
export function placeAll({ tasks, nodes }: Size): number {
  const store = new Store();
  let index = 0n;
  const apply = (actions: readonly StoreAction[]): void => {
    index += 1n;
    const applied = store.apply(index, create(CommandSchema, { id: `c${index}`, time: timestampFromMs(NOW_MS), actions: [...actions] }));
    if (!applied.ok) throw new Error(applied.error.message);
  };
  apply(Array.from({ length: nodes }, (_, i) => createAction('node', create(NodeSchema, {
    id: `n${i}`, spec: {}, status: { state: NodeStatus_State.READY },
  }))));
  apply(Array.from({ length: tasks }, (_, i) => createAction('task', create(TaskSchema, {
    id: `t${i}`, serviceId: `s${Math.floor(i / TASKS_PER_SERVICE)}`, slot: BigInt(i), specVersion: { index: 1n }, spec: {},
    status: { state: TaskState.PENDING }, desiredState: TaskState.RUNNING,
  }))));
  let usedUs = 0;
  for (;;) {
    const before = process.cpuUsage();
    const actions = schedule({ view: store, soft: { acked: new Map(), installed: 0n, reached: [], downSince: new Map(), steadyMs: NOW_MS }, nowMs: NOW_MS });
    const { user, system } = process.cpuUsage(before);
    usedUs += user + system;
    if (actions.length === 0) break;
    apply(actions);
  }
  const placed = store.list('task').filter((task) => task.nodeId !== '').length;
  if (placed !== tasks) throw new Error(`${placed} of ${tasks} tasks were placed`);
  return usedUs / 1000;
}
