// Rotation of the swarm's root, as SwarmKit does it. While it runs the old root is still the one everybody trusts; nodes
// get certificates that the new root signs, followed by a certificate of the new root that the old one signed. When
// every node tells that its certificate is of the new root, that one becomes the trusted root, with new join tokens.
// Keys and certificates are made outside and come in as bytes; see daemon/manager/clusterupdate.ts.

import { clone, create } from '@bufbuild/protobuf';
import { sameBytes } from '../../lib/bytes.js';
import { newTokenSecret, type RandomBytes } from '../../lib/ids.js';
import type { SubjectAndKey } from '../../lib/der.js';
import {
  ClusterSchema, IssuanceStatusSchema, IssuanceStatus_State, JoinTokensSchema, NodeSchema, NodeStatus_State, RootCASchema,
  RootRotationSchema, type CAConfig, type Cluster, type Node, type RootCA, type StoreAction,
} from '../../model/proto/swarmkit_pb.js';
import { updateAction } from '../store/actions.js';
import type { ReadTx } from '../store/view.js';

/** Nodes asked for a new certificate at a time, and how long until the next ones are asked (SwarmKit's numbers). */
export const BATCH_NODES = 30;
export const BATCH_INTERVAL_MS = 3000;
/** A node that was asked and still has its old certificate is asked again after this time. */
const PATIENCE_MS = 12_000;

/** What a user's wish for the root amounts to, before anything is made. */
export type RootWish = 'keep' | 'new root' | 'given root';

export function rootWish(rootCa: RootCA, config: CAConfig | undefined): RootWish {
  if ((config?.signingCaCert.length ?? 0) > 0 || (config?.signingCaKey.length ?? 0) > 0) return 'given root';
  return rootCa.lastForcedRotation === (config?.forceRotate ?? 0n) ? 'keep' : 'new root';
}

/** A root with its key, made or checked. */
export interface RootMaterial {
  readonly certificate: Uint8Array;
  readonly key: Uint8Array;
}

/**
 * The root to rotate to. `undefined`: there is nothing to rotate, because it is the trusted root (what rotates is given
 * up) or the one that is being rotated to.
 */
export function withoutRotation(rootCa: RootCA, wanted: RootMaterial, forceRotate: bigint): RootCA | undefined {
  const next = clone(RootCASchema, rootCa);
  next.lastForcedRotation = forceRotate;
  if (sameBytes(rootCa.caCert, wanted.certificate)) {
    next.caKey = wanted.key;
    delete next.rootRotation;
    return next;
  }
  if (next.rootRotation !== undefined && sameBytes(next.rootRotation.caCert, wanted.certificate)) {
    next.rootRotation.caKey = wanted.key;
    return next;
  }
  return undefined;
}

/** Begins a rotation, or replaces the one that runs. `crossSigned` is the new root's certificate, signed by the trusted root. */
export function beginRotation(rootCa: RootCA, wanted: RootMaterial, crossSigned: Uint8Array, forceRotate: bigint): RootCA {
  const next = clone(RootCASchema, rootCa);
  next.rootRotation = create(RootRotationSchema, { caCert: wanted.certificate, caKey: wanted.key, crossSignedCaCert: crossSigned });
  next.lastForcedRotation = forceRotate;
  return next;
}

/** What signs the certificates of nodes now, and what follows each of them. */
export function signerOf(rootCa: RootCA): RootMaterial & { readonly intermediate: Uint8Array } {
  const { rootRotation } = rootCa;
  if (rootRotation === undefined) return { certificate: rootCa.caCert, key: rootCa.caKey, intermediate: new Uint8Array() };
  return { certificate: rootRotation.caCert, key: rootRotation.caKey, intermediate: rootRotation.crossSignedCaCert };
}

