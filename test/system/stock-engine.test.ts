// A stock Docker Engine (Debian's dockerd 20.10) as a worker of our swarm: it joins with the docker CLI, runs tasks, tells
// logs, and lives through what happens to a swarm. A change of leader is in managers-keys.test.ts.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { clone, create } from '@bufbuild/protobuf';
import { updateAction } from '../../src/core/store/actions.js';
import type { Consensus } from '../../src/daemon/manager/consensus.js';
import { openAlone } from '../support/consensus.js';
import { SwarmFiles } from '../../src/daemon/swarmstate.js';
import { bundle, createCsr, signCsr } from '../../src/io/x509/certificates.js';
import { startAgent } from '../../src/lab/lab.js';
import { unwrap } from '../../src/lib/result.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import { IssuanceStatus_State, NodeSchema } from '../../src/model/proto/swarmkit_pb.js';
import { IMAGE, Lab, eventually, finished, sleep } from './fixture.js';
import { StockEngine } from './stock-engine.js';

const DAY_MS = 24 * 3_600_000;
const ON_E1 = 'node.hostname==e1';
const NOT_ON_M1 = 'node.hostname!=m1';
/** Ends at SIGTERM within the loop's second, says what it does. */
const TALK = 'trap "exit 0" TERM; echo begin $WHO; i=0; while true; do i=$((i+1)); echo tick $i; sleep 1; done';

