// The manager's loop over a real log: what is too large for one command is split, and what is refused does not spin.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { pino } from 'pino';
import { createService } from '../../src/core/control/services.js';
import { removeNode } from '../../src/core/control/nodes.js';
import { createAction } from '../../src/core/store/actions.js';
import { dispatcherHandlers } from '../../src/daemon/manager/dispatcher.js';
import { Manager } from '../../src/daemon/manager/manager.js';
import { ok, unwrap } from '../../src/lib/result.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { DATA_PATH_LABEL } from '../../src/model/network.js';
import { toPairs } from '../../src/model/pairs.js';
import {
  AnnotationsSchema, ClusterSchema, ClusterSpecSchema, DriverSchema, EngineDescriptionSchema, NodeDescriptionSchema, NodeImagesSchema,
    NodeRole,
  NodeSchema, NodeSpecSchema, NodeStatusSchema, NodeStatus_State, ServiceSchema, TaskState, TaskStatusSchema, VersionSchema,
  type ServiceSpec, type StoreAction, type TaskStatus,
} from '../../src/model/proto/swarmkit_pb.js';
import { openAlone } from '../support/consensus.js';
import { serviceSpec, stateOf } from './harness.js';

const root = mkdtempSync(path.join(tmpdir(), 'skein-manager-'));
after(() => rmSync(root, { recursive: true, force: true }));
let count = 0;

async function withManager(body: (manager: Manager, apply: (actions: StoreAction[]) => Promise<void>) => Promise<void>): Promise<void> {
  let crash: unknown;
  const consensus = await openAlone(path.join(root, `m${++count}`), new Uint8Array(32).fill(7), 1n, (error) => { crash = error; });
  const manager = new Manager(consensus, pino({ level: 'silent' }), { nodeId: 'm1', advertiseAddr: '127.0.0.1:2377' });
  manager.start((error) => { crash = error; });
  await until('it leads', () => manager.term() !== undefined);
  const apply = async (actions: StoreAction[]): Promise<void> => unwrap(await manager.commit(() => ok({ actions, value: undefined })));
  try {
    await apply([
      createAction('cluster', create(ClusterSchema, {
        id: 'cluster', spec: create(ClusterSpecSchema, { annotations: create(AnnotationsSchema, { name: 'default' }) }),
      })),
      createAction('node', create(NodeSchema, {
        id: 'n1', role: NodeRole.WORKER, spec: create(NodeSpecSchema, { annotations: create(AnnotationsSchema) }),
        description: create(NodeDescriptionSchema, {
          hostname: 'n1', images: create(NodeImagesSchema, { references: ['app:1'] }),
          engine: create(EngineDescriptionSchema, { labels: toPairs({ [DATA_PATH_LABEL]: '192.0.2.1' }) }),
        }),
        status: create(NodeStatusSchema, { state: NodeStatus_State.READY, addr: '192.0.2.1' }),
      })),
    ]);
    await body(manager, apply);
    assert.equal(crash, undefined);
  } finally {
    await manager.close();
    await consensus.close();
  }
}

function large(name: string, replicas: number, bytes: number): ServiceSpec {
  const spec = serviceSpec(name, { replicas });
  if (spec.task?.runtime.case === 'container') spec.task.runtime.value.env = [`FILL=${'x'.repeat(bytes)}`];
  return spec;
}

