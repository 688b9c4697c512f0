// The cluster between Docker's JSON and the model: GET /swarm, the swarm part of /info, the spec of init and update.
// Pure.

import { clone, create } from '@bufbuild/protobuf';
import { durationNs } from '../../lib/time.js';
import {
  AnnotationsSchema, CAConfigSchema, ClusterSpecSchema, DispatcherConfigSchema, DriverSchema, EncryptionConfigSchema,
  ExternalCASchema, ExternalCA_CAProtocol, OrchestrationConfigSchema, RaftConfigSchema, TaskDefaultsSchema,
  type CAConfig, type Cluster, type ClusterSpec,
} from '../../model/proto/swarmkit_pb.js';
import { VXLAN_PORT } from '../../model/network.js';
import { toPairs, toRecord } from '../../model/pairs.js';
import { AppFailure } from '../../lib/result.js';
import { issuerOf } from './certificate.js';
import { compact, nonEmpty, type JsonObject, type Reader } from './json.js';
import { driverFromJson, driverToJson } from './mount.js';
import { metaToJson } from './service.js';

function specToJson(spec: ClusterSpec | undefined): JsonObject {
  const { raft, caConfig, taskDefaults } = spec ?? create(ClusterSpecSchema);
  return {
    Name: spec?.annotations?.name ?? 'default',
    Labels: toRecord(spec?.annotations?.labels),
    Orchestration: { TaskHistoryRetentionLimit: Number(spec?.orchestration?.taskHistoryRetentionLimit ?? 0n) },
    Raft: compact({
      SnapshotInterval: nonEmpty(Number(raft?.snapshotInterval ?? 0n)),
      KeepOldSnapshots: Number(raft?.keepOldSnapshots ?? 0n),
      LogEntriesForSlowFollowers: nonEmpty(Number(raft?.logEntriesForSlowFollowers ?? 0n)),
      ElectionTick: raft?.electionTick ?? 0,
      HeartbeatTick: raft?.heartbeatTick ?? 0,
    }),
    Dispatcher: compact({ HeartbeatPeriod: nonEmpty(Number(durationNs(spec?.dispatcher?.heartbeatPeriod))) }),
    CAConfig: compact({
      NodeCertExpiry: nonEmpty(Number(durationNs(caConfig?.nodeCertExpiry))),
      ExternalCAs: nonEmpty((caConfig?.externalCas ?? []).map((x) => ({
        Protocol: 'cfssl', URL: x.url, Options: toRecord(x.options), CACert: Buffer.from(x.caCert).toString('utf8'),
      }))),
      ForceRotate: nonEmpty(Number(caConfig?.forceRotate ?? 0n)),
    }),
    TaskDefaults: compact({ LogDriver: driverToJson(taskDefaults?.logDriver) }),
    EncryptionConfig: { AutoLockManagers: spec?.encryptionConfig?.autoLockManagers ?? false },
  };
}

/** ClusterInfo: what /info and, with tokens, /swarm show. */
export function clusterToJson(cluster: Cluster): JsonObject {
  const { caCert = new Uint8Array(), rootRotation } = cluster.rootCa ?? {};
  return {
    ID: cluster.id,
    ...metaToJson(cluster.meta),
    Spec: specToJson(cluster.spec),
    TLSInfo: caCert.length === 0 ? {} : { TrustRoot: Buffer.from(caCert).toString('utf8'), ...issuerOf(rootRotation?.caCert ?? caCert) },
    RootRotationInProgress: rootRotation !== undefined,
    DefaultAddrPool: cluster.defaultAddressPool,
    SubnetSize: cluster.subnetSize,
    DataPathPort: cluster.VXLANUDPPort === 0 ? VXLAN_PORT : cluster.VXLANUDPPort,
  };
}

export function swarmToJson(cluster: Cluster): JsonObject {
  const tokens = cluster.rootCa?.joinTokens;
  return { ...clusterToJson(cluster), JoinTokens: { Worker: tokens?.worker ?? '', Manager: tokens?.manager ?? '' } };
}

