// Autolock: what is sealed on the disk of a manager and when, the state `locked`, the unlock key and its rotation, and a
// kill at every change of a file while keys change. Real nodes; see test/support/test-node.ts.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { clusterSpecFromJson } from '../../src/api/convert/swarm.js';
import { Reader } from '../../src/api/convert/json.js';
import { parseUnlockKey, unlockKeyText } from '../../src/api/convert/unlock.js';
import { lockChange } from '../../src/core/ca/unlock.js';
import { SwarmFiles, SwarmLocked, type NodeCertificates, type SwarmState } from '../../src/daemon/swarmstate.js';
import { fetchUnlockKey } from '../../src/daemon/unlockkey.js';
import { decodeNodeFile, encodeNodeFile, newDataKey } from '../../src/io/keystore/nodefile.js';
import { createCsr, createRootCa, signCsr } from '../../src/io/x509/certificates.js';
import { unwrap, type Result } from '../../src/lib/result.js';
import { unlockKeyOf } from '../../src/model/cluster.js';
import { DATA_PATH_LABEL } from '../../src/model/network.js';
import { pairValue } from '../../src/model/pairs.js';
import {
  ClusterSchema, EncryptionKeySchema, MetaSchema, TaskState, VersionSchema, type Cluster, type Task,
} from '../../src/model/proto/swarmkit_pb.js';
import { cutting } from '../support/cuts.js';
import { TestNode, testNodes } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

const root = mkdtempSync(path.join(os.tmpdir(), 'skein-autolock-'));
after(() => rmSync(root, { recursive: true, force: true }));
let folders = 0;

const cluster = (node: TestNode): Cluster => node.node.manager()?.view().cluster() ?? assert.fail('a cluster');
const keyOf = (node: TestNode): Uint8Array => new Uint8Array(unlockKeyOf(cluster(node)) ?? assert.fail('an unlock key'));
const message = (result: Result<unknown>): string => (result.ok ? 'done' : result.error.message);

async function update(node: TestNode, autolock: boolean | undefined, rotateManagerUnlockKey = false, name = 'x'): Promise<void> {
  const json = { Labels: { name }, ...(autolock === undefined ? {} : { EncryptionConfig: { AutoLockManagers: autolock } }) };
  unwrap(await (node.node.manager() ?? assert.fail('a manager')).updateSwarm({
    version: cluster(node).meta?.version?.index ?? 0n, spec: clusterSpecFromJson(new Reader(json), cluster(node).spec),
    rotateWorkerToken: false, rotateManagerToken: false, rotateManagerUnlockKey,
  }));
}

const nodeFile = (node: TestNode): Promise<string> => readFile(node.file('certificates/swarm-node.pem'), 'utf8');

/** No replacement of keys is under way. */
async function quiet(node: TestNode, unlockKey: Uint8Array | undefined): Promise<void> {
  await eventually('one data key', 5000, async () => {
    const file = decodeNodeFile(await nodeFile(node), unlockKey);
    assert.ok(typeof file !== 'string', String(file));
    assert.ok(file.raft !== undefined && file.raft.pending === undefined && !file.raft.again);
    assert.equal(file.unlockKey === undefined, unlockKey === undefined);
  });
}

