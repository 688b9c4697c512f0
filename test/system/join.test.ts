// Who may be part of a swarm: joining, leaving, tokens, certificates, removal; refusals in Docker's words, in time and
// with nothing half done.

import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { openAlone } from '../support/consensus.js';
import { SwarmFiles } from '../../src/daemon/swarmstate.js';
import { bundle, createCsr, parseJoinToken, rootDigest, signCsr, type NodeCertRole } from '../../src/io/x509/certificates.js';
import type { Credentials } from '../../src/io/grpc/client.js';
import { startAgent } from '../../src/lab/lab.js';
import type { LabNode } from '../../src/lab/plan.js';
import { unwrap } from '../../src/lib/result.js';
import { IMAGE, Lab, Load, eventually, sleep, type Output } from './fixture.js';
import type { NodeAnswer, NodeCall } from './node-call.js';

const HOUR_MS = 3_600_000;
const IN_SWARM = /This node is already part of a swarm\. Use "docker swarm leave" to leave this swarm and join another one\./;

describe('joining and leaving', { timeout: 300_000 }, () => {
  let lab: Lab;
  let w1: LabNode;
  let w2: LabNode;
  let manager: string;

  before(async () => {
    lab = await Lab.up('tsfault2');
    [w1, w2] = lab.workers as [LabNode, LabNode];
    manager = `${lab.manager.address}:2377`;
  });
  after(async () => lab?.down());

  const token = (role = 'worker', ...flags: string[]): Promise<string> => lab.docker('swarm', 'join-token', '-q', ...flags, role);
  const join = async (withToken: string, address = manager, node = w2): Promise<Output & { ms: number }> => {
    const since = Date.now();
    const output = await lab.try(['swarm', 'join', '--token', withToken, address], node, 40_000);
    return { ...output, ms: Date.now() - since };
  };
  const outside = async (node: LabNode): Promise<void> => {
    const info = await lab.try(['info', '--format', '{{.Swarm.LocalNodeState}} {{.Swarm.NodeID}}.'], node);
    assert.equal(info.stdout.trim(), 'inactive .');
    assert.ok(!existsSync(path.join(node.stateDir, 'swarm/state.json')), 'no state is left');
    assert.ok(!existsSync(path.join(node.stateDir, 'swarm/certificates')), 'no certificate is left');
  };
  const idOf = async (node: LabNode): Promise<string> => (await lab.try(['info', '--format', '{{.Swarm.NodeID}}'], node)).stdout.trim();
  const stateOf = (id: string): Promise<string> => lab.docker('node', 'inspect', '--format', '{{.Status.State}}', id);
  const count = async (): Promise<number> => (await lab.docker('node', 'ls', '-q')).split('\n').length;

  const credentialsOf = async (node: LabNode): Promise<Credentials> =>
    ({ ...await new SwarmFiles(node.stateDir).loadCertificates(), serverName: 'swarm-manager' });
  const call = async (from: LabNode, credentials: Credentials, service: NodeCall['service'], method: string,
    request: object = {}): Promise<NodeAnswer> => {
    const file = path.join(lab.work, 'call.json');
    await writeFile(file, JSON.stringify({ address: manager, credentials, service, method, request } satisfies NodeCall));
    const output = await lab.inside(from.netns, process.execPath, [path.join(import.meta.dirname, 'node-call.js'), file]);
    assert.equal(output.code, 0, output.stderr);
    return JSON.parse(output.stdout) as NodeAnswer;
  };
  /** The swarm's own root key, out of a copy of the manager's sealed log. */
  const rootOf = async (): Promise<{ key: string; certificate: string; clusterId: string }> => {
    const files = new SwarmFiles(lab.manager.stateDir);
    const state = await files.load();
    assert.ok(state);
    const copy = await mkdtemp(path.join(lab.work, 'raft-'));
    await cp(files.raftDir, copy, { recursive: true });
    const consensus = await openAlone(copy, (await files.raftKeys()).current, BigInt(state.raftId), (error) => { throw error; });
    const root = consensus.store.cluster()?.rootCa;
    await consensus.close();
    await rm(copy, { recursive: true });
    assert.ok(root);
    return { key: Buffer.from(root.caKey).toString(), certificate: Buffer.from(root.caCert).toString(), clusterId: state.clusterId };
  };
  const signed = async (nodeId: string, role: NodeCertRole, nowMs: number, expiryMs: number): Promise<Credentials> => {
    const root = await rootOf();
    const { key, csr } = await createCsr();
    const certificate = unwrap(await signCsr(root, { csr, nodeId, organization: root.clusterId, role, expiryMs, nowMs }));
    return { rootCa: root.certificate, key, certificate, serverName: 'swarm-manager' };
  };

  test('a second init, a join while in a swarm, and a manager\'s leave are refused', async () => {
    for (const node of [lab.manager, w1]) {
      for (const args of [['init'], ['join', '--token', await token(), manager]]) {
        const output = await lab.try(['swarm', ...args], node);
        assert.equal(output.code, 1);
        assert.match(output.stderr, IN_SWARM);
      }
    }
    const leave = await lab.try(['swarm', 'leave']);
    assert.equal(leave.code, 1);
    assert.match(leave.stderr,
      /You are attempting to leave the swarm on a node that is participating as a manager\. Removing the last manager erases all current state of the swarm\. Use `--force` to ignore this message\./);
    assert.equal(await count(), 3);
  });

  test('a worker leaves: its tasks end, nothing of the swarm is left on it, the others go on', async () => {
    await lab.docker('service', 'create', '-q', '--name', 'all', '--mode', 'global', '-p', '8080:80', IMAGE, '/bin/probe', 'serve', '80');
    const id = await idOf(w2);
    const load = new Load(lab, lab.plan.clientNetns, [w1.address, lab.manager.address], 8080);
    const left = await lab.try(['swarm', 'leave'], w2);
    assert.equal(left.code, 0, left.stderr);
    assert.equal(left.stdout.trim(), 'Node left the swarm.');
    assert.equal(await stateOf(id), 'down', 'known at once');
    await sleep(500);
    assert.equal(await load.end(), 0, load.errors.join('; '));
    await outside(w2);
    assert.equal((await lab.try(['ps', '-q'], w2)).stdout, '');
    assert.ok(!existsSync(path.join(w2.runDir, 'netns')) || readdirSync(path.join(w2.runDir, 'netns')).length === 0);
    const again = await lab.try(['swarm', 'leave'], w2);
    assert.equal(again.code, 1);
    assert.match(again.stderr, /This node is not part of a swarm/);
    const ls = await lab.try(['node', 'ls'], w2);
    assert.match(ls.stderr,
      /This node is not a swarm manager\. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again\./);
    await lab.ask(lab.plan.clientNetns, w1.address, 8080);
  });

  test('bad tokens: malformed, wrong secret, wrong digest', async () => {
    const nodes = await count();
    const good = await token();
    const secret = unwrap(parseJoinToken(good)).secret;
    const digest = rootDigest('another root');
    const cases: [string, RegExp][] = [
      ['SWMTKN-1-x-y', /invalid join token/],
      ['nonsense', /invalid join token/],
      [good.replace('SWMTKN', 'SWMTKM'), /invalid join token/],
      [`${good.slice(0, good.lastIndexOf('-'))}-${'0'.repeat(25)}`,
        /rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster/],
      [`SWMTKN-1-${digest}-${secret}`, /remote CA does not match fingerprint\. Expected: [0-9a-f]{64}/],
    ];
    for (const [bad, words] of cases) {
      const output = await join(bad);
      assert.equal(output.code, 1, bad);
      assert.match(output.stderr, words);
      assert.ok(output.ms < 5000, `${bad}: ${output.ms} ms`);
      await outside(w2);
    }
    assert.equal(await count(), nodes, 'no node was recorded');
  });

  test('managers that do not answer: refused, no such host, silent; none hangs', async () => {
    const good = await token();
    const refused = await join(good, `${lab.plan.clientAddress}:2377`);
    assert.match(refused.stderr,
      /rpc error: code = Unavailable desc = connection error: .*dial tcp 192\.168\.99\.250:2377: connect: connection refused/);
    const nobody = await join(good, '192.168.99.77:2377');
    assert.match(nobody.stderr,
      /rpc error: code = Unavailable desc = connection error: .*dial tcp 192\.168\.99\.77:2377: (connect: no route to host|i\/o timeout)/);
    await lab.inside(lab.plan.clientNetns, 'nft',
      ['add table inet silent; add chain inet silent input { type filter hook input priority 0; }; add rule inet silent input tcp dport 2377 drop']);
    const silent = await join(good, `${lab.plan.clientAddress}:2377`);
    await lab.inside(lab.plan.clientNetns, 'nft', ['delete table inet silent']);
    assert.match(silent.stderr, /dial tcp 192\.168\.99\.250:2377: i\/o timeout/);
    for (const { code, ms } of [refused, nobody, silent]) {
      assert.equal(code, 1);
      assert.ok(ms < 25_000, `${ms} ms`);
    }
    await outside(w2);
  });

  test('init on a port that is taken fails whole, and works once it is free', async () => {
    const busy = lab.spawnInside(w2.netns, lab.probe, ['serve', '2377']);
    await sleep(300);
    const failed = await lab.try(['swarm', 'init', '--advertise-addr', w2.address], w2, 20_000);
    busy.kill('SIGKILL');
    assert.equal(failed.code, 1);
    assert.match(failed.stderr, /address already in use/);
    await outside(w2);
    assert.ok(await lab.agentPid(w2) > 0, 'the agent lives');
    await sleep(200);
    const initialised = await lab.try(['swarm', 'init', '--advertise-addr', w2.address], w2, 20_000);
    assert.equal(initialised.code, 0, initialised.stderr);
    assert.equal((await lab.try(['swarm', 'leave', '--force'], w2)).code, 0);
    await outside(w2);
  });

  test('a rotated token: the old one is worth nothing, the new one lets a node in', async () => {
    const old = await token();
    const fresh = await token('worker', '--rotate');
    assert.notEqual(fresh, old);
    assert.equal(fresh.slice(0, fresh.lastIndexOf('-')), old.slice(0, old.lastIndexOf('-')), 'the digest stays');
    assert.match((await join(old)).stderr, /A valid join token is necessary to join this cluster/);
    const joined = await join(fresh);
    assert.equal(joined.code, 0, joined.stderr);
    assert.equal(joined.stdout.trim(), 'This node joined a swarm as a worker.');
    const id = await idOf(w2);
    await eventually('the node is ready', 5000, async () => assert.equal(await stateOf(id), 'ready'));
    await lab.running('all', 3);
    await eventually('its port', 5000, () => lab.ask(lab.plan.clientNetns, w2.address, 8080));
    const others = (await lab.docker('node', 'ls', '--format', '{{.ID}} {{.Hostname}}')).split('\n').filter((line) =>
      / w2$/.test(line)).map((line) => line.split(' ')[0]);
    const former = others.find((other) => other !== id);
    assert.ok(former, 'the former self is still listed');
    await eventually('the former self is down', 20_000, async () => assert.equal(await stateOf(former), 'down'));
    await lab.docker('node', 'rm', former);
    assert.equal(await count(), 3);
  });

  test('what a certificate allows: a worker\'s no manager method, an expired or foreign one nothing', async () => {
    const own = await credentialsOf(lab.manager);
    assert.equal((await call(w1, own, 'Health', 'Check', { service: 'Raft' })).response['status'], 'SERVING_STATUS_SERVING');
    assert.equal((await call(w1, own, 'Health', 'Check', { service: 'nonsense' })).code, 5);
    assert.equal((await call(w1, own, 'CA', 'GetUnlockKey')).code, 0);
    const worker = await credentialsOf(w1);
    for (const [service, method] of [['Health', 'Check'], ['CA', 'GetUnlockKey']] as const) {
      const answer = await call(w1, worker, service, method);
      assert.equal(answer.code, 7);
      assert.match(answer.details, /^Permission denied: unauthorized peer role: .*remote certificate not part of OUs: \[swarm-manager\]$/);
    }
    const nobody: Credentials = { rootCa: worker.rootCa, key: undefined, certificate: undefined, serverName: 'swarm-manager' };
    const anonymous = await call(w1, nobody, 'Dispatcher', 'Heartbeat', { sessionId: 'x' });
    assert.equal(anonymous.code, 7);
    assert.match(anonymous.details, /no client certificates in request/);
    const id = await idOf(w1);
    // The same key, role and name, valid now: a session error, not a refusal.
    assert.equal((await call(w1, await signed(id, 'swarm-worker', Date.now(), HOUR_MS), 'Dispatcher', 'Heartbeat',
      { sessionId: 'x' })).code, 3);
    const expired = await call(w1, await signed(id, 'swarm-worker', Date.now() - 3 * HOUR_MS, HOUR_MS), 'Dispatcher', 'Heartbeat',
      { sessionId: 'x' });
    assert.ok([14, 4].includes(expired.code), JSON.stringify(expired));
    const elsewhere = { ...await rootOf(), clusterId: 'another' };
    const { key, csr } = await createCsr();
    const certificate = unwrap(await signCsr(elsewhere, { csr, nodeId: id, organization: 'another', role: 'swarm-worker',
      expiryMs: HOUR_MS, nowMs: Date.now() }));
    const foreign = await call(w1, { ...worker, key, certificate }, 'Dispatcher', 'Heartbeat', { sessionId: 'x' });
    assert.equal(foreign.code, 7);
    assert.match(foreign.details, /remote certificate not part of organization/);
  });

  test('a certificate late in its life is renewed, and the node goes on with the new one', async () => {
    const id = await idOf(w1);
    await lab.killAgent(w1);
    const files = new SwarmFiles(w1.stateDir);
    // 90 days, of which 80 are over.
    const { rootCa, key, certificate } = await signed(id, 'swarm-worker', Date.now() - 80 * 24 * HOUR_MS, 90 * 24 * HOUR_MS);
    await files.saveCertificates({ rootCa: rootCa as string, key: key as string, certificate: certificate as string });
    await startAgent(lab.plan, w1);
    const renewed = await eventually('another certificate', 10_000, async () => {
      const now = await files.loadCertificates();
      assert.notEqual(now.certificate, certificate);
      return now;
    });
    const [leaf] = bundle(renewed.certificate);
    assert.ok(leaf && Date.parse(leaf.validTo) > Date.now() + 89 * 24 * HOUR_MS, leaf?.validTo ?? '');
    assert.equal(await idOf(w1), id);
    const answer = await call(w1, { ...renewed, serverName: 'swarm-manager' }, 'Dispatcher', 'Heartbeat', { sessionId: 'x' });
    assert.equal(answer.code, 3, 'the new certificate is let in');
    await lab.docker('service', 'update', '-q', '--force', '--update-monitor', '200ms', 'all');
    await lab.running('all', 3);
    await sleep(1500);
    assert.equal(await stateOf(id), 'ready');
  });

  test('an expired certificate at the start: said in Docker\'s words by an agent that runs; leave and join replace it', async () => {
    const id = await idOf(w1);
    await lab.killAgent(w1);
    const { rootCa, key, certificate } = await signed(id, 'swarm-worker', Date.now() - 3 * HOUR_MS, HOUR_MS);
    const expired = { rootCa: rootCa as string, key: key as string, certificate: certificate as string };
    await new SwarmFiles(w1.stateDir).saveCertificates(expired);
    await startAgent(lab.plan, w1);
    const info = await lab.try(['info', '--format', '{{.Swarm.LocalNodeState}} {{.Swarm.Error}}'], w1);
    assert.match(info.stdout, new RegExp(`^error error while loading TLS certificate in ${w1.stateDir}/swarm/certificates/\\S+: `
      + `certificate \\(1 - ${id}\\) `
      + 'not valid after .* x509: certificate has expired .* To replace them, leave the swarm and join again\\.'));
    assert.match((await lab.try(['node', 'ls'], w1)).stderr,
      /Swarm certificates have expired\. To replace them, leave the swarm and join again\./);
    assert.match((await join(await token(), manager, w1)).stderr, IN_SWARM);
    const ticks = async (): Promise<number> => {
      const stat = (await readFile(`/proc/${await lab.agentPid(w1)}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? [];
      return Number(stat[11]) + Number(stat[12]);
    };
    const before = await ticks();
    await sleep(2000);
    assert.ok(await ticks() - before < 50, 'a quarter of a processor at most');
    const left = await lab.try(['swarm', 'leave'], w1);
    assert.equal(left.code, 0, left.stderr);
    assert.equal((await lab.try(['ps', '-q'], w1)).stdout, '', 'its tasks ended');
    const joined = await join(await token(), manager, w1);
    assert.equal(joined.code, 0, joined.stderr);
    await eventually('the former self is down', 20_000, async () => assert.equal(await stateOf(id), 'down'));
    await lab.docker('node', 'rm', id);
    await lab.running('all', 3);
  });

  test('a removed node is cut off at once and refused for good, until it leaves and joins anew', async () => {
    const id = await idOf(w2);
    const live = await lab.try(['node', 'rm', id]);
    assert.match(live.stderr, /node [0-9a-z]{25} is not down and can't be removed/);
    const last = await lab.try(['node', 'rm', '--force', 'm1']);
    assert.match(last.stderr, /is a cluster manager and is a member of the raft cluster\. It must be demoted to worker before removal/);
    const credentials = await credentialsOf(w2);
    await lab.docker('node', 'rm', '--force', id);
    assert.equal(await count(), 2);
    await eventually('its session ends', 5000, async () => {
      const info = await lab.try(['info', '--format', '{{.Swarm.LocalNodeState}} {{.Swarm.Error}}'], w2);
      assert.match(info.stdout, /node [0-9a-z]{25} was removed from swarm/, info.stdout);
    });
    const heartbeat = await call(w2, credentials, 'Dispatcher', 'Heartbeat', { sessionId: 'x' });
    assert.equal(heartbeat.code, 7);
    assert.match(heartbeat.details, new RegExp(`node ${id} was removed from swarm`));
    const { csr } = await createCsr();
    const renewal = await call(w2, credentials, 'NodeCA', 'IssueNodeCertificate', { csr: Buffer.from(csr).toString('base64') });
    assert.equal(renewal.code, 3, JSON.stringify(renewal));
    await lab.killAgent(w2);
    await startAgent(lab.plan, w2);
    await sleep(2000);
    assert.equal(await count(), 2, 'a restart does not bring it back');
    assert.equal((await lab.try(['swarm', 'leave'], w2)).code, 0);
    const joined = await join(await token());
    assert.equal(joined.code, 0, joined.stderr);
    assert.notEqual(await idOf(w2), id);
    await lab.running('all', 3);
    assert.match(await readFile(path.join(w2.stateDir, 'swarm/state.json'), 'utf8'), /"role": "worker"/);
  });
});
