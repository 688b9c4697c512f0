// A node that becomes a manager of a locked swarm: no version of any of its files holds a manager's key in the clear, and an agent
// that ends on the way is one after `swarm unlock`. Real nodes; see test/support/test-node.ts.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { clusterSpecFromJson } from '../../src/api/convert/swarm.js';
import { Reader } from '../../src/api/convert/json.js';
import { ManagerClient } from '../../src/io/grpc/client.js';
import { decodeNodeFile, type NodeFile } from '../../src/io/keystore/nodefile.js';
import { bundle, identityOf } from '../../src/io/x509/certificates.js';
import { AppFailure, unwrap } from '../../src/lib/result.js';
import { CA, NodeRole } from '../../src/model/proto/swarmkit_pb.js';
import { cutting } from '../support/cuts.js';
import { cluster, keyOf, manager, membersOf, recordOf, setRole, stateOf, write } from '../support/manager-node.js';
import { testNodes, type TestNode } from '../support/test-node.js';
import { eventually as within } from '../system/fixture.js';

const root = mkdtempSync(path.join(os.tmpdir(), 'skein-promotion-'));
after(() => rmSync(root, { recursive: true, force: true }));
const make = testNodes();
/** A certificate is not renewed twice within ten seconds. */
const SETTLED_MS = 45_000;
const never = (): Promise<never> => new Promise(() => undefined);

const eventually = (what: string, check: () => boolean | Promise<boolean>, seen: () => unknown = () => ''): Promise<void> =>
  within(what, SETTLED_MS, async () => assert.ok(await check(), JSON.stringify(seen())));
const nodeFile = (node: TestNode): Promise<string> => readFile(node.file('certificates/swarm-node.pem'), 'utf8');
const rolesIn = (text: string): readonly string[] => {
  const [leaf] = bundle(text);
  return leaf === undefined ? [] : identityOf(leaf)?.roles ?? [];
};

async function become(role: NodeRole, { node }: TestNode, via: TestNode, nodeId = node.local().nodeId): Promise<void> {
  unwrap(await setRole(via, nodeId, role));
}

async function update(node: TestNode, autolock: boolean | undefined, rotateManagerUnlockKey = false): Promise<void> {
  const json = autolock === undefined ? {} : { EncryptionConfig: { AutoLockManagers: autolock } };
  unwrap(await manager(node).updateSwarm({
    version: cluster(node).meta?.version?.index ?? 0n, spec: clusterSpecFromJson(new Reader(json), cluster(node).spec),
    rotateWorkerToken: false, rotateManagerToken: false, rotateManagerUnlockKey,
  }));
}

async function pair(autoLockManagers = true): Promise<[TestNode, TestNode]> {
  const [leader, worker] = [await make(), await make()];
  unwrap(await leader.init({ autoLockManagers }));
  unwrap(await worker.join(leader));
  return [leader, worker];
}

async function becomesManager(leader: TestNode, worker: TestNode): Promise<void> {
  await eventually('a manager', async () => worker.node.local().isManager && membersOf(leader).length === 2
    && (await stateOf(worker)).begun === true, () => [worker.node.local(), worker.logged.slice(-5)]);
  await write(worker, 1);
}

async function becomesWorker(leader: TestNode, worker: TestNode): Promise<void> {
  await eventually('a worker in the clear', async () => {
    const text = await nodeFile(worker);
    return rolesIn(text).includes('swarm-worker') && text.includes('PRIVATE KEY') && (await stateOf(worker)).role === 'worker'
      && membersOf(leader).length === 1;
  }, () => [worker.node.local(), recordOf(worker).state, worker.logged.slice(-5)]);
  await worker.restart();
  assert.notEqual(worker.node.local().state, 'locked');
  await eventually('in its swarm', () => worker.node.local().state === 'active');
}

function filesOf(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
    .map((entry) => readFileSync(path.join(entry.parentPath, entry.name), 'latin1'));
}