describe('the file of a node\'s keys', () => {
  const file = {
    certificate: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
    key: '-----BEGIN PRIVATE KEY-----\nBBBB\n-----END PRIVATE KEY-----\n',
    raft: { current: newDataKey(), pending: newDataKey(), again: true }, exposed: false,
  };
  const kek = new Uint8Array(32).fill(5);

  it('comes back as it was, in the clear and sealed', () => {
    for (const unlockKey of [undefined, kek]) {
      for (const raft of [undefined, { ...file.raft, pending: undefined, again: false }, file.raft]) {
        const contents = { ...file, raft, unlockKey, unlockVersion: 77n, exposed: unlockKey !== undefined };
        const text = encodeNodeFile(contents);
        assert.equal(text.includes('PRIVATE KEY'), unlockKey === undefined);
        const found = decodeNodeFile(text, unlockKey);
        const version = unlockKey === undefined && raft === undefined ? 0n : 77n;
        assert.deepEqual(found, { ...contents, unlockVersion: version });
      }
    }
  });

  it('that is sealed opens with its key only, and no bit of it can be changed', () => {
    const text = encodeNodeFile({ ...file, unlockKey: kek, unlockVersion: 3n });
    const [raw, dek] = [Buffer.from(text.replace(/-----.*-----|\s/g, ''), 'base64'), Buffer.from(file.raft.current)];
    for (const secret of [file.key, dek.toString('base64'), dek.toString('latin1')]) {
      assert.ok(!text.includes(secret) && !raw.toString('latin1').includes(secret));
    }
    assert.equal(decodeNodeFile(text, undefined), 'locked');
    assert.equal(decodeNodeFile(text, new Uint8Array(32)), 'locked');
    assert.equal(decodeNodeFile(text, new Uint8Array(3)), 'locked');
    const [head = '', body = '', tail = ''] = text.split(/(?<=KEYS-----\n)|(?=-----END SKEIN)/);
    const bytes = Buffer.from(body, 'base64');
    for (let at = 0; at < bytes.length; at++) {
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(at) ^ 1, at);
      assert.equal(decodeNodeFile(head + changed.toString('base64') + tail, kek), 'locked', `byte ${at}`);
    }
    assert.notEqual(encodeNodeFile({ ...file, unlockKey: kek, unlockVersion: 3n }), text, 'never the same bytes twice');
    for (const part of ['', file.certificate, head, text.slice(0, 200)]) assert.equal(decodeNodeFile(part, kek), 'damaged');
  });

  it('has an unlock key that people can type', () => {
    const text = unlockKeyText(kek);
    assert.match(text, /^SWMKEY-1-[A-Za-z0-9+/]{43}$/);
    assert.deepEqual(parseUnlockKey(text), kek);
    for (const bad of ['', 'SWMKEY-1', text.slice(9), `SWMKEY-2-${text.slice(9)}`, `${text}=`, `${text} `, `${text}é`, 'SWMKEY-1-AAAAA']) {
      assert.equal(parseUnlockKey(bad), undefined, bad);
    }
  });
});

it('a manager takes a newer unlock key only, and replaces its keys when they lay in the clear', () => {
  const at = (version: number, key?: number): Cluster => create(ClusterSchema, {
    meta: create(MetaSchema, { version: create(VersionSchema, { index: BigInt(version) }) }),
    unlockKeys: key === undefined ? [] : [create(EncryptionKeySchema, { subsystem: 'swarm-manager', key: new Uint8Array([key]) })],
  });
  const [one, two] = [new Uint8Array([1]), new Uint8Array([2])];
  const own = { unlockKey: one, unlockVersion: 5n };
  assert.equal(lockChange(own, undefined), undefined);
  assert.equal(lockChange(own, at(9, 1)), undefined, 'the same key');
  assert.equal(lockChange(own, at(5, 2)), undefined, 'not newer');
  assert.equal(lockChange(own, at(4)), undefined, 'older: this manager is behind');
  assert.deepEqual(lockChange(own, at(6, 2)), { unlockKey: two, unlockVersion: 6n, replaceKeys: false });
  assert.deepEqual(lockChange(own, at(6)), { unlockKey: undefined, unlockVersion: 6n, replaceKeys: false });
  const change = lockChange({ unlockKey: undefined, unlockVersion: 5n }, at(6, 2));
  assert.deepEqual(change, { unlockKey: two, unlockVersion: 6n, replaceKeys: true });
});

