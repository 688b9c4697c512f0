// Rolling updates in a simulated swarm: order, parallelism, delay, failure actions, rollback, and that no request is lost.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  UpdateConfig_FailureAction as Action, UpdateConfig_UpdateOrder as Order, UpdateStatus_UpdateState as State,
} from '../../src/model/proto/swarmkit_pb.js';
import { Availability, Swarm, TaskState, desiredOf, imageOf, isTerminal, stateOf, type ServiceOptions } from './harness.js';

function deployed(options: ServiceOptions, nodes = 2) {
  const swarm = new Swarm({ nodes });
  const id = swarm.addService('web', options);
  swarm.settle();
  const state = (): State => swarm.get('service', id).updateStatus?.state ?? State.UNKNOWN;
  return { swarm, id, state };
}

describe('rolling update', () => {
  it('replaces every task and completes after the monitor time', () => {
    const options = { replicas: 3, update: { monitorMs: 5000 } };
    const { swarm, id, state } = deployed(options);
    swarm.updateService(id, { ...options, image: 'app:2' });
    swarm.settle();
    assert.deepEqual(swarm.images(id), ['app:2', 'app:2', 'app:2']);
    assert.equal(state(), State.UPDATING);
    swarm.advance(5000);
    assert.equal(state(), State.COMPLETED);
  });

  it('leaves tasks alone when only the replica count changed', () => {
    const { swarm, id } = deployed({ replicas: 2 });
    const before = swarm.running(id).map((task) => task.id).sort();
    swarm.updateService(id, { replicas: 3 });
    swarm.advance(30_000);
    assert.deepEqual(before.filter((task) => swarm.running(id).some((t) => t.id === task)), before);
    assert.equal(swarm.running(id).length, 3);
  });

  for (const parallelism of [1, 2, 0]) {
    it(`takes ${parallelism === 0 ? 'all' : parallelism} at a time`, () => {
      const options = { replicas: 4, update: { parallelism } };
      const { swarm, id } = deployed(options);
      let most = 0;
      swarm.updateService(id, { ...options, image: 'app:2' });
      swarm.advance(30_000, () => {
        most = Math.max(most, 4 - swarm.running(id).length);
      });
      assert.equal(most, parallelism === 0 ? 4 : parallelism);
      assert.equal(swarm.images(id).filter((image) => image === 'app:2').length, 4);
    });
  }

  it('waits for the delay between one task and the next', () => {
    const options = { replicas: 3, update: { delayMs: 10_000 } };
    const { swarm, id } = deployed(options);
    swarm.updateService(id, { ...options, image: 'app:2' });
    swarm.advance(9999);
    assert.deepEqual(swarm.images(id), ['app:1', 'app:1', 'app:2']);
    swarm.advance(10_000);
    assert.deepEqual(swarm.images(id), ['app:1', 'app:2', 'app:2']);
    swarm.advance(10_000);
    assert.deepEqual(swarm.images(id), ['app:2', 'app:2', 'app:2']);
  });

  it('start-first never has fewer running tasks than replicas', () => {
    const options = { replicas: 2, update: { order: Order.START_FIRST } };
    const { swarm, id } = deployed(options);
    swarm.updateService(id, { ...options, image: 'app:2' });
    let least = 2;
    swarm.advance(30_000, () => {
      least = Math.min(least, swarm.running(id).length);
    });
    assert.equal(least, 2);
    assert.deepEqual(swarm.images(id), ['app:2', 'app:2']);
  });

  for (const global of [false, true]) {
    it(`start-first leaves one task of a ${global ? 'node' : 'slot'} when the old one ends before the new one is up`, () => {
      const options = { replicas: 2, global, update: { order: Order.START_FIRST } };
      const { swarm, id, state } = deployed(options);
      swarm.behave = (task) => (imageOf(task) === 'app:2' ? 'hang' : 'run');
      swarm.updateService(id, { ...options, image: 'app:2' });
      swarm.advance(1000);
      for (const task of swarm.running(id)) swarm.exit(task, TaskState.FAILED);
      swarm.advance(1000);
      swarm.behave = () => 'run';
      swarm.advance(60_000);
      assert.deepEqual(swarm.images(id), ['app:2', 'app:2']);
      assert.equal(state(), State.COMPLETED);
    });
  }

  const wantedPerSlot = (swarm: Swarm, id: string): number => Math.max(0, ...[1n, 2n].map((slot) => swarm.tasks(id)
    .filter((task) => task.slot === slot && desiredOf(task) <= TaskState.RUNNING
      && task.specVersion?.index === swarm.get('service', id).specVersion?.index)
    .length));

  it('start-first: an old and a new task that end together are followed by one', () => {
    const options = { replicas: 1, update: { order: Order.START_FIRST } };
    const { swarm, id } = deployed(options);
    swarm.behave = (task) => (imageOf(task) === 'app:2' ? 'hang' : 'run');
    swarm.updateService(id, { ...options, image: 'app:2' });
    swarm.advance(100);
    for (const task of swarm.tasks(id)) if (!isTerminal(task)) swarm.exit(task, TaskState.FAILED);
    swarm.pass();
    assert.equal(wantedPerSlot(swarm, id), 1);
  });

  it('start-first: a task on a node that is drained as its turn comes is followed by one', () => {
    const options = { replicas: 1, update: { order: Order.START_FIRST } };
    const { swarm, id } = deployed(options);
    swarm.updateService(id, { ...options, image: 'app:2' });
    swarm.setAvailability(swarm.running(id)[0]?.nodeId ?? '', Availability.DRAIN);
    for (let pass = 0; pass < 3; pass++) {
      swarm.pass();
      assert.ok(wantedPerSlot(swarm, id) <= 1);
    }
  });

  it('stop-first never runs two tasks of a slot', () => {
    const options = { replicas: 2, networks: ['net-front'] };
    const swarm = new Swarm({ nodes: 2 });
    swarm.addNetwork('front');
    const id = swarm.addService('web', options);
    swarm.settle();
    swarm.updateService(id, { ...options, image: 'app:2' });
    swarm.advance(30_000, () => {
      const live = swarm.tasks(id).filter((task) => stateOf(task) >= TaskState.STARTING && !isTerminal(task)).map((task) => task.slot);
      assert.equal(new Set(live).size, live.length);
    });
    assert.deepEqual(swarm.images(id), ['app:2', 'app:2']);
  });

  it('no running task is told to stop before the nodes left it out of their tables', () => {
    const swarm = new Swarm({ nodes: 3 });
    swarm.addNetwork('front');
    const options = { replicas: 3, networks: ['net-front'], update: { order: Order.START_FIRST } };
    const id = swarm.addService('web', options);
    swarm.settle();
    swarm.updateService(id, { ...options, image: 'app:2' });
    swarm.advance(30_000, () => {
      for (const task of swarm.tasks(id)) {
        if (stateOf(task) !== TaskState.RUNNING || task.desiredState <= TaskState.RUNNING) continue;
        const revision = task.drainState?.revision ?? 0n;
        assert.ok(revision > 0n, 'stopped without a drain');
        assert.ok([...swarm.acked.values()].every((acked) => acked >= revision), 'stopped before it was acknowledged');
        assert.equal(task.drainState?.timedOut, false);
      }
    });
    assert.deepEqual(swarm.images(id), ['app:2', 'app:2', 'app:2']);
  });

  it('a replacement may go to another node: a changed constraint moves the service', () => {
    for (const order of [Order.STOP_FIRST, Order.START_FIRST]) {
      const options = { replicas: 1, constraints: ['node.id==n1'], update: { order } };
      const { swarm, id } = deployed(options);
      swarm.updateService(id, { ...options, constraints: ['node.id==n2'] });
      swarm.advance(30_000);
      assert.deepEqual(swarm.running(id).map((task) => task.nodeId), ['n2']);
    }
  });

  it('global services are updated node by node', () => {
    const { swarm, id } = deployed({ global: true }, 3);
    swarm.updateService(id, { global: true, image: 'app:2' });
    swarm.advance(30_000);
    assert.deepEqual(swarm.running(id).map((task) => `${task.nodeId} ${imageOf(task)}`).sort(), ['n1 app:2', 'n2 app:2', 'n3 app:2']);
  });

  it('a newer update takes over from one that is under way', () => {
    const options = { replicas: 3, update: { delayMs: 10_000 } };
    const { swarm, id } = deployed(options);
    swarm.updateService(id, { ...options, image: 'app:2' });
    swarm.advance(5000);
    swarm.updateService(id, { ...options, image: 'app:3' });
    swarm.advance(60_000);
    assert.deepEqual(swarm.images(id), ['app:3', 'app:3', 'app:3']);
  });
});

