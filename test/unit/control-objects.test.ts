// Networks, nodes, secrets, configs and the cluster: refusals in Docker's words, and what a change leaves behind.

import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { updateCluster } from '../../src/core/control/cluster.js';
import { createNetwork, removeNetwork } from '../../src/core/control/networks.js';
import { VNI_OPTION } from '../../src/model/network.js';
import { removeNode, updateNode } from '../../src/core/control/nodes.js';
import { createPayload, removePayload, updatePayload } from '../../src/core/control/payloads.js';
import { createService, removeService } from '../../src/core/control/services.js';
import { overlaps, parseSubnet } from '../../src/core/control/subnet.js';
import { createAction } from '../../src/core/store/actions.js';
import { createCsr, createRootCa, signCsr } from '../../src/io/x509/certificates.js';
import { notAfterMs } from '../../src/lib/der.js';
import { ok, unwrap } from '../../src/lib/result.js';
import { durationFromMs, timestampMs } from '../../src/lib/time.js';
import { toPairs } from '../../src/model/pairs.js';
import {
  AnnotationsSchema, CAConfigSchema, CertificateSchema, ClusterSchema, ClusterSpecSchema, DriverSchema, JoinTokensSchema,
  NodeRole, NodeSchema,
  NetworkSchema, NetworkSpecSchema, NodeSpecSchema, NodeSpec_Availability,
  NodeStatusSchema, NodeStatus_State, RootCASchema, SecretSpecSchema, TaskSchema,
  TaskState, TaskStatusSchema, type Node, type NetworkSpec,
} from '../../src/model/proto/swarmkit_pb.js';
import { network, published, spec, World } from '../support/control.js';

const OVERLAP = 'invalid pool request: Pool overlaps with other one on this address space';

function add(world: World, request: NetworkSpec): string {
  return world.run((view, context) => createNetwork(view, request, context));
}

test('subnets: parse, overlap, both families', () => {
  const parse = (text: string): NonNullable<ReturnType<typeof parseSubnet>> => parseSubnet(text) ?? assert.fail(text);
  assert.equal(overlaps(parse('10.0.0.0/8'), parse('10.1.2.0/24')), true);
  assert.equal(overlaps(parse('10.0.0.0/24'), parse('10.0.1.0/24')), false);
  assert.equal(overlaps(parse('fd00::/8'), parse('fd00:1::/64')), true);
  assert.equal(overlaps(parse('fd00::/8'), parse('10.0.0.0/8')), false);
  assert.equal(parse('10.0.0.1/24').canonical, false);
  for (const bad of ['10.0.0.0', '10.0.0/24', '10.0.0.0/33', '256.0.0.0/8', '01.0.0.0/8', 'fd00::1::/64', 'g::/8', '::/129']) {
    assert.equal(parseSubnet(bad), undefined, bad);
  }
});

test('networks: refusals', () => {
  const world = new World();
  world.addIngress();
  add(world, network('net1', { subnet: '10.9.0.0/24' }));
  const refusal = (request: NetworkSpec): string => world.refused((view, context) => createNetwork(view, request, context)).message;
  assert.equal(refusal(network('net1')), 'network with name net1 already exists');
  assert.equal(refusal(network('net2', { subnet: '10.9.0.128/25' })), OVERLAP);
  assert.equal(refusal(network('net2', { subnet: '10.0.0.0/16' })), OVERLAP);
  assert.match(refusal(network('i2', { ingress: true })), /AlreadyExists desc = ingress network \(.*\) is already present/);
  assert.match(refusal(network('x', { subnet: '10.9.9.9/24' })), /invalid subnet 10.9.9.9\/24: it should be 10.9.9.0\/24/);
  assert.match(refusal(network('x', { subnet: 'nonsense' })), /ipam configuration: invalid subnet nonsense/);
  assert.match(refusal(network('x', { subnet: '10.8.0.0/24', gateway: '10.7.0.1' })), /does not contain gateway 10.7.0.1/);
  assert.match(refusal(network('x', { subnet: '10.8.0.0/30' })), /between 8 and 29/);
  assert.match(refusal(network('x', { driver: 'macvlan' })), /only overlay networks/);
  assert.match(refusal(network('host')), /predefined host network/);
  // Refused, not accepted and then silently dead.
  const vni = (text: string): NetworkSpec => create(NetworkSpecSchema, {
    ...network('x'), driverConfig: create(DriverSchema, { name: 'overlay', options: toPairs({ [VNI_OPTION]: text }) }),
  });
  for (const text of ['abc', '', '0', '-1', '1.5', '16777216', '4097,x']) {
    const wrong = text.split(',').at(-1) ?? '';
    assert.ok(refusal(vni(text)).includes(`invalid vxlan id value "${wrong}" passed: `), text);
  }
  const encrypted = create(DriverSchema, { name: 'overlay', options: toPairs({ encrypted: '' }) });
  assert.match(refusal(create(NetworkSpecSchema, { ...network('x'), driverConfig: encrypted })), /encrypted overlay networks are not supported yet/);
  assert.match(refusal(create(NetworkSpecSchema, { ...network('x'), ipv6Enabled: true })), /IPv6 in overlay networks is not supported yet/);
});