describe('a locked manager', () => {
  const make = testNodes();

  it('waits for its key after a restart, while its tasks go on; another key is refused; then all is as before', async () => {
    const node = await make();
    unwrap(await node.init({ autoLockManagers: true }));
    assert.ok(!(await nodeFile(node)).includes('PRIVATE KEY'), 'sealed from the first write');
    assert.equal(cluster(node).spec?.encryptionConfig?.autoLockManagers, true);
    const [key, id] = [keyOf(node), node.node.local().nodeId];
    await node.service('web', 2);
    await eventually('tasks', 5000, async () => assert.equal(node.executor.live, 2));
    await node.restart();
    const local = node.node.local();
    assert.equal(local.state, 'locked');
    assert.equal(local.error, 'Swarm is encrypted and needs to be unlocked before it can be used. '
      + 'Please use "docker swarm unlock" to unlock it.');
    assert.equal(node.node.manager(), undefined);
    assert.equal(node.executor.live, 2, 'its tasks go on');
    assert.match(message(await node.init()), /already part of a swarm/);
    assert.equal(message(await node.node.swarmLeave(false)),
      'Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.');
    assert.equal(message(await node.node.swarmUnlock(new Uint8Array(32))), 'swarm could not be unlocked: invalid key provided');
    assert.equal(node.node.local().state, 'locked');
    unwrap(await node.node.swarmUnlock(key));
    assert.equal(node.node.local().state, 'active');
    assert.equal(node.node.local().nodeId, id);
    assert.equal(message(await node.node.swarmUnlock(key)), 'swarm is not locked');
    await eventually('a session', 5000, async () => assert.equal(node.node.local().error, ''));
    assert.equal(node.executor.live, 2);
    assert.deepEqual(node.executor.calls.filter((call) => call === 'start').length, 2, 'none was started again');
  });

  it('looks after its tasks and traffic: it forwards from what it kept, and tells later what ended meanwhile', async () => {
    const node = await make();
    unwrap(await node.init({ autoLockManagers: true }));
    const key = keyOf(node);
    await node.service('web', 2);
    const running = (): readonly Task[] =>
      (node.node.manager()?.view().list('task') ?? []).filter((task) => task.status?.state === TaskState.RUNNING);
    await eventually('tasks', 5000, async () => assert.equal(running().length, 2));
    await eventually('saved rows', 5000, async () => assert.ok((await readdir(node.file('worker'))).includes('rows')));
    const before = running().map(({ id }) => id);
    await node.restart(async () => { node.dataPlane.applied = undefined; });
    assert.equal(node.node.local().state, 'locked');
    assert.equal((node.dataPlane.applied as { replace?: boolean } | undefined)?.replace, true, 'the data plane has its rows again');
    await node.executor.controller(before[0] ?? '').terminate();
    await eventually('one task', 5000, async () => assert.equal(node.executor.live, 1));
    unwrap(await node.node.swarmUnlock(key));
    await eventually('another task', 10_000, async () => {
      assert.equal(node.executor.live, 2);
      assert.deepEqual(running().filter(({ id }) => before.includes(id)).map(({ id }) => id), [before[1]]);
    });
  });

  it('that is started with another address has that one, locked and unlocked, for its tunnels too', async () => {
    const node = await make();
    const port = node.address.split(':')[1];
    unwrap(await node.init({ autoLockManagers: true, listenAddr: `0.0.0.0:${port}` }));
    const [key, id] = [keyOf(node), node.node.local().nodeId];
    await node.restart(async () => { node.options = { advertiseAddr: '127.0.0.2' }; });
    assert.deepEqual([node.node.local().state, node.node.local().nodeAddr], ['locked', '127.0.0.2']);
    const saved = JSON.parse(await readFile(node.file('state.json'), 'utf8')) as SwarmState;
    assert.deepEqual([saved.advertiseAddr, saved.dataPathAddr], [`127.0.0.2:${port}`, '127.0.0.2']);
    unwrap(await node.node.swarmUnlock(key));
    await eventually('told', 10_000, async () => {
      const own = node.node.manager()?.view().get('node', id);
      assert.equal(own?.managerStatus?.addr, `127.0.0.2:${port}`);
      assert.equal(pairValue(own.description?.engine?.labels, DATA_PATH_LABEL), '127.0.0.2');
      assert.equal(node.node.local().error, '');
    });
    // One that the machine does not have is told, and nothing is begun with the old one.
    await node.restart(async () => { node.options = { advertiseAddr: 'nosuch0' }; });
    assert.equal(node.node.local().state, 'error');
    assert.match(node.node.local().error, /advertise address must be an IP address or network interface/);
    await node.restart(async () => { node.options = {}; });
    assert.equal(node.node.local().state, 'locked');
    unwrap(await node.node.swarmUnlock(key));
    assert.equal(node.node.local().nodeAddr, '127.0.0.2');
  });

  it('can be left with --force; nothing of it stays', async () => {
    const node = await make();
    unwrap(await node.init({ autoLockManagers: true }));
    await node.service('web', 1);
    await eventually('a task', 5000, async () => assert.equal(node.executor.live, 1));
    await node.restart();
    unwrap(await node.node.swarmLeave(true));
    assert.equal(node.node.local().state, 'inactive');
    assert.equal(node.executor.live, 0);
    assert.deepEqual((await readdir(node.file('certificates')).catch(() => [])), []);
    unwrap(await node.init());
    assert.ok((await nodeFile(node)).includes('PRIVATE KEY'), 'the next swarm is not locked');
  });

  it('is made of an unlocked one, with another certificate and another key of the log; and unlocked again', async () => {
    const node = await make();
    unwrap(await node.init());
    const before = decodeNodeFile(await nodeFile(node), undefined);
    assert.ok(typeof before !== 'string' && before.raft !== undefined);
    const log = await readdir(node.file('raft'));
    await update(node, true);
    assert.ok(!(await nodeFile(node)).includes('PRIVATE KEY'), 'sealed when the update is answered');
    const key = keyOf(node);
    await quiet(node, key);
    await eventually('another certificate', 8000, async () => {
      const now = decodeNodeFile(await nodeFile(node), key);
      assert.ok(typeof now !== 'string');
      assert.notEqual(now.key, before.key);
      assert.notDeepEqual(now.raft?.current, before.raft?.current);
    });
    assert.deepEqual((await readdir(node.file('raft'))).filter((file) => log.includes(file)), [], 'no file of the old key is left');
    const renewed = decodeNodeFile(await nodeFile(node), key);
    assert.ok(typeof renewed !== 'string' && !renewed.exposed);
    await update(node, undefined, true);
    const second = keyOf(node);
    assert.notDeepEqual(second, key);
    await node.restart();
    assert.match(message(await node.node.swarmUnlock(key)), /invalid key provided/, 'the old unlock key opens nothing');
    unwrap(await node.node.swarmUnlock(second));
    assert.deepEqual(keyOf(node), second);
    await update(node, false);
    assert.equal(unlockKeyOf(cluster(node)), undefined);
    assert.ok((await nodeFile(node)).includes('PRIVATE KEY'));
    await node.restart();
    assert.equal(node.node.local().state, 'active');
    await update(node, true);
    assert.notDeepEqual(keyOf(node), second, 'locked anew with a new key');
    await quiet(node, keyOf(node));
  });

  it('whose key lay in the clear gets another one, also when it ended before it did', async () => {
    const node = await make();
    unwrap(await node.init({ autoLockManagers: true }));
    const key = keyOf(node);
    const files = new SwarmFiles(node.stateDir);
    await node.node.close();
    const before = await files.loadCertificates(key);
    await files.changeKeys(() => ({ exposed: true }));
    await node.restart();
    unwrap(await node.node.swarmUnlock(key));
    await eventually('another certificate', 5000, async () => {
      const now = decodeNodeFile(await nodeFile(node), key);
      assert.ok(typeof now !== 'string' && now.key !== before.key && !now.exposed);
    });
  });

  it('with a damaged file says so when it is unlocked, and can be left', async () => {
    const node = await make();
    unwrap(await node.init({ autoLockManagers: true }));
    const key = keyOf(node);
    await node.restart(async () => writeFile(node.file('certificates/swarm-node.pem'), (await nodeFile(node)).slice(0, 900)));
    assert.equal(node.node.local().state, 'error');
    assert.equal(message(await node.node.swarmUnlock(key)), 'swarm is not locked');
    unwrap(await node.node.swarmLeave(true));
  });

  it('gives its unlock key to managers only, and workers keep their own key in the clear', async () => {
    const [leader, worker] = [await make(), await make()];
    unwrap(await leader.init({ autoLockManagers: true }));
    unwrap(await worker.join(leader));
    const own = await new SwarmFiles(leader.stateDir).loadCertificates(keyOf(leader));
    const got = unwrap(await fetchUnlockKey(leader.address, { ...own, serverName: 'swarm-manager' }));
    assert.deepEqual(new Uint8Array(got.unlockKey ?? []), keyOf(leader));
    assert.equal(got.unlockVersion, cluster(leader).meta?.version?.index);
    const workers = await new SwarmFiles(worker.stateDir).loadCertificates();
    for (const credentials of [workers, { rootCa: own.rootCa, key: undefined, certificate: undefined }]) {
      const refused = await fetchUnlockKey(leader.address, { ...credentials, serverName: 'swarm-manager' });
      assert.equal(refused.ok ? '' : refused.error.code, 'permission_denied');
    }
    await update(leader, false);
    assert.equal(unwrap(await fetchUnlockKey(leader.address, { ...own, serverName: 'swarm-manager' })).unlockKey, undefined);
    assert.ok((await nodeFile(worker)).includes('PRIVATE KEY'));
  });
});

