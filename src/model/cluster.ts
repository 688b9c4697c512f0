// The key that unlocks managers, as the cluster object holds it, and the certificates barred from the swarm.

import { timestampMs } from '../lib/time.js';
import type { BlacklistedCertificateEntry, Cluster } from './proto/swarmkit_pb.js';

/** Whose keys it seals. */
export const UNLOCK_SUBSYSTEM = 'swarm-manager';
export const UNLOCK_KEY_BYTES = 32;
/** A barred certificate is remembered for so long after it expired: clocks differ (SwarmKit's number). */
const BAR_GRACE_MS = 7 * 24 * 3_600_000;

/** Undefined when the managers of the swarm are not locked. */
export function unlockKeyOf(cluster: Cluster | undefined): Uint8Array | undefined {
  return cluster?.unlockKeys.find(({ subsystem }) => subsystem === UNLOCK_SUBSYSTEM)?.key;
}

/** Those that may still be used by somebody. */
export function barredNow(entries: readonly BlacklistedCertificateEntry[], nowMs: number): BlacklistedCertificateEntry[] {
  return entries.filter(({ value }) => value?.expiry === undefined || timestampMs(value.expiry) + BAR_GRACE_MS > nowMs);
}
