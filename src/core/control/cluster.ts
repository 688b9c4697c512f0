// The cluster object: update of its spec, rotation of join tokens and of the managers' unlock key. A token is
// SWMTKN-1-<digest of the root certificate>-<secret>; rotation replaces the secret only.

import { clone, create } from '@bufbuild/protobuf';
import { durationNs } from '../../lib/time.js';
import { newTokenSecret } from '../../lib/ids.js';
import { fail, type Result } from '../../lib/result.js';
import { UNLOCK_KEY_BYTES, UNLOCK_SUBSYSTEM, barredNow } from '../../model/cluster.js';
import {
  ClusterSchema, ClusterSpecSchema, EncryptionKeySchema, RootCASchema, type Cluster, type ClusterSpec, type EncryptionKey, type RootCA,
} from '../../model/proto/swarmkit_pb.js';
import { updateAction } from '../store/actions.js';
import type { ReadTx } from '../store/view.js';
import { change, outOfSequence, rpcFail, type Change, type ChangeContext } from './context.js';
import { checkAnnotations, firstRefusal, invalid, type Refusal } from './validate.js';

const MIN_CERT_EXPIRY_NS = 3_600_000_000_000n;

export interface ClusterUpdate {
  readonly version: bigint;
  readonly spec: ClusterSpec;
  readonly rotateWorkerToken: boolean;
  readonly rotateManagerToken: boolean;
  readonly rotateManagerUnlockKey: boolean;
  /** What core/ca made of the spec's wish for the root, on the same version; undefined when it stays. */
  readonly rootCa: RootCA | undefined;
}

export function checkClusterSpec(spec: ClusterSpec): Refusal {
  return firstRefusal(
    () => checkAnnotations(spec.annotations),
    () => {
      const expiry = spec.caConfig?.nodeCertExpiry;
      if (expiry === undefined || durationNs(expiry) >= MIN_CERT_EXPIRY_NS) return undefined;
      return invalid('minimum certificate expiry time is: 1h0m0s');
    },
    () => {
      if (durationNs(spec.dispatcher?.heartbeatPeriod) >= 0n) return undefined;
      return invalid('heartbeat time period cannot be a negative duration');
    },
    () => {
      if ((spec.caConfig?.externalCas.length ?? 0) === 0) return undefined;
      return rpcFail('unimplemented', 'external certificate authorities are not supported yet');
    },
  );
}

export function updateCluster(view: ReadTx, request: ClusterUpdate, context: ChangeContext): Result<Change<void>> {
  const current = view.cluster();
  if (current === undefined) return fail('not_found', 'cluster not found');
  const refusal = checkClusterSpec(request.spec);
  if (refusal !== undefined) return refusal;
  if (current.meta?.version?.index !== request.version) return outOfSequence();
  const next = clone(ClusterSchema, current);
  next.spec = clone(ClusterSpecSchema, request.spec);
  if (request.rootCa !== undefined) next.rootCa = clone(RootCASchema, request.rootCa);
  // The root's key is kept once, and a spec that is read and sent back must not ask for the same root again.
  const ca = next.spec.caConfig;
  if (ca !== undefined) [ca.signingCaCert, ca.signingCaKey] = [new Uint8Array(), new Uint8Array()];
  next.blacklistedCertificates = barredNow(next.blacklistedCertificates, context.nowMs);
  next.unlockKeys = unlockKeys(next, request.rotateManagerUnlockKey, context);
  const tokens = next.rootCa?.joinTokens;
  if (tokens !== undefined && request.rotateWorkerToken) tokens.worker = rotated(tokens.worker, context);
  if (tokens !== undefined && request.rotateManagerToken) tokens.manager = rotated(tokens.manager, context);
  return change([updateAction('cluster', next)], undefined);
}

/** A key while managers are to be locked; a rotation makes another one (SwarmKit ignores it while they are not). */
function unlockKeys(cluster: Cluster, rotate: boolean, context: ChangeContext): EncryptionKey[] {
  const others = cluster.unlockKeys.filter(({ subsystem }) => subsystem !== UNLOCK_SUBSYSTEM);
  if (cluster.spec?.encryptionConfig?.autoLockManagers !== true) return others;
  const own = cluster.unlockKeys.find(({ subsystem }) => subsystem === UNLOCK_SUBSYSTEM);
  if (own !== undefined && !rotate) return [...others, own];
  const key = new Uint8Array(context.randomBytes(UNLOCK_KEY_BYTES));
  return [...others, create(EncryptionKeySchema, { subsystem: UNLOCK_SUBSYSTEM, key })];
}

function rotated(token: string, context: ChangeContext): string {
  const head = token.slice(0, token.lastIndexOf('-'));
  return `${head}-${newTokenSecret(context.randomBytes)}`;
}