it('a manager\'s keys are sealed as long as its certificate is one\'s; a worker\'s are in the clear', async () => {
  const files = new SwarmFiles(path.join(root, 'roles'));
  const ca = await createRootCa(Date.now());
  const certified = async (role: 'swarm-manager' | 'swarm-worker'): Promise<NodeCertificates> => {
    const { key, csr } = await createCsr();
    const certificate = unwrap(await signCsr(ca, { csr, nodeId: 'n1', organization: 'c1', role, expiryMs: 3_600_000, nowMs: Date.now() }));
    return { rootCa: ca.certificate, certificate, key };
  };
  const unlockKey = new Uint8Array(32).fill(9);
  const worker = await certified('swarm-worker');
  await files.saveCertificates(worker);
  await files.saveCertificates(await certified('swarm-manager'), { unlockKey, unlockVersion: 12n });
  assert.equal(files.lock.exposed, false, 'only another key lay in the clear');
  await files.raftKeys();
  // Older than what it knows.
  assert.equal(await files.relock({ unlockKey: undefined, unlockVersion: 11n }), false);
  await assert.rejects(new SwarmFiles(path.join(root, 'roles')).loadCertificates(), SwarmLocked);
  const again = new SwarmFiles(path.join(root, 'roles'));
  await again.loadCertificates(unlockKey);
  assert.equal(again.lock.unlockVersion, 12n);
  // A manager again before it was none.
  const { current } = await again.raftKeys();
  await again.dropManagerKeys();
  await assert.rejects(new SwarmFiles(path.join(root, 'roles')).loadCertificates(), SwarmLocked);
  assert.notDeepEqual((await again.raftKeys()).current, current);
  await again.saveCertificates(worker);
  await again.dropManagerKeys();
  const text = await readFile(path.join(root, 'roles/swarm/certificates/swarm-node.pem'), 'utf8');
  assert.equal(text, worker.certificate + worker.key);
});

