// Dispatcher: assignment sets and increments of a node, and sessions by heartbeats.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { EMPTY_SET, applyChanges, assignmentsOf, diffAssignments, type AssignmentSet } from '../../src/core/dispatcher/assignments.js';
import { Sessions } from '../../src/core/dispatcher/sessions.js';
import { createAction, updateAction } from '../../src/core/store/actions.js';
import { clone, create } from '@bufbuild/protobuf';
import { AssignmentChange_AssignmentAction as ChangeAction, AnnotationsSchema, SecretSchema, SecretSpecSchema,
  ServiceSchema, TaskSchema } from '../../src/model/proto/swarmkit_pb.js';
import { Swarm, TaskState, serviceSpec, stateOf } from './harness.js';

const ids = (set: AssignmentSet): string[] => [...set.tasks.keys()].sort();

describe('assignments', () => {
  it('are the tasks given to the node, with the secrets they use', () => {
    const swarm = new Swarm({ nodes: 2 });
    for (const id of ['secret1', 'secret2']) swarm.apply([createAction('secret',
      create(SecretSchema, { id, spec: create(SecretSpecSchema, { annotations: create(AnnotationsSchema, { name: id }) }) }))]);
    const spec = serviceSpec('web', { replicas: 2 });
    if (spec.task?.runtime.case === 'container') {
      spec.task.runtime.value.secrets.push({ $typeName: 'docker.swarmkit.v1.SecretReference', secretId: 'secret1', secretName: 'x',
        target: { case: undefined } });
    }
    swarm.apply([createAction('service', create(ServiceSchema, { id: 'svc', spec }))]);
    swarm.apply([createAction('service', create(ServiceSchema, { id: 'plain', spec: serviceSpec('plain', { replicas: 4 }) }))]);
    assert.deepEqual(assignmentsOf(swarm.store, 'n1'), EMPTY_SET);
    swarm.settle();
    for (const node of ['n1', 'n2']) {
      const set = assignmentsOf(swarm.store, node);
      assert.ok([...set.tasks.values()].some(({ serviceId }) => serviceId === 'svc'));
      assert.deepEqual([...set.secrets.keys()], ['secret1']);
    }
    // Only as long as a task there needs it.
    for (const task of swarm.store.tasksOfNode('n1').filter(({ serviceId }) => serviceId === 'svc')) {
      const ended = clone(TaskSchema, task);
      if (ended.status !== undefined) ended.status.state = TaskState.SHUTDOWN;
      swarm.apply([updateAction('task', ended)]);
    }
    const rest = assignmentsOf(swarm.store, 'n1');
    assert.ok(rest.tasks.size > 1, 'others run on');
    assert.deepEqual([...rest.secrets.keys()], []);
    assert.deepEqual([...assignmentsOf(swarm.store, 'n2').secrets.keys()], ['secret1']);
  });

  it('increments carry a change of what is wanted, not the node\'s own reports, and end at the whole set', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('web', { replicas: 3, update: {} });
    let held = EMPTY_SET;
    let sent = EMPTY_SET;
    let updates = 0;
    const follow = (): void => {
      const now = assignmentsOf(swarm.store, 'n1');
      const changes = diffAssignments(sent, now);
      sent = now;
      updates += changes.filter((change) => change.action === ChangeAction.UPDATE).length;
      held = applyChanges(held, false, changes);
      assert.deepEqual(ids(held), ids(now));
      for (const [taskId, task] of now.tasks) assert.equal(held.tasks.get(taskId)?.desiredState, task.desiredState);
    };
    swarm.settle(follow);
    assert.equal(updates, held.tasks.size, 'one message a task on its way to RUNNING');
    swarm.updateService(id, { replicas: 3, image: 'app:2', update: {} });
    swarm.advance(30_000, follow);
    swarm.updateService(id, { replicas: 0 });
    swarm.advance(30_000, follow);
    assert.equal(held.tasks.size, 0);
  });

  it('a complete set replaces what the node held', () => {
    const swarm = new Swarm();
    swarm.addService('web', { replicas: 2 });
    swarm.settle();
    const set = assignmentsOf(swarm.store, 'n1');
    const [first] = [...set.tasks.values()];
    assert.ok(first && stateOf(first) === TaskState.RUNNING);
    const only = diffAssignments(EMPTY_SET, { ...EMPTY_SET, tasks: new Map([[first.id, first]]) });
    assert.deepEqual(ids(applyChanges(set, true, only)), [first.id]);
  });
});

