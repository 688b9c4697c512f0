// What a stock Docker Engine relies on, call by call, at a real manager: the traps of SwarmKit's protocol that need no
// Engine to be seen. test/system/stock-engine.test.ts is the same with one.

import 'reflect-metadata';
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import tls from 'node:tls';
import { afterEach, describe, it } from 'node:test';
import { clone, create, fromBinary, toBinary } from '@bufbuild/protobuf';
import * as x509 from '@peculiar/x509';
import { createService } from '../../src/core/control/services.js';
import { updateNode, removeNode } from '../../src/core/control/nodes.js';
import { updateAction } from '../../src/core/store/actions.js';
import { codeOf } from '../../src/io/grpc/service.js';
import { ok, unwrap } from '../../src/lib/result.js';
import { addressLabels } from '../../src/model/network.js';
import { toPairs } from '../../src/model/pairs.js';
import {
  AnnotationsSchema, AssignmentChange_AssignmentAction as Action, AssignmentsMessage_Type as Type, IssuanceStatus_State,
  LogContextSchema, LogBroker, LogMessageSchema, NodeRole, NodeSchema, NodeSpec_Availability, NodeSpecSchema, NodeStatus_State,
  LogSelectorSchema, LogSubscriptionOptionsSchema, PublishLogsMessageSchema, TaskState, TaskStatusSchema, type AssignmentsMessage,
  type Network, type Node, type NodeSpec, type Task,
} from '../../src/model/proto/swarmkit_pb.js';
import { spec } from '../support/control.js';
import { StockWorker, type Inbox } from '../support/stock-worker.js';
import { testNodes, type TestNode } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

const make = testNodes();
const workers: StockWorker[] = [];
afterEach(() => {
  for (const worker of workers.splice(0)) worker.close();
});

async function swarm(): Promise<{ manager: TestNode; worker: StockWorker }> {
  const manager = await make();
  unwrap(await manager.init());
  return { manager, worker: await joined(manager) };
}

async function joined(manager: TestNode): Promise<StockWorker> {
  const worker = await StockWorker.join(manager.address, manager.workerToken);
  workers.push(worker);
  return worker;
}

function backend(manager: TestNode): NonNullable<ReturnType<TestNode['node']['manager']>> {
  return manager.node.manager() ?? assert.fail('it is a manager');
}

function record(manager: TestNode, worker: StockWorker): Node {
  return backend(manager).view().get('node', worker.nodeId) ?? assert.fail('the node is in the store');
}

async function edit(manager: TestNode, worker: StockWorker, change: (node: Node) => void): Promise<void> {
  unwrap(await backend(manager).commit((view) => {
    const next = clone(NodeSchema, view.get('node', worker.nodeId) as Node);
    change(next);
    return ok({ actions: [updateAction('node', next)], value: undefined });
  }));
}

async function editSpec(manager: TestNode, worker: StockWorker, change: (spec: NodeSpec) => void): Promise<void> {
  unwrap(await backend(manager).commit((view) => {
    const current = record(manager, worker);
    const next = clone(NodeSpecSchema, current.spec as NodeSpec);
    change(next);
    return updateNode(view, { id: worker.nodeId, version: current.meta?.version?.index ?? 0n, spec: next });
  }));
}

async function service(manager: TestNode, name: string, replicas: number): Promise<void> {
  const more = {
    Mode: { Replicated: { Replicas: replicas } },
    TaskTemplate: { ContainerSpec: { Image: 'app:1' }, Placement: { Constraints: ['node.hostname==stock'] } },
  };
  unwrap(await backend(manager).commit((view, context) => createService(view, spec(name, more), context)));
}

/** Follows the chain as an agent does; resolves with the tasks once `count` of them are assigned. */
async function follow(
  inbox: Inbox<AssignmentsMessage>, count: number, from = { applied: '', tasks: new Map<string, Task>() },
): Promise<Map<string, Task>> {
  const { tasks } = from;
  while (tasks.size !== count) {
    const message = await inbox.next();
    if (message.type === Type.COMPLETE) {
      assert.equal(message.appliesTo, '');
      tasks.clear();
    } else assert.equal(message.appliesTo, from.applied, 'the chain is unbroken (trap T5)');
    assert.notEqual(message.resultsIn, from.applied);
    from.applied = message.resultsIn;
    for (const { assignment, action } of message.changes) {
      if (assignment?.item.case !== 'task') continue;
      if (action === Action.REMOVE) tasks.delete(assignment.item.value.id);
      else tasks.set(assignment.item.value.id, assignment.item.value);
    }
  }
  return tasks;
}

