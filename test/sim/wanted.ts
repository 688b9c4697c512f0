// Whether a simulated swarm has come to what is wanted of it, by the state of its leader and by its machines.

import {
  NodeSpec_Availability, NodeStatus_State, TaskState, UpdateStatus_UpdateState, type Service,
} from '../../src/model/proto/swarmkit_pb.js';
import { desiredOf, isGlobal, isTaskDirty, isTerminal, stateOf } from '../../src/model/task.js';
import type { ReadTx } from '../../src/core/store/view.js';
import { addressesOf } from './swarm-checker.js';
import type { SwarmWorld } from './swarm.js';

/** What is missing, in words. */
export function notReached(world: SwarmWorld): string | undefined {
  const leader = [...world.managers.values()].find(({ leads, host }) => leads && world.hosts.get(host.id) === host);
  if (leader === undefined) return 'nobody leads';
  const { view } = leader;
  const absent = view.list('node').find((node) => (node.status?.state === NodeStatus_State.READY) !== world.workers.get(node.id)?.up);
  if (absent !== undefined) return `node ${absent.id} is ${NodeStatus_State[absent.status?.state ?? 0]} (${world.workers.get(absent.id)?.sessionText})`;
  for (const task of view.list('task')) {
    // Nobody can tell of it, and nobody may have what it has.
    if (desiredOf(task) > TaskState.RUNNING && view.get('node', task.nodeId)?.status?.state === NodeStatus_State.DOWN) continue;
    if (view.get('service', task.serviceId) === undefined) return `task ${task.id} of the removed service ${task.serviceId} is still there`;
    const drained = view.get('node', task.nodeId)?.spec?.availability === NodeSpec_Availability.DRAIN;
    if (drained && !isTerminal(task)) return `task ${task.id} is ${TaskState[stateOf(task)]} on the drained node ${task.nodeId}`;
  }
  for (const network of view.list('network')) if (network.driverState === undefined) return `network ${network.id} is not allocated`;
  for (const service of view.list('service')) {
    const problem = serviceProblem(view, service);
    if (problem !== undefined) return problem;
  }
  return machineProblem(world, view);
}

function serviceProblem(view: ReadTx, service: Service): string | undefined {
  const active = view.list('node').filter((node) => node.spec?.availability !== NodeSpec_Availability.DRAIN
    && node.status?.state === NodeStatus_State.READY);
  if (active.length === 0) return undefined;
  const tasks = view.tasksOfService(service.id).filter((task) => !isTerminal(task)
    && (desiredOf(task) <= TaskState.RUNNING || view.get('node', task.nodeId)?.status?.state === NodeStatus_State.READY));
  const wanted = isGlobal(service) ? active.length : Number(service.spec?.mode.case === 'replicated' ? service.spec.mode.value.replicas : 0n);
  const running = tasks.filter((task) => stateOf(task) === TaskState.RUNNING && desiredOf(task) === TaskState.RUNNING);
  // It waits for a port that another service has.
  if (tasks.some((task) => /^port \d+ is already in use/.test(task.status?.err ?? ''))) return undefined;
  if (running.length !== wanted || tasks.length !== wanted) {
    const states = tasks.map((task) => `${task.id} ${TaskState[stateOf(task)]}/${TaskState[task.desiredState]} ${task.status?.err}`);
    return `service ${service.id} has ${running.length} of ${wanted} tasks running (${states.join(', ')})`;
  }
  // An update, or a rollback, in which too much failed waits for its user.
  const state = service.updateStatus?.state;
  if (state === UpdateStatus_UpdateState.PAUSED || state === UpdateStatus_UpdateState.ROLLBACK_PAUSED) return undefined;
  const dirty = running.find((task) => isTaskDirty(service, task));
  return dirty === undefined ? undefined : `task ${dirty.id} of service ${service.id} is not up to date (update ${service.updateStatus?.message})`;
}

function machineProblem(world: SwarmWorld, view: ReadTx): string | undefined {
  const rows = world.core.clusterRows(view);
  for (const worker of world.workers.values()) {
    if (!worker.up) continue;
    for (const [id, runner] of worker.runners.all) {
      const task = view.get('task', id);
      if (task === undefined || task.nodeId !== worker.id) return `${worker.id} still has task ${id}`;
      const wanted = stateOf(task) === TaskState.RUNNING;
      if (runner.running !== wanted) return `the process of task ${id} on ${worker.id} ${wanted ? 'is missing' : 'still runs'}`;
      if (!wanted && runner.sandbox && addressesOf(task).length > 0) return `${worker.id} still has the sandbox of task ${id}`;
    }
    const { upsert, remove } = world.core.diffRows(worker.rows, world.core.rowsForNode(view, rows, worker.id));
    const row = upsert[0]?.key ?? remove[0];
    if (row !== undefined) return `${worker.id} has not the right row ${row}`;
  }
  return undefined;
}