describe('sessions', () => {
  const PERIOD_MS = 5000;

  it('expire three periods after the last heartbeat, once', () => {
    const sessions = new Sessions();
    assert.deepEqual(sessions.register('n1', '', 's1', 0, PERIOD_MS), { ok: true, sessionId: 's1' });
    assert.equal(sessions.heartbeat('n1', 's1', 10_000, PERIOD_MS), 'ok');
    assert.equal(sessions.nextDeadlineMs(), 25_000);
    assert.deepEqual(sessions.expire(24_999), []);
    assert.deepEqual(sessions.expire(25_000), ['n1']);
    assert.deepEqual(sessions.expire(90_000), []);
    assert.equal(sessions.heartbeat('n1', 's1', 26_000, PERIOD_MS), 'unknown node');
    assert.equal(sessions.nextDeadlineMs(), undefined);
  });

  it('a returning node keeps its session; a second agent of that node gets another and ends the first', () => {
    const sessions = new Sessions();
    sessions.register('n1', '', 's1', 0, PERIOD_MS);
    assert.deepEqual(sessions.register('n1', 's1', 's2', 1000, PERIOD_MS), { ok: true, sessionId: 's1' });
    assert.deepEqual(sessions.register('n1', '', 's3', 2000, PERIOD_MS), { ok: true, sessionId: 's3' });
    assert.equal(sessions.check('n1', 's1'), 'wrong session');
    assert.equal(sessions.check('n1', 's3'), 'ok');
  });

  it('refuses a node that registers all the time, and takes it again later', () => {
    const sessions = new Sessions();
    for (let i = 0; i < 3; i++) assert.equal(sessions.register('n1', '', `s${i}`, i * 100, PERIOD_MS).ok, true);
    assert.equal(sessions.register('n1', '', 's4', 400, PERIOD_MS).ok, false);
    assert.equal(sessions.register('n2', '', 't1', 400, PERIOD_MS).ok, true);
    assert.equal(sessions.register('n1', '', 's5', 8001, PERIOD_MS).ok, true);
  });

  it('an agent that starts together with its manager gets a session of its own', () => {
    const sessions = new Sessions();
    sessions.expect('n1', 0, 5000);
    assert.deepEqual(sessions.register('n1', '', 'fresh', 1, 5000), { ok: true, sessionId: 'fresh' });
    assert.equal(sessions.check('n1', 'fresh'), 'ok');
  });

  it('a manager that was stopped waits as long as if it had not been', () => {
    const sessions = new Sessions();
    sessions.register('n1', '', 's', 0, PERIOD_MS);
    sessions.stalled(60_000);
    assert.deepEqual(sessions.expire(60_000), []);
    assert.deepEqual(sessions.expire(60_000 + 3 * PERIOD_MS), ['n1']);
  });

  it('a node known from the store has twice the time to call', () => {
    const sessions = new Sessions();
    sessions.expect('n1', 0, PERIOD_MS);
    assert.equal(sessions.check('n1', ''), 'unknown node');
    assert.deepEqual(sessions.expire(29_999), []);
    assert.deepEqual(sessions.expire(30_000), ['n1']);
    sessions.register('n2', '', 's', 0, PERIOD_MS);
    sessions.expect('n2', 0, PERIOD_MS);
    assert.equal(sessions.check('n2', 's'), 'ok');
    sessions.forget('n2');
    assert.equal(sessions.check('n2', 's'), 'unknown node');
  });
});