describe('joining', () => {
  it('answers with h2 whenever it is offered, with and without a certificate (trap T2)', async () => {
    const { manager, worker } = await swarm();
    const [host, port] = manager.address.split(':');
    for (const identity of [{}, { key: worker.credentials.key, cert: worker.credentials.certificate }]) {
      const socket = tls.connect({
        host: host as string, port: Number(port), ALPNProtocols: ['h2'], rejectUnauthorized: false, ...identity,
      });
      await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject));
      assert.equal(socket.alpnProtocol, 'h2');
      socket.destroy();
    }
  });

  it('ends in a final state with the very request that was sent (trap T11)', async () => {
    const { worker } = await swarm();
    assert.equal(worker.status.status?.state, IssuanceStatus_State.ISSUED);
    assert.equal(Buffer.from(worker.status.certificate?.csr ?? []).toString(), worker.csr);
    assert.equal(worker.status.certificate?.role, NodeRole.WORKER);
  });

  it('gives certificates that every TLS stack takes: names, serial, key identifiers, algorithm (trap T10)', async () => {
    const { manager, worker } = await swarm();
    const managers = backend(manager).view().list('node').find((node) => node.id !== worker.nodeId);
    const own = Buffer.from(managers?.certificate?.certificate ?? []).toString();
    const root = new x509.X509Certificate(worker.rootCa);
    for (const pem of [worker.credentials.certificate as string, ...own === '' ? [] : [own]]) {
      const certificate = new x509.X509Certificate(pem);
      assert.ok(new X509Certificate(pem).verify(new X509Certificate(worker.rootCa).publicKey));
      const serial = certificate.serialNumber;
      assert.ok(serial.length <= 40 && Number.parseInt(serial.slice(0, 2), 16) < 0x80 && /[1-9a-f]/.test(serial), serial);
      const authority = certificate.getExtension(x509.AuthorityKeyIdentifierExtension)?.keyId;
      assert.equal(authority, root.getExtension(x509.SubjectKeyIdentifierExtension)?.keyId);
      assert.ok(certificate.getExtension(x509.SubjectKeyIdentifierExtension));
      assert.deepEqual(certificate.publicKey.algorithm, { name: 'ECDSA', namedCurve: 'P-256' });
      assert.ok(certificate.notBefore.getTime() <= Date.now() - 3_600_000, 'an hour for clocks that are behind');
    }
    const names = new X509Certificate(worker.credentials.certificate as string).subjectAltName;
    assert.equal(names, `DNS:swarm-worker, DNS:${worker.nodeId}`);
    const [host, port] = manager.address.split(':');
    for (const servername of ['swarm-manager', 'swarm-ca']) {
      // Throws if the server's certificate is not of that name.
      const socket = tls.connect({ host: host as string, port: Number(port), servername, ca: worker.rootCa, ALPNProtocols: ['h2'] });
      await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject));
      assert.ok(socket.authorized);
      socket.destroy();
    }
  });

  it('works with the same token after a restart of the manager: the digest is of bytes, not of a certificate (trap T9)', async () => {
    const { manager, worker } = await swarm();
    const token = manager.workerToken;
    await manager.restart();
    assert.equal(manager.workerToken, token);
    const second = await joined(manager);
    assert.equal(second.rootCa, worker.rootCa);
  });
});

