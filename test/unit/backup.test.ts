// `skein backup` and `skein restore`: real nodes under writers, locked and unlocked swarms, a group of managers, refusals,
// and a backup that was cut or changed anywhere.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { mkdir, readFile, readdir, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { Reader } from '../../src/api/convert/json.js';
import { clusterSpecFromJson } from '../../src/api/convert/swarm.js';
import { unlockKeyText } from '../../src/api/convert/unlock.js';
import { runCli } from '../../src/cli/cli.js';
import { backUp, restore } from '../../src/daemon/backup.js';
import { decodeBackup, encodeBackup, type Backup } from '../../src/io/backupfile.js';
import { AppFailure, unwrap } from '../../src/lib/result.js';
import { unlockKeyOf } from '../../src/model/cluster.js';
import { cluster, counted, manager, write } from '../support/manager-node.js';
import { TestNode, testNodes } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

const root = mkdtempSync(path.join(os.tmpdir(), 'skein-backup-'));
after(() => rmSync(root, { recursive: true, force: true }));
let paths = 0;
const fresh = (): string => path.join(root, `p${++paths}`);
const make = testNodes();

async function setSwarm(node: TestNode, json: Record<string, unknown>): Promise<void> {
  unwrap(await manager(node).updateSwarm({
    version: cluster(node).meta?.version?.index ?? 0n, spec: clusterSpecFromJson(new Reader(json), cluster(node).spec),
    rotateWorkerToken: false, rotateManagerToken: false, rotateManagerUnlockKey: false,
  }));
}

/** A node on another machine, with the address of the one that is gone. */
async function started<T>(stateDir: string, address: string, work: (node: TestNode) => Promise<T>): Promise<T> {
  const node = TestNode.at(stateDir, address);
  await node.node.start();
  try {
    return await work(node);
  } finally {
    await node.down();
    assert.deepEqual(node.bugs, []);
  }
}

async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.then(() => assert.fail('done'), (caught: unknown) => caught);
  assert.ok(error instanceof AppFailure, String(error));
  assert.ok(!error.message.includes('\n'), error.message);
  return error.message;
}

/** The command line, with what it printed. */
async function skein(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const printed = { out: '', err: '' };
  const { log, error } = console;
  console.log = (text: string) => { printed.out += `${text}\n`; };
  console.error = (text: string) => { printed.err += `${text}\n`; };
  try {
    return { code: await runCli(args), ...printed };
  } finally {
    Object.assign(console, { log, error });
  }
}

