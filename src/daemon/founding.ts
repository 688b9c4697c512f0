// Founding a swarm: the first manager's keys and certificates, and the first command of its log.

import { randomBytes } from 'node:crypto';
import type { InitRequest } from '../api/backend.js';
import { CERT_EXPIRY_DEFAULT_MS, createCsr, createRootCa, joinToken, rootDigest, signCsr } from '../io/x509/certificates.js';
import { newId, newTokenSecret } from '../lib/ids.js';
import { unwrap } from '../lib/result.js';
import { UNLOCK_KEY_BYTES } from '../model/cluster.js';
import { VXLAN_PORT, addressLabels } from '../model/network.js';
import type { StoreAction } from '../model/proto/swarmkit_pb.js';
import { AVAILABILITY, type NodeAddresses } from './addresses.js';
import { bootstrapActions } from './manager/bootstrap.js';
import type { NodeCertificates, SwarmState } from './swarmstate.js';

const HEARTBEAT_NS = 5_000_000_000n;

export interface Founder extends NodeAddresses {
  readonly hostname: string;
  readonly listenAddr: string;
  readonly gatewayBridge: string;
}

export interface Founded {
  readonly state: SwarmState;
  readonly certificates: NodeCertificates;
  /** With autolock. */
  readonly unlockKey: Uint8Array | undefined;
  readonly actions: readonly StoreAction[];
}

export function newRaftId(): bigint {
  return randomBytes(8).readBigUInt64BE() >> 1n | 1n;
}

/** Nothing is written yet. */
export async function foundSwarm(request: InitRequest, founder: Founder): Promise<Founded> {
  const nodeId = newId(randomBytes);
  const clusterId = newId(randomBytes);
  const raftId = newRaftId();
  const nowMs = Date.now();
  const root = await createRootCa(nowMs);
  const { key, csr } = await createCsr();
  const expiryMs = request.nodeCertExpiryNs === undefined ? CERT_EXPIRY_DEFAULT_MS : Number(request.nodeCertExpiryNs / 1_000_000n);
  const certificate = unwrap(await signCsr(root, { csr, nodeId, organization: clusterId, role: 'swarm-manager', expiryMs, nowMs }));
  const vxlanPort = request.dataPathPort === 0 ? VXLAN_PORT : request.dataPathPort;
  const { listenAddr, advertiseAddr, dataPathAddr } = founder;
  const unlockKey = request.autoLockManagers ? randomBytes(UNLOCK_KEY_BYTES) : undefined;
  return {
    state: {
      nodeId, clusterId, role: 'manager', raftId: raftId.toString(), listenAddr, advertiseAddr, dataPathAddr, vxlanPort,
      managers: [{ nodeId, addr: advertiseAddr }],
    },
    certificates: { rootCa: root.certificate, certificate, key },
    unlockKey,
    actions: bootstrapActions({
      clusterId, nodeId, raftId, advertiseAddr, hostname: founder.hostname,
      engineLabels: addressLabels(dataPathAddr, founder.gatewayBridge),
      availability: AVAILABILITY[request.availability],
      rootCert: root.certificate, rootKey: root.key, rootHash: rootDigest(root.certificate),
      workerToken: joinToken(root.certificate, newTokenSecret(randomBytes)),
      managerToken: joinToken(root.certificate, newTokenSecret(randomBytes)),
      defaultAddressPool: request.defaultAddrPool.length > 0 ? request.defaultAddrPool : ['10.0.0.0/8'],
      subnetSize: request.subnetSize === 0 ? 24 : request.subnetSize,
      vxlanPort,
      taskHistoryLimit: BigInt(request.taskHistoryRetentionLimit ?? 5),
      heartbeatPeriodNs: request.heartbeatPeriodNs ?? HEARTBEAT_NS,
      nodeCertExpiryNs: BigInt(expiryMs) * 1_000_000n,
      snapshotInterval: request.snapshotInterval ?? 10_000n,
      keepOldSnapshots: request.keepOldSnapshots ?? 0n,
      labels: request.labels,
      unlockKey,
    }, randomBytes),
  };
}
