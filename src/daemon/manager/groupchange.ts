// Changes of the group of managers, as the leader carries them out: one membership change, and handing over.

import { successor } from '../../core/control/managers.js';
import type { ConfChange } from '../../core/raft/types.js';
import type { RaftMember } from '../../model/proto/swarmkit_pb.js';
import type { Consensus } from './consensus.js';

const RETRY_MS = 50;

/**
 * Resolves true once it is applied here; false when this manager does not lead (any more), or not in time, or when the member whose
 * vote or address it concerns is taken out meanwhile: it would be in the group again, for good.
 */
export async function changeMember(consensus: Consensus, kind: ConfChange['kind'], member: RaftMember,
  timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (consensus.leading && performance.now() < deadline && !isChanged(consensus, kind, member)) {
    if (kind !== 'removeNode' && consensus.members.wasRemoved(member.raftId)) return false;
    consensus.proposeChange(kind, member);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
  return isChanged(consensus, kind, member);
}

/** False when there is nobody to hand over to. */
export function handOver(consensus: Consensus): boolean {
  const best = successor({ view: consensus.store, status: consensus.status, members: consensus.members.list() });
  if (best === undefined || !consensus.leading) return false;
  consensus.transferLeader(best);
  return true;
}

function isChanged({ status, members }: Consensus, kind: ConfChange['kind'], { raftId, nodeId, addr }: RaftMember): boolean {
  const { voters, learners } = status.confState;
  const known = members.get(raftId);
  if (kind === 'removeNode') return known === undefined && !voters.includes(raftId) && !learners.includes(raftId);
  if (known?.nodeId !== nodeId || known.addr !== addr) return false;
  return kind === 'updateNode' || (kind === 'addNode' ? voters : [...voters, ...learners]).includes(raftId);
}
