// What holds between objects, as of one state: what a service names must be there, and stays while it does; a swarm has a
// manager. Requests check it too, but two of them, each right by what it saw, may meet in the log.

import { attachmentConfigs } from '../../model/network.js';
import { NodeRole, type Node, type Service } from '../../model/proto/swarmkit_pb.js';
import type { ReadTx } from './view.js';

export type ReferredKind = 'network' | 'secret' | 'config';

export function isReferred(kind: string): kind is ReferredKind {
  return kind === 'network' || kind === 'secret' || kind === 'config';
}

/** Ids that the service's spec names. */
export function referencesOf(service: Service, kind: ReferredKind): readonly string[] {
  if (kind === 'network') return attachmentConfigs(service).map(({ target }) => target);
  const runtime = service.spec?.task?.runtime;
  if (runtime?.case !== 'container') return [];
  return kind === 'secret' ? runtime.value.secrets.map((x) => x.secretId) : runtime.value.configs.map((x) => x.configId);
}

/** What the service names anew and is not there. A rollback names what it named before, which may be gone. */
export function missingReference(view: ReadTx, service: Service, before: Service | undefined): string | undefined {
  for (const kind of ['network', 'secret', 'config'] as const) {
    const missing = referencesOf(service, kind).find((id) => view.get(kind, id) === undefined);
    if (missing === undefined || (before !== undefined && namedBefore(before, kind, missing))) continue;
    return `${kind} ${missing}`;
  }
  return undefined;
}

function namedBefore(service: Service, kind: ReferredKind, id: string): boolean {
  const { previousSpec } = service;
  return referencesOf(service, kind).includes(id)
    || (previousSpec !== undefined && referencesOf({ ...service, spec: previousSpec }, kind).includes(id));
}

export function isInUse(view: ReadTx, kind: ReferredKind, id: string): boolean {
  return view.list('service').some((service) => referencesOf(service, kind).includes(id));
}

/** Managers that are to remain, beside the node. */
export function stayingManagers(view: ReadTx, nodeId: string): readonly Node[] {
  return view.list('node').filter((other) => other.id !== nodeId && isStaying(other));
}

function isStaying(node: Node): boolean {
  return node.role === NodeRole.MANAGER && node.spec?.desiredRole === NodeRole.MANAGER;
}

/** The swarm would have no manager any more. */
export function demotesLastManager(view: ReadTx, node: Node): boolean {
  const before = view.get('node', node.id);
  return before !== undefined && isStaying(before) && node.spec?.desiredRole === NodeRole.WORKER
    && stayingManagers(view, node.id).length === 0;
}