test('the records of node-local networks are neither made nor removed by users', () => {
  const world = new World();
  const labels = toPairs({ 'com.docker.swarm.predefined': 'true' });
  const request = create(NetworkSpecSchema, { ...network('x'), annotations: create(AnnotationsSchema, { name: 'x', labels }) });
  assert.match(world.refused((view, context) => createNetwork(view, request, context)).message,
    /PermissionDenied desc = label com.docker.swarm.predefined is for internally created predefined networks and cannot be applied by users/);
  const record = create(NetworkSchema, {
    id: 'local1', spec: create(NetworkSpecSchema, { annotations: create(AnnotationsSchema, { name: 'host', labels }) }),
  });
  world.run(() => ok({ actions: [createAction('network', record)], value: undefined }));
  assert.match(world.refused((view) => removeNetwork(view, 'local1')).message, /local1 is a pre-defined network and cannot be removed/);
});

test('a network in use is kept; the tasks of a removed service do not hold it', () => {
  const world = new World();
  const id = add(world, network('net1'));
  const service = world.run((view, context) => createService(view,
    spec('web', { TaskTemplate: { ContainerSpec: { Image: 'x' }, Networks: [{ Target: 'net1' }] } }), context));
  const refusal = (): string => world.refused((view) => removeNetwork(view, 'net1')).message;
  assert.equal(refusal(), `rpc error: code = FailedPrecondition desc = network ${id} is in use by service ${service}`);
  const stored = world.store.get('service', service);
  world.add('task', create(TaskSchema, {
    id: 'task1', serviceId: service, desiredState: TaskState.RUNNING,
    status: create(TaskStatusSchema, { state: TaskState.RUNNING }), ...(stored?.spec?.task === undefined ? {} : { spec: stored.spec.task }),
  }));
  world.run((view) => removeService(view, 'web'));
  world.run((view) => removeNetwork(view, 'net1'));
  assert.equal(world.store.list('network').length, 0);
});

test('the ingress network stays while a service publishes', () => {
  const world = new World();
  const id = world.addIngress();
  const service = world.run((view, context) => createService(view, spec('web', published(80)), context));
  assert.match(world.refused((view) => removeNetwork(view, id)).message,
    new RegExp(`ingress network cannot be removed because service ${service} depends on it`));
});

function node(id: string, role: NodeRole): Node {
  return create(NodeSchema, {
    id, role, spec: create(NodeSpecSchema, { annotations: create(AnnotationsSchema), desiredRole: role }),
    status: create(NodeStatusSchema, { state: NodeStatus_State.READY }),
  });
}

