// Readers of logs while the leader changes and the old one lives on: each is told at once, and can read again. Real managers on
// loopback, whose tasks say one line and go on.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { LogBroker } from '../../src/daemon/manager/logbroker.js';
import type { Manager } from '../../src/daemon/manager/manager.js';
import { AppFailure, unwrap } from '../../src/lib/result.js';
import { LogSelectorSchema, LogSubscriptionOptionsSchema, NodeRole, TaskState } from '../../src/model/proto/swarmkit_pb.js';
import type { LogOptions, LogRecord } from '../../src/platform/executor.js';
import { consensusOf, manager, managerToken, setRole } from '../support/manager-node.js';
import { testNodes, type TestNode } from '../support/test-node.js';
import { eventually as within } from '../system/fixture.js';

const make = testNodes();
const REPLICAS = 3;
const OVER = { code: 'aborted', message: 'the manager that gathered these logs does not lead the swarm any more: ask for them again' };

const eventually = (what: string, check: () => boolean, seen: () => unknown = () => ''): Promise<void> =>
  within(what, 30_000, async () => assert.ok(check(), JSON.stringify(seen())));
const leads = (node: TestNode): boolean => node.node.manager() !== undefined && (manager(node) as Manager).term() !== undefined;
const openAt = (broker: LogBroker): number => (broker as unknown as { subscriptions: ReadonlyMap<string, unknown> }).subscriptions.size;

/** Its tasks' logs do not end by themselves. */
function talking(node: TestNode): TestNode {
  const { executor } = node;
  const controller = executor.controller.bind(executor);
  executor.controller = (taskId) => ({
    ...controller(taskId),
    async *logs({ signal }: LogOptions): AsyncGenerator<LogRecord> {
      yield { stream: 'stdout', timestampNs: BigInt(Date.now()) * 1_000_000n, data: Buffer.from(`${taskId}\n`) };
      if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    },
  });
  return node;
}

interface Reader {
  readonly name: string;
  readonly broker: LogBroker;
  readonly lines: string[];
  ended: { readonly code: string; readonly message: string } | undefined;
}

function read(node: TestNode, name: string, follow: boolean): Reader {
  const here = manager(node) as Manager;
  const serviceIds = here.view().list('service').map(({ id }) => id);
  const reader: Reader = { name, broker: here.broker, lines: [], ended: undefined };
  const options = create(LogSubscriptionOptionsSchema, { follow });
  const run = async (): Promise<void> => {
    const lines = here.logs(create(LogSelectorSchema, { serviceIds }), options, new AbortController().signal);
    for await (const { data } of lines) reader.lines.push(Buffer.from(data).toString());
  };
  run().then(() => { reader.ended = { code: '', message: 'no error' }; }, (error: unknown) => {
    assert.ok(error instanceof AppFailure, String(error));
    reader.ended = error.toError();
  });
  return reader;
}

/** At the leader and at another manager, following and not; those that follow have a line of every task. */
async function readers(nodes: readonly TestNode[]): Promise<Reader[]> {
  const leader = nodes.find(leads) ?? assert.fail('a leader');
  const other = nodes.find((node) => node !== leader && node.node.local().isManager) ?? assert.fail('a follower');
  const following = [read(leader, 'following, the leader', true), read(other, 'following, another', true)];
  const all = [...following, read(leader, 'the leader', false), read(other, 'another', false)];
  await eventually('lines', () => following.every(({ lines }) => lines.length >= REPLICAS), () => following.map(({ lines }) => lines));
  await eventually('all are open', () => openAt((manager(leader) as Manager).broker) === all.length);
  return all;
}

async function told(all: readonly Reader[]): Promise<void> {
  await eventually('each is told', () => all.every(({ ended }) => ended !== undefined), () => all.map(({ name, ended }) => [name, ended]));
  for (const { name, lines, broker, ended } of all) {
    assert.deepEqual(ended, OVER, name);
    assert.doesNotMatch(lines.join(''), /skein:/, `${name}: every node is well`);
    assert.equal(openAt(broker), 0, name);
  }
}

test('readers of logs are told when the leader hands over, or is demoted, and read on at the next one', { timeout: 120_000 }, async () => {
  const nodes = [talking(await make()), talking(await make()), talking(await make())] as const;
  const [first, second, third] = nodes;
  unwrap(await first.init());
  const joinToken = managerToken(first);
  for (const node of [second, third]) unwrap(await node.join(first, { joinToken }));
  await eventually('three voters', () => consensusOf(first).status.confState.voters.length === 3);
  await first.service('web', REPLICAS);
  const running = (): number => manager(first).view().list('task').filter(({ status }) => status?.state === TaskState.RUNNING).length;
  await eventually('tasks', () => running() === REPLICAS);

  const before = await readers(nodes);
  consensusOf(first).transferLeader(consensusOf(second).raftId);
  await eventually('the second leads', () => leads(second));
  await told(before);

  const between = await readers(nodes);
  const { nodeId } = second.node.local();
  unwrap(await setRole(third, nodeId, NodeRole.WORKER));
  await eventually('another leads', () => leads(first) || leads(third));
  await told(between);
  await eventually('a worker', () => !second.node.local().isManager);
  await readers(nodes);
});
