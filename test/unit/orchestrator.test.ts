// Orchestrator: from services to tasks, in a simulated swarm: scale, restart, nodes, drain, history.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { NodeStatus_State, RestartPolicy_RestartCondition } from '../../src/model/proto/swarmkit_pb.js';
import { Availability, Swarm, TaskState, desiredOf, isTerminal, stateOf } from './harness.js';

const Condition = RestartPolicy_RestartCondition;

describe('replicated services', () => {
  it('get as many running tasks as replicas, in slots from one, over all nodes', () => {
    const swarm = new Swarm({ nodes: 3 });
    const id = swarm.addService('web', { replicas: 6 });
    swarm.settle();
    assert.deepEqual(swarm.running(id).map((task) => Number(task.slot)).sort(), [1, 2, 3, 4, 5, 6]);
    const perNode = ['n1', 'n2', 'n3'].map((node) => swarm.running(id).filter((task) => task.nodeId === node).length);
    assert.deepEqual(perNode, [2, 2, 2]);
  });

  it('scale up fills the lowest free slots, scale down evens the nodes out and leaves no history of the removed', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('web', { replicas: 5 });
    swarm.settle();
    swarm.updateService(id, { replicas: 2 });
    swarm.advance(20_000);
    assert.equal(swarm.tasks(id).length, 2);
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId).sort(), ['n1', 'n2']);
    swarm.updateService(id, { replicas: 3 });
    swarm.settle();
    const slots = swarm.running(id).map((task) => Number(task.slot)).sort();
    assert.equal(new Set(slots).size, 3);
    assert.deepEqual(slots, [1, 2, 3]);
  });

  it('scale down takes tasks that do not run yet before running ones', () => {
    const swarm = new Swarm({ nodes: 1 });
    const id = swarm.addService('web', { replicas: 3 });
    swarm.behave = (task) => (task.slot === 1n ? 'hang' : 'run');
    swarm.settle();
    swarm.updateService(id, { replicas: 2 });
    swarm.advance(20_000);
    assert.deepEqual(swarm.running(id).map((task) => Number(task.slot)).sort(), [2, 3]);
  });

  it('scaling to zero and removing the service removes every task', () => {
    const swarm = new Swarm({ nodes: 2 });
    const net = swarm.addNetwork('front');
    const id = swarm.addService('web', { replicas: 3, networks: [net] });
    swarm.settle();
    swarm.updateService(id, { replicas: 0, networks: [net] });
    swarm.advance(20_000);
    assert.equal(swarm.tasks(id).length, 0);
    const other = swarm.addService('api', { replicas: 2, networks: [net] });
    swarm.settle();
    swarm.removeService(other);
    swarm.advance(20_000);
    assert.equal(swarm.store.list('task').length, 0);
  });

  it('more tasks than one pass may make are made in several', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('web', { replicas: 450 });
    swarm.settle();
    assert.equal(swarm.running(id).length, 450);
  });
});

