// Secrets and configs: the same rules but for size and words. Their data never changes; labels may.

import { clone, create } from '@bufbuild/protobuf';
import { sameBytes } from '../../lib/bytes.js';
import type { Result } from '../../lib/result.js';
import {
  ConfigSchema, SecretSchema, type ConfigSpec, type SecretSpec, type Service,
} from '../../model/proto/swarmkit_pb.js';
import { createAction, removeAction, updateAction } from '../store/actions.js';
import type { ReadTx } from '../store/view.js';
import { change, outOfSequence, rpcFail, type Change, type ChangeContext } from './context.js';
import { find } from './lookup.js';
import { checkDriver, checkPayloadAnnotations, invalid, type Refusal } from './validate.js';

export type PayloadKind = 'secret' | 'config';
export type PayloadSpec = SecretSpec | ConfigSpec;

const MAX_BYTES: Readonly<Record<PayloadKind, number>> = { secret: 500 * 1024, config: 1000 * 1024 };

export interface PayloadUpdate {
  readonly id: string;
  readonly version: bigint;
  readonly spec: PayloadSpec;
}

function checkPayload(kind: PayloadKind, spec: PayloadSpec): Refusal {
  const refusal = checkPayloadAnnotations(spec.annotations) ?? checkDriver(spec.templating);
  if (refusal !== undefined) return refusal;
  const driver = kind === 'secret' ? (spec as SecretSpec).driver : undefined;
  if (driver !== undefined) {
    return rpcFail('unimplemented', 'secret drivers are not supported yet: give the secret its data');
  }
  if (spec.data.length === 0 || spec.data.length >= MAX_BYTES[kind]) {
    return invalid(`${kind} data must be larger than 0 and less than ${MAX_BYTES[kind]} bytes`);
  }
  return undefined;
}

export function createPayload(
  view: ReadTx, kind: PayloadKind, spec: PayloadSpec, context: ChangeContext,
): Result<Change<string>> {
  const refusal = checkPayload(kind, spec);
  if (refusal !== undefined) return refusal;
  const name = spec.annotations?.name ?? '';
  if (view.byName(kind, name) !== undefined) return rpcFail('already_exists', `${kind} ${name} already exists`);
  const id = context.newId();
  const action = kind === 'secret'
    ? createAction('secret', create(SecretSchema, { id, spec: spec as SecretSpec }))
    : createAction('config', create(ConfigSchema, { id, spec: spec as ConfigSpec }));
  return change([action], id);
}

export function updatePayload(view: ReadTx, kind: PayloadKind, request: PayloadUpdate): Result<Change<void>> {
  const found = find(view, kind, request.id);
  if (!found.ok) return found;
  const current = found.value;
  const { spec } = request;
  const dataChanged = spec.data.length > 0 && !sameBytes(spec.data, current.spec?.data ?? new Uint8Array());
  if (spec.annotations?.name !== current.spec?.annotations?.name || dataChanged) {
    return invalid('only updates to Labels are allowed');
  }
  if (current.meta?.version?.index !== request.version) return outOfSequence();
  const labels = spec.annotations?.labels ?? [];
  if (kind === 'secret') {
    const next = clone(SecretSchema, current as ReturnType<typeof create<typeof SecretSchema>>);
    if (next.spec?.annotations !== undefined) next.spec.annotations.labels = labels;
    return change([updateAction('secret', next)], undefined);
  }
  const next = clone(ConfigSchema, current as ReturnType<typeof create<typeof ConfigSchema>>);
  if (next.spec?.annotations !== undefined) next.spec.annotations.labels = labels;
  return change([updateAction('config', next)], undefined);
}

function uses(service: Service, kind: PayloadKind, id: string): boolean {
  const runtime = service.spec?.task?.runtime;
  if (runtime?.case !== 'container') return false;
  if (kind === 'secret') return runtime.value.secrets.some((x) => x.secretId === id);
  return runtime.value.configs.some((x) => x.configId === id);
}

export function removePayload(view: ReadTx, kind: PayloadKind, reference: string): Result<Change<void>> {
  const found = find(view, kind, reference);
  if (!found.ok) return found;
  const object = found.value;
  const users = view.list('service')
    .filter((service) => uses(service, kind, object.id))
    .map((service) => service.spec?.annotations?.name ?? '');
  if (users.length > 0) {
    const noun = users.length === 1 ? 'service' : 'services';
    return invalid(`${kind} '${object.spec?.annotations?.name ?? ''}' is in use by the following ${noun}: ${users.join(', ')}`);
  }
  return change([removeAction(kind, object as never)], undefined);
}
