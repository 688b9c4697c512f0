// Checks shared by several kinds of specs: names, drivers, resources. Texts are SwarmKit's, codes too.

import { rpcFail } from './context.js';
import type { AppError, Result } from '../../lib/result.js';
import type { Annotations, Driver, Resources } from '../../model/proto/swarmkit_pb.js';

/** A failed check, or undefined when all is well. */
export type Refusal = Extract<Result<never>, { readonly ok: false }> | undefined;
export type Failed = { readonly ok: false; readonly error: AppError };

const DNS_NAME = /^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$/;
const CONFIG_OR_SECRET_NAME = /^[a-zA-Z0-9]+(?:[a-zA-Z0-9\-_.]*[a-zA-Z0-9])?$/;
const MIN_NANO_CPUS = 1_000_000n;
const MIN_MEMORY_BYTES = 4n * 1024n * 1024n;

/** First refusal of a list of lazily run checks. */
export function firstRefusal(...checks: readonly (() => Refusal)[]): Refusal {
  for (const check of checks) {
    const refusal = check();
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

export function invalid(message: string): Failed {
  return rpcFail('invalid_argument', message);
}

export function checkAnnotations(annotations: Annotations | undefined): Refusal {
  const name = annotations?.name ?? '';
  if (name === '') return invalid('meta: name must be provided');
  if (!DNS_NAME.test(name)) return invalid('name must be valid as a DNS name component');
  if (name.length > 63) return invalid('name must be 63 characters or fewer');
  return undefined;
}

/** Names of secrets and configs may carry dots, unlike those of services. */
export function checkPayloadAnnotations(annotations: Annotations | undefined): Refusal {
  const name = annotations?.name ?? '';
  if (name === '') return invalid('name must be provided');
  if (name.length > 64 || !CONFIG_OR_SECRET_NAME.test(name)) {
    return invalid(
      'invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]');
  }
  return undefined;
}

export function checkDriver(driver: Driver | undefined): Refusal {
  if (driver !== undefined && driver.name === '') return invalid('driver name: if driver is specified name is required');
  return undefined;
}

export function checkResources(resources: Resources | undefined): Refusal {
  if (resources === undefined) return undefined;
  if (resources.nanoCpus !== 0n && resources.nanoCpus < MIN_NANO_CPUS) {
    return invalid(`invalid cpu value ${Number(resources.nanoCpus) / 1e9}: Must be at least ${Number(MIN_NANO_CPUS) / 1e9}`);
  }
  if (resources.memoryBytes !== 0n && resources.memoryBytes < MIN_MEMORY_BYTES) {
    return invalid(`invalid memory value ${resources.memoryBytes}: Must be at least 4MiB`);
  }
  return undefined;
}