/** The body of POST /swarm/update on top of the present spec: zero means unchanged, as in Docker. */
export function clusterSpecFromJson(json: Reader, current: ClusterSpec | undefined): ClusterSpec {
  const spec = current === undefined ? create(ClusterSpecSchema) : clone(ClusterSpecSchema, current);
  const oldName = spec.annotations?.name ?? '';
  spec.annotations = create(AnnotationsSchema, {
    name: json.text('Name') === '' ? (oldName === '' ? 'default' : oldName) : json.text('Name'),
    labels: json.has('Labels') ? toPairs(json.record('Labels')) : spec.annotations?.labels ?? [],
  });
  const limit = json.object('Orchestration')?.optionalInt('TaskHistoryRetentionLimit');
  if (limit !== undefined) spec.orchestration = create(OrchestrationConfigSchema, { taskHistoryRetentionLimit: limit });
  const raft = json.object('Raft');
  if (raft !== undefined) mergeRaft(spec, raft);
  const heartbeat = json.object('Dispatcher')?.nonZeroDuration('HeartbeatPeriod');
  if (heartbeat !== undefined) spec.dispatcher = create(DispatcherConfigSchema, { heartbeatPeriod: heartbeat });
  const ca = json.object('CAConfig');
  if (ca !== undefined) mergeCa(spec, ca);
  const logDriver = driverFromJson(json.object('TaskDefaults')?.object('LogDriver'));
  if (logDriver !== undefined) {
    spec.taskDefaults = create(TaskDefaultsSchema, { logDriver: create(DriverSchema, logDriver) });
  }
  const encryption = json.object('EncryptionConfig');
  if (encryption !== undefined) {
    spec.encryptionConfig = create(EncryptionConfigSchema, { autoLockManagers: encryption.flag('AutoLockManagers') });
  }
  return spec;
}

function mergeRaft(spec: ClusterSpec, json: Reader): void {
  const raft = spec.raft ?? create(RaftConfigSchema);
  spec.raft = raft;
  const interval = json.uint('SnapshotInterval');
  if (interval !== 0n) raft.snapshotInterval = interval;
  const slow = json.uint('LogEntriesForSlowFollowers');
  if (slow !== 0n) raft.logEntriesForSlowFollowers = slow;
  const keep = json.optionalUint('KeepOldSnapshots');
  if (keep !== undefined) raft.keepOldSnapshots = keep;
  const election = json.uint32('ElectionTick');
  if (election !== 0) raft.electionTick = election;
  const heartbeat = json.uint32('HeartbeatTick');
  if (heartbeat !== 0) raft.heartbeatTick = heartbeat;
}

function mergeCa(spec: ClusterSpec, json: Reader): void {
  const ca: CAConfig = spec.caConfig ?? create(CAConfigSchema);
  spec.caConfig = ca;
  const expiry = json.nonZeroDuration('NodeCertExpiry');
  if (expiry !== undefined) ca.nodeCertExpiry = expiry;
  if (json.has('ExternalCAs')) {
    ca.externalCas = json.objects('ExternalCAs').map((x) => {
      if (x.text('Protocol').toLowerCase() !== 'cfssl') {
        throw new AppFailure({ code: 'invalid_argument', message: `invalid protocol: "${x.text('Protocol')}"` });
      }
      return create(ExternalCASchema, {
        protocol: ExternalCA_CAProtocol.CAPROTOCOL_CFSSL, url: x.text('URL'), options: toPairs(x.record('Options')),
        caCert: new Uint8Array(Buffer.from(x.text('CACert'), 'utf8')),
      });
    });
  }
  ca.signingCaCert = new Uint8Array(Buffer.from(json.text('SigningCACert'), 'utf8'));
  ca.signingCaKey = new Uint8Array(Buffer.from(json.text('SigningCAKey'), 'utf8'));
  const rotate = json.optionalUint('ForceRotate');
  if (rotate !== undefined) ca.forceRotate = rotate;
}
