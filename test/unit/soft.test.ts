// How long a leader has had a revision, by its own clock, and what that bounds: times of other managers, and of when a change was
// asked for, do not count.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { updateAction } from '../../src/core/store/actions.js';
import { downNow, hadForMs, reach, releasedInMs, type Reached } from '../../src/core/store/soft.js';
import { waitedAt } from '../../src/lib/time.js';
import { copyOf } from '../../src/model/message.js';
import { NodeStatus_State, TaskState } from '../../src/model/proto/swarmkit_pb.js';
import { Swarm } from './harness.js';

it('a node is DOWN for as long as this leader saw it so, and anew each time', () => {
  const swarm = new Swarm({ nodes: 2 });
  const none = downNow(new Map(), swarm.store, 0);
  assert.equal(none.size, 0);
  swarm.nodeDown('n1');
  const first = downNow(none, swarm.store, 10);
  assert.deepEqual([...downNow(first, swarm.store, 100)], [['n1', 10]]);
  assert.deepEqual([...downNow(new Map(), swarm.store, 100)], [['n1', 100]], 'of a leader that is new');
  swarm.nodeDown('n2');
  const both = downNow(first, swarm.store, 200);
  assert.deepEqual([...both], [['n1', 10], ['n2', 200]]);
  const node = copyOf(swarm.store.get('node', 'n1') ?? assert.fail('n1'));
  if (node.status !== undefined) node.status.state = NodeStatus_State.READY;
  swarm.apply([updateAction('node', node)]);
  const one = downNow(both, swarm.store, 300);
  assert.deepEqual([...one], [['n2', 200]]);
  swarm.nodeDown('n1');
  assert.deepEqual([...downNow(one, swarm.store, 400)], [['n1', 400], ['n2', 200]]);
});

describe('reach', () => {
  it('never tells more than was, and at most a step less; few are kept', () => {
    fc.assert(fc.property(fc.array(fc.tuple(fc.nat(400), fc.nat(3)), { maxLength: 300 }), (steps) => {
      let reached: Reached = [];
      let steadyMs = 0;
      let index = 0n;
      const since = new Map<bigint, number>();
      for (const [ms, more] of steps) {
        steadyMs += ms;
        for (let i = 0; i < more; i++) since.set(index += 1n, steadyMs);
        if (more > 0) reached = reach(reached, index, steadyMs);
      }
      assert.ok(reached.length <= 660, `${reached.length} kept`);
      for (const [revision, atMs] of since) {
        const had = hadForMs({ acked: new Map(), installed: 0n, reached, downSince: new Map(), steadyMs }, revision);
        assert.ok(had <= steadyMs - atMs, 'more than was');
        assert.ok(had >= Math.min(steadyMs - atMs - 100, 64_900), `${had} of ${steadyMs - atMs}`);
      }
      assert.equal(hadForMs({ acked: new Map(), installed: 0n, reached, downSince: new Map(), steadyMs }, index + 1n), 0);
    }));
  });
});

describe('what an ended task had', () => {
  it('is not free by the age of the change, only by how long the leader has known of it', () => {
    const swarm = new Swarm({ nodes: 2 });
    const network = swarm.addNetwork('front');
    const service = swarm.addService('web', { networks: [network] });
    swarm.settle();
    const [task] = swarm.running(service);
    assert.ok(task);
    swarm.acknowledging = false;
    // A report of long ago, which came only now: by a manager whose clock is late, or that could not reach a leader.
    const ended = copyOf(task);
    assert.ok(ended.status);
    ended.status.state = TaskState.FAILED;
    swarm.nowMs -= 60_000;
    swarm.apply([updateAction('task', ended)]);
    swarm.nowMs += 60_000;
    const now = swarm.store.get('task', task.id);
    assert.ok(now);
    assert.equal(swarm.store.get('node', task.nodeId)?.status?.state, NodeStatus_State.READY);
    assert.equal(releasedInMs(swarm.soft, now), 10_000);
    swarm.nowMs += 9_000;
    assert.equal(releasedInMs(swarm.soft, now), 1_000);
    swarm.nowMs += 1_000;
    assert.equal(releasedInMs(swarm.soft, now), 0);
  });
});

describe('a clock that is put back', () => {
  it('holds up no restart: a delay that began in the future is over', () => {
    const swarm = new Swarm({ nodes: 1 });
    const service = swarm.addService('web', { restart: { delayMs: 5_000 } });
    swarm.settle();
    const first = swarm.running(service)[0]?.id;
    swarm.behave = (task) => (task.id === first ? 'fail' : 'run');
    swarm.settle();
    assert.equal(swarm.running(service).length, 0);
    swarm.nowMs -= 3_600_000;
    swarm.advance(100);
    assert.equal(swarm.running(service).length, 1);
  });

  it('by less than clocks may differ is waited for', () => {
    assert.equal(waitedAt(1_000, 500, 900), 1_500);
    assert.equal(waitedAt(1_000_000, 500, 900), 900);
    assert.equal(waitedAt(1_000, 500, 2_000_000), 1_500);
  });
});
