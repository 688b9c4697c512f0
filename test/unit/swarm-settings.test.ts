// The swarm's settings as `docker swarm update` and `swarm init` send them: each takes effect, is shown, and is refused
// out of its range in Docker's words. And the API of a locked manager. A real node behind the real API.

import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { describe, it } from 'node:test';
import { X509Certificate } from 'node:crypto';
import { pino } from 'pino';
import { startApi, type ApiServer } from '../../src/api/server.js';
import { heartbeatMs } from '../../src/core/dispatcher/sessions.js';
import { SwarmFiles } from '../../src/daemon/swarmstate.js';
import { ApiError, api } from '../../src/lab/dockerapi.js';
import { durationFromMs } from '../../src/lib/time.js';
import { unwrap } from '../../src/lib/result.js';
import { testNodes, type TestNode } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

interface Swarm {
  readonly Version: { readonly Index: number };
  readonly Spec: {
    readonly Orchestration: { TaskHistoryRetentionLimit: number };
    readonly Raft: { SnapshotInterval: number; KeepOldSnapshots: number };
    readonly Dispatcher: { HeartbeatPeriod: number };
    readonly CAConfig: Record<string, unknown>;
    readonly EncryptionConfig: { AutoLockManagers: boolean };
  };
  readonly RootRotationInProgress: boolean;
}

class Docker {
  private readonly node: TestNode;
  private server: ApiServer | undefined;

  constructor(node: TestNode) {
    this.node = node;
  }

  private get socket(): string {
    return path.join(this.node.stateDir, 'api.sock');
  }

  /** Around the agent of now. */
  async open(): Promise<void> {
    await this.close();
    this.server = await startApi({ socketPath: this.socket, backend: this.node.node, logger: pino({ level: 'silent' }) });
  }

  async close(): Promise<void> {
    await this.server?.close();
  }

  ask<T>(method: string, url: string, body?: unknown): Promise<T> {
    return api<T>(this.socket, method, url, body);
  }

  swarm(): Promise<Swarm> {
    return this.ask<Swarm>('GET', '/v1.50/swarm');
  }

  /** As the CLI does it: reads everything, changes its part, sends everything back. */
  async update(change: (spec: Swarm['Spec']) => void, query = ''): Promise<Swarm> {
    const { Spec, Version } = await this.swarm();
    change(Spec);
    await this.ask('POST', `/v1.50/swarm/update?version=${Version.Index}${query}`, Spec);
    return this.swarm();
  }

  /** Status and message of what must be refused. */
  async refused(work: Promise<unknown>): Promise<string> {
    const error = await work.then(() => assert.fail('accepted'), (reason: unknown) => reason);
    assert.ok(error instanceof ApiError, String(error));
    return `${error.status} ${error.message}`;
  }
}

const SECOND_NS = 1_000_000_000;

