// Tasks that are alike are placed from one ranking of the nodes. They must go where each of them would go if all nodes were
// looked at for it alone, which is what happens to tasks without a version; and get the same reasons.

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { schedule } from '../../src/core/scheduler/scheduler.js';
import { createAction } from '../../src/core/store/actions.js';
import { Store } from '../../src/core/store/store.js';
import { Prng } from '../../src/lib/prng.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import {
  NodeSchema, NodeSpec_Availability as Availability, NodeStatus_State as NodeState, PortConfig_PublishMode as Mode, TaskSchema, TaskState,
  type StoreAction,
} from '../../src/model/proto/swarmkit_pb.js';

const NOW_MS = 1_700_000_000_000;
const SEEDS = 60;

/** The same nodes and tasks for the same seed, with versions or without. */
function swarm(seed: bigint, versions: boolean): Store {
  const random = new Prng(seed);
  const actions: StoreAction[] = [];
  const nodes = 1 + random.below(12);
  for (let i = 0; i < nodes; i++) {
    actions.push(createAction('node', create(NodeSchema, {
      id: `n${i}`, spec: { availability: random.below(6) === 0 ? Availability.DRAIN : Availability.ACTIVE },
      status: { state: random.below(6) === 0 ? NodeState.DOWN : NodeState.READY },
      description: { resources: { memoryBytes: BigInt(500 * random.below(8)), nanoCpus: 4n } },
    })));
  }
  const services = Array.from({ length: 1 + random.below(4) }, (_, i) => ({
    id: `s${i}`,
    spec: {
      resources: random.below(2) === 0 ? {} : { reservations: { memoryBytes: BigInt(100 * random.below(5)) } },
      placement: { maxReplicas: BigInt(random.below(3)), constraints: random.below(4) === 0 ? ['node.id!=n0'] : [] },
    },
    endpoint: random.below(3) === 0 ? { ports: [{ publishMode: Mode.HOST, publishedPort: 8000 + random.below(2), targetPort: 80 }] } : {},
  }) satisfies MessageInitShape<typeof TaskSchema>);
  const tasks = random.below(60);
  for (let i = 0; i < tasks; i++) {
    const service = services[random.below(services.length)] as (typeof services)[number];
    const placed = random.below(4) === 0;
    const failed = placed && random.below(2) === 0;
    actions.push(createAction('task', create(TaskSchema, {
      id: `t${String(i).padStart(3, '0')}`, serviceId: service.id, spec: service.spec, endpoint: service.endpoint, slot: BigInt(i),
      ...(versions ? { specVersion: { index: 1n } } : {}), nodeId: placed ? `n${random.below(nodes)}` : '',
      desiredState: failed ? TaskState.SHUTDOWN : TaskState.RUNNING,
      status: { state: failed ? TaskState.FAILED : placed ? TaskState.RUNNING : TaskState.PENDING, timestamp: timestampFromMs(NOW_MS) },
    })));
  }
  const store = new Store();
  const applied = store.apply(1n, create(CommandSchema, { id: 'all', time: timestampFromMs(NOW_MS), actions }));
  assert.ok(applied.ok);
  return store;
}

function placements(store: Store): (string | undefined)[][] {
  const soft = { acked: new Map<string, bigint>(), installed: 0n, reached: [], downSince: new Map(), steadyMs: NOW_MS };
  return schedule({ view: store, soft, nowMs: NOW_MS }).map(({ target }) => {
    assert.ok(target.case === 'task');
    const { id, nodeId, status } = target.value;
    return [id, nodeId, status?.err];
  });
}

it('tasks that are alike go where each would go by itself, and are told the same reasons', () => {
  let [assigned, refused] = [0, 0];
  for (let seed = 1n; seed <= SEEDS; seed++) {
    const ranked = placements(swarm(seed, true));
    assert.deepEqual(ranked, placements(swarm(seed, false)), `seed ${seed}`);
    for (const [, nodeId] of ranked) {
      if (nodeId === '') refused += 1;
      else assigned += 1;
    }
  }
  // Both were put to the test.
  assert.ok(assigned > 100 && refused > 50, `${assigned} assigned, ${refused} refused`);
});
