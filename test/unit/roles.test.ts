// A node's role, its certificate and its place in the group of managers, which change one after the other: whatever is asked
// for in between, and wherever an agent ends, they come to the same in the end. Real nodes on loopback.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { create, toBinary } from '@bufbuild/protobuf';
import type { SwarmState } from '../../src/daemon/swarmstate.js';
import { ManagerClient } from '../../src/io/grpc/client.js';
import { forwardingMetadata } from '../../src/io/grpc/forwarding.js';
import { toAppError } from '../../src/io/grpc/service.js';
import { createCsr } from '../../src/io/x509/certificates.js';
import { unwrap } from '../../src/lib/result.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { CommandSchema, ManagerGroup, ProposeRequestSchema } from '../../src/model/proto/skein_pb.js';
import {
  CA, GetUnlockKeyRequestSchema, IssueNodeCertificateRequestSchema, JoinRequestSchema, NodeCA, NodeRole, NodeStatus_State, RaftMembership,
} from '../../src/model/proto/swarmkit_pb.js';
import {
  cluster, consensusOf, keyOf, manager, managerToken, membersOf, recordOf, setRole, stateOf, write,
} from '../support/manager-node.js';
import { testNodes, type TestNode } from '../support/test-node.js';
import { eventually as within } from '../system/fixture.js';

const make = testNodes();
/** A certificate is renewed at once when the role changes, but not twice within ten seconds; a call to join may take fifteen more. */
const SETTLED_MS = 45_000;

const eventually = (what: string, check: () => boolean | Promise<boolean>, seen: () => unknown = () => ''): Promise<void> =>
  within(what, SETTLED_MS, async () => assert.ok(await check(), JSON.stringify(seen())));

const FORCE = { forceNewCluster: true };

/** What would be worth most to whoever holds an old certificate: a place in the log, the unlock key, another one's certificate. */
async function callsOfManagers(client: ManagerClient, victim: TestNode): Promise<Promise<unknown>[]> {
  const command = toBinary(CommandSchema, create(CommandSchema, { id: 'x', time: timestampFromMs(Date.now()) }));
  const identity = { nodeId: victim.node.local().nodeId, organization: cluster(victim).id, roles: ['swarm-manager'] };
  const request = create(IssueNodeCertificateRequestSchema, { csr: Buffer.from((await createCsr()).csr), canManage: true });
  return [
    client.unary(ManagerGroup.method.propose, create(ProposeRequestSchema, { command }), 5000),
    client.unary(CA.method.getUnlockKey, create(GetUnlockKeyRequestSchema), 5000),
    client.unary(NodeCA.method.issueNodeCertificate, request, 5000, forwardingMetadata({ identity, address: '127.0.0.1' })),
  ];
}

async function isWorker(node: TestNode, via: TestNode): Promise<boolean> {
  const { role, raftId } = await stateOf(node);
  const known = manager(via).view().get('node', node.node.local().nodeId);
  return role === 'worker' && raftId === '' && !node.node.local().isManager && recordOf(node).hasRole('swarm-worker')
    && known?.role === NodeRole.WORKER && known.managerStatus === undefined && !existsSync(node.file('raft'));
}

test('demoted at any moment of its promotion a node is a worker in the end, and the group what it was', { timeout: 120_000 }, async () => {
  const leader = await make();
  unwrap(await leader.init());
  const gaps = [0, 40, 80, 120, 160, 240, 400];
  const workers = await Promise.all(gaps.map(async () => {
    const worker = await make();
    unwrap(await worker.join(leader));
    return worker;
  }));
  await Promise.all(workers.map(async (worker, index) => {
    const { nodeId } = worker.node.local();
    // A slow disk: the node asks for its place when it may be too late.
    const record = recordOf(worker);
    const save = record.save.bind(record);
    record.save = async (state) => {
      await new Promise((resolve) => setTimeout(resolve, index % 2 === 0 ? 0 : 250));
      return save(state);
    };
    unwrap(await setRole(leader, nodeId, NodeRole.MANAGER));
    await new Promise((resolve) => setTimeout(resolve, gaps[index]));
    unwrap(await setRole(leader, nodeId, NodeRole.WORKER));
  }));
  await eventually('each is a worker', async () => (await Promise.all(workers.map((worker) => isWorker(worker, leader)))).every(Boolean),
    () => workers.map((worker) => {
      const { role, raftId } = recordOf(worker).state ?? {};
      const told = worker.logged.filter(({ msg }) => !msg.includes('refuses the address')).slice(-5);
      return [role, raftId, recordOf(worker).hasRole('swarm-worker'), worker.node.local().isManager, told];
    }));
  await eventually('alone', () => membersOf(leader).length === 1);
  await write(leader, 1);
  // And is one when it is wanted again.
  const [again] = workers as [TestNode];
  unwrap(await setRole(leader, again.node.local().nodeId, NodeRole.MANAGER));
  await eventually('a manager', () => again.node.local().isManager && membersOf(leader).length === 2);
});

