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

export interface Authority {
  /** Undefined while this manager has no state yet: nobody is known to have been removed. */
  readonly view: ReadTx | undefined;
  readonly clusterId: string;
}

export function authorize(authority: Authority, path: string, caller: Caller): Result<void> {
  const { forwardedBy } = caller;
  if (forwardedBy !== undefined) {
    const allowed = authorizeRoles(authority, ['swarm-manager'], { identity: forwardedBy, address: caller.address });
    if (!allowed.ok) return allowed;
  }
  if (ANYONE.has(path)) return ok(undefined);
  const roles = WORKER_SERVICES.some((prefix) => path.startsWith(prefix)) ? ['swarm-worker', 'swarm-manager'] : ['swarm-manager'];
  return authorizeRoles(authority, roles, caller);
}

export function authorizeRoles({ view, clusterId }: Authority, roles: readonly string[], caller: Caller): Result<void> {
  const { identity } = caller;
  if (identity === undefined) return refuse('no client certificates in request');
  if (!identity.roles.some((role) => roles.includes(role))) {
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

export function removedText(nodeId: string): string {
  return `node ${nodeId} was removed from swarm`;
}
