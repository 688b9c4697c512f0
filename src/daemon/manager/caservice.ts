// CA and NodeCA: hands out the trust root and turns CSRs into node certificates, by join token or by an existing
// certificate (renewal). The role is what the token, or the node's record, says; never what the CSR says.

import { clone, create } from '@bufbuild/protobuf';
import { timingSafeEqual } from 'node:crypto';
import { signerOf } from '../../core/ca/rotation.js';
import { createAction, updateAction } from '../../core/store/actions.js';
import type { ReadTx } from '../../core/store/view.js';
import type { ChangeContext } from '../../api/backend.js';
import type { Caller, Handler } from '../../io/grpc/server.js';
import { CERT_EXPIRY_DEFAULT_MS, signCsr } from '../../io/x509/certificates.js';
import { AppFailure, fail, ok, unwrap, type ErrorCode } from '../../lib/result.js';
import { durationMs } from '../../lib/time.js';
import { unlockKeyOf } from '../../model/cluster.js';
import { STOCK_ENGINE } from '../../model/network.js';
import {
  AnnotationsSchema, CertificateSchema, GetRootCACertificateResponseSchema, GetUnlockKeyResponseSchema,
  IssuanceStatus_State, IssueNodeCertificateResponseSchema, NodeCertificateStatusResponseSchema, NodeRole, NodeSchema,
  NodeSpecSchema, NodeSpec_Membership, NodeStatusSchema, NodeStatus_State, VersionSchema,
  type Certificate, type Cluster, type IssueNodeCertificateRequest, type NodeCertificateStatusRequest,
} from '../../model/proto/swarmkit_pb.js';
import { authorizeRoles } from './authorize.js';
import type { Manager } from './manager.js';

const CSR_BYTES_MAX = 16 * 1024;

function refuse(code: ErrorCode, message: string): never {
  throw new AppFailure({ code, message });
}

function clusterOf(view: ReadTx): Cluster {
  return view.cluster() ?? refuse('aborted', 'CA signer is stopped');
}

export function caHandlers(manager: Manager): Record<string, Handler> {
  return {
    getRootCACertificate: async () =>
      create(GetRootCACertificateResponseSchema, { certificate: clusterOf(manager.view()).rootCa?.caCert ?? new Uint8Array() }),
    getUnlockKey: async () => {
      const cluster = clusterOf(manager.view());
      return create(GetUnlockKeyResponseSchema, {
        unlockKey: unlockKeyOf(cluster) ?? new Uint8Array(), version: cluster.meta?.version ?? create(VersionSchema),
      });
    },
  };
}

export function nodeCaHandlers(manager: Manager): Record<string, Handler> {
  return {
    issueNodeCertificate: async (request: IssueNodeCertificateRequest, caller: Caller) => issue(manager, request, caller),
    nodeCertificateStatus: async (request: NodeCertificateStatusRequest) => {
      if (request.nodeId === '') refuse('invalid_argument', 'rpc error: code = InvalidArgument desc = no node ID');
      const node = manager.view().get('node', request.nodeId);
      if (node === undefined) refuse('not_found', `node ${request.nodeId} not found`);
      const certificate = node.certificate;
      return create(NodeCertificateStatusResponseSchema, {
        ...(certificate?.status === undefined ? {} : { status: certificate.status }), ...(certificate === undefined ? {} : { certificate }),
      });
    },
  };
}

function sameText(a: string, b: string): boolean {
  const left = Buffer.from(a);
  const right = Buffer.from(b);
  return left.length === right.length && timingSafeEqual(left, right);
}

function roleOfToken(cluster: Cluster, token: string): NodeRole | undefined {
  const tokens = cluster.rootCa?.joinTokens;
  if (tokens === undefined || token === '') return undefined;
  if (sameText(tokens.manager, token)) return NodeRole.MANAGER;
  if (sameText(tokens.worker, token)) return NodeRole.WORKER;
  return undefined;
}

async function issue(manager: Manager, request: IssueNodeCertificateRequest, caller: Caller): Promise<object> {
  if (request.csr.length === 0 || request.csr.length > CSR_BYTES_MAX) refuse('invalid_argument', 'rpc error: code = InvalidArgument desc = empty or oversized certificate signing request');
  const view = manager.view();
  const cluster = clusterOf(view);
  if (authorizeRoles({ view, clusterId: cluster.id }, ['swarm-worker', 'swarm-manager'], caller).ok && caller.identity !== undefined) {
    const { nodeId } = caller.identity;
    const node = view.get('node', nodeId) ?? refuse('not_found', `node ${nodeId} not found when attempting to renew certificate`);
    const certificate = await sign(cluster, request.csr, nodeId, node.role);
    unwrap(await manager.commit((now) => {
      const current = now.get('node', nodeId);
      if (current === undefined) return fail('not_found', `node ${nodeId} not found`);
      const next = clone(NodeSchema, current);
      next.certificate = certificate;
      return ok({ actions: [updateAction('node', next)], value: undefined });
    }));
    return create(IssueNodeCertificateResponseSchema, { nodeId, nodeMembership: NodeSpec_Membership.ACCEPTED });
  }
  const role = roleOfToken(cluster, request.token);
  if (role === undefined) refuse('invalid_argument', 'A valid join token is necessary to join this cluster');
  if (role === NodeRole.MANAGER && !request.canManage) {
    refuse('failed_precondition', `${STOCK_ENGINE}: join with the worker token ("docker swarm join-token worker")`);
  }
  return enroll(manager, cluster, request, role);
}

async function enroll(manager: Manager, cluster: Cluster, request: IssueNodeCertificateRequest, role: NodeRole): Promise<object> {
  const nodeId = unwrap(await manager.commit((_view, context: ChangeContext) => ok({ actions: [], value: context.newId() })));
  const certificate = await sign(cluster, request.csr, nodeId, role);
  unwrap(await manager.commit(() => ok({
    actions: [createAction('node', create(NodeSchema, {
      id: nodeId,
      spec: create(NodeSpecSchema, {
        annotations: create(AnnotationsSchema), desiredRole: role, membership: NodeSpec_Membership.ACCEPTED, availability: request.availability,
      }),
      status: create(NodeStatusSchema, { state: NodeStatus_State.UNKNOWN }),
      certificate,
      role,
      VXLANUDPPort: cluster.VXLANUDPPort,
    }))],
    value: undefined,
  })));
  return create(IssueNodeCertificateResponseSchema, { nodeId, nodeMembership: NodeSpec_Membership.ACCEPTED });
}

async function sign(cluster: Cluster, csr: Uint8Array, nodeId: string, role: NodeRole): Promise<Certificate> {
  const rootCa = cluster.rootCa;
  if (rootCa === undefined || rootCa.caKey.length === 0) refuse('aborted', 'CA signer is stopped');
  const { certificate, key, intermediate } = signerOf(rootCa);
  const pem = unwrap(await signCsr({
    certificate: Buffer.from(certificate).toString(), key: Buffer.from(key).toString(), intermediate: Buffer.from(intermediate).toString(),
  }, {
    csr: Buffer.from(csr).toString(),
    nodeId,
    organization: cluster.id,
    role: role === NodeRole.MANAGER ? 'swarm-manager' : 'swarm-worker',
    expiryMs: durationMs(cluster.spec?.caConfig?.nodeCertExpiry) || CERT_EXPIRY_DEFAULT_MS,
    nowMs: Date.now(),
  }));
  return create(CertificateSchema, {
    role, csr, cn: nodeId, certificate: Buffer.from(pem), status: { state: IssuanceStatus_State.ISSUED },
  });
}
