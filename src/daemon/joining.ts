// Joining a swarm by the first of the named managers that answers: a certificate, and what the node knows with it.

import type { JoinRequest } from '../api/backend.js';
import type { OwnLock } from '../core/ca/unlock.js';
import { fail, ok, type Result } from '../lib/result.js';
import { VXLAN_PORT } from '../model/network.js';
import { AVAILABILITY, MANAGEMENT_PORT, parseHostPort, type NodeAddresses } from './addresses.js';
import type { NodeCertificates, SwarmState } from './swarmstate.js';
import { fetchUnlockKey } from './unlockkey.js';
import { joinSwarm } from './worker/join.js';

export const JOIN_TIMEOUT = 'Timeout was reached before node joined. The attempt to join the swarm will continue in the background. '
  + 'Use the "docker info" command to see the current swarm status of your node.';

export interface Joined {
  readonly state: SwarmState;
  readonly certificates: NodeCertificates;
  /** Of a manager: what its keys are to be sealed with from the first file on. */
  readonly lock: OwnLock | undefined;
}

export async function joinByFirst(request: JoinRequest, listenAddr: string, addresses: NodeAddresses): Promise<Result<Joined>> {
  let failure: Result<never> = fail('unavailable', 'no manager answered');
  for (const remote of request.remoteAddrs) {
    const target = parseHostPort(remote, MANAGEMENT_PORT);
    if (!target.ok) return target;
    const address = `${target.value.host}:${target.value.port}`;
    const joined = await joinSwarm({ address, token: request.joinToken, availability: AVAILABILITY[request.availability] });
    if (!joined.ok) {
      failure = joined;
      continue;
    }
    const { nodeId, clusterId, key, certificate, rootCa, role } = joined.value;
    const state: SwarmState = {
      nodeId, clusterId, role: role === 'swarm-manager' ? 'manager' : 'worker', raftId: '', listenAddr, ...addresses,
      vxlanPort: VXLAN_PORT, managers: [{ nodeId: '', addr: address }],
    };
    const lock = state.role === 'worker' ? ok(undefined)
      : await fetchUnlockKey(address, { rootCa, key, certificate, serverName: 'swarm-manager' });
    return lock.ok ? ok({ state, certificates: { rootCa, certificate, key }, lock: lock.value }) : lock;
  }
  return failure;
}
