// A node and its certificate: a kill while one is replaced, damaged and expired ones at the start, and a manager that
// asks for a new one. Real nodes; see test/support/test-node.ts.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { X509Certificate, createPrivateKey } from 'node:crypto';
import { pino } from 'pino';
import { clone } from '@bufbuild/protobuf';
import { AtomicFiles } from '../../src/io/atomicfile.js';
import { createCsr, createRootCa, signCsr } from '../../src/io/x509/certificates.js';
import { updateAction } from '../../src/core/store/actions.js';
import { Renewal } from '../../src/daemon/renewal.js';
import { SwarmFiles, type NodeCertificates } from '../../src/daemon/swarmstate.js';
import { ok, unwrap } from '../../src/lib/result.js';
import { IssuanceStatus_State, NodeSchema } from '../../src/model/proto/swarmkit_pb.js';
import { TestNode } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

const HOUR_MS = 3_600_000;
const nodes: TestNode[] = [];
afterEach(async () => {
  for (const node of nodes.splice(0)) {
    await node.down();
    assert.deepEqual(node.bugs, []);
  }
});

async function manager(): Promise<TestNode> {
  const node = await TestNode.make();
  nodes.push(node);
  unwrap(await node.init());
  return node;
}

async function issue(
  root: { key: string; certificate: string }, nowMs: number, nodeId = 'n1', organization = 'swarm',
): Promise<NodeCertificates> {
  const { key, csr } = await createCsr();
  const certificate = unwrap(await signCsr(root, { csr, nodeId, organization, role: 'swarm-manager', expiryMs: HOUR_MS, nowMs }));
  return { rootCa: root.certificate, key, certificate };
}