describe('restart', () => {
  it('a replacement that cannot be prepared waits out its delay before the next one', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('web', { restart: { delayMs: 5000 } });
    // No node can prepare the task: it is rejected as soon as it is given out.
    const reject = (): void => {
      for (const task of swarm.tasks(id)) if (stateOf(task) >= TaskState.ASSIGNED && stateOf(task) < TaskState.RUNNING) swarm.exit(task,
        TaskState.REJECTED);
    };
    swarm.settle(reject);
    swarm.advance(4000, reject);
    assert.equal(swarm.tasks(id).length, 2, 'the first and its replacement');
    swarm.advance(21_000, reject);
    assert.ok(swarm.tasks(id).length <= 7, `${swarm.tasks(id).length} tasks in 25 s`);
    assert.ok(swarm.tasks(id).length >= 5);
  });

  it('replaces a failed task in its slot after the delay, not before', () => {
    const swarm = new Swarm();
    const id = swarm.addService('web', { restart: { delayMs: 3000 } });
    swarm.settle();
    const [task] = swarm.running(id);
    assert.ok(task);
    swarm.exit(task, TaskState.FAILED);
    swarm.advance(2999);
    assert.equal(swarm.running(id).length, 0);
    const waiting = swarm.tasks(id).find((other) => other.id !== task.id);
    assert.equal(waiting?.desiredState, TaskState.READY);
    assert.equal(stateOf(waiting), TaskState.READY, 'the replacement is prepared while it waits');
    swarm.advance(1);
    assert.deepEqual(swarm.running(id).map((t) => Number(t.slot)), [1]);
    assert.equal(swarm.get('task', task.id).desiredState, TaskState.SHUTDOWN);
  });

  for (const [name, condition, state, restarts] of [
    ['any: a completed task', Condition.ANY, TaskState.COMPLETE, true],
    ['on-failure: a completed task', Condition.ON_FAILURE, TaskState.COMPLETE, false],
    ['on-failure: a failed task', Condition.ON_FAILURE, TaskState.FAILED, true],
    ['none: a failed task', Condition.NONE, TaskState.FAILED, false],
  ] as const) {
    it(`condition ${name} is ${restarts ? '' : 'not '}replaced`, () => {
      const swarm = new Swarm();
      const id = swarm.addService('web', { restart: { condition } });
      swarm.settle();
      const [task] = swarm.running(id);
      assert.ok(task);
      swarm.exit(task, state);
      swarm.advance(60_000);
      assert.equal(swarm.running(id).length, restarts ? 1 : 0);
      assert.equal(swarm.tasks(id).length, restarts ? 2 : 1);
    });
  }

  it('a node down for a day: its tasks are orphaned and their addresses given back', () => {
    const swarm = new Swarm({ nodes: 2 });
    swarm.addNetwork('front');
    const id = swarm.addService('web', { replicas: 2, networks: ['net-front'] });
    swarm.settle();
    const lost = swarm.running(id)[0];
    assert.ok(lost);
    swarm.nodeDown(lost.nodeId);
    swarm.advance(24 * 3600 * 1000 - 1000);
    assert.equal(swarm.running(id).filter((task) => task.nodeId !== lost.nodeId).length, 2);
    assert.equal(stateOf(swarm.get('task', lost.id)), TaskState.RUNNING, 'the node may come back with it');
    swarm.advance(2000);
    const task = swarm.store.get('task', lost.id);
    assert.ok(task === undefined || stateOf(task) === TaskState.ORPHANED);
    assert.equal(swarm.store.list('task').filter((t) => t.nodeId === lost.nodeId && stateOf(t) <= TaskState.RUNNING).length, 0);
  });

  it('an ended task whose node is lost keeps its address until the others let go of it, or long enough has passed', () => {
    const swarm = new Swarm({ nodes: 3 });
    swarm.addNetwork('front');
    const id = swarm.addService('web', { networks: ['net-front'] });
    swarm.settle();
    const [task] = swarm.running(id);
    assert.ok(task);
    swarm.acknowledging = false;
    swarm.exit(task, TaskState.FAILED);
    swarm.removeService(id);
    swarm.nodeDown(task.nodeId);
    swarm.settle();
    assert.ok(swarm.store.get('task', task.id), 'another node may still send to its address');
    swarm.advance(11_000);
    assert.equal(swarm.store.get('task', task.id), undefined);
  });

  it('stops after the allowed attempts', () => {
    const swarm = new Swarm();
    swarm.behave = () => 'fail';
    const id = swarm.addService('web', { restart: { maxAttempts: 3, delayMs: 100 } });
    swarm.advance(60_000);
    assert.equal(swarm.tasks(id).length, 4, 'the first task and three attempts');
    assert.ok(swarm.tasks(id).every(isTerminal));
  });

  it('counts attempts inside the window only', () => {
    const swarm = new Swarm({ historyLimit: 50 });
    const id = swarm.addService('web', { restart: { maxAttempts: 2, windowMs: 10_000 } });
    swarm.settle();
    for (let round = 0; round < 6; round++) {
      const [task] = swarm.running(id);
      assert.ok(task, `round ${round}`);
      swarm.exit(task, TaskState.FAILED);
      swarm.advance(6000);
    }
    for (let round = 0; round < 2; round++) {
      const [task] = swarm.running(id);
      assert.ok(task);
      swarm.exit(task, TaskState.FAILED);
      swarm.advance(10);
    }
    swarm.advance(60_000);
    assert.equal(swarm.running(id).length, 0, 'three failures within the window are too many, for good');
  });

  it('a service that gave up starts again when it is updated', () => {
    const swarm = new Swarm();
    const id = swarm.addService('job', { restart: { condition: Condition.NONE } });
    swarm.behave = (task) => (stateOf(task) === TaskState.RUNNING
      && task.specVersion?.index === swarm.tasks(id)[0]?.specVersion?.index ? 'complete' : 'run');
    swarm.advance(1000);
    assert.equal(swarm.running(id).length, 0);
    swarm.behave = () => 'run';
    swarm.updateService(id, { image: 'app:2', restart: { condition: Condition.NONE } });
    swarm.advance(30_000);
    assert.deepEqual(swarm.images(id), ['app:2']);
  });
});

