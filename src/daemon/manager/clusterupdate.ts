// Update of the swarm's settings: what core/control decides, with the certificates that a new root needs made first.

import { checkClusterSpec, updateCluster } from '../../core/control/cluster.js';
import { beginRotation, rootWish, withoutRotation, type RootMaterial } from '../../core/ca/rotation.js';
import type { SwarmUpdate } from '../../api/backend.js';
import { createRootCa } from '../../io/x509/certificates.js';
import { crossSign, parseRoot, sameKey } from '../../io/x509/roots.js';
import { fail, ok, type Result } from '../../lib/result.js';
import type { CAConfig, RootCA } from '../../model/proto/swarmkit_pb.js';
import type { Manager } from './manager.js';

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

export async function updateSwarm(manager: Manager, request: SwarmUpdate): Promise<Result<void>> {
  const cluster = manager.view().cluster();
  if (cluster?.rootCa === undefined) return fail('not_found', 'cluster not found');
  const refusal = checkClusterSpec(request.spec);
  if (refusal !== undefined) return refusal;
  // Made out of the cluster as it is now: updateCluster refuses the request if it has another version by then.
  const rootCa = cluster.meta?.version?.index === request.version
    ? await nextRoot(cluster.rootCa, request.spec.caConfig, Date.now()) : ok(undefined);
  if (!rootCa.ok) return rootCa;
  return manager.commit((view, context) => updateCluster(view, { ...request, rootCa: rootCa.value }, context));
}

/** The root CA as it is to be; undefined when it stays. */
async function nextRoot(rootCa: RootCA, config: CAConfig | undefined, nowMs: number): Promise<Result<RootCA | undefined>> {
  const wish = rootWish(rootCa, config);
  if (wish === 'keep') return ok(undefined);
  const material = wish === 'new root' ? ok(await createRootCa(nowMs))
    : parseRoot(text(config?.signingCaCert ?? new Uint8Array()), text(config?.signingCaKey ?? new Uint8Array()), nowMs);
  if (!material.ok) return material;
  const { certificate, key } = material.value;
  const wanted: RootMaterial = { certificate: Buffer.from(certificate), key: Buffer.from(key) };
  const forceRotate = config?.forceRotate ?? 0n;
  const kept = withoutRotation(rootCa, wanted, forceRotate);
  if (kept !== undefined) return ok(kept);
  const trusted = { certificate: text(rootCa.caCert), key: text(rootCa.caKey) };
  if (sameKey(trusted.certificate, certificate)) {
    return fail('invalid_argument', 'rpc error: code = InvalidArgument desc = Cannot update to a cert with an identical key');
  }
  return ok(beginRotation(rootCa, wanted, Buffer.from(await crossSign(trusted, certificate)), forceRotate));
}
