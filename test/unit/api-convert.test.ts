// Conversion between Docker's JSON and the model: what goes in comes out again, defaults, and wrong types.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { goTime, Reader } from '../../src/api/convert/json.js';
import { issuerOf } from '../../src/api/convert/certificate.js';
import { networkSpecFromJson } from '../../src/api/convert/network.js';
import { serviceSpecFromJson, serviceSpecToJson } from '../../src/api/convert/service.js';
import { withDefaults } from '../../src/core/control/defaults.js';
import { Filters } from '../../src/api/filters.js';
import { resolveAdvertise, resolveListen, splitHostPort } from '../../src/api/addresses.js';
import { AppFailure } from '../../src/lib/result.js';
import { ServiceSpecSchema } from '../../src/model/proto/swarmkit_pb.js';
import { create } from '@bufbuild/protobuf';
import { TimestampSchema } from '@bufbuild/protobuf/wkt';

/** Every field a stock client can set, in the form the engine answers it. */
const FULL = {
  Name: 'full',
  Labels: { a: '1', b: '2' },
  TaskTemplate: {
    ContainerSpec: {
      Image: 'app:1', Labels: { c: 'd' }, Command: ['sh'], Args: ['-c', 'x'], Hostname: 'h', Env: ['A=b'], Dir: '/w', User: 'u',
      Groups: ['g'],
      Privileges: {
        CredentialSpec: { Config: '', File: 'f', Registry: '' },
        SELinuxContext: { Disable: true, User: 'u', Role: 'r', Type: 't', Level: 'l' },
        Seccomp: { Mode: 'custom', Profile: 'e30=' }, AppArmor: { Mode: 'disabled' }, NoNewPrivileges: true,
      },
      Init: true, StopSignal: 'SIGINT', TTY: true, OpenStdin: true, ReadOnly: true,
      Mounts: [
        { Type: 'bind', Source: '/a', Target: '/b', ReadOnly: true, BindOptions: { Propagation: 'rshared', NonRecursive: true } },
        { Type: 'volume', Source: 'v', Target: '/v', VolumeOptions: { NoCopy: true, Labels: { l: 'm' }, DriverConfig: { Name: 'local', Options: { o: 'p' } } } },
        { Type: 'tmpfs', Target: '/t', TmpfsOptions: { SizeBytes: 1048576, Mode: 511 } },
      ],
      StopGracePeriod: 3_000_000_000,
      Healthcheck: { Test: ['CMD', 'true'], Interval: 1_000_000_000, Timeout: 2_000_000_000, StartPeriod: 3_000_000_000, StartInterval: 4_000_000_000, Retries: 5 },
      Hosts: ['1.2.3.4 host'], DNSConfig: { Nameservers: ['9.9.9.9'], Search: ['x'], Options: ['ndots:1'] },
      Secrets: [{ File: { Name: 's', UID: '0', GID: '0', Mode: 292 }, SecretID: 'sid', SecretName: 's' }],
      Configs: [{ File: { Name: '/c', UID: '1', GID: '2', Mode: 420 }, ConfigID: 'cid', ConfigName: 'c' }],
      Isolation: 'default', Sysctls: { 'net.x': '1' }, CapabilityAdd: ['CAP_NET_ADMIN'], CapabilityDrop: ['ALL'],
      Ulimits: [{ Name: 'nofile', Hard: 200, Soft: 100 }], OomScoreAdj: 5,
    },
    Resources: {
      Limits: { NanoCPUs: 500_000_000, MemoryBytes: 67_108_864, Pids: 100 },
      Reservations: { NanoCPUs: 100_000_000, MemoryBytes: 16_777_216, GenericResources: [
        { DiscreteResourceSpec: { Kind: 'GPU', Value: 2 } }, { NamedResourceSpec: { Kind: 'SSD', Value: 'x' } },
      ] },
    },
    RestartPolicy: { Condition: 'on-failure', Delay: 1_000_000_000, Window: 0, MaxAttempts: 3 },
    Placement: {
      Constraints: ['node.role==worker'], Preferences: [{ Spread: { SpreadDescriptor: 'node.labels.z' } }], MaxReplicas: 2,
      Platforms: [{ Architecture: 'amd64', OS: 'linux' }],
    },
    Networks: [{ Target: 'n', Aliases: ['a'], DriverOpts: { o: 'p' } }],
    LogDriver: { Name: 'json-file', Options: { 'max-size': '1m' } },
    ForceUpdate: 7,
    Runtime: 'container',
  },
  Mode: { Replicated: { Replicas: 0 } },
  UpdateConfig: { Parallelism: 2, Delay: 1_000_000_000, FailureAction: 'rollback', Monitor: 5_000_000_000, MaxFailureRatio: 0.3, Order: 'start-first' },
  RollbackConfig: { Parallelism: 0, FailureAction: 'continue', MaxFailureRatio: 0, Order: 'stop-first' },
  EndpointSpec: { Mode: 'vip', Ports: [
    { Name: 'p', Protocol: 'udp', TargetPort: 53, PublishedPort: 5353, PublishMode: 'host' },
    { Protocol: 'tcp', TargetPort: 80, PublishMode: 'ingress' },
  ] },
};

test('a full service spec survives model and wire', () => {
  const spec = serviceSpecFromJson(new Reader(FULL));
  const again = fromBinary(ServiceSpecSchema, toBinary(ServiceSpecSchema, spec));
  assert.deepEqual(serviceSpecToJson(again), FULL);
});

