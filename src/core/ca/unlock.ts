// What a manager does when the swarm's unlock key is another than the one its own keys are sealed with. The version is
// that of the cluster object: a manager that is behind must not fall back to a key that was replaced.

import { sameBytes } from '../../lib/bytes.js';
import { unlockKeyOf } from '../../model/cluster.js';
import type { Cluster } from '../../model/proto/swarmkit_pb.js';

export interface OwnLock {
  /** Undefined: its keys are in the clear. */
  readonly unlockKey: Uint8Array | undefined;
  readonly unlockVersion: bigint;
}

export interface LockChange extends OwnLock {
  /** The keys were in the clear and are sealed from now on: what lay on the disk until now has to be replaced. */
  readonly replaceKeys: boolean;
}

/** Undefined when nothing has to change. */
export function lockChange(own: OwnLock, cluster: Cluster | undefined): LockChange | undefined {
  if (cluster === undefined) return undefined;
  return lockChangeTo(own, { unlockKey: unlockKeyOf(cluster), unlockVersion: cluster.meta?.version?.index ?? 0n });
}

/** The same, of what a manager tells a node that is not in the group yet. */
export function lockChangeTo(own: OwnLock, { unlockKey, unlockVersion }: OwnLock): LockChange | undefined {
  if (unlockVersion <= own.unlockVersion || sameKey(own.unlockKey, unlockKey)) return undefined;
  return { unlockKey, unlockVersion, replaceKeys: own.unlockKey === undefined };
}

function sameKey(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return sameBytes(a, b);
}
