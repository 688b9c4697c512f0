// A node's way into a swarm and out of it when calls meet, and when the machine does not do what it is told.

import assert from 'node:assert/strict';
import http from 'node:http';
import path from 'node:path';
import { describe, it } from 'node:test';
import { clone } from '@bufbuild/protobuf';
import { pino } from 'pino';
import { startApi } from '../../src/api/server.js';
import { updateAction } from '../../src/core/store/actions.js';
import { addressTowards } from '../../src/daemon/addresses.js';
import { AppFailure, ok, unwrap } from '../../src/lib/result.js';
import { NodeRole, NodeSchema, NodeStatus_State, RaftMemberStatus_Reachability } from '../../src/model/proto/swarmkit_pb.js';
import { consensusOf } from '../support/manager-node.js';
import { testNodes, type TestNode } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

const IN_SWARM = 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.';
const make = testNodes();

function post(socketPath: string, url: string, body: object): Promise<{ status: number; message: string }> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json' };
    const request = http.request({ socketPath, path: url, method: 'POST', headers }, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += String(chunk); });
      response.on('end', () => {
        const { message } = JSON.parse(text || '{}') as { message?: string };
        resolve({ status: response.statusCode ?? 0, message: message ?? '' });
      });
    });
    request.on('error', reject);
    request.end(JSON.stringify(body));
  });
}

describe('joining', () => {
  it('lets one of several calls at once win; the others hear that the node is part of a swarm', async () => {
    const leader = await make();
    unwrap(await leader.init());
    const node = await make();
    const socketPath = path.join(node.stateDir, 'docker.sock');
    const api = await startApi({ socketPath, backend: node.node, logger: pino({ level: 'silent' }) });
    // A name takes time to be resolved: both calls are in the middle of that.
    const join = {
      ListenAddr: node.address, RemoteAddrs: [leader.address.replace('127.0.0.1', 'localhost')], JoinToken: leader.workerToken,
    };
    const init = { ListenAddr: node.address, AdvertiseAddr: node.address };
    const answers = await Promise.all([
      post(socketPath, '/v1.50/swarm/join', join), post(socketPath, '/v1.50/swarm/join', join), post(socketPath, '/v1.50/swarm/init', init),
    ]);
    await api.close();
    const won = answers.filter(({ status }) => status === 200);
    const lost = answers.filter(({ status }) => status !== 200);
    assert.equal(won.length, 1, JSON.stringify(answers));
    for (const answer of lost) assert.deepEqual(answer, { status: 503, message: IN_SWARM });
    const known = leader.node.manager()?.view().list('node').length;
    assert.equal(known, node.node.local().isManager ? 1 : 2, 'no second self');
  });

  it('takes no address for its own that leads nowhere', async () => {
    assert.equal(await addressTowards('127.0.0.1'), '127.0.0.1');
    assert.equal(await addressTowards('255.255.255.255'), undefined);
    assert.equal(await addressTowards('no such host'), undefined);
  });
});

describe('a manager', () => {
  async function setRole(leader: TestNode, nodeId: string, desiredRole: NodeRole): Promise<void> {
    unwrap(await leader.node.manager()!.commit((view) => {
      const node = clone(NodeSchema, view.get('node', nodeId)!);
      node.spec!.desiredRole = desiredRole;
      return ok({ actions: [updateAction('node', node)], value: undefined });
    }));
  }

  const again = 'that was taken out of the group and is to be in it again, all while it was away, has a place in it again';
  it(again, { timeout: 100_000 }, async () => {
    const leader = await make();
    unwrap(await leader.init());
    const joinToken = leader.node.manager()!.view().cluster()!.rootCa!.joinTokens!.manager;
    const [second, third] = [await make(), await make()];
    for (const node of [second, third]) unwrap(await node.join(leader, { joinToken }));
    const nodeId = third.node.local().nodeId;
    const seen = () => leader.node.manager()!.view().get('node', nodeId);
    const reachable = (node: TestNode) => node.node.manager()!.view().list('node')
      .filter(({ managerStatus }) => managerStatus?.reachability === RaftMemberStatus_Reachability.REACHABLE).length;
    await eventually('three managers', 10_000, async () => assert.equal(reachable(leader), 3));
    const before = seen()?.managerStatus?.raftId;
    await third.restart(async () => {
      await setRole(leader, nodeId, NodeRole.WORKER);
      await eventually('out of the group', 10_000,
        async () => assert.deepEqual([seen()?.role, seen()?.managerStatus], [NodeRole.WORKER, undefined]));
      await setRole(leader, nodeId, NodeRole.MANAGER);
    });
    await eventually('in the group again', 40_000, async () => {
      assert.equal(reachable(leader), 3);
      assert.equal(reachable(third), 3, 'it sees the group as it is');
      assert.notEqual(third.node.manager()!.view().get('node', nodeId)?.managerStatus?.raftId, before, 'and not as it was');
    });
    assert.notEqual(seen()?.managerStatus?.raftId, before, 'under another id');
    await third.service('late', 1);
    assert.equal(leader.node.manager()!.view().list('service').length, 1, 'it answers');
    assert.equal(leader.node.manager()!.view().list('node').length, 3, 'nobody is counted twice');
    const anew = seen()?.managerStatus?.raftId;
    await third.restart();
    await eventually('the same after a restart', 10_000, async () => assert.equal(reachable(third), 3));
    assert.equal(seen()?.managerStatus?.raftId, anew);
  });
});

