// What a simulated group is made of and shares: the world that its hosts live in, what may happen in it, and what follows it.

import { RaftNode } from '../../src/core/raft/raft.js';
import type { Entry } from '../../src/core/raft/types.js';
import { Store, type Applied } from '../../src/core/store/store.js';
import { readLog } from '../../src/io/raftlog/check.js';
import { Prng } from '../../src/lib/prng.js';
import type { AppError, Result } from '../../src/lib/result.js';
import type { Command } from '../../src/model/proto/skein_pb.js';
import { Checker, digest } from './checker.js';
import { Clock } from './clock.js';
import { Hasher } from './hashing.js';
import type { Host } from './host.js';
import type { ReadLog } from './logimage.js';
import { SimNetwork } from './network.js';
import { Shared } from './shared.js';

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

export interface RunOptions {
  readonly seed: number;
  /** Simulated, with faults. */
  readonly minutes: number;
  /** What replicas share is frozen: slower. */
  readonly checked?: boolean;
  readonly trace?: (text: string) => void;
}

export interface Outcome<M extends string> {
  readonly seed: number;
  /** The same seed gives the same. */
  readonly hash: string;
  readonly simulatedMs: number;
  readonly events: number;
  readonly messages: number;
  readonly entries: bigint;
  readonly terms: number;
  readonly operations: number;
  readonly faults: number;
  /** How often what happened: a run in which nothing goes wrong proves nothing. */
  readonly marks: ReadonlyMap<M, number>;
}

/** A world without anybody in it, and without a bug. */
export function newWorld({ seed, checked, trace }: RunOptions): World {
  const random = new Prng(BigInt(seed));
  const clock = new Clock();
  const hasher = new Hasher();
  return {
    clock, random, network: new SimNetwork(clock, random), checker: new Checker(hasher), hasher,
    shared: new Shared(hasher, checked === true), hosts: new Map(),
    raftClass: RaftNode, storeClass: Store, readLog, bugs: new Set(), marks: new Map(), scale: 1, snapshotScale: 1,
    trace: trace === undefined ? undefined : (text) => trace(`${(clock.nowMs / 1000).toFixed(3)} ${text}`),
  };
}

export function outcomeOf<M extends string>(
  { clock, network, checker }: World, seed: number, of: Pick<Outcome<M>, 'operations' | 'faults' | 'marks'>,
): Outcome<M> {
  const hash = digest(checker.summary(), `${clock.eventCount} ${network.sentCount} ${of.operations}`);
  return {
    seed, hash: hash.slice(0, 16), simulatedMs: clock.nowMs, events: clock.eventCount, messages: network.sentCount,
    entries: checker.committedMax, terms: checker.terms, ...of,
  };
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
