// Forwarding: a follower passes a call on to the leader and says for whom, in SwarmKit's metadata (docs section 2.3).
// The leader believes it only from a manager: authorize() checks the one that forwards before the one it speaks for.

import { Metadata } from '@grpc/grpc-js';
import type { NodeIdentity } from '../x509/certificates.js';
import type { Caller } from './server.js';

function first(metadata: Metadata, key: string): string {
  return metadata.get(key)[0]?.toString() ?? '';
}

/** The caller that a call is made for. A worker's claim to forward counts for nothing: the call is its own. */
export function forwarded(metadata: Metadata, direct: { readonly identity: NodeIdentity; readonly address: string }): Caller {
  if (first(metadata, 'forwarded_cert') !== 'true' || !direct.identity.roles.includes('swarm-manager')) return direct;
  const nodeId = first(metadata, 'forwarded_cert_cn');
  const organization = first(metadata, 'forwarded_cert_org');
  const roles = metadata.get('forwarded_cert_ou').map(String).filter((role) => role !== '');
  return {
    identity: nodeId === '' ? undefined : { nodeId, organization, roles },
    address: first(metadata, 'remote_addr').replace(/:\d*$/, '').replace(/^\[|\]$/g, ''),
    forwardedBy: direct.identity,
  };
}

export function forwardingMetadata(caller: Caller): Metadata {
  const metadata = new Metadata();
  metadata.set('forwarded_cert', 'true');
  metadata.set('forwarded_cert_cn', caller.identity?.nodeId ?? '');
  metadata.set('forwarded_cert_org', caller.identity?.organization ?? '');
  for (const role of caller.identity?.roles ?? ['']) metadata.add('forwarded_cert_ou', role);
  const address = caller.address.includes(':') ? `[${caller.address}]:0` : `${caller.address}:0`;
  metadata.set('remote_addr', address);
  metadata.set('redirect', address);
  return metadata;
}
