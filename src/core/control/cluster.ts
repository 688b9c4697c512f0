// The cluster object: update of its spec and rotation of join tokens. A token is SWMTKN-1-<digest of the root
// certificate>-<secret>; rotation replaces the secret only.

import { clone } from '@bufbuild/protobuf';
import { durationNs } from '../../lib/time.js';
import { newTokenSecret } from '../../lib/ids.js';
import { fail, type Result } from '../../lib/result.js';
import { ClusterSchema, type ClusterSpec } from '../../model/proto/swarmkit_pb.js';
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
      if (spec.encryptionConfig?.autoLockManagers !== true) return undefined;
      return rpcFail('unimplemented', 'autolock of managers is not supported yet');
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
  const rotation = request.spec.caConfig;
  if ((rotation?.forceRotate ?? 0n) !== (current.spec?.caConfig?.forceRotate ?? 0n)
    || (rotation?.signingCaCert.length ?? 0) > 0 || (rotation?.signingCaKey.length ?? 0) > 0) {
    return rpcFail('unimplemented', 'rotation of the root CA is not supported yet');
  }
  if (request.rotateManagerUnlockKey) {
    return rpcFail('unimplemented', 'autolock of managers is not supported yet: there is no unlock key to rotate');
  }
  if (current.meta?.version?.index !== request.version) return outOfSequence();
  const next = clone(ClusterSchema, current);
  next.spec = request.spec;
  const tokens = next.rootCa?.joinTokens;
  if (tokens !== undefined && request.rotateWorkerToken) tokens.worker = rotated(tokens.worker, context);
  if (tokens !== undefined && request.rotateManagerToken) tokens.manager = rotated(tokens.manager, context);
  return change([updateAction('cluster', next)], undefined);
}

function rotated(token: string, context: ChangeContext): string {
  const head = token.slice(0, token.lastIndexOf('-'));
  return `${head}-${newTokenSecret(context.randomBytes)}`;
}
