// Who may call what on port 2377: by the certificate's organisational unit, its organisation (the cluster id) and the
// list of removed nodes. The table is SwarmKit's.

import { fail, ok, type Result } from '../../lib/result.js';
import type { ReadTx } from '../../core/store/view.js';
import type { Caller } from '../../io/grpc/server.js';

const ANYONE = new Set([
  '/docker.swarmkit.v1.CA/GetRootCACertificate',
  '/docker.swarmkit.v1.NodeCA/IssueNodeCertificate',
  '/docker.swarmkit.v1.NodeCA/NodeCertificateStatus',
]);
const WORKER_SERVICES = [
  '/docker.swarmkit.v1.Dispatcher/', '/docker.swarmkit.v1.LogBroker/', '/docker.swarmkit.v1.ResourceAllocator/', '/skein.v1.NetworkView/',
];

export function authorize(view: ReadTx, path: string, caller: Caller): Result<void> {
  if (ANYONE.has(path)) return ok(undefined);
  const roles = WORKER_SERVICES.some((prefix) => path.startsWith(prefix)) ? ['swarm-worker', 'swarm-manager'] : ['swarm-manager'];
  return authorizeRoles(view, roles, caller);
}

export function authorizeRoles(view: ReadTx, roles: readonly string[], caller: Caller): Result<void> {
  const { identity } = caller;
  if (identity === undefined) return fail('permission_denied', 'Permission denied: unauthorized peer role: rpc error: code = PermissionDenied desc = no client certificates in request');
  const cluster = view.cluster();
  if (cluster === undefined || identity.organization !== cluster.id) {
    return fail('permission_denied', `Permission denied: remote certificate not part of organization: ${cluster?.id ?? ''}`);
  }
  if (!identity.roles.some((role) => roles.includes(role))) {
    return fail('permission_denied', `Permission denied: remote certificate not part of OUs: [${roles.join(' ')}]`);
  }
  if (cluster.blacklistedCertificates.some(({ key }) => key === identity.nodeId)) {
    return fail('permission_denied', `Permission denied: node ${identity.nodeId} was removed from swarm`);
  }
  return ok(undefined);
}
