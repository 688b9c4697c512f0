// Services: create, update (with rollback), remove. A spec that reaches the store has been checked whole; networks
// are named by id. Every change of the spec gives the service a new, larger spec version: the number by which the
// orchestrator and the CLI tell an up-to-date task.

import { clone, create } from '@bufbuild/protobuf';
import { timestampFromMs } from '../../lib/time.js';
import type { Result } from '../../lib/result.js';
import {
  ServiceSchema, ServiceSpecSchema, UpdateStatusSchema, UpdateStatus_UpdateState, VersionSchema,
  type ContainerSpec, type NetworkAttachmentConfig, type Service, type ServiceSpec,
} from '../../model/proto/swarmkit_pb.js';
import { displayReference, imageIsSomewhere } from '../store/images.js';
import { createAction, removeAction, updateAction } from '../store/actions.js';
import type { ReadTx } from '../store/view.js';
import { change, outOfSequence, rpcFail, type Change, type ChangeContext } from './context.js';
import { isPredefined } from '../../model/network.js';
import { find } from './lookup.js';
import { checkCapacity, checkServiceSize } from './limits.js';
import { checkServiceContext, checkServiceSpec, isJob } from './service-checks.js';
import type { Failed } from './validate.js';
import { fail } from '../../lib/result.js';

export interface ServiceUpdate {
  readonly id: string;
  readonly version: bigint;
  readonly spec: ServiceSpec;
  /** Go back to the previous spec; `spec` is then ignored but for its checks. */
  readonly rollback: boolean;
  /** Where the registry credentials come from when the request brings none. */
  readonly registryAuthFrom: 'spec' | 'previous-spec';
}

/** Networks that exist on every Docker node but are not swarm networks. */
const PREDEFINED_NETWORKS = ['bridge', 'host', 'none', 'docker_gwbridge'];

function containerOf(spec: ServiceSpec | undefined): ContainerSpec | undefined {
  const runtime = spec?.task?.runtime;
  return runtime?.case === 'container' ? runtime.value : undefined;
}

/** A copy of the spec with network names or id prefixes replaced by ids. */
function resolveNetworks(view: ReadTx, original: ServiceSpec): { ok: true; spec: ServiceSpec } | Failed {
  const spec = clone(ServiceSpecSchema, original);
  const lists: NetworkAttachmentConfig[][] = [spec.task?.networks ?? [], spec.networks];
  for (const attachment of lists.flat()) {
    const { target } = attachment;
    const found = find(view, 'network', target);
    // Node-local networks (SwarmKit's predefined ones) are refused, not accepted and forgotten: tasks of ours have none.
    if (found.ok && !isPredefined(found.value)) {
      attachment.target = found.value.id;
    } else if (found.ok || PREDEFINED_NETWORKS.includes(target)) {
      const name = found.ok ? found.value.spec?.annotations?.name ?? target : target;
      return fail('permission_denied', `The network ${name} cannot be used with services. Only networks scoped to the `
        + 'swarm can be used, such as those created with the overlay driver.');
    } else {
      return found;
    }
  }
  return { ok: true, spec };
}

function versionOf(service: Service): bigint {
  return service.meta?.version?.index ?? 0n;
}

function nextSpecVersion(view: ReadTx): { $typeName: 'docker.swarmkit.v1.Version'; index: bigint } {
  return create(VersionSchema, { index: view.index + 1n });
}

/** Modes that the orchestrator does not run yet are refused, not accepted and forgotten. */
function checkMode(spec: ServiceSpec): Failed | undefined {
  return isJob(spec) ? fail('unimplemented', 'job modes are not supported yet: use --mode replicated or global') : undefined;
}

/** An image that no node has and none can fetch is refused at once. */
function checkImage(view: ReadTx, spec: ServiceSpec, before: ServiceSpec | undefined): Failed | undefined {
  const image = containerOf(spec)?.image ?? '';
  if (image === '' || image === containerOf(before)?.image || imageIsSomewhere(view, image)) return undefined;
  return fail('not_found', `No such image: ${displayReference(image)}: load it on the nodes with docker load or docker import`);
}

