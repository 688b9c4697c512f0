// What a node began before it was removed from the swarm ends with the removal, and what it says in the name of a member of
// the group of managers that it no longer is is not heard.

import assert from 'node:assert/strict';
import { afterEach, describe, it, mock } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { removeNode } from '../../src/core/control/nodes.js';
import type { Message } from '../../src/core/raft/types.js';
import { Consensus } from '../../src/daemon/manager/consensus.js';
import { SwarmFiles } from '../../src/daemon/swarmstate.js';
import type { Credentials } from '../../src/io/grpc/client.js';
import { Link } from '../../src/io/raftpeers/link.js';
import type { Sender } from '../../src/io/raftpeers/messages.js';
import { unwrap } from '../../src/lib/result.js';
import { NodeRole } from '../../src/model/proto/swarmkit_pb.js';
import { consensusOf, manager, managerToken, setRole } from '../support/manager-node.js';
import { StockWorker } from '../support/stock-worker.js';
import { testNodes, type TestNode } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

const make = testNodes();
const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

async function demote(at: TestNode, id: string): Promise<void> {
  unwrap(await setRole(at, id, NodeRole.WORKER));
  await eventually('it is no member', 5000, async () => {
    assert.equal(manager(at).view().get('node', id)?.role, NodeRole.WORKER);
    assert.equal(consensusOf(at).members.list().length, 1);
  });
}

async function remove(at: TestNode, id: string): Promise<void> {
  unwrap(await manager(at).commit((view, context) => removeNode(view, { id, force: true }, context)));
}

interface Opened {
  readonly link: Link;
  readonly told: string[];
}

async function open(to: TestNode, from: Credentials, sender: Sender): Promise<Opened> {
  const told: string[] = [];
  const link = new Link(to.address, from, sender, { ready: () => told.push('ready'), ended: () => told.push('end') });
  closing.push(() => link.close());
  await eventually('the link stands, or ends', 3000, async () => assert.notEqual(told.length, 0));
  return { link, told };
}

const append = (to: bigint, from: bigint): Message => ({
  kind: 'append', to, from, term: 1000n, index: 0n, logTerm: 0n, entries: [], commit: 0n, reject: false, rejectHint: 0n, transfer: false,
  context: 0n, snapshot: undefined,
});

describe('a manager that was taken out', () => {
  it('is not heard in the name that it had, and its links end when it is removed', { timeout: 30_000 }, async () => {
    const [first, second] = [await make(), await make()];
    unwrap(await first.init());
    unwrap(await second.join(first, { joinToken: managerToken(first) }));
    await eventually('two voters', 5000, async () => assert.equal(consensusOf(first).status.confState.voters.length, 2));
    const { nodeId } = second.node.local();
    const sender = { raftId: consensusOf(second).raftId, addr: second.address };
    const credentials: Credentials = { ...await new SwarmFiles(second.stateDir).loadCertificates(), serverName: 'swarm-manager' };
    const { link, told } = await open(first, credentials, sender);

    await demote(first, nodeId);
    await second.node.close();
    const { term } = consensusOf(first).status;
    link.send([append(consensusOf(first).raftId, sender.raftId)]);
    await sleep(200);
    assert.deepEqual([consensusOf(first).leading, consensusOf(first).status.term, told], [true, term, ['ready']]);

    await remove(first, nodeId);
    await eventually('the link ends', 3000, async () => assert.deepEqual(told, ['ready', 'end']));
    const again = await open(first, credentials, sender);
    await eventually('another one ends', 3000, async () => assert.equal(again.told.at(-1), 'end'));
    assert.equal(consensusOf(first).leading, true);

    let hold: (() => void) | undefined;
    const start = Consensus.prototype.start;
    const held = mock.method(Consensus.prototype, 'start', async function applied(this: Consensus) {
      await start.call(this);
      await new Promise<void>((resolve) => { hold = resolve; });
    });
    const restarted = first.restart();
    await eventually('its log is read, its manager is not there yet', 3000, async () => assert.ok(hold !== undefined));
    const early = await open(first, credentials, sender);
    await eventually('one in that moment ends too', 3000, async () => assert.equal(early.told.at(-1), 'end'));
    held.mock.restore();
    hold?.();
    await restarted;
  });
});

describe('a node that is removed', () => {
  it('is told so on every stream that it has open', { timeout: 30_000 }, async () => {
    const node = await make();
    unwrap(await node.init());
    const worker = await StockWorker.join(node.address, node.workerToken);
    closing.push(() => worker.close());
    const { session } = await worker.register();
    const streams = [session, worker.assignments(), worker.subscriptions()];
    await sleep(100);
    assert.deepEqual(streams.map(({ ended }) => ended), [undefined, undefined, undefined]);
    await remove(node, worker.nodeId);
    const end = `7 PERMISSION_DENIED: node ${worker.nodeId} was removed from swarm`;
    await eventually('they end', 3000, async () => assert.deepEqual(streams.map(({ ended }) => ended), [end, end, end]));
  });
});