test('an agent that ended between certificate and state goes by its certificate', { timeout: 120_000 }, async () => {
  const leader = await make();
  unwrap(await leader.init());
  const [other, worker] = [await make(), await make()];
  unwrap(await other.join(leader, { joinToken: managerToken(leader) }));
  unwrap(await worker.join(leader, { joinToken: managerToken(leader) }));
  await eventually('three voters', () => membersOf(leader).length === 3);
  const before = await stateOf(worker);
  await worker.restart(async () => {
    await writeFile(worker.file('state.json'), JSON.stringify({ ...before, role: 'worker', raftId: '' }));
    await rm(worker.file('raft'), { recursive: true });
  });
  await eventually('a manager again', async () => worker.node.local().isManager && manager(worker).view().cluster() !== undefined
    && (await stateOf(worker)).role === 'manager' && membersOf(leader).length === 3, () => [recordOf(worker).state, worker.node.local(),
    worker.logged.slice(-8), membersOf(leader).map(String), consensusOf(leader).status.role]);
  assert.notEqual((await stateOf(worker)).raftId, before.raftId, 'another member: of the old one the log is gone');
  await write(worker, 2);

  const client = new ManagerClient(leader.address, recordOf(worker).credentials());
  unwrap(await setRole(leader, worker.node.local().nodeId, NodeRole.WORKER));
  await eventually('a worker', () => isWorker(worker, leader));
  for (const call of await callsOfManagers(client, leader)) {
    assert.match(JSON.stringify(await call.then(() => 'done', toAppError)), /permission_denied.* is no manager of this swarm/,
      'its old certificate is worth nothing here');
  }
  client.close();
  const after = await stateOf(worker);
  const manages: SwarmState = { ...after, role: 'manager', raftId: '77', begun: true };
  await worker.restart(() => writeFile(worker.file('state.json'), JSON.stringify(manages)));
  await eventually('a worker again', () => isWorker(worker, leader));
  await eventually('in its swarm', () => worker.node.local().state === 'active');
});

test('a manager whose log is gone neither founds a swarm nor votes: it says so, and can be left', { timeout: 60_000 }, async () => {
  const founder = await make();
  unwrap(await founder.init());
  assert.equal((await stateOf(founder)).begun, true);
  await founder.restart(() => rm(founder.file('raft'), { recursive: true }));
  const { state, error, isManager } = founder.node.local();
  assert.equal(state, 'error');
  assert.equal(isManager, false);
  assert.match(error, /raft log .* is damaged: it is empty, and was not\. Restore this manager from a backup, or remove it from the swarm/);
  const forced = await founder.init(FORCE);
  assert.match(forced.ok ? '' : forced.error.message, /is damaged/);
  unwrap(await founder.node.swarmLeave(true));
  unwrap(await founder.init());
});

test('an agent that ends while it becomes a worker is one after its start, and not locked for ever', { timeout: 60_000 }, async () => {
  const [leader, other] = [await make(), await make()];
  unwrap(await leader.init({ autoLockManagers: true }));
  const unlockKey = keyOf(leader);
  unwrap(await other.join(leader, { joinToken: managerToken(leader) }));
  await eventually('two voters', () => consensusOf(leader).status.confState.voters.length === 2);
  const { files } = recordOf(other);
  let killed = false;
  // The last thing that it does.
  files.dropManagerKeys = () => {
    killed = true;
    return new Promise(() => undefined);
  };
  unwrap(await setRole(leader, other.node.local().nodeId, NodeRole.WORKER));
  await eventually('the end', () => killed);
  await other.restart();
  assert.equal(other.node.local().state, 'locked');
  unwrap(await other.node.swarmUnlock(unlockKey));
  await eventually('a worker', () => isWorker(other, leader));
  await other.restart();
  assert.notEqual(other.node.local().state, 'locked');
  await eventually('in its swarm', () => other.node.local().state === 'active');
});

test('a damaged log is told by an agent that runs', { timeout: 60_000 }, async () => {
  const leader = await make();
  unwrap(await leader.init());
  await write(leader, 1);
  const raft = leader.file('raft');
  await leader.restart(async () => {
    const [segment = ''] = (await readdir(raft)).filter((name) => name.endsWith('.log')).sort();
    const bytes = await readFile(`${raft}/${segment}`);
    bytes.writeUInt8(bytes.readUInt8(120) ^ 1, 120);
    await writeFile(`${raft}/${segment}`, bytes);
  });
  assert.deepEqual([leader.node.local().state, leader.node.local().isManager], ['error', false]);
  assert.match(leader.node.local().error, /raft log .* is damaged/);
});

