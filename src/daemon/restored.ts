// Restored managers. One that was the only manager of its swarm goes on alone, under another raft id: other managers may have
// joined after the backup, which it knows nothing of, and to which it must not be the member it was. One of several has
// forgotten what it told the others, and may only be told to go on alone.

import { members } from '../core/raft/confchange.js';
import { RaftLog, type LoadedLog } from '../io/raftlog/raftlog.js';
import { newRaftId } from './founding.js';
import { forceNewGroup } from './manager/forcenew.js';
import { lastConf } from './manager/raftstart.js';
import type { SwarmFiles, SwarmState } from './swarmstate.js';

/** Managers there are, as far as this one's log and its state tell; the log is undefined while it is sealed. */
export function managersKnown(state: SwarmState, log: LoadedLog | undefined): number {
  const listed = Math.max(state.managers.length, 1);
  if (log === undefined) return listed;
  const inLog = members(lastConf(BigInt(state.raftId), state.joined !== true, log)).map(String);
  // A log that tells of nobody yet is of a manager that others have taken in.
  if (inLog.length === 0) return Math.max(listed, state.group?.length ?? 0, 2);
  const others = inLog.filter((id) => id !== state.raftId && id !== state.restored?.raftId);
  return Math.max(listed, others.length + 1);
}

/** The state of a manager that is restored. With a sealed log it may turn out to be one of several when it is unlocked. */
export function restoredState(state: SwarmState, managers: number, madeAt: string): SwarmState {
  const { restored: _before, ...kept } = state;
  return managers > 1 ? unfit(kept, managers, madeAt) : { ...kept, restored: { madeAt, raftId: newRaftId().toString() } };
}

/** It has forgotten what it told the other managers since: as a member of their group it could lose what they acknowledged. */
function unfit(state: SwarmState, managers: number, madeAt: string): SwarmState {
  return { ...state, unfit: `it was restored from a backup of one of ${managers} managers, made at ${madeAt}` };
}

/**
 * As what a restored manager goes on, to be saved before it does; nobody has its log open, and its keys are no longer sealed.
 * Done again after a kill it comes to the same.
 */
export async function settleRestored(files: SwarmFiles, state: SwarmState): Promise<SwarmState> {
  const { restored, group, ...kept } = state;
  if (restored === undefined) return state;
  const { current, pending } = await files.raftKeys();
  const log = new RaftLog(files.raftDir, current, pending);
  const managers = managersKnown(state, await log.load());
  await log.close();
  if (managers > 1) return unfit({ ...kept, ...(group === undefined ? {} : { group }) }, managers, restored.madeAt);
  const { raftId } = restored;
  const { nodeId, advertiseAddr } = state;
  await forceNewGroup({ directory: files.raftDir, dek: current, pendingDek: pending, raftId: BigInt(raftId), nodeId, advertiseAddr });
  return { ...kept, raftId, joined: true, managers: [{ nodeId, addr: advertiseAddr }] };
}