describe('a backup of a manager that runs', () => {
  it('holds all that was acknowledged before it began, whatever the log does meanwhile', { timeout: 60_000 }, async () => {
    const node = await make();
    unwrap(await node.init({ snapshotInterval: 7n }));
    await node.service('web', 2);
    await eventually('tasks', 5000, async () => assert.equal(node.executor.live, 2));
    let [acknowledged, writing] = [0, true];
    const files = new Set<string>();
    const writer = (async () => {
      while (writing) {
        await write(node, acknowledged + 1);
        acknowledged += 1;
        for (const file of await readdir(node.file('raft'))) files.add(file);
      }
    })();
    const backups: { file: string; least: number; most: number }[] = [];
    while (backups.length < 12) {
      await eventually('writes', 5000, async () => assert.ok(acknowledged > (backups.at(-1)?.most ?? 0) + 3));
      const [file, least] = [fresh(), acknowledged];
      const report = await backUp({ stateDir: node.stateDir, to: file, force: false });
      backups.push({ file, least, most: acknowledged + 1 });
      assert.ok(BigInt(report.lastIndex) > BigInt(least));
    }
    writing = false;
    await writer;
    assert.ok(files.size > 12, 'snapshots were made and segments dropped meanwhile');
    const id = node.node.local().nodeId;
    await node.node.close();
    for (const { file, least, most } of backups) {
      const stateDir = fresh();
      await restore({ from: file, stateDir });
      await started(stateDir, node.address, async (restored) => {
        assert.equal(restored.node.local().state, 'active');
        assert.equal(restored.node.local().nodeId, id);
        assert.ok(counted(restored) >= least && counted(restored) <= most, `${counted(restored)} of ${least} to ${most}`);
        assert.equal(manager(restored).view().list('service').length, 1);
        if (file !== backups.at(-1)?.file) return;
        await eventually('its tasks, started anew', 10_000, async () => assert.equal(restored.executor.live, 2));
        await write(restored, 1_000_000);
      });
    }
  });

  it('holds the keys that open its log, while the swarm is locked and unlocked', { timeout: 60_000 }, async () => {
    const node = await make();
    unwrap(await node.init());
    const keys: Uint8Array[] = [];
    const backups: { file: string; least: number; locked: boolean }[] = [];
    let changing = true;
    const changes = (async () => {
      for (let n = 1; n <= 6; n++) {
        await setSwarm(node, { Labels: { n: String(n) }, EncryptionConfig: { AutoLockManagers: n % 2 === 1 } });
        const key = unlockKeyOf(cluster(node));
        if (key !== undefined) keys.push(new Uint8Array(key));
        const taken = backups.length;
        await eventually('a backup that began after', 5000, async () => assert.ok(backups.length >= taken + 2));
      }
      changing = false;
    })();
    while (changing) {
      const [file, least] = [fresh(), counted(node)];
      const { locked } = await backUp({ stateDir: node.stateDir, to: file, force: false });
      backups.push({ file, least, locked });
    }
    await changes;
    await node.node.close();
    assert.ok(backups.some(({ locked }) => locked) && backups.some(({ locked }) => !locked));
    const picked = backups.filter((_, at) => at % Math.ceil(backups.length / 10) === 0);
    for (const { file, least, locked } of picked) {
      const stateDir = fresh();
      await restore({ from: file, stateDir });
      await started(stateDir, node.address, async (restored) => {
        assert.equal(restored.node.local().state, locked ? 'locked' : 'active');
        for (const key of keys) if (restored.node.local().state === 'locked') await restored.node.swarmUnlock(key);
        assert.equal(restored.node.local().state, 'active');
        assert.ok(counted(restored) >= least);
      });
    }
  });
});