export interface RotationInput {
  readonly view: ReadTx;
  readonly nowMs: number;
  readonly randomBytes: RandomBytes;
  /** Subject and key of a root, out of its PEM. */
  readonly infoOf: (pem: Uint8Array) => SubjectAndKey | undefined;
  /** The digest of a root that join tokens begin with. */
  readonly digestOf: (pem: Uint8Array) => string;
  /** When each node was asked last: soft state, kept by the caller between passes. */
  readonly asked: ReadonlyMap<string, number>;
}

export interface RotationOutcome {
  readonly actions: readonly StoreAction[];
  /** Nodes that these actions ask for a new certificate. */
  readonly asked: readonly string[];
  readonly finished: boolean;
  /** When to come again. */
  readonly wakeMs: number | undefined;
}

const NOTHING: RotationOutcome = { actions: [], asked: [], finished: false, wakeMs: undefined };

/** One pass: ends the rotation when every node has followed, else asks the next nodes. */
export function reconcileRoot(input: RotationInput): RotationOutcome {
  const { view, nowMs, asked } = input;
  const cluster = view.cluster();
  if (cluster?.rootCa === undefined) return NOTHING;
  const rotating = cluster.rootCa.rootRotation !== undefined;
  const wanted = input.infoOf(signerOf(cluster.rootCa).certificate);
  if (wanted === undefined) return NOTHING;
  const behind = view.list('node').filter((node) => isBehind(node, wanted, rotating));
  if (behind.length === 0) {
    if (!rotating) return NOTHING;
    return { actions: [updateAction('cluster', finished(cluster, input))], asked: [], finished: true, wakeMs: undefined };
  }
  // A node that is away is asked as soon as it is back; until then the rotation waits for it, or for its removal.
  const ready = behind.filter((node) => node.status?.state === NodeStatus_State.READY);
  const waiting = ready.filter((node) => !isAsked(node) && nowMs - (asked.get(node.id) ?? -Infinity) >= PATIENCE_MS);
  const lately = [...asked.values()].reduce((max, ms) => Math.max(max, ms), -Infinity);
  if (nowMs - lately < BATCH_INTERVAL_MS) return { ...NOTHING, wakeMs: lately + BATCH_INTERVAL_MS };
  const batch = waiting.slice(0, BATCH_NODES);
  return {
    actions: batch.map(ask), asked: batch.map(({ id }) => id), finished: false,
    wakeMs: ready.length === 0 ? undefined : nowMs + BATCH_INTERVAL_MS,
  };
}

/** Outside a rotation only what a node tells counts: one given up leaves certificates of a root that nobody will trust. */
function isBehind(node: Node, wanted: SubjectAndKey, rotating: boolean): boolean {
  const info = node.description?.tlsInfo;
  if (info === undefined || info.certIssuerPublicKey.length === 0) return rotating;
  return !sameBytes(info.certIssuerSubject, wanted.subject) || !sameBytes(info.certIssuerPublicKey, wanted.publicKey);
}

function isAsked(node: Node): boolean {
  const state = node.certificate?.status?.state;
  return state === IssuanceStatus_State.ROTATE || state === IssuanceStatus_State.RENEW || state === IssuanceStatus_State.PENDING;
}

function ask(node: Node): StoreAction {
  const next = clone(NodeSchema, node);
  if (next.certificate !== undefined) next.certificate.status = create(IssuanceStatusSchema, { state: IssuanceStatus_State.ROTATE });
  return updateAction('node', next);
}

function finished(cluster: Cluster, { digestOf, randomBytes }: RotationInput): Cluster {
  const next = clone(ClusterSchema, cluster);
  const rotation = next.rootCa?.rootRotation;
  if (next.rootCa === undefined || rotation === undefined) return next;
  const digest = digestOf(rotation.caCert);
  const token = (): string => `SWMTKN-1-${digest}-${newTokenSecret(randomBytes)}`;
  next.rootCa = create(RootCASchema, {
    caCert: rotation.caCert, caKey: rotation.caKey, caCertHash: digest,
    joinTokens: create(JoinTokensSchema, { worker: token(), manager: token() }),
    lastForcedRotation: next.rootCa.lastForcedRotation,
  });
  return next;
}
