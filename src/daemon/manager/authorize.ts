// Who may call what on port 2377: by the certificate's organisational unit, its organisation (the cluster id) and the
// list of removed nodes. The table is SwarmKit's. Beyond it, the leader asks whether who comes as a manager still is one: a
// certificate outlives a demotion.

import { fail, ok, type Result } from '../../lib/result.js';
import type { ReadTx } from '../../core/store/view.js';
import type { Caller } from '../../io/grpc/server.js';
import type { NodeCertRole } from '../../io/x509/certificates.js';
import { ManagerGroup } from '../../model/proto/skein_pb.js';
import { NodeRole } from '../../model/proto/swarmkit_pb.js';

const ANYONE = new Set([
  '/docker.swarmkit.v1.CA/GetRootCACertificate',
  '/docker.swarmkit.v1.NodeCA/IssueNodeCertificate',
  '/docker.swarmkit.v1.NodeCA/NodeCertificateStatus',
]);
const WORKER_SERVICES = [
  '/docker.swarmkit.v1.Dispatcher/', '/docker.swarmkit.v1.LogBroker/', '/docker.swarmkit.v1.ResourceAllocator/', '/skein.v1.NetworkView/',
];
/** Raft goes by its own list of members: a leader may be one that has missed who was taken in. */
const RAFT = new Set([`/${ManagerGroup.typeName}/Link`, `/${ManagerGroup.typeName}/Install`]);

export interface Authority {
  /** Undefined while this manager has no state yet: nobody is known to have been removed. */
  readonly view: ReadTx | undefined;
  readonly clusterId: string;
  /** It leads, and has all that was committed before. */
  readonly leads: boolean;
}

export function authorize(authority: Authority, path: string, caller: Caller): Result<void> {
  const { forwardedBy } = caller;
  if (forwardedBy !== undefined) {
    const allowed = authorizeManager(authority, { identity: forwardedBy, address: caller.address });
    if (!allowed.ok) return allowed;
  }
  if (ANYONE.has(path)) return ok(undefined);
  if (WORKER_SERVICES.some((prefix) => path.startsWith(prefix))) {
    return authorizeRoles(authority, ['swarm-worker', 'swarm-manager'], caller);
  }
  return RAFT.has(path) ? authorizeRoles(authority, ['swarm-manager'], caller) : authorizeManager(authority, caller);
}

function authorizeManager(authority: Authority, caller: Caller): Result<void> {
  const allowed = authorizeRoles(authority, ['swarm-manager'], caller);
  if (!allowed.ok || !authority.leads) return allowed;
  const nodeId = caller.identity?.nodeId ?? '';
  return authority.view?.get('node', nodeId)?.role === NodeRole.MANAGER ? allowed : refuse(`Permission denied: ${noManagerText(nodeId)}`);
}

export function authorizeRoles(
  { view, clusterId }: Pick<Authority, 'view' | 'clusterId'>, roles: readonly NodeCertRole[], caller: Caller,
): Result<void> {
  const { identity } = caller;
  if (identity === undefined) return refuse('no client certificates in request');
  if (!roles.some((role) => identity.roles.includes(role))) {
    return refuse(`Permission denied: remote certificate not part of OUs: [${roles.join(' ')}]`);
  }
  const cluster = view?.cluster();
  if (cluster?.blacklistedCertificates.some(({ key }) => key === identity.nodeId) === true) {
    return refuse(`Permission denied: ${removedText(identity.nodeId)}`);
  }
  if (identity.organization !== clusterId) {
    return refuse(`Permission denied: remote certificate not part of organization: ${clusterId}`);
  }
  return ok(undefined);
}

/** SwarmKit's check of a direct call wraps the reason. */
function refuse(reason: string): Result<never> {
  return fail('permission_denied', `Permission denied: unauthorized peer role: rpc error: code = PermissionDenied desc = ${reason}`);
}

export function noManagerText(nodeId: string): string {
  return `node ${nodeId} is no manager of this swarm`;
}

export function removedText(nodeId: string): string {
  return `node ${nodeId} was removed from swarm`;
}
