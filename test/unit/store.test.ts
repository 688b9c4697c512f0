// Store: versions, atomic refusal, idempotent commands, names, and that a snapshot restores to the same bytes.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { clone, create, fromBinary, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { createAction, removeAction, updateAction } from '../../src/core/store/actions.js';
import { Store } from '../../src/core/store/store.js';
import type { StoreEvent } from '../../src/core/store/view.js';
import { timestampFromMs, timestampMs } from '../../src/lib/time.js';
import { CommandSchema, StoreStateSchema, type Command } from '../../src/model/proto/skein_pb.js';
import {
  AnnotationsSchema, DrainStateSchema, NodeSchema, ServiceSchema, ServiceSpecSchema, TaskSchema, TaskState,
  type Service, type StoreAction, type Task,
} from '../../src/model/proto/swarmkit_pb.js';

const TIME_MS = 1_700_000_000_000;

function command(id: string, actions: readonly StoreAction[], timeMs = TIME_MS): Command {
  const made = create(CommandSchema, { id, time: timestampFromMs(timeMs), actions: [...actions] });
  return fromBinary(CommandSchema, toBinary(CommandSchema, made));
}

function service(id: string, name: string): Service {
  return create(ServiceSchema, { id, spec: create(ServiceSpecSchema, { annotations: create(AnnotationsSchema, { name }) }) });
}

function task(id: string, serviceId = 's', nodeId = ''): Task {
  return create(TaskSchema, { id, serviceId, nodeId });
}

function bytes(store: Store): Buffer {
  return Buffer.from(toBinary(StoreStateSchema, store.snapshot()));
}