/** What lay in the clear at any moment that a kill could have left. */
function inTheClear(copies: readonly string[]): { managerKeys: number; raftKeys: number; sealed: number } {
  const texts = copies.flatMap(filesOf);
  return {
    managerKeys: texts.filter((text) => text.includes('PRIVATE KEY') && rolesIn(text).includes('swarm-manager')).length,
    raftKeys: texts.filter((text) => text.includes('SKEIN RAFT KEYS')).length,
    sealed: texts.filter((text) => text.includes('SKEIN SEALED KEYS') && rolesIn(text).includes('swarm-manager')).length,
  };
}

function opened(text: string, unlockKey: Uint8Array): NodeFile {
  const file = decodeNodeFile(text, unlockKey);
  assert.ok(typeof file !== 'string', String(file));
  return file;
}

/** The agent ends there: what it was about to do after it is not done. */
function killedAt(worker: TestNode, where: 'certificate' | 'place' | 'key of the log'): () => boolean {
  let killed = false;
  const record = recordOf(worker);
  const [adopt, raftKeys] = [record.adopt.bind(record), record.files.raftKeys.bind(record.files)];
  if (where === 'certificate') {
    record.adopt = async (change, lock) => {
      await adopt(change, lock);
      killed = true;
      return never();
    };
  } else {
    record.files.raftKeys = async () => {
      if (where === 'key of the log') await raftKeys();
      killed = true;
      return never();
    };
  }
  return () => killed;
}