export function createService(view: ReadTx, request: ServiceSpec, context: ChangeContext): Result<Change<string>> {
  const refusal = checkServiceSize(request) ?? checkServiceSpec(request) ?? checkMode(request);
  if (refusal !== undefined) return refusal;
  const resolved = resolveNetworks(view, request);
  if (!resolved.ok) return resolved;
  const { spec } = resolved;
  const conflict = checkServiceContext(view, spec, undefined) ?? checkCapacity(view, spec, undefined) ?? checkImage(view, spec, undefined);
  if (conflict !== undefined) return conflict;
  const name = spec.annotations?.name ?? '';
  if (view.byName('service', name) !== undefined) {
    return rpcFail('already_exists', `name conflicts with an existing object: service ${name} already exists`);
  }
  const service = create(ServiceSchema, {
    id: context.newId(), spec, specVersion: nextSpecVersion(view), specChanged: view.index + 1n,
  });
  return change([createAction('service', service)], service.id);
}

/**
 * A stale version is one from before the spec last changed. SwarmKit also refuses what was read before its own allocator or
 * updater touched the service, so that a `service scale` right after a `service create` fails; nothing is lost by taking it.
 */
export function updateService(view: ReadTx, request: ServiceUpdate, context: ChangeContext): Result<Change<void>> {
  const found = find(view, 'service', request.id);
  if (!found.ok) return found;
  const current = found.value;
  const resolved = resolveNetworks(view, request.spec);
  if (!resolved.ok) return resolved;
  const { spec } = resolved;
  const refusal = checkServiceSize(spec) ?? checkServiceSpec(spec);
  if (refusal !== undefined) return refusal;
  if (current.spec?.mode.case !== spec.mode.case) return rpcFail('unknown', 'service mode change is not allowed');
  if (current.spec?.annotations?.name !== spec.annotations?.name) {
    return rpcFail('unknown', 'renaming services is not supported');
  }
  const conflict = checkServiceContext(view, spec, current.id)
    ?? (request.rollback ? undefined : checkCapacity(view, spec, current.id) ?? checkImage(view, spec, current.spec));
  if (conflict !== undefined) return conflict;
  if (request.version < current.specChanged || request.version > versionOf(current)) return outOfSequence();
  const next = clone(ServiceSchema, current);
  if (request.rollback) return rollBack(view, current, next, context);
  keepRegistryAuth(current, spec, request.registryAuthFrom);
  if (current.spec !== undefined) next.previousSpec = clone(ServiceSpecSchema, current.spec);
  if (current.specVersion === undefined) delete next.previousSpecVersion;
  else next.previousSpecVersion = current.specVersion;
  next.spec = spec;
  next.specVersion = nextSpecVersion(view);
  next.specChanged = view.index + 1n;
  delete next.updateStatus;
  return change([updateAction('service', next)], undefined);
}

function rollBack(view: ReadTx, current: Service, next: Service, context: ChangeContext): Result<Change<void>> {
  const { previousSpec, previousSpecVersion } = current;
  if (previousSpec === undefined) {
    return rpcFail('failed_precondition', `service ${current.id} does not have a previous spec`);
  }
  const conflict = checkServiceContext(view, previousSpec, current.id) ?? checkCapacity(view, previousSpec, current.id);
  if (conflict !== undefined) return conflict;
  next.spec = clone(ServiceSpecSchema, previousSpec);
  // The old number again, as SwarmKit does: tasks left over from that spec count as up to date.
  next.specVersion = previousSpecVersion ?? nextSpecVersion(view);
  next.specChanged = view.index + 1n;
  if (current.spec !== undefined) next.previousSpec = clone(ServiceSpecSchema, current.spec);
  if (current.specVersion !== undefined) next.previousSpecVersion = current.specVersion;
  next.updateStatus = create(UpdateStatusSchema, {
    state: UpdateStatus_UpdateState.ROLLBACK_STARTED,
    message: 'manually requested rollback',
    startedAt: timestampFromMs(context.nowMs),
  });
  return change([updateAction('service', next)], undefined);
}

function keepRegistryAuth(current: Service, spec: ServiceSpec, from: 'spec' | 'previous-spec'): void {
  const container = containerOf(spec);
  const source = containerOf(from === 'spec' ? current.spec : current.previousSpec);
  if (container === undefined || container.pullOptions !== undefined || source?.pullOptions === undefined) return;
  container.pullOptions = source.pullOptions;
}


export function removeService(view: ReadTx, reference: string): Result<Change<void>> {
  const found = find(view, 'service', reference);
  if (!found.ok) return found;
  return change([removeAction('service', found.value)], undefined);
}