test('nodes: update and removal', () => {
  const world = new World();
  world.add('cluster', create(ClusterSchema, { id: 'c1', spec: create(ClusterSpecSchema) }));
  world.add('node', node('m1', NodeRole.MANAGER));
  world.add('node', node('w1', NodeRole.WORKER));
  world.add('task', create(TaskSchema, { id: 't1', nodeId: 'w1', status: create(TaskStatusSchema, { state: TaskState.RUNNING }) }));
  const version = (id: string): bigint => world.store.get('node', id)?.meta?.version?.index ?? 0n;
  const wanted = (desiredRole: NodeRole): ReturnType<typeof create<typeof NodeSpecSchema>> =>
    create(NodeSpecSchema, { desiredRole, availability: NodeSpec_Availability.DRAIN, annotations: create(AnnotationsSchema, { labels: toPairs({ a: 'b' }) }) });
  const refusal = (id: string, desiredRole: NodeRole, at = version(id)): string =>
    world.refused((view) => updateNode(view, { id, version: at, spec: wanted(desiredRole) })).message;
  assert.match(refusal('m1', NodeRole.WORKER), /attempting to demote the last manager of the swarm/);
  assert.match(refusal('w1', NodeRole.WORKER, 77n), /update out of sequence/);
  world.run((view) => updateNode(view, { id: 'w1', version: version('w1'), spec: wanted(NodeRole.WORKER) }));
  assert.equal(world.store.get('node', 'w1')?.spec?.availability, NodeSpec_Availability.DRAIN);

  const removal = (id: string, force: boolean): string => world.refused((view, context) => removeNode(view, { id, force }, context)).message;
  assert.match(removal('m1', true), /is a cluster manager and is a member of the raft cluster/);
  assert.match(removal('w1', false), /node w1 is not down and can't be removed/);
  world.run((view, context) => removeNode(view, { id: 'w1', force: true }, context));
  assert.equal(world.store.get('node', 'w1'), undefined);
  assert.equal(world.store.get('task', 't1')?.status?.state, TaskState.ORPHANED);
  assert.deepEqual(world.store.cluster()?.blacklistedCertificates.map((x) => x.key), ['w1']);
});

test('nodes: a removed one stays barred for as long as any certificate of it may be valid, and a week; not for ever', async () => {
  const world = new World();
  const { nowMs } = world.context();
  const DAY_MS = 24 * 3_600_000;
  world.add('cluster', create(ClusterSchema, { id: 'c1', spec: create(ClusterSpecSchema, {
    caConfig: create(CAConfigSchema, { nodeCertExpiry: durationFromMs(3_600_000) }),
  }) }));
  const { csr } = await createCsr();
  const request = { csr, organization: 'c1', role: 'swarm-worker', nowMs } as const;
  const root = await createRootCa(nowMs);
  for (const [nodeId, expiryMs] of [['long', 400 * DAY_MS], ['far', 40 * 365 * DAY_MS], ['short', 3_600_000]] as const) {
    const pem = unwrap(await signCsr(root, { ...request, nodeId, expiryMs }));
    assert.equal(notAfterMs(Buffer.from(`text\n${pem}`)), Date.parse(new X509Certificate(pem).validTo));
    const certificate = create(CertificateSchema, { certificate: Buffer.from(pem) });
    world.add('node', Object.assign(node(nodeId, NodeRole.WORKER), { certificate }));
  }
  world.add('node', node('none', NodeRole.WORKER));
  for (const text of ['', 'garbage', '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----']) {
    assert.equal(notAfterMs(Buffer.from(text)), undefined);
  }
  for (const id of ['long', 'far', 'short', 'none']) world.run((view, context) => removeNode(view, { id, force: true }, context));
  const barred = (): string[] => world.store.cluster()?.blacklistedCertificates.map((x) => x.key) ?? [];
  const days = Object.fromEntries(world.store.cluster()?.blacklistedCertificates.map(({ key, value }) =>
    [key, Math.round((timestampMs(value?.expiry) - nowMs) / DAY_MS)]) ?? []);
  assert.deepEqual(days, { far: 40 * 365, long: 400, none: 90, short: 90 });
  const later = (passedDays: number): string[] => {
    const { version } = world.store.cluster()?.meta ?? {};
    const spec = create(ClusterSpecSchema, { annotations: create(AnnotationsSchema, { name: 'default' }) });
    const update = { spec, rotateWorkerToken: false, rotateManagerToken: false, rotateManagerUnlockKey: false };
    world.run((view, context) => updateCluster(view, { ...update, version: version?.index ?? 0n, rootCa: undefined },
      { ...context, nowMs: nowMs + passedDays * DAY_MS }));
    return barred();
  };
  assert.deepEqual(later(96), ['far', 'long', 'none', 'short']);
  assert.deepEqual(later(98), ['far', 'long']);
  assert.deepEqual(later(408), ['far']);
});

test('secrets: limits, labels only, in use', () => {
  const world = new World();
  const secret = (name: string, size: number, labels: Record<string, string> = {}): ReturnType<typeof create<typeof SecretSpecSchema>> =>
    create(SecretSpecSchema, { annotations: create(AnnotationsSchema, { name, labels: toPairs(labels) }), data: new Uint8Array(size).fill(1) });
  const refusal = (name: string, size: number): string =>
    world.refused((view, context) => createPayload(view, 'secret', secret(name, size), context)).message;
  assert.match(refusal('a', 0), /secret data must be larger than 0 and less than 512000 bytes/);
  assert.match(refusal('a', 512_000), /less than 512000 bytes/);
  assert.match(refusal('-a', 1), /invalid name, only 64/);
  const id = world.run((view, context) => createPayload(view, 'secret', secret('s.1', 511_999), context));
  assert.match(refusal('s.1', 1), /secret s.1 already exists/);
  const version = (): bigint => world.store.get('secret', id)?.meta?.version?.index ?? 0n;
  assert.match(world.refused((view) => updatePayload(view, 'secret', { id, version: version(), spec: secret('s.1', 3) })).message,
    /only updates to Labels are allowed/);
  world.run((view) => updatePayload(view, 'secret', { id, version: version(), spec: secret('s.1', 0, { k: 'v' }) }));
  assert.equal(world.store.get('secret', id)?.spec?.data.length, 511_999);
  const reference = { Secrets: [{ SecretID: id, SecretName: 's.1', File: { Name: 's', UID: '0', GID: '0', Mode: 292 } }] };
  world.run((view, context) => createService(view, spec('web', {}, reference), context));
  assert.match(world.refused((view) => removePayload(view, 'secret', 's.1')).message,
    /secret 's.1' is in use by the following service: web/);
  world.run((view) => removeService(view, 'web'));
  world.run((view) => removePayload(view, 'secret', 's.1'));
});

test('cluster: rotation keeps the digest, changes the secret', () => {
  const world = new World();
  const digest = 'd'.repeat(50);
  world.add('cluster', create(ClusterSchema, {
    id: 'c1', spec: create(ClusterSpecSchema),
    rootCa: create(RootCASchema, { joinTokens: create(JoinTokensSchema, {
      worker: `SWMTKN-1-${digest}-${'w'.repeat(25)}`, manager: `SWMTKN-1-${digest}-${'m'.repeat(25)}`,
    }) }),
  }));
  const wanted = (expiryMs: number): ReturnType<typeof create<typeof ClusterSpecSchema>> => create(ClusterSpecSchema, {
    annotations: create(AnnotationsSchema, { name: 'default' }), caConfig: create(CAConfigSchema, { nodeCertExpiry: durationFromMs(expiryMs) }),
  });
  const base = { rotateWorkerToken: true, rotateManagerToken: false, rotateManagerUnlockKey: false, rootCa: undefined };
  assert.match(world.refused((view, context) => updateCluster(view, { ...base, version: 1n, spec: wanted(60_000) }, context)).message,
    /minimum certificate expiry time is: 1h0m0s/);
  assert.match(world.refused((view, context) => updateCluster(view, { ...base, version: 9n, spec: wanted(7_200_000) }, context)).message,
    /update out of sequence/);
  world.run((view, context) => updateCluster(view, { ...base, version: 1n, spec: wanted(7_200_000) }, context));
  const tokens = world.store.cluster()?.rootCa?.joinTokens;
  assert.match(tokens?.worker ?? '', new RegExp(`^SWMTKN-1-${digest}-[0-9a-z]{25}$`));
  assert.notEqual(tokens?.worker, `SWMTKN-1-${digest}-${'w'.repeat(25)}`);
  assert.equal(tokens?.manager, `SWMTKN-1-${digest}-${'m'.repeat(25)}`);
});
