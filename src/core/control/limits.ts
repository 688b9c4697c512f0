// Limits on what a user may ask for. A command holds 1.5 MiB, and a service or task repeats parts of what it was made
// from: a service its previous spec and its ports, a task its labels, ports, aliases and whole networks. These numbers
// keep every object that is ever made from an accepted spec below one command (test/unit/limits.test.ts adds it up), and
// the number of tasks within what a manager can hold.

import { toBinary, type DescMessage, type MessageShape } from '@bufbuild/protobuf';
import {
  NetworkSpecSchema, NodeSpecSchema, ServiceSpecSchema, TaskSpecSchema,
  type NetworkSpec, type NodeSpec, type ServiceSpec,
} from '../../model/proto/swarmkit_pb.js';
import type { ReadTx } from '../store/view.js';
import { networkTargets } from './service-checks.js';
import { firstRefusal, invalid, type Refusal } from './validate.js';

export const SERVICE_SPEC_BYTES_MAX = 256 * 1024;
export const NETWORK_SPEC_BYTES_MAX = 32 * 1024;
/** The specs of all networks of one service together: every task carries three copies of their parts. */
export const SERVICE_NETWORKS_BYTES_MAX = 128 * 1024;
export const NODE_SPEC_BYTES_MAX = 64 * 1024;
/** Each attempt is remembered on the task. */
export const RESTART_ATTEMPTS_MAX = 10_000n;
export const REPLICAS_MAX = 10_000n;
/** Of all services together. */
export const TASKS_MAX = 50_000n;
/** What the specs of the tasks of all services may take together. */
export const TASKS_BYTES_MAX = 512n * 1024n * 1024n;

function sizeOf<T extends DescMessage>(schema: T, message: MessageShape<T> | undefined): number {
  return message === undefined ? 0 : toBinary(schema, message).length;
}

function tooLarge(what: string, bytes: number, max: number, fix: string): Refusal {
  return bytes <= max ? undefined : invalid(`${what} is too large: ${bytes} bytes, at most ${max}: ${fix}`);
}

export function checkServiceSize(spec: ServiceSpec): Refusal {
  const attempts = spec.task?.restart?.maxAttempts ?? 0n;
  if (attempts > RESTART_ATTEMPTS_MAX) {
    return invalid(`TaskSpec: restart-max-attempts ${attempts} is too large, at most ${RESTART_ATTEMPTS_MAX}: use 0 for no limit`);
  }
  return tooLarge('ServiceSpec', sizeOf(ServiceSpecSchema, spec), SERVICE_SPEC_BYTES_MAX,
    'shorten its environment, labels, arguments or ports, or move data to a config');
}

export function checkNetworkSize(spec: NetworkSpec): Refusal {
  return tooLarge('NetworkSpec', sizeOf(NetworkSpecSchema, spec), NETWORK_SPEC_BYTES_MAX, 'shorten its labels or options');
}

export function checkNodeSize(spec: NodeSpec): Refusal {
  return tooLarge('NodeSpec', sizeOf(NodeSpecSchema, spec), NODE_SPEC_BYTES_MAX, 'remove some of its labels');
}

/** What depends on the other services and on the networks. `serviceId` is the service being updated. */
export function checkCapacity(view: ReadTx, spec: ServiceSpec, serviceId: string | undefined): Refusal {
  return firstRefusal(
    () => checkReplicas(spec),
    () => checkNetworksSize(view, spec),
    () => checkTotals(view, spec, serviceId),
  );
}

function checkReplicas(spec: ServiceSpec): Refusal {
  if (spec.mode.case !== 'replicated' || spec.mode.value.replicas <= REPLICAS_MAX) return undefined;
  return invalid(`ServiceSpec: replicas ${spec.mode.value.replicas} is too large: a service may have at most ${REPLICAS_MAX} replicas`);
}

function checkNetworksSize(view: ReadTx, spec: ServiceSpec): Refusal {
  const bytes = networkTargets(spec).reduce((sum, id) => sum + sizeOf(NetworkSpecSchema, view.get('network', id)?.spec), 0);
  return tooLarge('ServiceSpec: networks', bytes, SERVICE_NETWORKS_BYTES_MAX,
    'attach the service to fewer networks, or to networks with fewer labels and options');
}

interface Demand {
  readonly tasks: bigint;
  readonly bytes: bigint;
}

function demandOf(view: ReadTx, spec: ServiceSpec | undefined): Demand {
  const tasks = spec?.mode.case === 'replicated' ? spec.mode.value.replicas : BigInt(view.list('node').length);
  return { tasks, bytes: tasks * BigInt(sizeOf(TaskSpecSchema, spec?.task)) };
}

/** Refuses only what asks for more than before: a swarm that is over a limit can still be made smaller. */
function checkTotals(view: ReadTx, spec: ServiceSpec, serviceId: string | undefined): Refusal {
  const own = demandOf(view, spec);
  let [tasks, bytes] = [own.tasks, own.bytes];
  let before: Demand = { tasks: 0n, bytes: 0n };
  for (const service of view.list('service')) {
    const demand = demandOf(view, service.spec);
    if (service.id === serviceId) {
      before = demand;
      continue;
    }
    tasks += demand.tasks;
    bytes += demand.bytes;
  }
  if (tasks > TASKS_MAX && own.tasks > before.tasks) {
    return invalid(`ServiceSpec: replicas ${own.tasks} is too large: all services together would have `
      + `${tasks} tasks, at most ${TASKS_MAX}`);
  }
  if (bytes > TASKS_BYTES_MAX && own.bytes > before.bytes) {
    return invalid(`ServiceSpec: ${own.tasks} replicas of this size are too large: the task specs of all services together would take `
      + `${bytes} bytes, at most ${TASKS_BYTES_MAX}: use fewer replicas, or shorten environment, labels or arguments`);
  }
  return undefined;
}