describe('nodes', () => {
  it('tasks of a node that is down run elsewhere, and the returning node keeps none of them', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('web', { replicas: 4, restart: { delayMs: 1000 } });
    swarm.settle();
    swarm.nodeDown('n2');
    swarm.advance(1000);
    assert.equal(swarm.running(id).filter((task) => task.nodeId === 'n1').length, 4);
    swarm.alive.add('n2');
    swarm.acked.set('n2', 0n);
    swarm.setNodeState('n2', NodeStatus_State.READY);
    swarm.advance(20_000);
    assert.ok(swarm.store.tasksOfNode('n2').every(isTerminal));
    assert.equal(swarm.running(id).length, 4);
  });

  it('a drained node loses its tasks without the restart delay', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('web', { replicas: 2, restart: { delayMs: 60_000 } });
    swarm.settle();
    swarm.setAvailability('n1', Availability.DRAIN);
    swarm.settle();
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId), ['n2', 'n2']);
  });

  it('a paused node keeps its tasks and gets no new ones', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('web', { replicas: 2 });
    swarm.settle();
    swarm.setAvailability('n1', Availability.PAUSE);
    swarm.updateService(id, { replicas: 4 });
    swarm.settle();
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId).sort(), ['n1', 'n2', 'n2', 'n2']);
  });

  it('no replacement starts while the task before it still runs', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('web', { replicas: 2 });
    swarm.settle();
    swarm.setAvailability('n1', Availability.DRAIN);
    swarm.advance(10_000, () => {
      const live = swarm.tasks(id).filter((task) => stateOf(task) >= TaskState.STARTING && !isTerminal(task));
      const slots = live.map((task) => task.slot);
      assert.equal(new Set(slots).size, slots.length, 'two tasks of one slot run');
    });
  });
});

describe('global services', () => {
  it('run one task on every node, also on later ones, and none where constraints say no', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('agent', { global: true, constraints: ['node.labels.without!=yes'] });
    swarm.settle();
    swarm.addNode('n3');
    swarm.addNode('n4', { labels: { without: 'yes' } });
    swarm.settle();
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId).sort(), ['n1', 'n2', 'n3']);
  });

  it('leave a drained node and come back to it', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('agent', { global: true });
    swarm.settle();
    swarm.setAvailability('n1', Availability.DRAIN);
    swarm.advance(10_000);
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId), ['n2']);
    swarm.setAvailability('n1', Availability.ACTIVE);
    swarm.advance(10_000);
    assert.deepEqual(swarm.running(id).map((task) => task.nodeId).sort(), ['n1', 'n2']);
  });

  it('replace a failed task on the same node, and stop where a label changed', () => {
    const swarm = new Swarm({ nodes: 2 });
    const id = swarm.addService('agent', { global: true, constraints: ['node.labels.without!=yes'] });
    swarm.settle();
    const task = swarm.running(id).find((t) => t.nodeId === 'n1');
    assert.ok(task);
    swarm.exit(task, TaskState.FAILED);
    swarm.settle();
    assert.deepEqual(swarm.running(id).map((t) => t.nodeId).sort(), ['n1', 'n2']);
    swarm.editNode('n2', (node) => node.spec?.annotations?.labels.push({ $typeName: 'docker.swarmkit.v1.Pair', key: 'without',
      value: 'yes' }));
    swarm.advance(10_000);
    assert.deepEqual(swarm.running(id).map((t) => t.nodeId), ['n1']);
  });
});