describe('a backup of a locked manager', () => {
  it('holds nothing that was sealed; what is restored waits for the unlock key', async () => {
    const node = await make();
    unwrap(await node.init({ autoLockManagers: true }));
    await write(node, 41);
    const key = new Uint8Array(unlockKeyOf(cluster(node)) ?? assert.fail('a key'));
    const secrets = [node.workerToken, 'PRIVATE KEY', 'RAFT KEYS', Buffer.from(key).toString('latin1'),
      Buffer.from(key).toString('base64')];
    const [file, stateDir] = [fresh(), fresh()];
    const { code, out, err } = await skein('backup', '--state-dir', node.stateDir, '--to', file);
    assert.deepEqual([code, err], [0, '']);
    assert.match(out, /The swarm is locked/);
    const content = await readFile(file, 'latin1');
    for (const secret of secrets) assert.ok(!content.includes(secret));
    await node.node.close();
    assert.match((await skein('restore', '--from', file, '--state-dir', stateDir)).out, /docker swarm unlock/);
    await started(stateDir, node.address, async (restored) => {
      assert.equal(restored.node.local().state, 'locked');
      assert.equal((await restored.node.swarmUnlock(new Uint8Array(32))).ok, false);
      unwrap(await restored.node.swarmUnlock(key));
      assert.equal(restored.node.local().state, 'active');
      assert.equal(counted(restored), 41);
      await write(restored, 42);
    });
  });

  it('is checked with the unlock key: whether that fits, and all of the log', async () => {
    const node = await make();
    unwrap(await node.init({ autoLockManagers: true }));
    await write(node, 7);
    const key = new Uint8Array(unlockKeyOf(cluster(node)) ?? assert.fail('a key'));
    const [right, wrong, none, file] = [fresh(), fresh(), fresh(), fresh()];
    await writeFile(right, `${unlockKeyText(key)}\n`);
    await writeFile(wrong, unlockKeyText(new Uint8Array(32)));
    await writeFile(none, 'secret');
    const backup = (keyFile: string, ...more: string[]): ReturnType<typeof skein> =>
      skein('backup', '--state-dir', node.stateDir, '--to', file, '--unlock-key-file', keyFile, ...more);
    assert.match((await backup(wrong)).err, /nothing was backed up: its keys are sealed with another unlock key than the one given/);
    assert.match((await backup(none)).err, /holds no unlock key: it begins with SWMKEY-1-/);
    assert.match((await backup(fresh())).err, /cannot read .*ENOENT/);
    await assert.rejects(stat(file), /ENOENT/);
    const { out } = await backup(right);
    assert.match(out, /up to entry \d+ of the log, checked/);
    assert.match(out, /The one given fits/);
    const report = JSON.parse((await backup(right, '--force', '--json')).out) as { locked: boolean; lastIndex: string };
    assert.ok(report.locked && BigInt(report.lastIndex) > 0n);
    const into = fresh();
    assert.match((await skein('restore', '--from', file, '--state-dir', into, '--unlock-key-file', wrong)).err, /another unlock key/);
    assert.deepEqual(await readdir(into).catch(() => []), []);
    assert.equal((await skein('restore', '--from', file, '--state-dir', into, '--unlock-key-file', right)).code, 0);
    const damaged = decodeBackup(readFileSync(file)) as Backup;
    const [name, log] = [...damaged.files].find(([called]) => called.endsWith('.log')) ?? assert.fail('a log');
    log.writeUInt8(log.readUInt8(8200) ^ 1, 8200);
    await writeFile(none, Buffer.concat(encodeBackup({ ...damaged, files: new Map([...damaged.files, [name, log]]) })));
    const refused = await skein('restore', '--from', none, '--state-dir', fresh(), '--unlock-key-file', right);
    assert.match(refused.err, /cannot be restored: raft log .* is damaged/);
  });
});

describe('the file of a backup', () => {
  it('comes back whole or is refused: cut at any byte, longer, or any byte changed', () => {
    const backup: Backup = {
      header: { nodeId: 'n', clusterId: 'c', madeAt: '2024-01-01T00:00:00.000Z' },
      files: new Map([['state.json', Buffer.from('{}')], ['empty', Buffer.alloc(0)], ['raft/1', Buffer.alloc(500, 7)]]),
    };
    const bytes = Buffer.concat(encodeBackup(backup));
    assert.deepEqual(decodeBackup(bytes), backup);
    for (let at = 0; at < bytes.length; at++) {
      assert.equal(decodeBackup(bytes.subarray(0, at)), 'damaged', `cut at ${at}`);
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(at) ^ 0x10, at);
      assert.equal(decodeBackup(changed), at < 8 ? 'foreign' : 'damaged', `byte ${at}`);
    }
    assert.equal(decodeBackup(Buffer.concat([bytes, Buffer.alloc(1)])), 'damaged');
    assert.equal(decodeBackup(Buffer.from('something else')), 'foreign');
  });
});

