// As what a restored manager goes on: the only one of its swarm at once, as another member than it was; one of several not
// at all. What counts is its log, where it can be opened: the list of managers that sessions tell comes later.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { runCli } from '../../src/cli/cli.js';
import { encodeConfChange } from '../../src/core/raft/confchange.js';
import type { ConfChangeKind } from '../../src/core/raft/types.js';
import { backUp, restore } from '../../src/daemon/backup.js';
import { SwarmFiles, type SwarmState } from '../../src/daemon/swarmstate.js';
import { decodeBackup, encodeBackup, type Backup } from '../../src/io/backupfile.js';
import { RaftLog } from '../../src/io/raftlog/raftlog.js';
import { unwrap } from '../../src/lib/result.js';
import { unlockKeyOf } from '../../src/model/cluster.js';
import { cluster, counted, manager, write } from '../support/manager-node.js';
import { TestNode, testNodes } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

const root = mkdtempSync(path.join(os.tmpdir(), 'skein-restored-'));
after(() => rmSync(root, { recursive: true, force: true }));
let paths = 0;
const fresh = (): string => path.join(root, `p${++paths}`);
const make = testNodes();

const stateOf = (stateDir: string): SwarmState => JSON.parse(readFileSync(path.join(stateDir, 'swarm', 'state.json'), 'utf8'));
const keyOf = (node: TestNode): Uint8Array => new Uint8Array(unlockKeyOf(cluster(node)) ?? assert.fail('a key'));

/** The log of a node that does not run. */
async function withLog<T>(stateDir: string, key: Uint8Array | undefined, work: (log: RaftLog) => Promise<T>): Promise<T> {
  const files = new SwarmFiles(stateDir);
  await files.loadCertificates(key);
  const { current, pending } = await files.raftKeys();
  const log = new RaftLog(files.raftDir, current, pending);
  try {
    return await work(log);
  } finally {
    await log.close();
  }
}

/** By the snapshot on disk. */
async function voters(stateDir: string, key?: Uint8Array): Promise<readonly string[]> {
  return withLog(stateDir, key, async (log) => ((await log.load()).snapshot?.voters ?? []).map(String));
}

/** As if the manager had taken somebody in, in the moment before the backup. */
async function changeMembers(stateDir: string, kind: ConfChangeKind, member: bigint, key?: Uint8Array): Promise<void> {
  await withLog(stateDir, key, async (log) => {
    const { entries, hardState } = await log.load();
    const index = (entries.at(-1)?.index ?? assert.fail('entries')) + 1n;
    const data = encodeConfChange({ kind, member, context: Buffer.alloc(0) });
    await log.append(undefined, [{ index, term: hardState.term, kind: 'confChange', data }]);
  });
}

/** The backup with another state.json. */
async function withState(file: string, change: (state: SwarmState) => SwarmState): Promise<string> {
  const backup = decodeBackup(readFileSync(file)) as Backup;
  const state = change(JSON.parse(backup.files.get('state.json')?.toString() ?? '') as SwarmState);
  const changed = fresh();
  const files = new Map([...backup.files, ['state.json', Buffer.from(JSON.stringify(state))]]);
  await writeFile(changed, Buffer.concat(encodeBackup({ ...backup, files })));
  return changed;
}

async function restored(file: string, address: string, work: (node: TestNode) => Promise<void>): Promise<string> {
  const stateDir = fresh();
  await restore({ from: file, stateDir });
  await lives(stateDir, address, work);
  return stateDir;
}

async function lives(stateDir: string, address: string, work: (node: TestNode) => Promise<void>): Promise<void> {
  const node = TestNode.at(stateDir, address);
  try {
    await node.node.start();
    await work(node);
  } finally {
    await node.down();
  }
  assert.deepEqual(node.bugs, []);
}

function isUnfit({ node }: TestNode, managers: number): void {
  const { state, error, isManager } = node.local();
  assert.deepEqual([state, isManager], ['error', false]);
  assert.match(error, new RegExp(`restored from a backup of one of ${managers} managers, made at 20.*--force-new-cluster`));
}

/** A lone manager with one write, backed up and gone. */
async function lone(request: Parameters<TestNode['init']>[0] = {}): Promise<{ node: TestNode; file: string; key: Uint8Array | undefined }> {
  const node = await make();
  unwrap(await node.init(request));
  await write(node, 1);
  const key = request.autoLockManagers === true ? keyOf(node) : undefined;
  await node.node.close();
  const file = fresh();
  assert.equal((await backUp({ stateDir: node.stateDir, to: file, force: false })).managers, 1);
  return { node, file, key };
}