describe('drain', () => {
  function serving() {
    const swarm = new Swarm({ nodes: 2 });
    const net = swarm.addNetwork('front');
    const id = swarm.addService('web', { replicas: 1, networks: [net] });
    swarm.settle();
    const [task] = swarm.running(id);
    assert.ok(task);
    return { swarm, net, id, task };
  }

  it('a serving task is stopped only after every node acknowledged the revision', () => {
    const { swarm, net, id, task } = serving();
    swarm.acknowledging = false;
    swarm.updateService(id, { replicas: 0, networks: [net] });
    swarm.advance(1000);
    const draining = swarm.get('task', task.id);
    assert.equal(draining.desiredState, TaskState.RUNNING);
    assert.equal(desiredOf(draining), TaskState.REMOVE);
    assert.equal(draining.drainState?.revision, draining.meta?.version?.index);
    swarm.acked.set('n1', swarm.store.index);
    swarm.settle();
    assert.equal(swarm.get('task', task.id).desiredState, TaskState.RUNNING, 'one node has not acknowledged');
    swarm.acked.set('n2', swarm.store.index);
    swarm.pass();
    const stopped = swarm.get('task', task.id);
    assert.equal(stopped.desiredState, TaskState.REMOVE);
    assert.equal(stopped.drainState?.timedOut, false);
  });

  it('is bounded in time, and says so', () => {
    const { swarm, net, id, task } = serving();
    swarm.acknowledging = false;
    swarm.updateService(id, { replicas: 0, networks: [net] });
    swarm.advance(4999);
    assert.equal(swarm.get('task', task.id).desiredState, TaskState.RUNNING);
    swarm.nowMs += 1;
    swarm.pass();
    assert.equal(swarm.get('task', task.id).desiredState, TaskState.REMOVE);
    assert.equal(swarm.get('task', task.id).drainState?.timedOut, true);
  });

  it('does not wait for a node that is down', () => {
    const { swarm, net, id, task } = serving();
    swarm.acknowledging = false;
    swarm.acked.set(task.nodeId, 1n << 60n);
    swarm.nodeDown(task.nodeId === 'n1' ? 'n2' : 'n1');
    swarm.updateService(id, { replicas: 0, networks: [net] });
    swarm.pass();
    swarm.pass();
    assert.equal(swarm.get('task', task.id).desiredState, TaskState.REMOVE);
  });

  it('waits for a node that has not told its revision since the leader started', () => {
    const { swarm, net, id, task } = serving();
    swarm.acked.clear();
    swarm.updateService(id, { replicas: 0, networks: [net] });
    swarm.advance(1000);
    assert.equal(swarm.get('task', task.id).desiredState, TaskState.RUNNING);
    for (const node of ['n1', 'n2']) swarm.acked.set(node, swarm.store.index);
    swarm.pass();
    assert.equal(swarm.get('task', task.id).desiredState, TaskState.REMOVE);
  });

  it('a task without networks is stopped at once', () => {
    const swarm = new Swarm();
    swarm.acknowledging = false;
    const id = swarm.addService('batch', { replicas: 1 });
    swarm.settle();
    swarm.updateService(id, { replicas: 0 });
    swarm.pass();
    assert.ok(swarm.tasks(id).every((task) => task.desiredState === TaskState.REMOVE));
  });
});

describe('history', () => {
  it('keeps as many tasks a slot as the limit says', () => {
    const swarm = new Swarm({ historyLimit: 3 });
    const id = swarm.addService('web');
    for (let round = 0; round < 8; round++) {
      swarm.settle();
      const [task] = swarm.running(id);
      assert.ok(task);
      swarm.exit(task, TaskState.FAILED);
    }
    swarm.advance(20_000);
    assert.equal(swarm.tasks(id).length, 3);
    assert.equal(swarm.running(id).length, 1);
  });

  it('a task that never had a node is shut down as soon as it is replaced', () => {
    const swarm = new Swarm();
    const id = swarm.addService('web', { constraints: ['node.id==n9'] });
    swarm.settle();
    swarm.updateService(id, {});
    swarm.settle();
    assert.deepEqual(swarm.tasks(id).map((task) => [stateOf(task), desiredOf(task), task.status?.err]).sort(), [
      [TaskState.RUNNING, TaskState.RUNNING, ''], [TaskState.SHUTDOWN, TaskState.SHUTDOWN, ''],
    ]);
  });

  it('a limit of zero keeps the running task only, a negative one everything', () => {
    for (const [historyLimit, expected] of [[0, 1], [-1, 9]] as const) {
      const swarm = new Swarm({ historyLimit });
      const id = swarm.addService('web');
      for (let round = 0; round < 8; round++) {
        swarm.settle();
        const [task] = swarm.running(id);
        assert.ok(task);
        swarm.exit(task, TaskState.FAILED);
      }
      swarm.advance(20_000);
      assert.equal(swarm.tasks(id).length, expected, `limit ${historyLimit}`);
    }
  });
});