describe('a session', () => {
  it('begins at once with the node, the manager that answers, the keys and the root (traps T3, T8, T12, T32)', async () => {
    const { manager, worker } = await swarm();
    const begin = Date.now();
    const { session, first } = await worker.register();
    assert.ok(Date.now() - begin < 2500);
    assert.match(first.sessionId, /^[0-9a-z]{25}$/);
    assert.equal(first.node?.id, worker.nodeId);
    const own = manager.node.local().nodeId;
    assert.deepEqual(first.managers.map(({ peer, weight }) => [peer?.nodeId, peer?.addr, weight]), [[own, manager.address, 10n]]);
    assert.equal(Buffer.from(first.RootCA).toString(), worker.rootCa);
    const keys = first.networkBootstrapKeys;
    for (const subsystem of ['networking:gossip', 'networking:ipsec']) {
      assert.equal(keys.filter((key) => key.subsystem === subsystem && key.key.length === 16).length, 3);
    }
    assert.equal(new Set(keys.map((key) => key.lamportTime)).size, 6);
    await eventually('the ingress attachment', 5000, async () => {
      const message = session.messages.at(-1);
      assert.equal(message?.sessionId, first.sessionId);
      assert.equal(message.node?.attachments.length, 1);
    });
    for (const attachment of session.messages.at(-1)?.node?.attachments ?? []) {
      assertWhole(attachment.network);
      for (const address of attachment.addresses) assert.match(address, /^\d+\.\d+\.\d+\.\d+\/\d+$/, 'with its prefix length (trap T14)');
    }
    assert.equal(session.ended, undefined);
  });

  it('tells a live node of every change it must act on (trap T28)', async () => {
    const { manager, worker } = await swarm();
    const { session } = await worker.register();
    await editSpec(manager, worker, (next) => {
      next.annotations = create(AnnotationsSchema, { labels: toPairs({ disk: 'ssd' }) });
    });
    await session.until((message) => message.node?.spec?.annotations?.labels.some(({ value }) => value === 'ssd') === true);
    await editSpec(manager, worker, (next) => { next.availability = NodeSpec_Availability.DRAIN; });
    await session.until((message) => message.node?.spec?.availability === NodeSpec_Availability.DRAIN);
    for (let round = 0; round < 2; round++) {
      for (const state of [IssuanceStatus_State.ROTATE, IssuanceStatus_State.ISSUED]) {
        await edit(manager, worker, (node) => Object.assign(node.certificate?.status ?? {}, { state }));
        await session.until((message) => message.node?.certificate?.status?.state === state);
      }
    }
    assert.equal(session.ended, undefined);
  });

  it('of a node whose record the store lost is refused; of one that was removed, for good (trap T16)', async () => {
    const { manager, worker } = await swarm();
    const { session } = await worker.register();
    await manager.restart();
    await eventually('the old session ends', 5000, async () => assert.notEqual(session.ended, undefined));
    await eventually('its record, kept over the restart', 5000, async () =>
      assert.equal(record(manager, worker).status?.state, NodeStatus_State.UNKNOWN));
    const again = await worker.register();
    assert.equal(record(manager, worker).status?.state, NodeStatus_State.READY);
    unwrap(await backend(manager).commit((view, context) => removeNode(view, { id: worker.nodeId, force: true }, context)));
    await eventually('it is cut off', 5000, async () =>
      assert.match(again.session.ended ?? '', /PERMISSION_DENIED.*was removed from swarm/));
    await assert.rejects(worker.heartbeat(), (error) => codeOf(error) === 7);
  });

  it('has the heartbeat the user set, where a node of ours has a tenth of it', async () => {
    const { manager, worker } = await swarm();
    await worker.register();
    for (let i = 0; i < 20; i++) {
      const period = await worker.heartbeat();
      assert.ok(period >= 1500 && period <= 2500, `${period} ms`);
    }
    const ours = await joined(manager);
    await ours.register(addressLabels('192.0.2.1', '172.18.0.1/16'));
    assert.equal(await ours.heartbeat(), 200);
  });

  it('that is not the node\'s own is named in the way that makes an agent register anew', async () => {
    const { manager, worker } = await swarm();
    await worker.register();
    assert.ok(await worker.heartbeat() > 0, 'a period of nothing makes an agent spin');
    const { sessionId } = worker;
    worker.sessionId = 'nonsense';
    await assert.rejects(worker.heartbeat(), (error) => codeOf(error) === 3, 'invalid argument');
    await manager.restart();
    worker.sessionId = sessionId;
    await assert.rejects(worker.heartbeat(), (error) => codeOf(error) === 5, 'not registered');
  });
});

/** A nil in any of these is a crash of the whole Engine (trap T4). */
function assertWhole(network: Network | undefined): void {
  assert.ok(network?.driverState !== undefined && network.driverState.name !== '');
  assert.ok(network.ipam?.driver !== undefined);
  assert.ok(network.spec?.annotations !== undefined);
}

describe('assignments', () => {
  it('begin complete and go on as one unbroken chain, however large (traps T5, T17)', async () => {
    const { manager, worker } = await swarm();
    await worker.register();
    const inbox = worker.assignments();
    const first = await inbox.next();
    assert.deepEqual([first.type, first.appliesTo, first.resultsIn], [Type.COMPLETE, '', '1']);
    const state = { applied: first.resultsIn, tasks: new Map<string, Task>() };
    await service(manager, 'web', 250);
    const tasks = await follow(inbox, 250, state);
    for (const task of tasks.values()) {
      assert.equal(task.status?.state, TaskState.ASSIGNED);
      assert.equal(task.desiredState, TaskState.RUNNING);
      assert.equal(task.spec?.runtime.case, 'container');
      assert.ok(task.annotations !== undefined && task.serviceAnnotations?.name === 'web' && task.networks.length === 0);
    }
    // The whole set again, on another stream of the same session: 600 kB and more in one message.
    const complete = await worker.assignments().next();
    assert.equal(complete.type, Type.COMPLETE);
    assert.equal(complete.changes.length, 250);
    assert.equal(inbox.ended, undefined);
  });

  it('are complete again after a restart of the manager: an Engine removes what is not listed (trap T6)', async () => {
    const { manager, worker } = await swarm();
    await worker.register();
    await service(manager, 'web', 30);
    const before = await follow(worker.assignments(), 30);
    for (const id of before.keys()) await worker.report(id, TaskState.RUNNING, { message: 'started' });
    await manager.restart();
    await worker.register();
    const complete = await worker.assignments().next();
    assert.equal(complete.type, Type.COMPLETE);
    const listed = complete.changes.map(({ assignment }) => (assignment?.item.case === 'task' ? assignment.item.value.id : ''));
    assert.deepEqual(listed.sort(), [...before.keys()].sort());
  });
});