describe('a leader that loses its group', () => {
  it('tells whoever reads what it knows as soon as it is sure, not after a round for each', { timeout: 60_000 }, async () => {
    const leader = await make();
    unwrap(await leader.init());
    const other = await make();
    unwrap(await other.join(leader, { joinToken: leader.node.manager()!.view().cluster()!.rootCa!.joinTokens!.manager }));
    const manager = leader.node.manager()!;
    const consensus = consensusOf(leader);
    await eventually('two voters', 10_000, async () => assert.equal(consensus.status.confState.voters.length, 2));
    assert.equal(await manager.fresh(), true);
    await other.node.close();
    const started = performance.now();
    // The second one waits for the end of the first one's round, and then for its own.
    assert.deepEqual(await Promise.all([manager.fresh(), manager.fresh()]), [false, false]);
    const tookMs = performance.now() - started;
    assert.ok(tookMs < 7500, `${tookMs} ms`);
  });
});

describe('leaving', () => {
  const busy = new AppFailure({ code: 'internal', message: 'runc delete: device or resource busy' });

  /** A worker with tasks of its own, and its manager. */
  async function swarm(): Promise<{ leader: TestNode; worker: TestNode; nodeId: string }> {
    const leader = await make();
    unwrap(await leader.init({ availability: 'drain' }));
    const worker = await make();
    unwrap(await worker.join(leader));
    await leader.service('web', 3);
    await eventually('tasks', 8000, async () => assert.equal(worker.executor.live, 3));
    return { leader, worker, nodeId: worker.node.local().nodeId };
  }
  const statusOf = (leader: TestNode, id: string) => leader.node.manager()?.view().get('node', id)?.status?.state;

  for (const verb of ['terminate', 'remove'] as const) {
    it(`goes on when a task fails to ${verb} for a moment`, async () => {
      const { leader, worker, nodeId } = await swarm();
      worker.executor.failures.set(verb, busy);
      setTimeout(() => worker.executor.failures.clear(), 1500);
      unwrap(await worker.node.swarmLeave(false));
      assert.equal(worker.node.local().state, 'inactive');
      assert.deepEqual([worker.executor.live, worker.dataPlane.attached.size], [0, 0]);
      assert.equal(statusOf(leader, nodeId), NodeStatus_State.DOWN);
    });
  }

  it('that cannot end the tasks says so and can be asked for again, also with --force', async () => {
    const { leader, worker, nodeId } = await swarm();
    for (const verb of ['shutdown', 'terminate', 'remove'] as const) worker.executor.failures.set(verb, busy);
    const refused = await worker.node.swarmLeave(false);
    const words = refused.ok ? '' : refused.error.message;
    assert.equal(words, 'the node cannot leave the swarm yet: some tasks cannot be removed: runc delete: device or resource busy. '
      + 'Use "docker swarm leave" to try again, or "docker swarm leave --force" to leave behind what is left.');
    assert.deepEqual([worker.node.local().state, worker.node.local().error], ['error', words]);
    assert.equal(statusOf(leader, nodeId), NodeStatus_State.DOWN);
    const rejoin = await worker.join(leader);
    assert.equal(rejoin.ok ? '' : rejoin.error.message, IN_SWARM);
    unwrap(await worker.node.swarmLeave(true));
    assert.equal(worker.node.local().state, 'inactive');
    assert.equal(worker.executor.live, 3, 'left behind');
    await worker.restart();
    assert.match(worker.warnings().at(-1) ?? '', /device or resource busy.*could not be removed/);
    worker.executor.failures.clear();
    await worker.restart();
    assert.equal(worker.executor.live, 0, 'and removed as soon as that works');
    unwrap(await worker.join(leader));
    await eventually('its part of the tasks', 8000, async () => assert.equal(worker.executor.live, 3));
  });

  it('that failed is as if it was not begun after a restart of the agent', async () => {
    const { leader, worker, nodeId } = await swarm();
    worker.executor.failures.set('remove', busy);
    assert.equal((await worker.node.swarmLeave(false)).ok, false);
    worker.executor.failures.clear();
    await worker.restart();
    await eventually('ready again', 8000, async () => assert.equal(statusOf(leader, nodeId), NodeStatus_State.READY));
    await eventually('tasks', 8000, async () => assert.equal(worker.executor.live, 3));
    unwrap(await worker.node.swarmLeave(false));
    assert.equal(worker.executor.live, 0);
  });

  it('a data plane that does not answer is left behind with --force only', async (t) => {
    const { worker } = await swarm();
    const lost = new AppFailure({ code: 'unavailable', message: 'data plane: connection lost' });
    t.mock.method(worker.dataPlane, 'reset', async () => { throw lost; });
    const refused = await worker.node.swarmLeave(false);
    assert.match(refused.ok ? '' : refused.error.message, /yet: data plane: connection lost\. Use/);
    assert.equal(worker.node.local().state, 'error');
    unwrap(await worker.node.swarmLeave(true));
    assert.deepEqual([worker.node.local().state, worker.executor.live], ['inactive', 0]);
  });
});
