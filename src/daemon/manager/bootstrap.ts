// The first objects of a swarm: cluster, this node, the ingress network and the predefined ones. Pure but for the
// random bytes and certificates that are passed in.

import { create } from '@bufbuild/protobuf';
import { createAction } from '../../core/store/actions.js';
import { durationFromNs } from '../../lib/time.js';
import type { RandomBytes } from '../../lib/ids.js';
import { newId } from '../../lib/ids.js';
import { UNLOCK_SUBSYSTEM } from '../../model/cluster.js';
import { toPairs } from '../../model/pairs.js';
import {
  AnnotationsSchema, CAConfigSchema, CertificateSchema, ClusterSchema, ClusterSpecSchema, DispatcherConfigSchema, DriverSchema,
  EncryptionConfigSchema, EncryptionKeySchema, EncryptionKey_Algorithm, EngineDescriptionSchema, IssuanceStatus_State, JoinTokensSchema,
  ManagerStatusSchema, NetworkSchema, NetworkSpecSchema, NodeDescriptionSchema, NodeRole, NodeSchema, NodeSpecSchema, NodeSpec_Availability,
  NodeSpec_Membership, NodeStatusSchema, NodeStatus_State, OrchestrationConfigSchema, RaftConfigSchema, RaftMemberStatus_Reachability,
  RootCASchema, TaskDefaultsSchema, type EncryptionKey, type Network, type StoreAction,
} from '../../model/proto/swarmkit_pb.js';

export interface BootstrapRequest {
  readonly clusterId: string;
  readonly nodeId: string;
  readonly raftId: bigint;
  readonly advertiseAddr: string;
  readonly hostname: string;
  /** What the node tells of its addresses: the ingress network is made before its first session. */
  readonly engineLabels: Readonly<Record<string, string>>;
  readonly availability: NodeSpec_Availability;
  readonly rootCert: string;
  readonly rootKey: string;
  readonly rootHash: string;
  readonly workerToken: string;
  readonly managerToken: string;
  readonly defaultAddressPool: readonly string[];
  readonly subnetSize: number;
  readonly vxlanPort: number;
  readonly taskHistoryLimit: bigint;
  readonly heartbeatPeriodNs: bigint;
  readonly nodeCertExpiryNs: bigint;
  readonly snapshotInterval: bigint;
  readonly keepOldSnapshots: bigint;
  readonly labels: Readonly<Record<string, string>>;
  /** Locks the managers from the beginning. */
  readonly unlockKey: Uint8Array | undefined;
}

export function bootstrapActions(request: BootstrapRequest, random: RandomBytes): StoreAction[] {
  const keys = networkKeys(random);
  const cluster = create(ClusterSchema, {
    id: request.clusterId,
    spec: create(ClusterSpecSchema, {
      annotations: create(AnnotationsSchema, { name: 'default', labels: toPairs(request.labels) }),
      orchestration: create(OrchestrationConfigSchema, { taskHistoryRetentionLimit: request.taskHistoryLimit }),
      raft: create(RaftConfigSchema, {
        snapshotInterval: request.snapshotInterval, keepOldSnapshots: request.keepOldSnapshots,
        logEntriesForSlowFollowers: 500n, heartbeatTick: 1, electionTick: 10,
      }),
      dispatcher: create(DispatcherConfigSchema, { heartbeatPeriod: durationFromNs(request.heartbeatPeriodNs) }),
      caConfig: create(CAConfigSchema, { nodeCertExpiry: durationFromNs(request.nodeCertExpiryNs) }),
      taskDefaults: create(TaskDefaultsSchema, {}),
      encryptionConfig: create(EncryptionConfigSchema, { autoLockManagers: request.unlockKey !== undefined }),
    }),
    rootCa: create(RootCASchema, {
      caKey: Buffer.from(request.rootKey), caCert: Buffer.from(request.rootCert), caCertHash: request.rootHash,
      joinTokens: create(JoinTokensSchema, { worker: request.workerToken, manager: request.managerToken }),
    }),
    unlockKeys: request.unlockKey === undefined ? []
      : [create(EncryptionKeySchema, { subsystem: UNLOCK_SUBSYSTEM, key: request.unlockKey })],
    networkBootstrapKeys: keys.keys,
    encryptionKeyLamportClock: keys.clock,
    defaultAddressPool: [...request.defaultAddressPool],
    subnetSize: request.subnetSize,
    VXLANUDPPort: request.vxlanPort,
  });
  const node = create(NodeSchema, {
    id: request.nodeId,
    spec: create(NodeSpecSchema, {
      annotations: create(AnnotationsSchema), desiredRole: NodeRole.MANAGER, membership: NodeSpec_Membership.ACCEPTED, availability: request.availability,
    }),
    description: create(NodeDescriptionSchema, {
      hostname: request.hostname, engine: create(EngineDescriptionSchema, { labels: toPairs(request.engineLabels) }),
    }),
    status: create(NodeStatusSchema, { state: NodeStatus_State.UNKNOWN, addr: hostOf(request.advertiseAddr) }),
    managerStatus: create(ManagerStatusSchema, {
      raftId: request.raftId, addr: request.advertiseAddr, leader: true, reachability: RaftMemberStatus_Reachability.REACHABLE,
    }),
    certificate: create(CertificateSchema, { role: NodeRole.MANAGER, cn: request.nodeId, status: { state: IssuanceStatus_State.ISSUED } }),
    role: NodeRole.MANAGER,
    VXLANUDPPort: request.vxlanPort,
  });
  return [
    createAction('cluster', cluster),
    createAction('node', node),
    createAction('network', ingressNetwork(newId(random))),
    ...['bridge', 'host'].map((name) => createAction('network', predefinedNetwork(newId(random), name))),
  ];
}

export function hostOf(address: string): string {
  const at = address.lastIndexOf(':');
  return at < 0 ? address : address.slice(0, at).replace(/^\[|\]$/g, '');
}

function ingressNetwork(id: string): Network {
  return create(NetworkSchema, {
    id,
    spec: create(NetworkSpecSchema, {
      annotations: create(AnnotationsSchema, { name: 'ingress' }), driverConfig: create(DriverSchema, { name: 'overlay' }), ingress: true,
    }),
  });
}

function predefinedNetwork(id: string, name: string): Network {
  return create(NetworkSchema, {
    id,
    spec: create(NetworkSpecSchema, {
      annotations: create(AnnotationsSchema, { name, labels: toPairs({ 'com.docker.swarm.predefined': 'true' }) }),
      driverConfig: create(DriverSchema, { name }),
    }),
  });
}

/** Exactly three keys per subsystem, lamport times unique over both: stock engines refuse anything else. */
function networkKeys(random: RandomBytes): { keys: EncryptionKey[]; clock: bigint } {
  const seed = random(2);
  let clock = BigInt(((seed[0] ?? 0) << 8) | (seed[1] ?? 0));
  const keys = ['networking:gossip', 'networking:ipsec'].flatMap((subsystem) => [0, 1, 2].map(() => {
    clock += 1n;
    return create(EncryptionKeySchema, { subsystem, algorithm: EncryptionKey_Algorithm.AES_128_GCM, key: random(16).slice(), lamportTime: clock });
  }));
  return { keys, clock };
}

