// How this manager's member of the Raft group is set up: its log, its timing and its bounds.

import { randomBytes } from 'node:crypto';
import { Membership } from '../../core/raft/confchange.js';
import type { ConfState, RaftStart } from '../../core/raft/types.js';
import { RaftLog, RaftLogDamaged, type LoadedLog } from '../../io/raftlog/raftlog.js';
import type { ConsensusOptions } from './consensusoptions.js';

/**
 * Ten ticks without a word from the leader start an election. SwarmKit's tick is 1 s: a leader whose process ended is
 * noticed by its closed connections, so the ticks are for machines and networks that fall silent.
 */
export const TICK_MS = 100;
const ELECTION_TICKS = 10;
const HEARTBEAT_TICKS = 1;
const APPEND_BYTES_MAX = 1024 * 1024;
const INFLIGHT_MAX = 256;
const UNCOMMITTED_BYTES_MAX = 64 * 1024 * 1024;

/** RaftLogDamaged also where it is empty and was not: it would begin an empty swarm, or vote as if it had never promised anything. */
export async function openLog({ directory, dek, pendingDek, begun }: ConsensusOptions): Promise<{ log: RaftLog; loaded: LoadedLog }> {
  const log = new RaftLog(directory, dek, pendingDek);
  const loaded = await log.load();
  if (!begun || loaded.snapshot !== undefined || loaded.entries.length > 0) return { log, loaded };
  await log.close();
  throw new RaftLogDamaged(directory, 'it is empty, and was not');
}

/** Before the first entry. `founder`: without a snapshot this manager is the group; others learn who is in it from the log. */
function firstConf(id: bigint, founder: boolean, { snapshot }: LoadedLog): ConfState {
  return snapshot === undefined ? { voters: founder ? [id] : [], learners: [] } : { voters: snapshot.voters, learners: snapshot.learners };
}

/** After the last entry, whether that is committed or not. */
export function lastConf(id: bigint, founder: boolean, loaded: LoadedLog): ConfState {
  const membership = new Membership(loaded.snapshot?.index ?? 0n, firstConf(id, founder, loaded));
  membership.append(loaded.entries);
  return membership.current;
}

export function startOf(id: bigint, founder: boolean, loaded: LoadedLog): RaftStart {
  const { snapshot, hardState, entries } = loaded;
  return {
    id,
    hardState,
    confState: firstConf(id, founder, loaded),
    snapshotIndex: snapshot?.index ?? 0n,
    snapshotTerm: snapshot?.term ?? 0n,
    entries,
    electionTicks: ELECTION_TICKS,
    heartbeatTicks: HEARTBEAT_TICKS,
    seed: randomBytes(8).readBigUInt64BE(),
    appendBytesMax: APPEND_BYTES_MAX,
    inflightMax: INFLIGHT_MAX,
    uncommittedBytesMax: UNCOMMITTED_BYTES_MAX,
  };
}