async function until(what: string, met: () => boolean, ms = 20_000): Promise<void> {
  const deadline = Date.now() + ms;
  while (!met()) {
    if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const create_ = (manager: Manager, spec: ServiceSpec): Promise<string> =>
  manager.commit((view, context) => createService(view, spec, context)).then(unwrap);

describe('the manager', () => {
  it('makes and places 200 tasks whose specs are 50 KiB each, takes their statuses in one call, and orphans them with their node',
    async () => {
    await withManager(async (manager) => {
      const id = await create_(manager, large('web', 200, 50 * 1024));
      const inState = (state: TaskState): boolean => {
        const tasks = manager.view().tasksOfService(id);
        return tasks.length === 200 && tasks.every((task) => stateOf(task) === state);
      };
      await until('all tasks are assigned', () => inState(TaskState.ASSIGNED));
      assert.deepEqual([manager.stages.refused, manager.stages.oversized], [0, 0]);

      manager.sessions.register('n1', '', 'session', Date.now(), 60_000);
      const call = dispatcherHandlers(manager).updateTaskStatus as (request: object, caller: object) => Promise<object>;
      const status = (): TaskStatus => create(TaskStatusSchema, { state: TaskState.RUNNING, timestamp: timestampFromMs(Date.now()) });
      const updates = manager.view().tasksOfService(id).slice(0, 200).map((task) => ({ taskId: task.id, status: status() }));
      await call({ sessionId: 'session', updates }, { identity: { nodeId: 'n1', organization: 'cluster', roles: ['swarm-worker'] },
        address: '192.0.2.1' });
      assert.ok(inState(TaskState.RUNNING), 'every status was taken');

      unwrap(await manager.commit((view, context) => removeNode(view, { id: 'n1', force: true }, context)));
      assert.equal(manager.view().get('node', 'n1'), undefined);
      assert.equal(manager.view().cluster()?.blacklistedCertificates[0]?.key, 'n1');
      await until('no task counts as running on the removed node',
        () => !manager.view().tasksOfNode('n1').some((task) => stateOf(task) <= TaskState.RUNNING));
    });
  });

  it('goes on with everything else when one change fits into no command, and does not spin', async () => {
    await withManager(async (manager, apply) => {
      // Past the checks of the API: the options of the log driver are on a task twice.
      const spec = serviceSpec('huge', { replicas: 1 });
      if (spec.task !== undefined) spec.task.logDriver = create(DriverSchema,
        { name: 'x', options: toPairs({ fill: 'x'.repeat(800 * 1024) }) });
      await apply([createAction('service', create(ServiceSchema,
        { id: 'huge', spec, specVersion: create(VersionSchema, { index: 1n }) }))]);
      const id = await create_(manager, serviceSpec('web', { replicas: 2 }));
      await until('the other service is placed', () => manager.view().tasksOfService(id).filter((task) =>
        stateOf(task) === TaskState.ASSIGNED).length === 2);
      const before = manager.stages.oversized;
      assert.ok(before > 0, 'what was left out is counted');
      const commit = manager.consensus.status.commit;
      await new Promise((resolve) => setTimeout(resolve, 300));
      assert.ok(manager.stages.oversized - before <= 2, `the loop spins: ${manager.stages.oversized - before} tries`);
      assert.equal(manager.consensus.status.commit, commit);
    });
  });

  it('tells its listeners the moment of a change to the millisecond', async () => {
    await withManager(async (manager) => {
      const moments: number[] = [];
      manager.onEvents((_events, nowMs) => { moments.push(nowMs); });
      const before = Date.now();
      await create_(manager, serviceSpec('web'));
      assert.ok((moments.at(-1) ?? 0) >= before, `${before}: ${moments.join(' ')}`);
    });
  });

  it('cuts a status that would make its task too large, and says so', async () => {
    await withManager(async (manager) => {
      const id = await create_(manager, serviceSpec('web', { replicas: 1 }));
      const task = () => manager.view().tasksOfService(id)[0];
      await until('the task is assigned', () => task() !== undefined && stateOf(task() as never) === TaskState.ASSIGNED);
      manager.sessions.register('n1', '', 'session', Date.now(), 60_000);
      const call = dispatcherHandlers(manager).updateTaskStatus as (request: object, caller: object) => Promise<object>;
      const status = create(TaskStatusSchema, { state: TaskState.FAILED, timestamp: timestampFromMs(Date.now()),
        err: 'e'.repeat(1_000_000) });
      await call({ sessionId: 'session', updates: [{ taskId: task()?.id, status }] },
        { identity: { nodeId: 'n1', organization: 'cluster', roles: [] }, address: '' });
      const failed = manager.view().tasksOfService(id).find((one) => stateOf(one) === TaskState.FAILED);
      assert.match(failed?.status?.err ?? '', /^e{4096} \[cut: 1000000 characters\]$/);
    });
  });
});
