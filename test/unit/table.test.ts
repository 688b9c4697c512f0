// Tables of objects, compared with a list that is sorted anew at each look, through any history; and the store's own list of
// what waits for a node.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { createAction, removeAction, updateAction } from '../../src/core/store/actions.js';
import { Store } from '../../src/core/store/store.js';
import { Table } from '../../src/core/store/table.js';
import { Prng } from '../../src/lib/prng.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import { TaskSchema, TaskState, type StoreAction, type Task } from '../../src/model/proto/swarmkit_pb.js';

interface Thing {
  readonly id: string;
  readonly rank: number;
}

const ORDERS = {
  id: (a: Thing, b: Thing) => a.id < b.id,
  rank: (a: Thing, b: Thing) => (a.rank === b.rank ? a.id < b.id : a.rank < b.rank),
} as const;

describe('a table', () => {
  for (const [name, before] of Object.entries(ORDERS)) {
    it(`lists by ${name} whatever was put and removed, also what is too much for one piece`, () => {
      const random = new Prng(7n);
      const table = new Table<Thing>(before);
      const model = new Map<string, Thing>();
      for (let step = 0; step < 30_000; step++) {
        // It grows to thousands, and shrinks to nothing in the end.
        const id = `t${random.below(6_000)}`;
        const remove = step > 20_000 ? !random.chance(0.1) : random.chance(0.2);
        if (!remove) {
          const thing = { id, rank: random.below(50) };
          table.put(thing);
          model.set(id, thing);
        } else {
          const victim = model.has(id) ? id : model.keys().next().value;
          if (victim === undefined) continue;
          table.remove(victim);
          model.delete(victim);
        }
        if (step % 1_000 !== 0 && model.size > 3) continue;
        const sorted = [...model.values()].sort((a, b) => (before(a, b) ? -1 : 1));
        assert.deepEqual(table.list(), sorted);
        assert.deepEqual([...table], sorted);
        assert.equal(table.size, model.size);
        assert.equal(table.get(id), model.get(id));
      }
    });
  }

  it('a list that was given out stays as it was', () => {
    const table = new Table<Thing>();
    table.put({ id: 'a', rank: 1 });
    const list = table.list();
    table.put({ id: 'a', rank: 2 });
    table.put({ id: 'b', rank: 1 });
    assert.deepEqual(list, [{ id: 'a', rank: 1 }]);
    assert.deepEqual(table.list(), [{ id: 'a', rank: 2 }, { id: 'b', rank: 1 }]);
  });
});

it('the store knows the tasks that wait for a node, the oldest first, through any history and after a restore', () => {
  const random = new Prng(3n);
  let store = new Store();
  let index = 0n;
  const waiting = (): Task[] => store.list('task')
    .filter((task) => task.status?.state === TaskState.PENDING && task.desiredState <= TaskState.RUNNING)
    .sort((a, b) => Number((a.meta?.createdAt?.seconds ?? 0n) - (b.meta?.createdAt?.seconds ?? 0n)) || (a.id < b.id ? -1 : 1));
  let seen = 0;
  for (let step = 0; step < 2_000; step++) {
    index += 1n;
    const id = `t${random.below(80)}`;
    const old = store.get('task', id);
    const next = create(TaskSchema, {
      id, ...(old?.meta === undefined ? {} : { meta: old.meta }), nodeId: random.pick(['', 'n1', 'n2']), serviceId: 's',
      status: { state: random.pick([TaskState.NEW, TaskState.PENDING, TaskState.PENDING, TaskState.RUNNING]) },
      desiredState: random.pick([TaskState.RUNNING, TaskState.RUNNING, TaskState.SHUTDOWN]),
    });
    const action: StoreAction = old === undefined ? createAction('task', next)
      : random.chance(0.3) ? removeAction('task', old) : updateAction('task', next);
    const time = timestampFromMs(1_700_000_000_000 + 1_000 * random.below(50));
    assert.ok(store.apply(index, create(CommandSchema, { id: `c${index}`, time, actions: [action] })).ok);
    if (step % 100 === 99) {
      const restored = new Store();
      restored.restore(store.snapshot());
      store = restored;
    }
    assert.deepEqual([...store.pendingTasks()].map((task) => task.id), waiting().map((task) => task.id));
    seen = Math.max(seen, waiting().length);
  }
  assert.ok(seen > 5);
});