describe('Store', () => {
  it('stamps version and times, and keeps the creation time on update', () => {
    const store = new Store();
    store.apply(3n, command('a', [createAction('service', service('s1', 'web'))]));
    const made = store.get('service', 's1') as Service;
    assert.equal(made.meta?.version?.index, 3n);
    assert.equal(timestampMs(made.meta?.createdAt), TIME_MS);
    store.apply(7n, command('b', [updateAction('service', clone(ServiceSchema, made))], TIME_MS + 1000));
    const changed = store.get('service', 's1') as Service;
    assert.equal(changed.meta?.version?.index, 7n);
    assert.equal(timestampMs(changed.meta?.createdAt), TIME_MS);
    assert.equal(timestampMs(changed.meta?.updatedAt), TIME_MS + 1000);
    assert.equal(store.index, 7n);
  });

  it('refuses a stale update in the words clients match on', () => {
    const store = new Store();
    store.apply(1n, command('a', [createAction('service', service('s1', 'web'))]));
    const stale = clone(ServiceSchema, store.get('service', 's1') as Service);
    store.apply(2n, command('b', [updateAction('service', clone(ServiceSchema, stale))]));
    for (const action of [updateAction('service', stale), removeAction('service', stale)]) {
      const result = store.apply(store.index + 1n, command(`c${store.index}`, [action]));
      assert.deepEqual(result, { ok: false, error: { code: 'failed_precondition', message: 'update out of sequence' } });
    }
    assert.ok(store.get('service', 's1'));
  });

  it('applies a command whole or not at all', () => {
    const store = new Store();
    store.apply(1n, command('a', [createAction('service', service('s1', 'web'))]));
    const before = bytes(store);
    const refused: readonly (readonly [string, StoreAction[]])[] = [
      ['already_exists', [createAction('task', task('t1')), createAction('service', service('s1', 'other'))]],
      ['already_exists', [createAction('task', task('t1')), createAction('service', service('s2', 'WEB'))]],
      ['already_exists', [createAction('service', service('s2', 'new')), createAction('service', service('s3', 'New'))]],
      ['not_found', [createAction('task', task('t1')), updateAction('service', service('s9', 'x'))]],
      ['not_found', [createAction('task', task('t1')), removeAction('task', task('t9'))]],
      ['invalid_argument', [createAction('task', task('t1')), createAction('task', task('t1'))]],
      ['invalid_argument', [createAction('task', task('t1')), createAction('task', task(''))]],
      ['invalid_argument', [createAction('task', task('t1')), create(CommandSchema, {}) as unknown as StoreAction].slice(0, 1).concat(
        { $typeName: 'docker.swarmkit.v1.StoreAction', action: 1, target: { case: undefined } })],
    ];
    for (const [position, [code, actions]] of refused.entries()) {
      const result = store.apply(store.index + 1n, command(`r${position}`, actions));
      assert.equal(result.ok, false, `command ${position}`);
      assert.equal(!result.ok && result.error.code, code, `command ${position}`);
    }
    const state = fromBinary(StoreStateSchema, bytes(store));
    state.index = fromBinary(StoreStateSchema, before).index;
    // The refused ones are remembered: a second copy of one must not succeed later.
    assert.deepEqual(state.recent, ['a', ...refused.map((_, position) => `!r${position}`)]);
    state.recent = ['a'];
    assert.deepEqual(Buffer.from(toBinary(StoreStateSchema, state)), before);
  });

  it('refuses rather than crashes on two actions for one object and on a command without a time', () => {
    const store = new Store();
    store.apply(1n, command('a', [createAction('task', task('t1'))]));
    const stored = store.get('task', 't1') as Task;
    const twice = store.apply(2n, command('b', [removeAction('task', stored), removeAction('task', stored)]));
    assert.equal(!twice.ok && twice.error.code, 'invalid_argument');
    const timeless = store.apply(3n, create(CommandSchema, { id: 'c', actions: [createAction('task', task('t2'))] }));
    assert.equal(!timeless.ok && timeless.error.code, 'invalid_argument');
    assert.ok(store.get('task', 't1'));
  });

  it('answers a repeated command without applying it again, also after a snapshot', () => {
    const store = new Store();
    const made = command('once', [createAction('service', service('s1', 'web'))]);
    assert.deepEqual(store.apply(1n, made).ok && store.apply(2n, made), { ok: true, value: { events: [], duplicate: true } });
    const copy = new Store();
    copy.restore(fromBinary(StoreStateSchema, bytes(store)));
    const again = copy.apply(3n, made);
    assert.equal(again.ok && again.value.duplicate, true);
    assert.equal(copy.get('service', 's1')?.meta?.version?.index, 1n);
  });

  it('refuses a copy that comes after its id was forgotten: what it made may have been removed since', () => {
    const store = new Store();
    store.apply(1n, command('first', [createAction('service', service('s1', 'web'))]));
    const made = { ...command('late', [createAction('service', service('s2', 'api'))]), seen: 1n };
    assert.ok(store.apply(2n, made).ok);
    assert.ok(store.apply(3n, command('gone', [removeAction('service', store.get('service', 's2') as Service)])).ok);
    let index = 4n;
    const others = (until: bigint): void => {
      for (; index <= until; index++) {
        store.apply(index, command(`o${index}`, [updateAction('service', clone(ServiceSchema, store.get('service', 's1') as Service))]));
      }
    };
    others(4096n);
    const known = store.apply(index++, made);
    assert.equal(known.ok && known.value.duplicate, true, 'as long as it may count, it is known');
    others(5000n);
    const late = store.apply(index++, made);
    assert.equal(!late.ok && late.error.message, 'update out of sequence');
    assert.equal(store.get('service', 's2'), undefined);
    assert.ok(store.apply(index, { ...command('fresh', [createAction('service', service('s3', 'api'))]), seen: 4000n }).ok);
  });

  it('finds names without case, follows a rename, and frees the name of a removed object', () => {
    const store = new Store();
    store.apply(1n, command('a', [createAction('service', service('s1', 'Web'))]));
    assert.equal(store.byName('service', 'wEB')?.id, 's1');
    const renamed = clone(ServiceSchema, store.get('service', 's1') as Service);
    renamed.spec = create(ServiceSpecSchema, { annotations: create(AnnotationsSchema, { name: 'api' }) });
    store.apply(2n, command('b', [updateAction('service', renamed)]));
    assert.equal(store.byName('service', 'web'), undefined);
    assert.equal(store.byName('service', 'api')?.id, 's1');
    store.apply(3n, command('c', [createAction('service', service('s2', 'web'))]));
    const taken = clone(ServiceSchema, store.get('service', 's2') as Service);
    taken.spec = create(ServiceSpecSchema, { annotations: create(AnnotationsSchema, { name: 'API' }) });
    const refused = store.apply(4n, command('d', [updateAction('service', taken)]));
    assert.equal(!refused.ok && refused.error.code, 'already_exists');
    store.apply(5n, command('e', [removeAction('service', store.get('service', 's1') as Service)]));
    assert.equal(store.byName('service', 'api'), undefined);
    assert.equal(store.apply(6n, command('f', [createAction('service', service('s3', 'api'))])).ok, true);
  });

  it('keeps the task indexes in step when a task gets a node and goes', () => {
    const store = new Store();
    store.apply(1n, command('a', [createAction('task', task('t1', 's1')), createAction('task', task('t0', 's1'))]));
    assert.deepEqual(store.tasksOfService('s1').map((t) => t.id), ['t0', 't1']);
    const moved = clone(TaskSchema, store.get('task', 't1') as Task);
    moved.nodeId = 'n1';
    store.apply(2n, command('b', [updateAction('task', moved)]));
    assert.deepEqual(store.tasksOfNode('n1').map((t) => t.id), ['t1']);
    store.apply(3n, command('c', [removeAction('task', store.get('task', 't1') as Task)]));
    assert.deepEqual(store.tasksOfNode('n1'), []);
    assert.deepEqual(store.tasksOfService('s1').map((t) => t.id), ['t0']);
  });

  it('stamps a beginning drain with the index of its command, once', () => {
    const store = new Store();
    const draining = task('t1');
    draining.drainState = create(DrainStateSchema, { since: timestampFromMs(TIME_MS), target: TaskState.SHUTDOWN });
    store.apply(5n, command('a', [createAction('task', draining)]));
    assert.equal(store.get('task', 't1')?.drainState?.revision, 5n);
    store.apply(6n, command('b', [updateAction('task', clone(TaskSchema, store.get('task', 't1') as Task))]));
    assert.equal(store.get('task', 't1')?.drainState?.revision, 5n);
  });

  it('tells what changed, with the object before', () => {
    const store = new Store();
    store.apply(1n, command('a', [createAction('node', create(NodeSchema, { id: 'n1' }))]));
    const old = store.get('node', 'n1');
    assert.ok(old);
    const result = store.apply(2n, command('b', [updateAction('node', clone(NodeSchema, old))]));
    assert.ok(result.ok);
    const [event] = result.value.events as [StoreEvent];
    assert.deepEqual([event.kind, event.action, event.old === old, event.object === store.get('node', 'n1')], ['node', 'update',
      true, true]);
  });

  it('any history restores from its snapshot to the same bytes and goes on the same', () => {
    const step = fc.record({
      kind: fc.constantFrom('create', 'update', 'remove'), id: fc.integer({ min: 0, max: 6 }), what: fc.boolean(),
      node: fc.integer({ min: 0, max: 2 }),
    });
    fc.assert(fc.property(fc.array(step, { maxLength: 40 }), fc.nat(), (steps, at) => {
      const cut = steps.length === 0 ? 0 : at % (steps.length + 1);
      const store = new Store();
      let copy = new Store();
      for (const [position, { kind, id, what, node }] of steps.entries()) {
        if (position === cut) {
          copy = new Store();
          copy.restore(fromBinary(StoreStateSchema, bytes(store)));
        }
        const fresh = what ? service(`s${id}`, `name${id % 4}`) : task(`t${id}`, `s${node}`, node === 0 ? '' : `n${node}`);
        const existing = what ? store.get('service', `s${id}`) : store.get('task', `t${id}`);
        const object = { ...fresh, ...(existing?.meta === undefined ? {} : { meta: existing.meta }) } as never;
        const build = { create: createAction, update: updateAction, remove: removeAction }[kind] as typeof createAction;
        const encoded = toBinary(CommandSchema, command(`c${position}`, [build(what ? 'service' : 'task', object)]));
        const index = BigInt(position + 1);
        const first = store.apply(index, fromBinary(CommandSchema, encoded));
        if (position >= cut) {
          const second = copy.apply(index, fromBinary(CommandSchema, encoded));
          assert.equal(second.ok, first.ok);
        }
      }
      if (cut === steps.length) copy.restore(fromBinary(StoreStateSchema, bytes(store)));
      assert.deepEqual(bytes(copy), bytes(store));
      for (const { id } of store.list('task')) assert.deepEqual(copy.get('task', id), store.get('task', id));
      for (const name of ['name0', 'name1', 'name2', 'name3']) {
        assert.equal(copy.byName('service', name)?.id, store.byName('service', name)?.id);
      }
      for (const node of ['n1', 'n2']) assert.deepEqual(copy.tasksOfNode(node).map((t) => t.id), store.tasksOfNode(node).map((t) => t.id));
    }), { numRuns: 200 });
  });
});