describe('the certificate of a node', () => {
  it('matches its key whenever a kill ends a renewal', async (t) => {
    const root = await createRootCa(Date.now());
    const [before, after] = await Promise.all([issue(root, Date.now()), issue(root, Date.now())]);
    const write = AtomicFiles.prototype.write;
    for (let done = 0, finished = false; !finished; done++) {
      const folder = await mkdtemp(path.join(os.tmpdir(), 'skein-renewal-'));
      await new SwarmFiles(folder).saveCertificates(before);
      let left = done;
      async function killed(this: AtomicFiles, ...args: Parameters<typeof write>): Promise<void> {
        if (left-- === 0) throw new Error('killed');
        return write.apply(this, args);
      }
      const mock = t.mock.method(AtomicFiles.prototype, 'write', killed);
      finished = await new SwarmFiles(folder).saveCertificates(after).then(() => true, () => false);
      mock.mock.restore();
      const found = await new SwarmFiles(folder).loadCertificates();
      assert.ok(new X509Certificate(found.certificate).checkPrivateKey(createPrivateKey(found.key)), `killed after ${done} writes`);
      await rm(folder, { recursive: true });
    }
  });

  it('is renewed in 50 to 80 % of its life, also when that is further away than a timer reaches', async (t) => {
    const DAY_MS = 24 * HOUR_MS;
    t.mock.timers.enable({ apis: ['setTimeout', 'Date'], now: Date.now() });
    const root = await createRootCa(Date.now());
    const { key, csr } = await createCsr();
    const request = { csr, nodeId: 'n1', organization: 'c1', role: 'swarm-worker', expiryMs: 90 * DAY_MS, nowMs: Date.now() } as const;
    const certificate = unwrap(await signCsr(root, request));
    let asked = 0;
    const renewal = new Renewal({
      credentials: () => ({ rootCa: root.certificate, key, certificate, serverName: 'swarm-manager' }),
      hasRole: () => true, isMember: () => false,
      managers: () => {
        asked += 1;
        return assert.fail('far enough');
      },
      onRenewed: async () => undefined, logger: pino({ level: 'silent' }), onBug: () => undefined,
    });
    renewal.schedule();
    for (let day = 0; day < 44; day++) t.mock.timers.tick(DAY_MS);
    assert.equal(asked, 0, 'not before half of its life');
    for (let day = 44; day < 73; day++) t.mock.timers.tick(DAY_MS);
    assert.equal(asked, 1);
    renewal.stop();
  });

  it('that is damaged or missing is told by an agent that runs; the node can leave and begin anew', async () => {
    for (const harm of ['missing', 'empty', 'zeros', 'other key'] as const) {
      const node = await manager();
      await node.service('web', 2);
      await eventually('tasks', 5000, async () => assert.equal(node.executor.live, 2));
      const file = node.file('certificates/swarm-node.pem');
      await node.restart(async () => {
        if (harm === 'missing') await rm(file);
        if (harm === 'empty') await truncate(file, 0);
        if (harm === 'zeros') await writeFile(file, Buffer.alloc(1500));
        if (harm === 'other key') {
          const text = await readFile(file, 'utf8');
          await writeFile(file, text.slice(0, text.indexOf('-----BEGIN PRIVATE')) + (await createCsr()).key);
        }
      });
      const { state, error } = node.node.local();
      assert.equal(state, 'error');
      assert.ok(error.startsWith(`error while loading TLS certificate in ${file}: it `), error);
      assert.match(error, /Restore it and start the agent again, or leave the swarm and join again\.$/);
      assert.equal(node.executor.live, 2, 'its tasks go on');
      const again = await node.init();
      assert.match(again.ok ? '' : again.error.message, /already part of a swarm/);
      assert.equal((await node.node.swarmLeave(false)).ok, false, 'a manager is left with --force only');
      unwrap(await node.node.swarmLeave(true));
      assert.equal(node.node.local().state, 'inactive');
      unwrap(await node.init());
      assert.equal(node.node.local().state, 'active');
    }
  });

  it('that has expired is refused at the start in Docker\'s words, and nothing is tried again and again', async () => {
    const node = await manager();
    const nodeId = node.node.local().nodeId;
    const cluster = node.node.manager()?.view().cluster();
    const pem = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString();
    const root = { key: pem(cluster?.rootCa?.caKey), certificate: pem(cluster?.rootCa?.caCert) };
    const expired = await issue(root, Date.now() - 3 * HOUR_MS, nodeId, cluster?.id ?? '');
    await node.restart(() => new SwarmFiles(node.stateDir).saveCertificates(expired));
    const { state, error } = node.node.local();
    assert.equal(state, 'error');
    const file = node.file('certificates/swarm-node.pem');
    assert.ok(error.startsWith(`error while loading TLS certificate in ${file}: certificate (1 - ${nodeId}) not valid after `), error);
    assert.match(error, / UTC, and it is currently .* UTC: x509: certificate has expired or is not yet valid /);
    assert.match(error, /\. Swarm certificates have expired\. To replace them, leave the swarm and join again\.$/);
    const lines = node.logged.length;
    const { user, system } = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const used = process.cpuUsage();
    assert.ok(used.user + used.system - user - system < 500_000, 'it is quiet');
    assert.equal(node.logged.length, lines);
    unwrap(await node.node.swarmLeave(true));
    unwrap(await node.init());
  });

  it('is renewed when the manager marks it for rotation, by a worker and by the manager itself', async () => {
    const leader = await manager();
    const worker = await TestNode.make();
    nodes.unshift(worker);
    unwrap(await worker.join(leader));
    for (const node of [worker, leader]) {
      const files = new SwarmFiles(node.stateDir);
      const before = await files.loadCertificates();
      const { nodeId } = node.node.local();
      await leader.node.manager()?.commit((view) => {
        const next = clone(NodeSchema, view.get('node', nodeId) ?? assert.fail('the node'));
        Object.assign(next.certificate?.status ?? {}, { state: IssuanceStatus_State.ROTATE });
        return ok({ actions: [updateAction('node', next)], value: undefined });
      });
      const after = await eventually('another certificate', 8000, async () => {
        const now = await files.loadCertificates();
        assert.notEqual(now.certificate, before.certificate);
        return now;
      });
      assert.notEqual(after.key, before.key);
      await eventually('a session with it', 5000, async () => {
        const record = leader.node.manager()?.view().get('node', nodeId);
        assert.equal(record?.certificate?.status?.state, IssuanceStatus_State.ISSUED);
        assert.equal(Buffer.from(record.certificate.certificate).toString(), after.certificate);
        assert.equal(node.node.local().error, '');
      });
      await leader.restart();
      await eventually('a session after a restart', 5000, async () => assert.equal(node.node.local().error, ''));
    }
  });
});