describe('failing update', () => {
  function failing(failureAction: Action, more: Partial<ServiceOptions> = {}) {
    const options: ServiceOptions = { replicas: 3, restart: { delayMs: 1000 }, update: { failureAction, monitorMs: 5000 }, ...more };
    const world = deployed(options);
    world.swarm.behave = (task) => (imageOf(task) === 'app:2' ? 'fail' : 'run');
    world.swarm.updateService(world.id, { ...options, image: 'app:2' });
    world.swarm.advance(60_000);
    return { ...world, options };
  }

  it('pauses by default and leaves the other tasks alone', () => {
    const { swarm, id, state } = failing(Action.PAUSE);
    assert.equal(state(), State.PAUSED);
    assert.deepEqual(swarm.images(id), ['app:1', 'app:1']);
    assert.match(swarm.get('service', id).updateStatus?.message ?? '', /update paused due to failure or early termination of task/);
  });

  it('that pauses ends what it began: a place has one task once its new one runs', () => {
    const options: ServiceOptions = {
      replicas: 2, restart: { delayMs: 1000 }, update: { failureAction: Action.PAUSE, order: Order.START_FIRST, parallelism: 2, monitorMs: 5000 },
    };
    const { swarm, id, state } = deployed(options);
    swarm.behave = (task) => (imageOf(task) === 'app:1' ? 'run' : task.slot === 1n ? 'fail' : 'hang');
    swarm.updateService(id, { ...options, image: 'app:2' });
    swarm.advance(500);
    assert.equal(state(), State.PAUSED);
    assert.deepEqual(swarm.images(id), ['app:1', 'app:1']);
    swarm.behave = (task) => (imageOf(task) === 'app:2' && task.slot === 1n ? 'fail' : 'run');
    swarm.advance(30_000);
    assert.deepEqual(swarm.images(id), ['app:1', 'app:2']);
    assert.equal(state(), State.PAUSED);
  });

  it('goes on after another update', () => {
    const { swarm, id, state, options } = failing(Action.PAUSE);
    swarm.updateService(id, { ...options, image: 'app:3' });
    swarm.advance(60_000);
    assert.deepEqual(swarm.images(id), ['app:3', 'app:3', 'app:3']);
    assert.equal(state(), State.COMPLETED);
  });

  it('rolls back to the previous spec when told to', () => {
    const { swarm, id, state } = failing(Action.ROLLBACK);
    assert.equal(state(), State.ROLLBACK_COMPLETED);
    assert.deepEqual(swarm.images(id), ['app:1', 'app:1', 'app:1']);
    const service = swarm.get('service', id);
    assert.equal(service.previousSpec, undefined);
    assert.equal(service.previousSpecVersion, undefined);
  });

  it('counts what ends within the monitor time, however it ends, and leaves what ends later to the restart policy', () => {
    for (const [livesMs, ending, expected] of [
      [4000, 'fail', State.PAUSED], [4000, 'complete', State.PAUSED], [6000, 'fail', State.COMPLETED], [6000, 'complete', State.COMPLETED],
    ] as const) {
      const options: ServiceOptions = {
        replicas: 3, restart: { delayMs: 1000 }, update: { failureAction: Action.PAUSE, monitorMs: 5000, delayMs: 10_000 },
      };
      const { swarm, id, state } = deployed(options);
      const first = new Map<string, number>();
      let died = '';
      swarm.behave = (task) => {
        if (imageOf(task) !== 'app:2' || stateOf(task) !== TaskState.RUNNING || (died !== '' && died !== task.id)) return 'run';
        if (!first.has(task.id)) first.set(task.id, swarm.nowMs);
        if (swarm.nowMs - (first.get(task.id) ?? 0) < livesMs) return 'run';
        died = task.id;
        return ending;
      };
      swarm.updateService(id, { ...options, image: 'app:2' });
      for (let ms = 0; ms < 60_000; ms += 500) swarm.advance(500);
      assert.notEqual(died, '');
      assert.equal(state(), expected, `${ending} after ${livesMs} ms: ${State[state()]}`);
    }
  });

  it('gets to its end when the first task of a place is long removed from history', () => {
    const { swarm, id, state } = failing(Action.CONTINUE, { update: { failureAction: Action.CONTINUE, delayMs: 20_000 } });
    swarm.advance(120_000);
    assert.equal(state(), State.COMPLETED);
    assert.ok(swarm.tasks(id).filter((task) => desiredOf(task) <= TaskState.RUNNING).every((task) => imageOf(task) === 'app:2'));
  });

  it('does not count what fails in places it has nothing to do in', () => {
    // Paused by tasks that fail, then rolled back to the very spec they have: their restarts are not the rollback's doing.
    const { swarm, id, state, options } = failing(Action.PAUSE);
    const back: ServiceOptions = { ...options, image: 'app:2', rollback: { failureAction: Action.PAUSE, monitorMs: 5000, parallelism: 1 } };
    const bad = swarm.tasks(id).find((task) => imageOf(task) === 'app:2')?.slot;
    swarm.behave = (task) => (imageOf(task) === 'app:2' && task.slot === bad ? 'fail' : 'run');
    swarm.updateService(id, back);
    swarm.advance(60_000);
    assert.deepEqual(swarm.images(id).filter((image) => image === 'app:2').length, 2, 'the other places were updated');
    assert.equal(state(), State.COMPLETED);
  });

  it('continues when told to', () => {
    const { swarm, id } = failing(Action.CONTINUE);
    assert.equal(swarm.running(id).length, 0);
    assert.ok(swarm.tasks(id).filter((task) => desiredOf(task) <= TaskState.RUNNING).every((task) => imageOf(task) === 'app:2'));
  });

  it('failing tasks that are restarted again and again keep nothing from its turn', () => {
    const options: ServiceOptions = { replicas: 4, restart: { delayMs: 5000 }, update: { failureAction: Action.CONTINUE } };
    const { swarm, id, state } = deployed(options);
    // Each slot at its own pace: never a moment without one that waits for its restart.
    const since = new Map<string, number>();
    swarm.behave = (task) => {
      if (imageOf(task) !== 'app:2') return 'run';
      if (!since.has(task.id)) since.set(task.id, swarm.nowMs);
      return swarm.nowMs - (since.get(task.id) ?? 0) < 300 * Number(task.slot) ? 'hang' : 'fail';
    };
    swarm.updateService(id, { ...options, image: 'app:2' });
    for (let ms = 0; ms < 60_000; ms += 100) swarm.advance(100);
    assert.equal(state(), State.COMPLETED);
    assert.ok(swarm.tasks(id).filter((task) => desiredOf(task) <= TaskState.RUNNING).every((task) => imageOf(task) === 'app:2'));
  });

  it('bears failures up to the ratio', () => {
    const options: ServiceOptions = {
      replicas: 4, restart: { delayMs: 1000 }, update: { failureAction: Action.PAUSE, maxFailureRatio: 0.3 },
    };
    const { swarm, id, state } = deployed(options);
    let failed = false;
    swarm.behave = (task) => {
      if (failed || imageOf(task) !== 'app:2') return 'run';
      failed = true;
      return 'fail';
    };
    swarm.updateService(id, { ...options, image: 'app:2' });
    swarm.advance(60_000);
    assert.equal(state(), State.COMPLETED);
    assert.deepEqual(swarm.images(id), ['app:2', 'app:2', 'app:2', 'app:2']);
  });

  it('a rollback that fails too is paused', () => {
    const { swarm, id, state, options } = failing(Action.PAUSE);
    assert.equal(state(), State.PAUSED);
    swarm.behave = () => 'fail';
    swarm.updateService(id, { ...options, image: 'app:4', update: { failureAction: Action.ROLLBACK } });
    swarm.advance(60_000);
    assert.equal(state(), State.ROLLBACK_PAUSED);
  });
});