describe('a restored manager that was the only one', () => {
  it('goes on under another raft id, once and for all', async () => {
    const { node, file } = await lone();
    const before = stateOf(node.stateDir);
    const other = await restored(file, node.address, async (one) => assert.equal(one.node.local().state, 'active'));
    let raftId = '';
    const stateDir = await restored(file, node.address, async (one) => {
      assert.equal(one.node.local().nodeId, before.nodeId);
      assert.equal(counted(one), 1);
      await write(one, 2);
      raftId = stateOf(one.stateDir).raftId;
      assert.notEqual(raftId, before.raftId);
      await eventually('the swarm tells the new id', 5000, async () =>
        assert.equal(manager(one).view().get('node', before.nodeId)?.managerStatus?.raftId.toString(), raftId));
    });
    assert.notEqual(stateOf(other).raftId, raftId, 'every restore is somebody else');
    assert.deepEqual([stateOf(stateDir).restored, stateOf(stateDir).unfit], [undefined, undefined]);
    assert.deepEqual(await voters(stateDir), [raftId]);
    await lives(stateDir, node.address, async (one) => {
      assert.deepEqual([stateOf(stateDir).raftId, counted(one)], [raftId, 2]);
      await write(one, 3);
    });
  });

  it('comes to the same when it is killed before it has told itself so', async () => {
    const { node, file } = await lone();
    const stateDir = fresh();
    await restore({ from: file, stateDir });
    const marked = readFileSync(path.join(stateDir, 'swarm', 'state.json'));
    for (let life = 0; life < 3; life++) {
      // The log is that of the life before, rewritten; the state is not.
      await writeFile(path.join(stateDir, 'swarm', 'state.json'), marked);
      await lives(stateDir, node.address, async (one) => {
        assert.equal(one.node.local().state, 'active');
        assert.equal(counted(one), 1 + life);
        await write(one, 2 + life);
      });
      assert.deepEqual(await voters(stateDir), [stateOf(stateDir).raftId]);
    }
  });

  it('locked: goes on so when it is unlocked', async () => {
    const { node, file, key } = await lone({ autoLockManagers: true });
    const before = stateOf(node.stateDir).raftId;
    const stateDir = await restored(file, node.address, async (one) => {
      assert.equal(one.node.local().state, 'locked');
      assert.equal(stateOf(one.stateDir).raftId, before);
      unwrap(await one.node.swarmUnlock(key as Uint8Array));
      assert.deepEqual([one.node.local().state, counted(one)], ['active', 1]);
      await write(one, 2);
    });
    assert.notEqual(stateOf(stateDir).raftId, before);
    assert.deepEqual(await voters(stateDir, key), [stateOf(stateDir).raftId]);
    await lives(stateDir, node.address, async (one) => {
      unwrap(await one.node.swarmUnlock(key as Uint8Array));
      assert.equal(counted(one), 2);
    });
  });

  it('does so too where it was left by managers that had taken it in', async () => {
    const { node, file } = await lone();
    const group = ['1', '2'].map((raftId) => ({ raftId, nodeId: raftId, addr: '127.0.0.1:1' }));
    await restored(await withState(file, (state) => ({ ...state, joined: true, group })), node.address, async (one) => {
      assert.deepEqual([one.node.local().state, counted(one)], ['active', 1]);
    });
  });
});

describe('a restored manager that was one of several', () => {
  it('is known by its log when nothing else tells yet, and when the backup is older than that', async () => {
    for (const kind of ['addLearner', 'addNode'] as const) {
      const { node, file: earlier } = await lone();
      await changeMembers(node.stateDir, kind, 77n);
      const file = fresh();
      assert.equal((await backUp({ stateDir: node.stateDir, to: file, force: false })).managers, 2);
      await restored(file, node.address, async (one) => isUnfit(one, 2));
      await restored(earlier, node.address, async (one) => assert.equal(one.node.local().state, 'active'));
    }
  });

  it('is not the one that its log tells of alone, or its log tells of nobody yet', async () => {
    const { node, file } = await lone();
    const taken = { raftId: '77', joined: true, group: ['1', '2', '77'].map((raftId) => ({ raftId, nodeId: raftId, addr: '' })) };
    await restored(await withState(file, (state) => ({ ...state, ...taken })), node.address, async (one) => isUnfit(one, 2));
    rmSync(node.file('raft'), { recursive: true });
    await withLog(node.stateDir, undefined, (log) => log.load());
    const untold = fresh();
    await backUp({ stateDir: node.stateDir, to: untold, force: false });
    await restored(await withState(untold, (state) => ({ ...state, ...taken })), node.address, async (one) => isUnfit(one, 3));
  });

  it('is known by the list of managers that its sessions told', async () => {
    const { node, file } = await lone();
    const listed = await withState(file, (state) => ({ ...state, managers: [...state.managers, { nodeId: 'x', addr: '127.0.0.1:1' }] }));
    await restored(listed, node.address, async (one) => isUnfit(one, 2));
  });

  it('locked: is found by its log when it is unlocked', async () => {
    const { node, key } = await lone({ autoLockManagers: true });
    await changeMembers(node.stateDir, 'addNode', 77n, key);
    const [file, stateDir] = [fresh(), fresh()];
    assert.equal((await backUp({ stateDir: node.stateDir, to: file, force: false })).managers, 1);
    assert.equal((await backUp({ stateDir: node.stateDir, to: file, force: true, unlockKey: key })).managers, 2);
    await restore({ from: file, stateDir });
    await lives(stateDir, node.address, async (one) => {
      unwrap(await one.node.swarmUnlock(key as Uint8Array));
      isUnfit(one, 2);
      await one.restart();
      unwrap(await one.node.swarmUnlock(key as Uint8Array));
      isUnfit(one, 2);
      unwrap(await one.init({ forceNewCluster: true }));
      assert.deepEqual([one.node.local().error, counted(one)], ['', 1]);
    });
  });
});

it('what a restore tells: whether the manager goes on alone', async () => {
  const told = async (file: string): Promise<string> => {
    const { log } = console;
    let out = '';
    console.log = (text: string) => { out += text; };
    try {
      assert.equal(await runCli(['restore', '--from', file, '--state-dir', fresh()]), 0);
    } finally {
      console.log = log;
    }
    return out;
  };
  const [open, locked] = [await lone(), await lone({ autoLockManagers: true })];
  assert.match(await told(open.file), /goes on alone: managers that joined after the backup are not in its swarm/);
  assert.doesNotMatch(await told(open.file), /force-new-cluster|unlock/);
  assert.match(await told(locked.file), /docker swarm unlock[^]*goes on alone[^]*Should its log, once unlocked, tell of other managers/);
});