test('the four modes', () => {
  const shown = (Mode: unknown): unknown => serviceSpecToJson(serviceSpecFromJson(new Reader({ Name: 'a', Mode }))).Mode;
  assert.deepEqual(shown({ Global: {} }), { Global: {} });
  assert.deepEqual(shown({ GlobalJob: {} }), { GlobalJob: {} });
  assert.deepEqual(shown({ ReplicatedJob: { MaxConcurrent: 2 } }), { ReplicatedJob: { MaxConcurrent: 2, TotalCompletions: 2 } });
  assert.deepEqual(shown(undefined), { Replicated: { Replicas: 1 } });
  assert.throws(() => shown({ Global: {}, Replicated: {} }), /must specify only one service mode/);
});

test('key order of maps does not change the bytes', () => {
  const bytes = (Labels: Record<string, string>): Uint8Array =>
    toBinary(ServiceSpecSchema, serviceSpecFromJson(new Reader({ Name: 'a', Labels })));
  assert.deepEqual(bytes({ b: '2', a: '1' }), bytes({ a: '1', b: '2' }));
});

test('insertDefaults fills what SwarmKit fills', () => {
  const json = serviceSpecToJson(withDefaults(serviceSpecFromJson(new Reader({ Name: 'a', TaskTemplate: { ContainerSpec: { Image: 'x' } } })))) as {
    TaskTemplate: { ContainerSpec: Record<string, unknown>; RestartPolicy: unknown }; UpdateConfig: unknown; EndpointSpec: unknown;
  };
  assert.equal(json.TaskTemplate.ContainerSpec.StopGracePeriod, 10_000_000_000);
  assert.deepEqual(json.TaskTemplate.RestartPolicy, { Condition: 'any', Delay: 5_000_000_000, MaxAttempts: 0 });
  assert.deepEqual(json.UpdateConfig, {
    Parallelism: 1, FailureAction: 'pause', Monitor: 5_000_000_000, MaxFailureRatio: 0, Order: 'stop-first',
  });
  assert.deepEqual(json.EndpointSpec, { Mode: 'vip' });
});

test('hostile JSON is refused as such, never a crash', () => {
  const keys = fc.constantFrom('Name', 'Labels', 'TaskTemplate', 'ContainerSpec', 'Mounts', 'Mode', 'Replicated', 'Replicas',
    'EndpointSpec', 'Ports', 'TargetPort', 'Networks', 'Resources', 'Limits', 'NanoCPUs', 'Placement', 'UpdateConfig', '__proto__');
  const value = fc.letrec((tie) => ({
    node: fc.oneof({ depthSize: 'small' }, fc.string(), fc.integer(), fc.double(), fc.boolean(), fc.constant(null),
      fc.array(tie('node'), { maxLength: 3 }), fc.dictionary(keys, tie('node'), { maxKeys: 5 })),
  })).node;
  fc.assert(fc.property(value, (json) => {
    try {
      toBinary(ServiceSpecSchema, serviceSpecFromJson(new Reader(json)));
      networkSpecFromJson(new Reader(json));
    } catch (error) {
      assert.ok(error instanceof AppFailure, String(error));
      assert.equal(['invalid_argument', 'unimplemented'].includes(error.code), true);
    }
  }), { numRuns: 500 });
});

test('filters: both forms, unknown keys, rules', () => {
  const filters = Filters.parse('{"name":{"we":true,"x":false},"label":["a","b=c"]}', ['name', 'label']);
  assert.equal(filters.prefix('name', 'web'), true);
  assert.equal(filters.prefix('name', 'x'), false);
  assert.equal(filters.labels('label', { a: '', b: 'c' }), true);
  assert.equal(filters.labels('label', { a: '', b: 'd' }), false);
  assert.throws(() => Filters.parse('{"bogus":["1"]}', ['name']), /invalid filter 'bogus'/);
  assert.throws(() => Filters.parse('{', []), /invalid filter/);
});

test('times print as Go prints them', () => {
  assert.equal(goTime(create(TimestampSchema, { seconds: 1_700_000_000n, nanos: 120_000_000 })), '2023-11-14T22:13:20.12Z');
  assert.equal(goTime(create(TimestampSchema, { seconds: 1_700_000_000n })), '2023-11-14T22:13:20Z');
  assert.equal(goTime(undefined), '0001-01-01T00:00:00Z');
});

test('addresses of init and join', () => {
  assert.deepEqual(splitHostPort('10.0.0.1', '2377'), { host: '10.0.0.1', port: '2377' });
  assert.deepEqual(splitHostPort('[fd00::1]:99', '2377'), { host: 'fd00::1', port: '99' });
  assert.deepEqual(splitHostPort('fd00::1', '2377'), { host: 'fd00::1', port: '2377' });
  assert.equal(splitHostPort('a:b:c', '2377'), undefined);
  assert.equal(resolveListen(''), '0.0.0.0:2377');
  assert.equal(resolveListen('lo:4000'), '127.0.0.1:4000');
  assert.equal(resolveAdvertise('lo', '0.0.0.0:2377'), '127.0.0.1:2377');
  assert.equal(resolveAdvertise('[fd00::1]', '0.0.0.0:5000'), '[fd00::1]:5000');
  assert.throws(() => resolveAdvertise('nosuch0', '0.0.0.0:2377'), /advertise address must be a non-zero IP address/);
  assert.throws(() => resolveAdvertise('0.0.0.0', '0.0.0.0:2377'), /advertise address must be a non-zero IP address/);
});

test('issuer fields of a certificate, and garbage', () => {
  assert.deepEqual(issuerOf(new TextEncoder().encode('garbage')), {});
  assert.deepEqual(issuerOf(new TextEncoder().encode('-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----')), {});
});