describe('a node that becomes a manager of a locked swarm', () => {
  it('is sealed from its first write, its certificate and the key of its log', { timeout: 100_000 }, async () => {
    const [leader, worker] = await pair();
    const copies = await cutting(worker.stateDir, path.join(root, 'promoted'), async () => {
      await become(NodeRole.MANAGER, worker, leader);
      await becomesManager(leader, worker);
    });
    const { sealed, ...clear } = inTheClear(copies);
    assert.deepEqual(clear, { managerKeys: 0, raftKeys: 0 });
    assert.ok(sealed >= 2, `${sealed} sealed files in ${copies.length} moments`);
    const { raft, exposed } = opened(await nodeFile(worker), keyOf(leader));
    assert.ok(raft !== undefined && raft.pending === undefined && !exposed, 'nothing has to be replaced');
    await become(NodeRole.WORKER, worker, leader);
    await becomesWorker(leader, worker);
  });

  for (const where of ['certificate', 'place', 'key of the log'] as const) {
    it(`and whose agent ends after the write of its ${where} waits for the key, and is one then`, { timeout: 100_000 }, async () => {
      const [leader, worker] = await pair();
      const killed = killedAt(worker, where);
      await become(NodeRole.MANAGER, worker, leader);
      await eventually('the end', killed);
      const copies = await cutting(worker.stateDir, path.join(root, where), async () => {
        await worker.restart();
        const { raftId, role } = await stateOf(worker);
        assert.deepEqual([role, raftId !== ''], where === 'certificate' ? ['worker', false] : ['manager', true]);
        assert.equal(worker.node.local().state, 'locked');
        assert.match(worker.node.local().error, /^Swarm is encrypted and needs to be unlocked before it can be used/);
        const refused = await worker.node.swarmUnlock(new Uint8Array(32));
        assert.equal(refused.ok ? '' : refused.error.message, 'swarm could not be unlocked: invalid key provided');
        unwrap(await worker.node.swarmUnlock(keyOf(leader)));
        await becomesManager(leader, worker);
      });
      const { sealed: _sealed, ...clear } = inTheClear(copies);
      assert.deepEqual(clear, { managerKeys: 0, raftKeys: 0 });
      assert.equal(opened(await nodeFile(worker), keyOf(leader)).exposed, false);
    });
  }

  it('and is demoted while its agent is away is a worker after the unlock, in the clear', { timeout: 100_000 }, async () => {
    const [leader, worker] = await pair();
    const killed = killedAt(worker, 'certificate');
    const { nodeId } = worker.node.local();
    await become(NodeRole.MANAGER, worker, leader);
    await eventually('the end', killed);
    await worker.restart(() => become(NodeRole.WORKER, worker, leader, nodeId));
    unwrap(await worker.node.swarmUnlock(keyOf(leader)));
    await becomesWorker(leader, worker);
  });

  it('and is demoted before it took up anything is in the clear again', { timeout: 100_000 }, async () => {
    const [leader, worker] = await pair();
    const record = recordOf(worker);
    const adopt = record.adopt.bind(record);
    let skipped = false;
    record.adopt = async (change, lock) => {
      const adopted = await adopt(change, lock);
      if (skipped) return adopted;
      skipped = true;
      return false; // The role is not followed.
    };
    await become(NodeRole.MANAGER, worker, leader);
    await eventually('a certificate', () => skipped && record.files.lock.unlockKey !== undefined);
    assert.equal(record.state?.role, 'worker');
    await become(NodeRole.WORKER, worker, leader);
    await becomesWorker(leader, worker);
  });

  it('goes with an unlock key that is replaced meanwhile', { timeout: 100_000 }, async () => {
    for (const moment of ['before it asks for its place', 'after it has it'] as const) {
      const [leader, worker] = await pair();
      const before = keyOf(leader);
      const record = recordOf(worker);
      const [adopt, raftKeys] = [record.adopt.bind(record), record.files.raftKeys.bind(record.files)];
      let rotated = false;
      const rotate = async (): Promise<void> => {
        if (!rotated) await update(leader, undefined, true);
        rotated = true;
      };
      if (moment === 'after it has it') record.files.raftKeys = () => rotate().then(raftKeys);
      else record.adopt = (change, lock) => adopt(change, lock).then((adopted) => rotate().then(() => adopted));
      const copies = await cutting(worker.stateDir, path.join(root, moment), async () => {
        await become(NodeRole.MANAGER, worker, leader);
        await becomesManager(leader, worker);
        await eventually('the new key', async () => typeof decodeNodeFile(await nodeFile(worker), keyOf(leader)) !== 'string',
          () => worker.logged.slice(-5));
      });
      assert.ok(rotated);
      const { sealed: _sealed, ...clear } = inTheClear(copies);
      assert.deepEqual(clear, { managerKeys: 0, raftKeys: 0 }, moment);
      assert.equal(decodeNodeFile(await nodeFile(worker), before), 'locked');
      await worker.restart();
      unwrap(await worker.node.swarmUnlock(keyOf(leader)));
    }
  });

  it('whose certificate is from before the lock seals the key of its log, and gets another certificate', { timeout: 100_000 }, async () => {
    const [leader, worker] = await pair(false);
    const killed = killedAt(worker, 'certificate');
    await become(NodeRole.MANAGER, worker, leader);
    await eventually('the end', killed);
    await update(leader, true);
    const before = decodeNodeFile(await nodeFile(worker), undefined);
    assert.ok(typeof before !== 'string');
    const copies = await cutting(worker.stateDir, path.join(root, 'before'), async () => {
      await worker.restart();
      await becomesManager(leader, worker);
      await eventually('another certificate', async () => {
        const file = opened(await nodeFile(worker), keyOf(leader));
        return file.key !== before.key && !file.exposed;
      });
    });
    assert.equal(inTheClear(copies).raftKeys, 0);
  });

  it('has no certificate of one as long as it is not told how to seal it, and asks again', { timeout: 100_000 }, async (t) => {
    const [leader, worker] = await pair();
    const { unary } = ManagerClient.prototype;
    const rolesThen: (readonly string[])[] = [];
    t.mock.method(ManagerClient.prototype, 'unary', async function asked(this: ManagerClient, ...args: Parameters<typeof unary>) {
      if (args[0] === CA.method.getUnlockKey && rolesThen.length < 2) {
        rolesThen.push(rolesIn(await nodeFile(worker)));
        throw new AppFailure({ code: 'unavailable', message: 'refused by the test' });
      }
      return Reflect.apply(unary, this, args);
    });
    await become(NodeRole.MANAGER, worker, leader);
    await becomesManager(leader, worker);
    assert.deepEqual(rolesThen, [['swarm-worker'], ['swarm-worker']]);
    const told = worker.logged.filter(({ msg, error }) => /^certificate renewal failed/.test(msg) && error === 'refused by the test');
    assert.equal(told.length, 2);
  });
});
