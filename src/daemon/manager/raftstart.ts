// How this manager's member of the Raft group is set up: its timing and its bounds.

import { randomBytes } from 'node:crypto';
import type { RaftStart } from '../../core/raft/types.js';
import type { LoadedLog } from '../../io/raftlog/raftlog.js';

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

/** `founder`: without a snapshot this manager is the group; others learn who is in it from the log. */
export function startOf(id: bigint, founder: boolean, { snapshot, hardState, entries }: LoadedLog): RaftStart {
  const first = { voters: founder ? [id] : [], learners: [] };
  return {
    id,
    hardState,
    confState: snapshot === undefined ? first : { voters: snapshot.voters, learners: snapshot.learners },
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