describe('settings of a swarm', () => {
  const make = testNodes();
  const started = async (request: Parameters<TestNode['init']>[0] = {}): Promise<{ node: TestNode; docker: Docker }> => {
    const node = await make();
    unwrap(await node.init(request));
    const docker = new Docker(node);
    await docker.open();
    return { node, docker };
  };

  it('are shown as they were set, by swarm inspect and by info, at init and at update', async () => {
    const { docker } = await started({
      taskHistoryRetentionLimit: 2, nodeCertExpiryNs: 7_200_000_000_000n, snapshotInterval: 77n, keepOldSnapshots: 3n,
    });
    const first = await docker.swarm();
    assert.equal(first.Spec.Orchestration.TaskHistoryRetentionLimit, 2);
    assert.equal(first.Spec.Raft.SnapshotInterval, 77);
    assert.equal(first.Spec.Raft.KeepOldSnapshots, 3);
    assert.equal(first.Spec.CAConfig['NodeCertExpiry'], 7200 * SECOND_NS);
    const next = await docker.update((spec) => {
      spec.Orchestration.TaskHistoryRetentionLimit = 9;
      spec.Raft.SnapshotInterval = 5;
      spec.Raft.KeepOldSnapshots = 0;
      spec.Dispatcher.HeartbeatPeriod = 3 * SECOND_NS;
      spec.CAConfig['NodeCertExpiry'] = 3600 * SECOND_NS;
    });
    const { Swarm: { Cluster: shown } } = await docker.ask<{ Swarm: { Cluster: Swarm } }>('GET', '/v1.50/info');
    for (const { Spec } of [next, shown]) {
      assert.deepEqual([Spec.Orchestration.TaskHistoryRetentionLimit, Spec.Raft.SnapshotInterval, Spec.Raft.KeepOldSnapshots], [9, 5, 0]);
      assert.equal(Spec.Dispatcher.HeartbeatPeriod, 3 * SECOND_NS);
      assert.deepEqual(Spec.CAConfig, { NodeCertExpiry: 3600 * SECOND_NS });
    }
    await docker.close();
  });

  it('take effect: certificates, heartbeats, snapshots', async () => {
    const { node, docker } = await started();
    await docker.update((spec) => {
      spec.Raft.SnapshotInterval = 3;
      spec.Raft.KeepOldSnapshots = 2;
      spec.Dispatcher.HeartbeatPeriod = 7 * SECOND_NS;
      spec.CAConfig['NodeCertExpiry'] = 5 * 3600 * SECOND_NS;
    });
    const snapshots = async (): Promise<number> => (await readdir(node.file('raft'))).filter((file) => file.endsWith('.snap')).length;
    for (let i = 0; i < 20; i++) await docker.update((spec) => { spec.Orchestration.TaskHistoryRetentionLimit = i; });
    await eventually('three snapshots', 3000, async () => assert.equal(await snapshots(), 3));
    await docker.update((spec) => { spec.Raft.KeepOldSnapshots = 0; });
    for (let i = 0; i < 4; i++) await docker.update((spec) => { spec.Orchestration.TaskHistoryRetentionLimit = i; });
    await eventually('one snapshot', 3000, async () => assert.equal(await snapshots(), 1));
    const worker = await make();
    unwrap(await worker.join(node));
    const { certificate } = await new SwarmFiles(worker.stateDir).loadCertificates();
    const hours = (Date.parse(new X509Certificate(certificate).validTo) - Date.now()) / 3_600_000;
    assert.ok(hours > 4.9 && hours <= 5, `${hours} hours`);
    await docker.close();
  });

  it('are refused out of their range, and nothing changes', async () => {
    const { docker } = await started();
    const before = await docker.swarm();
    const refuse = (change: (spec: Swarm['Spec']) => void): Promise<string> => docker.refused(docker.update(change));
    const rpc = 'rpc error: code = InvalidArgument desc =';
    for (const seconds of [3599, 1, -1]) {
      assert.equal(await refuse((spec) => { spec.CAConfig['NodeCertExpiry'] = seconds * SECOND_NS; }),
        `400 ${rpc} minimum certificate expiry time is: 1h0m0s`);
    }
    assert.equal(await refuse((spec) => { spec.Dispatcher.HeartbeatPeriod = -1; }),
      `400 ${rpc} heartbeat time period cannot be a negative duration`);
    assert.equal(await refuse((spec) => { Object.assign(spec, { Name: 'other' }); }), '400 swarm spec must be named "default"');
    assert.match(await refuse((spec) => { spec.CAConfig['ExternalCAs'] = [{ Protocol: 'cfssl', URL: 'https://ca' }]; }),
      /^501 .*external certificate authorities are not/);
    assert.match(await refuse((spec) => { spec.CAConfig['ExternalCAs'] = [{ Protocol: 'other' }]; }), /^400 invalid protocol: "other"/);
    assert.match(await refuse((spec) => { spec.CAConfig['SigningCAKey'] = 'x'; }),
      /^400 .*if a signing CA key is provided, the signing CA cert must also be provided/);
    assert.match(await refuse((spec) => { spec.Raft.SnapshotInterval = -1; }), /^400 /);
    assert.match(await docker.refused(docker.ask('POST', '/v1.50/swarm/update?version=1', before.Spec)),
      /^500 rpc error: code = Unknown desc = update out of sequence/);
    assert.match(await docker.refused(docker.ask('POST', '/v1.50/swarm/update?version=-1', before.Spec)), /^400 invalid swarm version/);
    assert.deepEqual(await docker.swarm(), before);
    await docker.close();
  });

  it('a heartbeat period is kept within what nodes can follow', () => {
    const kept = (ms: number): number => heartbeatMs(durationFromMs(ms));
    assert.deepEqual([heartbeatMs(undefined), kept(0), kept(0.001), kept(3000), kept(1e12)], [5000, 5000, 1000, 3000, 86_400_000]);
  });

  it('autolock: the key is shown, and rotated only while it is there; a locked manager answers as Docker\'s does', async () => {
    const { node, docker } = await started();
    const keyNow = async (): Promise<string> => (await docker.ask<{ UnlockKey: string }>('GET', '/v1.50/swarm/unlockkey')).UnlockKey;
    assert.equal(await keyNow(), '');
    assert.equal(await docker.refused(docker.ask('POST', '/v1.50/swarm/unlock', { UnlockKey: 'x' })), '409 swarm is not locked');
    await docker.update(() => undefined, '&rotateManagerUnlockKey=true');
    assert.equal(await keyNow(), '');
    const locked = await docker.update((spec) => { spec.EncryptionConfig.AutoLockManagers = true; });
    assert.equal(locked.Spec.EncryptionConfig.AutoLockManagers, true);
    const first = await keyNow();
    await docker.update(() => undefined);
    assert.equal(await keyNow(), first, 'another update leaves it alone');
    await docker.update(() => undefined, '&rotateManagerUnlockKey=true');
    const second = await keyNow();
    assert.notEqual(second, first);
    await docker.close();
    await node.restart();
    await docker.open();
    const text = 'Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.';
    for (const url of ['/swarm', '/nodes', '/services', '/tasks', '/secrets', '/configs', '/swarm/unlockkey', '/nodes/self']) {
      assert.equal(await docker.refused(docker.ask('GET', `/v1.50${url}`)), `503 ${text}`, url);
    }
    const { Swarm: info } = await docker.ask<{ Swarm: Record<string, unknown> }>('GET', '/v1.50/info');
    const { LocalNodeState, ControlAvailable, Error: error, NodeID, Cluster } = info;
    assert.deepEqual([LocalNodeState, ControlAvailable, error, NodeID, Cluster], ['locked', false, text, '', undefined]);
    for (const [verb, body] of Object.entries({
      init: { ListenAddr: '0.0.0.0:2377', AdvertiseAddr: '127.0.0.1', Spec: {} },
      join: { ListenAddr: '0.0.0.0:2377', RemoteAddrs: ['127.0.0.1:1'], JoinToken: node.workerToken },
    })) assert.match(await docker.refused(docker.ask('POST', `/v1.50/swarm/${verb}`, body)), /^503 This node is already part of a swarm/);
    assert.match(await docker.refused(docker.ask('POST', '/v1.50/swarm/leave')),
      /^503 Swarm is encrypted and locked\. Please unlock it first/);
    assert.equal(await docker.refused(docker.ask('POST', '/v1.50/swarm/unlock', { UnlockKey: 'nonsense' })), '400 invalid key string');
    assert.equal(await docker.refused(docker.ask('POST', '/v1.50/swarm/unlock', { UnlockKey: first })),
      '401 swarm could not be unlocked: invalid key provided');
    await docker.ask('POST', '/v1.50/swarm/unlock', { UnlockKey: second });
    assert.equal(await keyNow(), second);
    await docker.close();
  });

  it('a worker and a node outside any swarm have nothing to unlock', async () => {
    const [node, worker, outside] = [await make(), await make(), await make()];
    unwrap(await node.init());
    unwrap(await worker.join(node));
    const answers = [
      [worker, "Worker nodes can't be used to view or modify"], [outside, 'Use "docker swarm init" or "docker swarm join"'],
    ] as const;
    for (const [who, words] of answers) {
      const docker = new Docker(who);
      await docker.open();
      const answer = await docker.refused(docker.ask('POST', '/v1.50/swarm/unlock', { UnlockKey: 'x' }));
      assert.ok(answer.startsWith('503 This node is not a swarm manager. ') && answer.includes(words), answer);
      await docker.close();
    }
  });
});
