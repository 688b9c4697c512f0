// Joining and renewing: the trust root by digest, then a certificate by token (join) or by certificate (renewal).
// The order, names and checks are SwarmKit's (docs section 1.4); the words on failure are Docker's.

import { create } from '@bufbuild/protobuf';
import { ManagerClient, type Credentials } from '../../io/grpc/client.js';
import { toAppError } from '../../io/grpc/service.js';
import { bundle, checkIssued, createCsr, parseJoinToken, rootDigest } from '../../io/x509/certificates.js';
import { fail, ok, type AppError, type ErrorCode, type Result } from '../../lib/result.js';
import {
  CA, GetRootCACertificateRequestSchema, IssuanceStatus_State, IssueNodeCertificateRequestSchema, NodeCA,
  NodeCertificateStatusRequestSchema, type NodeSpec_Availability,
} from '../../model/proto/swarmkit_pb.js';

const RPC_TIMEOUT_MS = 5000;
const STATUS_TRIES = 8;

export interface JoinedNode {
  readonly nodeId: string;
  readonly role: string;
  readonly clusterId: string;
  readonly key: string;
  readonly certificate: string;
  readonly rootCa: string;
}

export interface JoinRequest {
  readonly address: string;
  readonly token: string;
  readonly availability: NodeSpec_Availability;
}

export async function joinSwarm(request: JoinRequest): Promise<Result<JoinedNode>> {
  const token = parseJoinToken(request.token);
  if (!token.ok) return token;
  const rootCa = await fetchRoot(request.address, token.value.digest);
  if (!rootCa.ok) return rootCa;
  return requestCertificate(request.address, { rootCa: rootCa.value, key: undefined, certificate: undefined, serverName: 'swarm-ca' },
    { token: request.token, availability: request.availability });
}

/** A new certificate for a node that has one. */
export async function renewCertificate(address: string, from: Credentials): Promise<Result<JoinedNode>> {
  return requestCertificate(address, from, { token: '', availability: 0 });
}

async function fetchRoot(address: string, digest: string): Promise<Result<string>> {
  const client = new ManagerClient(address, { rootCa: undefined, key: undefined, certificate: undefined, serverName: 'swarm-ca' });
  try {
    const { certificate } = await client.unary(CA.method.getRootCACertificate, create(GetRootCACertificateRequestSchema), RPC_TIMEOUT_MS);
    const pem = Buffer.from(certificate).toString();
    if (rootDigest(pem) !== digest) {
      return fail('permission_denied', 'remote CA does not match fingerprint. Expected: '
        + `${BigInt(`0x${base36ToHex(digest)}`).toString(16).padStart(64, '0')}`);
    }
    if (!bundle(pem).every((root) => root.verify(root.publicKey))) return fail('permission_denied', 'remote CA is not self-signed');
    return ok(pem);
  } catch (error) {
    return { ok: false, error: rpcError(address, error) };
  } finally {
    client.close();
  }
}

const CODE_NAMES: Partial<Record<ErrorCode, string>> = {
  invalid_argument: 'InvalidArgument', not_found: 'NotFound', permission_denied: 'PermissionDenied', aborted: 'Aborted', unimplemented: 'Unimplemented',
  unavailable: 'Unavailable', deadline_exceeded: 'DeadlineExceeded', failed_precondition: 'FailedPrecondition',
};

/** A failed call in the words a Docker Engine has for it. */
function rpcError(address: string, error: unknown): AppError {
  const { code, message } = toAppError(error);
  const unreachable = code === 'unavailable' || code === 'deadline_exceeded';
  const reason = message.includes('ECONNREFUSED') ? 'connect: connection refused' : /EHOSTUNREACH|ENETUNREACH/.test(message) ? 'connect: no route to host'
    : code === 'deadline_exceeded' ? 'i/o timeout' : undefined;
  if (unreachable && reason !== undefined) {
    return { code, message: `rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: dial tcp ${address}: ${reason}"` };
  }
  const name = CODE_NAMES[code];
  return { code, message: name === undefined || message.startsWith('rpc error:') ? message : `rpc error: code = ${name} desc = ${message}` };
}

function base36ToHex(text: string): string {
  let value = 0n;
  for (const digit of text) value = value * 36n + BigInt(Number.parseInt(digit, 36));
  return value.toString(16);
}

async function requestCertificate(address: string, from: Credentials, how: { token: string; availability: NodeSpec_Availability }): Promise<Result<JoinedNode>> {
  const { key, csr } = await createCsr();
  const client = new ManagerClient(address, from);
  const rootCa = from.rootCa ?? '';
  try {
    const { nodeId } = await client.unary(NodeCA.method.issueNodeCertificate, create(IssueNodeCertificateRequestSchema, {
      csr: Buffer.from(csr), token: how.token, availability: how.availability, canManage: true,
    }), RPC_TIMEOUT_MS);
    for (let attempt = 0; attempt < STATUS_TRIES; attempt++) {
      const { status, certificate } = await client.unary(NodeCA.method.nodeCertificateStatus,
        create(NodeCertificateStatusRequestSchema, { nodeId }), RPC_TIMEOUT_MS);
      const done = status?.state === IssuanceStatus_State.ISSUED || status?.state === IssuanceStatus_State.ROTATE;
      if (done && certificate !== undefined && Buffer.from(certificate.csr).toString() === csr) {
        const pem = Buffer.from(certificate.certificate).toString();
        const checked = checkIssued(pem, rootCa, Date.now());
        if (!checked.ok) return checked;
        return ok({
          nodeId, key, certificate: pem, rootCa, role: checked.value.roles[0] ?? '', clusterId: checked.value.organization,
        });
      }
      if (status?.state === IssuanceStatus_State.FAILED) return fail('permission_denied', `certificate issuance failed: ${status.err}`);
      await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** attempt));
    }
    return fail('deadline_exceeded', 'Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the "docker info" command to see the current swarm status of your node.');
  } catch (error) {
    return { ok: false, error: rpcError(address, error) };
  } finally {
    client.close();
  }
}