describe('statuses', () => {
  it('never go backwards, unknown tasks are no error, foreign ones are (traps T18, T29)', async () => {
    const { manager, worker } = await swarm();
    await worker.register();
    await service(manager, 'web', 1);
    const [task] = [...(await follow(worker.assignments(), 1)).values()];
    assert.ok(task);
    const state = (): TaskState | undefined => backend(manager).view().get('task', task.id)?.status?.state;
    await worker.report(task.id, TaskState.RUNNING);
    assert.equal(state(), TaskState.RUNNING);
    await worker.report(task.id, TaskState.PREPARING);
    assert.equal(state(), TaskState.RUNNING);
    await worker.report('0000000000000000000000000', TaskState.RUNNING);
    const other = await joined(manager);
    await other.register();
    await assert.rejects(other.report(task.id, TaskState.FAILED), (error) => codeOf(error) === 7);
    assert.equal(state(), TaskState.RUNNING);
  });

  it('carry an exit code of -1 as Go writes it: ten bytes (trap T19)', async () => {
    const { manager, worker } = await swarm();
    await worker.register();
    await service(manager, 'web', 1);
    const [task] = [...(await follow(worker.assignments(), 1)).values()];
    assert.ok(task);
    await worker.report(task.id, TaskState.FAILED, { exitCode: -1 });
    const stored = backend(manager).view().get('task', task.id)?.status;
    assert.equal(stored?.runtimeStatus.case === 'container' ? stored.runtimeStatus.value.exitCode : 0, -1);
    // container{exit_code: -1} in the field of a status, sign-extended.
    const wire = Uint8Array.from([0x2a, 0x0b, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    const decoded = fromBinary(TaskStatusSchema, wire);
    assert.equal(decoded.runtimeStatus.case === 'container' ? decoded.runtimeStatus.value.exitCode : 0, -1);
    assert.deepEqual(toBinary(TaskStatusSchema, decoded), wire);

  });
});

describe('logs', () => {
  it('are asked for on the open stream and published line by line; another node\'s are refused', async () => {
    const { manager, worker } = await swarm();
    await worker.register();
    await service(manager, 'web', 1);
    const [task] = [...(await follow(worker.assignments(), 1)).values()];
    assert.ok(task);
    const inbox = worker.subscriptions();
    const abort = new AbortController();
    const lines: string[] = [];
    const reading = (async () => {
      const selector = create(LogSelectorSchema, { serviceIds: [task.serviceId] });
      for await (const line of backend(manager).logs(selector, create(LogSubscriptionOptionsSchema), abort.signal)) {
        lines.push(Buffer.from(line.data).toString());
      }
    })();
    const subscription = await inbox.until(({ close }) => !close);
    assert.deepEqual(subscription.selector?.serviceIds, [task.serviceId]);
    const publish = (nodeId: string, close: boolean): Promise<Error | null> => new Promise((resolve) => {
      const stream = worker.client.clientStream(LogBroker.method.publishLogs, resolve);
      stream.write(create(PublishLogsMessageSchema, {
        subscriptionId: subscription.id, close,
        messages: [create(LogMessageSchema, {
          context: create(LogContextSchema, { serviceId: task.serviceId, nodeId, taskId: task.id }), data: Buffer.from('hello\n'),
        })],
      }));
      stream.end();
    });
    assert.equal(codeOf(await publish(manager.node.local().nodeId, true)), 7);
    assert.equal(await publish(worker.nodeId, true), null);
    await reading;
    assert.deepEqual(lines, ['hello\n']);
    assert.equal((await inbox.until(({ close }) => close)).id, subscription.id);
    assert.equal(codeOf(await publish(worker.nodeId, true)), 5, 'the subscription is over');
  });
});
