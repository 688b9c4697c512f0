// What a simulated group is made of and shares: the world that its hosts live in, what may happen in it, and what follows it.

import type { RaftNode } from '../../src/core/raft/raft.js';
import type { Entry } from '../../src/core/raft/types.js';
import type { Applied, Store } from '../../src/core/store/store.js';
import type { Prng } from '../../src/lib/prng.js';
import type { AppError, Result } from '../../src/lib/result.js';
import type { Command } from '../../src/model/proto/skein_pb.js';
import type { Checker } from './checker.js';
import type { Clock } from './clock.js';
import type { Hasher } from './hashing.js';
import type { Host } from './host.js';
import type { ReadLog } from './logimage.js';
import type { SimNetwork } from './network.js';
import type { Shared } from './shared.js';

export type ShellBug =
  | 'send-before-persist' | 'no-sync' | 'forget-vote' | 'forget-hard-state' | 'snapshot-without-conf' | 'compact-without-snapshot'
  | 'ignore-snapshot-data' | 'read-before-applied' | 'acknowledge-before-commit';

/** Things that must happen somewhere for a run to mean something. */
export const MARKS = [
  'leader elected', 'entries replaced', 'write torn', 'snapshot taken', 'snapshot installed', 'voter added', 'learner added', 'member removed',
  'leader removed', 'command repeated', 'read by the leader', 'read by a follower', 'restart', 'write cut off', 'damage refused',
  'replaced after damage',
] as const;
export type Mark = (typeof MARKS)[number];

export interface World {
  readonly clock: Clock;
  readonly network: SimNetwork;
  readonly random: Prng;
  readonly checker: Checker;
  readonly hasher: Hasher;
  readonly shared: Shared;
  readonly hosts: Map<bigint, Host>;
  readonly raftClass: typeof RaftNode;
  readonly storeClass: typeof Store;
  readonly readLog: ReadLog;
  readonly bugs: ReadonlySet<ShellBug>;
  readonly marks: Map<Mark, number>;
  readonly trace: ((text: string) => void) | undefined;
  readonly hooks?: HostHooks;
  /** Bytes on their way are few, so that their end is met often; whole commands need more. */
  readonly scale: number;
  /** So are entries between snapshots. */
  readonly snapshotScale: number;
}

export type Acknowledge = (accepted: boolean, error?: AppError) => void;

/** What is built on the group (the whole world's managers) follows it through these. */
export interface HostHooks {
  readonly applied: (host: Host, entry: Entry, command: Command, result: Result<Applied>) => void;
  /** Began, or began anew from a snapshot: what it knew may have changed at once. */
  readonly restored: (host: Host) => void;
  readonly leadership: (host: Host, leading: boolean) => void;
  readonly crashed: (host: Host) => void;
}