describe('a kill at any change of a file, while', () => {
  const make = testNodes();
  const changes: Record<string, { readonly from: boolean; readonly run: (node: TestNode) => Promise<void> }> = {
    'a swarm is locked': { from: false, run: (node) => update(node, true, false, 'after') },
    'its unlock key rotates': { from: true, run: (node) => update(node, undefined, true, 'after') },
    'it is unlocked': { from: true, run: (node) => update(node, false, false, 'after') },
  };
  for (const [what, { from, run }] of Object.entries(changes)) {
    it(`${what}, loses nothing`, { timeout: 100_000 }, async () => {
      const node = await make();
      unwrap(await node.init({ autoLockManagers: from }));
      await update(node, undefined, false, 'before');
      const before = unlockKeyOf(cluster(node));
      let afterKey: Uint8Array | undefined;
      const copies = await cutting(node.stateDir, path.join(root, `cuts${++folders}`), async () => {
        await run(node);
        afterKey = unlockKeyOf(cluster(node));
        await quiet(node, afterKey);
      });
      await node.node.close();
      assert.ok(copies.length >= 4, `${copies.length} moments`);
      for (const copy of copies) await survives(copy, node.address, [before, afterKey]);
    });
  }
});

/** A node that starts from these files has its state, unlocked by one of the keys, and comes to rest as its cluster says. */
async function survives(stateDir: string, address: string, keys: readonly (Uint8Array | undefined)[]): Promise<void> {
  const node = TestNode.at(stateDir, address);
  await node.node.start();
  try {
    const opened = [];
    for (const key of keys) {
      if (node.node.local().state === 'locked' && key !== undefined && (await node.node.swarmUnlock(key)).ok) opened.push(key);
    }
    assert.equal(node.node.local().state, 'active', stateDir);
    assert.match(cluster(node).spec?.annotations?.labels[0]?.value ?? '', /^(before|after)$/);
    await quiet(node, unlockKeyOf(cluster(node)));
    await update(node, undefined, false, 'later');
  } finally {
    await node.down();
    rmSync(stateDir, { recursive: true, force: true });
  }
  assert.deepEqual(node.bugs, []);
}