describe('a stock Docker Engine as a worker', { timeout: 240_000 }, () => {
  let lab: Lab;
  let engine: StockEngine;
  let id: string;

  before(async () => {
    lab = await Lab.up('tsstock', { workers: 1 });
    engine = await StockEngine.start(lab, 'e1', '192.168.99.201');
  });
  after(async () => {
    await engine?.end();
    await lab?.down();
  });

  const token = (...flags: string[]): Promise<string> => lab.docker('swarm', 'join-token', '-q', ...flags, 'worker');
  const service = (name: string, constraint: string, ...args: string[]): Promise<string> => lab.docker(
    'service', 'create', '-q', '-d', '--name', name, '--constraint', constraint, '--restart-delay', '200ms',
    '--stop-grace-period', '2s', ...args,
  );
  const nodeState = (node = id): Promise<string> => lab.docker('node', 'inspect', '--format', '{{.Status.State}}', node);
  const isReady = async (timeoutMs: number): Promise<void> => {
    await eventually('the engine is ready', timeoutMs, async () => assert.equal(await nodeState(), 'ready'));
  };
  const pending = (service: string): Promise<string> => eventually(`${service} says why it is pending`, 5000, async () => {
    const line = await lab.docker('service', 'ps', '--no-trunc', '--format', '{{.Node}}|{{.CurrentState}}|{{.Error}}', service);
    assert.match(line, /^\|Pending .*\|"no suitable node/);
    return line;
  });
  /** The manager's store, while its agent is down. */
  const stopped = async <T>(work: (consensus: Consensus) => Promise<T>, directory?: string): Promise<T> => {
    const files = new SwarmFiles(lab.manager.stateDir);
    const state = await files.load();
    assert.ok(state);
    const consensus = await openAlone(directory ?? files.raftDir, (await files.raftKeys()).current, BigInt(state.raftId), (error) => { throw error; });
    try {
      return await work(consensus);
    } finally {
      await consensus.close();
    }
  };

  test('is told that it cannot be a manager, and leaves nothing behind', async () => {
    const joined = await engine.join(await lab.docker('swarm', 'join-token', '-q', 'manager'));
    assert.equal(joined.code, 1);
    assert.match(joined.stderr, /a stock Docker Engine can be a worker of this swarm, not a manager: join with the worker token/);
    assert.equal((await engine.docker('info', '--format', '{{.Swarm.LocalNodeState}}')), 'inactive');
    assert.equal((await lab.docker('node', 'ls', '-q')).split('\n').length, lab.plan.nodes.length);
  });

  test('joins with the worker token, is Ready, and knows its manager', async () => {
    const joined = await engine.join(await token());
    assert.equal(joined.code, 0, joined.stderr);
    assert.equal(joined.stdout.trim(), 'This node joined a swarm as a worker.');
    id = await engine.nodeId();
    await isReady(5000);
    assert.match(await lab.docker('node', 'ls'), new RegExp(`${id}\\s+e1\\s+Ready\\s+Active\\s+20\\.10`));
    const shown = await lab.docker('node', 'inspect', '--format', '{{.Status.Addr}} {{.Description.Platform.OS}}', id);
    assert.equal(shown, `${engine.address} linux`);
    const format = '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}} {{(index .Swarm.RemoteManagers 0).Addr}}';
    assert.equal(await engine.docker('info', '--format', format), `active false ${lab.manager.address}:2377`);
    await eventually('the ingress network', 5000, async () =>
      assert.match(await engine.docker('network', 'ls'), /ingress\s+overlay\s+swarm/));
    assert.match((await engine.try('node', 'ls')).stderr, /This node is not a swarm manager/);
  });

  test('runs replicas without networks: environment, templates, secrets, configs, exit codes', async () => {
    await lab.docker('config', 'create', 'greeting', '/etc/hostname');
    await lab.api('POST', '/v1.40/secrets/create', { Name: 'word', Data: Buffer.from('swordfish').toString('base64') });
    await service('talk', ON_E1, '--replicas', '2', '-e', 'WHO={{.Node.Hostname}}-{{.Task.Slot}}',
      '--secret', 'word', '--config', 'greeting', IMAGE, 'sh', '-c', TALK);
    const tasks = await lab.running('talk', 2);
    assert.ok(tasks.every((task) => task.NodeID === id));
    const containers = await engine.containers('talk');
    assert.deepEqual([...containers.keys()].sort(), tasks.map((task) => `talk.${task.Slot}.${task.ID}`).sort());
    for (const task of tasks) assert.equal(containers.get(`talk.${task.Slot}.${task.ID}`), task.Status.ContainerStatus?.ContainerID);
    const [first] = containers.keys();
    assert.ok(first);
    assert.equal(await engine.docker('exec', first, 'cat', '/run/secrets/word'), 'swordfish');
    assert.notEqual(await engine.docker('exec', first, 'cat', '/greeting'), '');
    await service('fails', ON_E1, '--restart-condition', 'none', IMAGE, 'sh', '-c', 'exit 3');
    await eventually('the exit code', 10_000, async () =>
      assert.match(await lab.docker('service', 'ps', '--no-trunc', 'fails'), /e1\s+Shutdown\s+Failed .*"task: non-zero exit \(3\)"/));
    await lab.docker('service', 'rm', 'fails');
  });

  test('takes the barest service the API allows', async () => {
    const made = await lab.api<{ ID: string }>('POST', '/v1.25/services/create', {
      Name: 'bare', TaskTemplate: { ContainerSpec: { Image: IMAGE, Args: ['sleep', '1000'] }, Placement: { Constraints: [ON_E1] } },
      Mode: { Replicated: { Replicas: 1 } },
    });
    assert.ok(made.ID);
    await lab.running('bare', 1);
    await lab.docker('service', 'update', '-q', '-d', '--stop-grace-period', '0s', 'bare');
    await lab.docker('service', 'rm', 'bare');
  });

  test('is given no task with a network or a published port, and the reason is said', async () => {
    await lab.docker('network', 'create', '-d', 'overlay', 'net');
    const words = /no Skein networks or published ports on 1 stock engine/;
    for (const args of [['--network', 'net'], ['-p', '8080:80'], ['--publish', 'published=8081,target=80,mode=host']]) {
      await service('picky', ON_E1, ...args, IMAGE, '/bin/probe', 'serve', '80');
      assert.match(await pending('picky'), words);
      await lab.docker('service', 'rm', 'picky');
    }
    await service('spread', NOT_ON_M1, '--replicas', '4', '--network', 'net', IMAGE, '/bin/probe', 'serve', '80');
    assert.ok((await lab.running('spread', 4)).every((task) => task.NodeID !== id));
    await lab.docker('service', 'rm', 'spread');
  });

  test('streams its logs: all, the last lines, following', async () => {
    await eventually('both tasks\' lines', 5000, async () => {
      const log = await lab.docker('service', 'logs', 'talk');
      for (const slot of [1, 2]) assert.match(log, new RegExp(`talk\\.${slot}\\.\\S+@e1\\s+\\| begin e1-${slot}`));
    });
    assert.equal((await lab.docker('service', 'logs', '--raw', '-n', '1', 'talk')).split('\n').length, 2);
    const [task] = await lab.running('talk', 2);
    assert.match(await lab.docker('service', 'logs', task?.ID ?? ''), /^talk\.1\.\S+@e1\s+\| begin e1-1/);
    const follow = ['-H', `unix://${lab.manager.socket}`, 'service', 'logs', '-f', '--raw', '-n', '0', 'talk'];
    const child = spawn(lab.cli, follow, { stdio: ['ignore', 'pipe', 'pipe'] });
    const output = finished(child);
    await sleep(3500);
    child.kill('SIGINT');
    const lines = (await output).stdout.trim().split('\n');
    assert.ok(lines.length >= 4 && lines.every((line) => /^tick \d+$/.test(line)), `followed ${JSON.stringify(lines)}`);
  });

  test('keeps its containers over a SIGKILL of the manager, and renews its certificate when marked meanwhile', async () => {
    const containers = await engine.containers('talk');
    const before = await engine.certificate();
    await lab.killAgent(lab.manager);
    await stopped(async (consensus) => {
      const node = clone(NodeSchema, consensus.store.get('node', id) ?? assert.fail('the node is in the store'));
      assert.ok(node.certificate?.status);
      node.certificate.status.state = IssuanceStatus_State.ROTATE;
      const time = timestampFromMs(Date.now());
      unwrap(await consensus.propose(create(CommandSchema, { id: 'rotate', time, actions: [updateAction('node', node)] })));
    });
    await startAgent(lab.plan, lab.manager);
    await isReady(15_000);
    await eventually('another certificate', 10_000, async () => assert.notEqual(await engine.certificate(), before));
    await lab.killAgent(lab.manager);
    await startAgent(lab.plan, lab.manager);
    // With its new certificate dockerd offers no ALPN (trap T1).
    await eventually('a session with the new certificate', 15_000, async () => assert.match(await lab.docker('node', 'ls'), /e1\s+Ready/));
    assert.deepEqual(await engine.containers('talk'), containers);
    assert.deepEqual((await lab.running('talk', 2)).map((task) => containers.get(`talk.${task.Slot}.${task.ID}`)),
      [...containers].sort().map(([, container]) => container));
    await lab.docker('service', 'scale', '-d', 'talk=3');
    await lab.running('talk', 3);
    assert.match(await lab.docker('service', 'logs', '--raw', '-n', '1', 'talk'), /tick/);
  });

  test('lives through a rotation of the token; a joining engine needs the new one', async () => {
    const old = await token();
    const fresh = await token('--rotate');
    const other = await StockEngine.start(lab, 'e2', '192.168.99.202');
    try {
      assert.match((await other.join(old)).stderr, /A valid join token is necessary to join this cluster/);
      assert.equal((await other.join(fresh)).code, 0);
      const otherId = await other.nodeId();
      await lab.docker('node', 'rm', '--force', otherId);
      await eventually('it is cut off', 10_000, async () => assert.match(await other.log(), /node \S+ was removed from swarm/));
      assert.equal((await other.try('swarm', 'leave')).code, 0);
    } finally {
      await other.end();
    }
    assert.equal(await nodeState(), 'ready');
    assert.equal((await engine.containers('talk')).size, 3);
  });

  test('is not promoted', async () => {
    const { code, stderr } = await lab.try(['node', 'promote', id]);
    assert.equal(code, 1);
    assert.match(stderr, /cannot be promoted: a stock Docker Engine can be a worker of this swarm, not a manager/);
    assert.equal(await lab.docker('node', 'inspect', '--format', '{{.Spec.Role}} {{.ManagerStatus}}', id), 'worker <nil>');
  });

  test('labels, pause, drain and active take effect', async () => {
    await lab.docker('node', 'update', '--label-add', 'disk=ssd', id);
    await service('labelled', 'node.labels.disk==ssd', IMAGE, 'sh', '-c', TALK);
    assert.equal((await lab.running('labelled', 1))[0]?.NodeID, id);
    await lab.docker('service', 'rm', 'labelled');
    await service('free', NOT_ON_M1, '--replicas', '2', IMAGE, 'sh', '-c', TALK);
    assert.equal((await lab.running('free', 2)).filter((task) => task.NodeID === id).length, 1, 'spread over both');
    await lab.docker('node', 'update', '--availability', 'pause', id);
    await lab.docker('service', 'scale', '-d', 'free=4');
    assert.equal((await lab.running('free', 4)).filter((task) => task.NodeID === id).length, 1, 'no new ones');
    await lab.docker('node', 'update', '--availability', 'drain', id);
    await eventually('the engine is empty', 15_000, async () => assert.equal(await engine.docker('ps', '-q'), ''));
    assert.equal((await lab.running('free', 4)).filter((task) => task.NodeID === id).length, 0);
    await lab.docker('node', 'update', '--availability', 'active', id);
    assert.equal((await lab.running('talk', 3)).every((task) => task.NodeID === id), true, 'what can be nowhere else comes back');
    await lab.docker('service', 'rm', 'free');
  });

  test('its own restart: SIGTERM and SIGKILL; the same node, its tasks again', async () => {
    for (const end of ['stop', 'kill'] as const) {
      const tasks = (await lab.running('talk', 3)).map((task) => task.ID);
      await engine[end]();
      await engine.up();
      assert.equal(await engine.nodeId(), id);
      await isReady(15_000);
      await eventually(`new tasks after ${end}`, 20_000, async () => {
        const now = await lab.running('talk', 3, 0);
        assert.ok(now.every((task) => !tasks.includes(task.ID)), `after ${end}`);
        assert.equal((await engine.containers('talk')).size, 3);
      });
    }
  });

  test('killed and not started again: Down by SwarmKit\'s rule, its tasks move; started again, it lets go of them', async () => {
    await service('movable', NOT_ON_M1, '--replicas', '2', IMAGE, 'sh', '-c', TALK);
    assert.equal((await lab.running('movable', 2)).filter((task) => task.NodeID === id).length, 1);
    const since = Date.now();
    await engine.kill();
    await eventually('it is down', 20_000, async () => assert.equal(await nodeState(), 'down'));
    const ms = Date.now() - since;
    assert.ok(ms > 9000 && ms < 17_000, `three periods after its last heartbeat: ${ms} ms after its end`);
    await eventually('its task moved', 10_000, async () => {
      const tasks = await lab.running('movable', 2, 0);
      assert.equal(tasks.filter((task) => task.NodeID === id).length, 0);
    });
    await engine.up();
    await isReady(15_000);
    await lab.running('talk', 3);
    await eventually('nothing left of what moved', 10_000, async () => assert.equal((await engine.containers('movable')).size, 0));
    await lab.docker('service', 'rm', 'movable');
  });

  test('renews a certificate that is late in its life', async () => {
    const copy = await mkdtemp(path.join(lab.work, 'raft-'));
    await cp(new SwarmFiles(lab.manager.stateDir).raftDir, copy, { recursive: true });
    const cluster = await stopped(async ({ store }) => store.cluster(), copy);
    await rm(copy, { recursive: true });
    assert.ok(cluster?.rootCa);
    const { key, csr } = await createCsr();
    const root = { key: Buffer.from(cluster.rootCa.caKey).toString(), certificate: Buffer.from(cluster.rootCa.caCert).toString() };
    assert.equal(await engine.rootCertificate(), root.certificate, 'byte for byte (trap T9)');
    const late = unwrap(await signCsr(root, {
      csr, nodeId: id, organization: cluster.id, role: 'swarm-worker', expiryMs: 90 * DAY_MS, nowMs: Date.now() - 80 * DAY_MS,
    }));
    await lab.docker('service', 'scale', '-d', 'talk=1');
    await engine.stop();
    await engine.replaceCertificate(late, key);
    await engine.up();
    const renewed = await eventually('another certificate', 15_000, async () => {
      const now = await engine.certificate();
      assert.notEqual(now, late);
      return now;
    });
    const [leaf] = bundle(renewed);
    assert.ok(leaf && Date.parse(leaf.validTo) > Date.now() + 89 * DAY_MS, leaf?.validTo ?? '');
    await isReady(10_000);
    await lab.docker('service', 'scale', '-d', 'talk=2');
    await lab.running('talk', 2);
  });

  test('follows a rotation of the root, with its tasks running', async () => {
    const old = await engine.rootCertificate();
    const before = await engine.containers('talk');
    const rotated = await lab.try(['swarm', 'ca', '--rotate', '-q'], lab.manager, 60_000);
    assert.equal(rotated.code, 0, rotated.stderr);
    await eventually('it trusts the new root', 20_000, async () => {
      const now = await engine.rootCertificate();
      assert.notEqual(now, old);
      assert.equal(now, `${await lab.docker('swarm', 'ca')}\n`);
    });
    await eventually('it is ready under it', 20_000, async () => {
      assert.match(await lab.docker('node', 'ls', '--format', '{{.Hostname}} {{.Status}} {{.TLSStatus}}'), /^e1 Ready Ready$/m);
    });
    await lab.docker('service', 'scale', '-d', 'talk=3');
    await lab.running('talk', 3);
    const after = await engine.containers('talk');
    assert.ok(before.size === 2 && [...before].every(([task, container]) => after.get(task) === container), 'the same containers');
    await lab.docker('service', 'scale', '-d', 'talk=2');
    await lab.running('talk', 2);
  });

  test('leaves: its containers end, it is Down, can be removed, and joins again as another node', async () => {
    assert.match((await lab.try(['node', 'rm', id])).stderr, /is not down and can't be removed/);
    assert.equal(await engine.docker('swarm', 'leave'), 'Node left the swarm.');
    assert.equal(await engine.docker('ps', '-aq'), '');
    assert.equal(await engine.docker('info', '--format', '{{.Swarm.LocalNodeState}}'), 'inactive');
    await eventually('it is down', 20_000, async () => assert.equal(await nodeState(), 'down'));
    await lab.docker('node', 'rm', id);
    assert.equal((await engine.join(await token())).code, 0);
    assert.notEqual(await engine.nodeId(), id);
    id = await engine.nodeId();
    await lab.running('talk', 2);
  });

  test('nothing in its log of all this that points at a broken protocol', async () => {
    assert.doesNotMatch(await engine.log(),
      /panic:|SIGSEGV|out of sequence|incorrect number of keys|failed to find a load balancer IP|no remote hosts/);
  });
});