describe('what cannot be done is refused in one line', () => {
  it('a backup of what is no manager, or onto a file that is there', async () => {
    const [leader, worker] = [await make(), await make()];
    unwrap(await leader.init());
    unwrap(await worker.join(leader));
    const file = fresh();
    const from = (stateDir: string, force = false): Promise<unknown> => backUp({ stateDir, to: file, force });
    assert.match(await refusal(from(worker.stateDir)), /is a worker: only managers/);
    assert.match(await refusal(from(fresh())), /holds no swarm/);
    assert.match(await refusal(backUp({ stateDir: leader.stateDir, to: path.join(fresh(), 'x'), force: false })), /cannot write .*ENOENT/);
    await from(leader.stateDir);
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    const before = readFileSync(file);
    assert.match(await refusal(from(leader.stateDir)), /is there already.*--force/);
    assert.deepEqual(readFileSync(file), before);
    await from(leader.stateDir, true);
    assert.deepEqual((await readdir(root)).filter((name) => name.endsWith('.tmp')), [], 'nothing is left aside');
  });

  it('a backup of damaged files, and a restore of what is not whole or into a directory in use', async () => {
    const node = await make();
    unwrap(await node.init());
    const [file, bad] = [fresh(), fresh()];
    await backUp({ stateDir: node.stateDir, to: file, force: false });
    const into = async (from: string, stateDir = fresh()): Promise<string> => refusal(restore({ from, stateDir }));
    assert.match(await into(path.join(root, 'missing')), /cannot read .*ENOENT/);
    await writeFile(bad, readFileSync(file).subarray(0, -1));
    const cutInto = fresh();
    assert.match(await into(bad, cutInto), /damaged or cut off: nothing was restored/);
    assert.deepEqual(await readdir(cutInto).catch(() => []), []);
    await writeFile(bad, 'tar');
    assert.match(await into(bad), /is no backup/);
    for (const name of ['../evil', 'raft/../../evil', 'raft/0000000000000001.log.tmp', 'worker/rows']) {
      const backup = decodeBackup(readFileSync(file)) as Backup;
      await writeFile(bad, Buffer.concat(encodeBackup({ ...backup, files: new Map([...backup.files, [name, Buffer.alloc(1)]]) })));
      assert.match(await into(bad), /files this program does not know/);
    }
    assert.match(await into(file, node.stateDir), /holds a swarm's state already.*leave/);
    const used = fresh();
    await mkdir(used, { recursive: true });
    const start = readFileSync(`/proc/${process.ppid}/stat`, 'utf8').split(') ')[1]?.split(' ')[19];
    await writeFile(path.join(used, 'agent.pid'), `${process.ppid} ${start}\n`);
    assert.match(await into(file, used), /another agent .* uses this state directory: stop it first/);
    await node.node.close();
    const log = (await readdir(node.file('raft'))).sort()[0] ?? '';
    const bytes = readFileSync(node.file('raft', log));
    bytes.writeUInt8(bytes.readUInt8(8200) ^ 1, 8200);
    await writeFile(node.file('raft', log), bytes);
    assert.match(await refusal(backUp({ stateDir: node.stateDir, to: fresh(), force: false })),
      /nothing was backed up: raft log .* is damaged/);
  });

  it('with exit code 1 on the command line; --json tells what was done', async () => {
    const node = await make();
    unwrap(await node.init());
    const [file, stateDir] = [fresh(), fresh()];
    const none = await skein('backup', '--state-dir', fresh(), '--to', file);
    assert.equal(none.code, 1);
    assert.match(none.err, /^skein: .*holds no swarm[^\n]*\n$/);
    const done = JSON.parse((await skein('backup', '--state-dir', node.stateDir, '--to', file, '--json')).out) as Record<string, unknown>;
    assert.equal(done['nodeId'], node.node.local().nodeId);
    assert.equal(done['bytes'], (await stat(file)).size);
    const restored = JSON.parse((await skein('restore', '--from', file, '--state-dir', stateDir, '--json')).out) as Record<string, unknown>;
    assert.deepEqual({ ...restored, stateDir: '' }, { ...done, stateDir: '' });
    assert.match((await skein('backup', '--state-dir', node.stateDir, '--to', fresh())).out, /keep it as you keep the state directory/);
    assert.equal((await skein('restore', '--from', file, '--state-dir', stateDir)).code, 1);
  });
});
