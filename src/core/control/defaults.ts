// What an absent field of a service spec means: used by `insertDefaults` and worth reading by the orchestrator.
// Values are SwarmKit's (api/defaults).

import { clone, create } from '@bufbuild/protobuf';
import { durationFromMs } from '../../lib/time.js';
import {
  ContainerSpec_DNSConfigSchema, ContainerSpec_PullOptionsSchema, EndpointSpecSchema, PlacementSchema,
  ResourceRequirementsSchema, ResourcesSchema, RestartPolicySchema, RestartPolicy_RestartCondition,
  ServiceSpecSchema, UpdateConfigSchema, type ServiceSpec, type UpdateConfig,
} from '../../model/proto/swarmkit_pb.js';

export const DEFAULT_STOP_GRACE_MS = 10_000;
export const DEFAULT_RESTART_DELAY_MS = 5_000;
export const DEFAULT_UPDATE_MONITOR_MS = 5_000;

function defaultUpdate(): UpdateConfig {
  return create(UpdateConfigSchema, {
    parallelism: 1n, delay: durationFromMs(0), monitor: durationFromMs(DEFAULT_UPDATE_MONITOR_MS),
  });
}

export function withDefaults(original: ServiceSpec): ServiceSpec {
  const spec = clone(ServiceSpecSchema, original);
  const { task } = spec;
  if (task?.runtime.case === 'container') {
    const container = task.runtime.value;
    container.stopGracePeriod ??= durationFromMs(DEFAULT_STOP_GRACE_MS);
    container.pullOptions ??= create(ContainerSpec_PullOptionsSchema);
    container.dnsConfig ??= create(ContainerSpec_DNSConfigSchema);
  }
  if (task !== undefined) {
    task.resources ??= create(ResourceRequirementsSchema, {
      limits: create(ResourcesSchema), reservations: create(ResourcesSchema),
    });
    task.restart ??= create(RestartPolicySchema, { condition: RestartPolicy_RestartCondition.ANY });
    task.restart.delay ??= durationFromMs(DEFAULT_RESTART_DELAY_MS);
    task.placement ??= create(PlacementSchema);
  }
  if (spec.mode.case === 'replicated' || spec.mode.case === 'global') {
    spec.update ??= defaultUpdate();
    spec.update.monitor ??= durationFromMs(DEFAULT_UPDATE_MONITOR_MS);
    spec.rollback ??= defaultUpdate();
    spec.rollback.monitor ??= durationFromMs(DEFAULT_UPDATE_MONITOR_MS);
  }
  spec.endpoint ??= create(EndpointSpecSchema);
  return spec;
}