test('an agent that ends while a new cluster is begun by force is in no group, and begins again', { timeout: 60_000 }, async () => {
  const [leader, other] = [await make(), await make()];
  unwrap(await leader.init());
  unwrap(await other.join(leader, { joinToken: managerToken(leader) }));
  await eventually('two voters', () => membersOf(leader).length === 2);
  await write(leader, 3);
  const record = recordOf(other);
  const save = record.save.bind(record);
  const killed = new Error('killed');
  // The log is rewritten, and what follows is not written any more.
  record.save = (state) => (state.raftId === record.state?.raftId ? save(state) : Promise.reject(killed));
  await assert.rejects(other.init(FORCE), killed);
  await other.restart();
  const { state, error } = other.node.local();
  assert.equal(state, 'error');
  assert.match(error, /a new cluster was begun from it, and that was not finished.*--force-new-cluster/);
  unwrap(await other.init(FORCE));
  assert.equal(other.node.local().isManager, true);
  assert.equal(membersOf(other).length, 1);
  assert.equal(manager(other).view().get('node', leader.node.local().nodeId)?.spec?.desiredRole, NodeRole.WORKER);
  assert.equal('unfit' in await stateOf(other), false);
  await other.restart();
  assert.equal(other.node.local().isManager, true);
});

test('a manager that was demoted and lost the others before it was out begins a new cluster by force', { timeout: 60_000 }, async () => {
  const [leader, other] = [await make(), await make()];
  unwrap(await leader.init());
  unwrap(await other.join(leader, { joinToken: managerToken(leader) }));
  await eventually('two voters', () => consensusOf(leader).status.confState.voters.length === 2);
  // What was asked for last is in its log, committed or not.
  const otherId = other.node.local().nodeId;
  await other.node.close();
  void setRole(leader, leader.node.local().nodeId, NodeRole.WORKER);
  await new Promise((resolve) => setTimeout(resolve, 300));
  unwrap(await leader.init(FORCE));
  const own = manager(leader).view().get('node', leader.node.local().nodeId);
  assert.deepEqual([own?.role, own?.spec?.desiredRole], [NodeRole.MANAGER, NodeRole.MANAGER]);
  assert.equal(manager(leader).view().get('node', otherId)?.spec?.desiredRole, NodeRole.WORKER);
  await write(leader, 6);
});

test('a locked manager that begins a new cluster by force is a node of it', { timeout: 60_000 }, async () => {
  const node = await make();
  unwrap(await node.init({ autoLockManagers: true }));
  const unlockKey = keyOf(node);
  const state = await stateOf(node);
  await node.restart(() => writeFile(node.file('state.json'), JSON.stringify({ ...state, unfit: 'it was put back' })));
  unwrap(await node.node.swarmUnlock(unlockKey));
  assert.match(node.node.local().error, /this manager takes no part in its swarm: it was put back/);
  unwrap(await node.init(FORCE));
  const status = () => manager(node).view().get('node', state.nodeId)?.status?.state;
  await eventually('its session stands', () => status() === NodeStatus_State.READY);
});

test('a manager that asks for its place twice at once is one member', { timeout: 60_000 }, async () => {
  const [leader, other] = [await make(), await make()];
  unwrap(await leader.init());
  unwrap(await other.join(leader, { joinToken: managerToken(leader) }));
  await eventually('two voters', () => membersOf(leader).length === 2);
  const client = new ManagerClient(leader.address, recordOf(other).credentials());
  const ask = (): Promise<string> => client.unary(RaftMembership.method.join, create(JoinRequestSchema, { addr: other.address }), 15_000)
    .then(() => 'taken in', (error: unknown) => toAppError(error).message);
  const answers = await Promise.all([ask(), ask(), ask()]);
  client.close();
  // The node itself may be quicker: it finds out that it is in the group no more.
  assert.ok(answers.filter((answer) => answer === 'this node is being taken into the group already').length >= 2, answers.join());
  // In the test's name, not in that of the member it is: that one was replaced, and takes a new place by itself.
  await eventually('the one member that it is', () => membersOf(leader).length === 2 && other.node.manager() !== undefined
    && manager(leader).view().get('node', other.node.local().nodeId)?.managerStatus?.raftId === consensusOf(other).raftId);
  await eventually('a write', () => write(other, 4).then(() => true, () => false));
});

test('of two managers that are demoted at once one remains', { timeout: 60_000 }, async () => {
  const [one, two] = [await make(), await make()];
  unwrap(await one.init());
  unwrap(await two.join(one, { joinToken: managerToken(one) }));
  await eventually('two voters', () => membersOf(one).length === 2
    && manager(two).view().list('node').every(({ managerStatus }) => managerStatus !== undefined));
  const results = await Promise.all([one, two].map((node) => setRole(node, node.node.local().nodeId, NodeRole.WORKER)));
  const refused = results.flatMap((result) => (result.ok ? [] : [result.error.message]));
  assert.deepEqual(refused, ['rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm']);
});
