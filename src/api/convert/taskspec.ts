// TaskSpec between Docker's JSON and the model: container, resources, restart policy, placement, networks. Pure.

import { create } from '@bufbuild/protobuf';
import { AppFailure } from '../../lib/result.js';
import { durationNs } from '../../lib/time.js';
import {
  DiscreteGenericResourceSchema, GenericResourceSchema, NamedGenericResourceSchema, NetworkAttachmentConfigSchema,
  PlacementPreferenceSchema, PlacementSchema, PlatformSchema, ResourceRequirementsSchema, ResourcesSchema,
  RestartPolicySchema, RestartPolicy_RestartCondition, SpreadOverSchema, TaskSpecSchema,
  type GenericResource, type NetworkAttachmentConfig, type Placement, type ResourceRequirements, type Resources,
  type RestartPolicy, type TaskSpec,
} from '../../model/proto/swarmkit_pb.js';
import { toPairs, toRecord } from '../../model/pairs.js';
import { containerFromJson, containerToJson } from './container.js';
import { compact, nonEmpty, word, wordOf, type JsonObject, type Reader } from './json.js';
import { driverFromJson, driverToJson } from './mount.js';

const CONDITION = {
  '': RestartPolicy_RestartCondition.ANY, any: RestartPolicy_RestartCondition.ANY,
  none: RestartPolicy_RestartCondition.NONE, 'on-failure': RestartPolicy_RestartCondition.ON_FAILURE,
};

function genericFromJson(json: Reader): GenericResource {
  const named = json.object('NamedResourceSpec');
  if (named !== undefined) {
    const value = create(NamedGenericResourceSchema, { kind: named.text('Kind'), value: named.text('Value') });
    return create(GenericResourceSchema, { resource: { case: 'namedResourceSpec', value } });
  }
  const discrete = json.object('DiscreteResourceSpec');
  if (discrete === undefined) throw new AppFailure({ code: 'invalid_argument', message: 'invalid generic resource' });
  const value = create(DiscreteGenericResourceSchema, { kind: discrete.text('Kind'), value: discrete.int('Value') });
  return create(GenericResourceSchema, { resource: { case: 'discreteResourceSpec', value } });
}

export function genericToJson(generic: GenericResource): JsonObject {
  const { resource } = generic;
  if (resource.case === 'namedResourceSpec') {
    return { NamedResourceSpec: { Kind: resource.value.kind, Value: resource.value.value } };
  }
  return { DiscreteResourceSpec: { Kind: resource.value?.kind ?? '', Value: Number(resource.value?.value ?? 0n) } };
}

function resourcesFromJson(json: Reader): Resources {
  return create(ResourcesSchema, {
    nanoCpus: json.int('NanoCPUs'), memoryBytes: json.int('MemoryBytes'),
    generic: json.objects('GenericResources').map(genericFromJson),
  });
}

function requirementsFromJson(json: Reader): ResourceRequirements {
  const requirements = create(ResourceRequirementsSchema);
  const limits = json.object('Limits');
  const reservations = json.object('Reservations');
  if (limits !== undefined) requirements.limits = resourcesFromJson(limits);
  if (reservations !== undefined) requirements.reservations = resourcesFromJson(reservations);
  const swap = json.optionalInt('SwapBytes');
  const swappiness = json.optionalInt('MemorySwappiness');
  if (swap !== undefined) requirements.swapBytes = swap;
  if (swappiness !== undefined) requirements.memorySwappiness = swappiness;
  return requirements;
}

function requirementsToJson(requirements: ResourceRequirements, pids: bigint): JsonObject {
  const { limits, reservations } = requirements;
  const common = (resources: Resources): Record<string, unknown> => ({
    NanoCPUs: nonEmpty(Number(resources.nanoCpus)), MemoryBytes: nonEmpty(Number(resources.memoryBytes)),
  });
  return compact({
    Limits: limits === undefined ? undefined : compact({ ...common(limits), Pids: nonEmpty(Number(pids)) }),
    Reservations: reservations === undefined ? undefined : compact({
      ...common(reservations), GenericResources: nonEmpty(reservations.generic.map(genericToJson)),
    }),
    SwapBytes: requirements.swapBytes === undefined ? undefined : Number(requirements.swapBytes),
    MemorySwappiness: requirements.memorySwappiness === undefined ? undefined : Number(requirements.memorySwappiness),
  });
}

function restartFromJson(json: Reader): RestartPolicy {
  const condition = json.text('Condition');
  const policy = create(RestartPolicySchema, {
    condition: word(CONDITION, condition, `invalid RestartCondition: "${condition}"`),
    maxAttempts: json.uint('MaxAttempts'),
  });
  const delay = json.duration('Delay');
  const window = json.duration('Window');
  if (delay !== undefined) policy.delay = delay;
  if (window !== undefined) policy.window = window;
  return policy;
}

function restartToJson(policy: RestartPolicy): JsonObject {
  return compact({
    Condition: wordOf(CONDITION, policy.condition, 'any'),
    Delay: policy.delay === undefined ? undefined : Number(durationNs(policy.delay)),
    Window: policy.window === undefined ? undefined : Number(durationNs(policy.window)),
    MaxAttempts: Number(policy.maxAttempts),
  });
}

function placementFromJson(json: Reader): Placement {
  const preferences = json.objects('Preferences').map((item) => {
    const spread = item.object('Spread');
    if (spread === undefined) throw new AppFailure({ code: 'invalid_argument', message: 'invalid placement preference' });
    const value = create(SpreadOverSchema, { spreadDescriptor: spread.text('SpreadDescriptor') });
    return create(PlacementPreferenceSchema, { preference: { case: 'spread', value } });
  });
  return create(PlacementSchema, {
    constraints: json.texts('Constraints'),
    preferences,
    maxReplicas: json.uint('MaxReplicas'),
    platforms: json.objects('Platforms').map((x) =>
      create(PlatformSchema, { architecture: x.text('Architecture'), os: x.text('OS') })),
  });
}

function placementToJson(placement: Placement): JsonObject {
  return compact({
    Constraints: nonEmpty(placement.constraints),
    Preferences: nonEmpty(placement.preferences.map((x) => ({
      Spread: { SpreadDescriptor: x.preference.value?.spreadDescriptor ?? '' },
    }))),
    MaxReplicas: nonEmpty(Number(placement.maxReplicas)),
    Platforms: nonEmpty(placement.platforms.map((x) =>
      compact({ Architecture: nonEmpty(x.architecture), OS: nonEmpty(x.os) }))),
  });
}

export function attachmentFromJson(json: Reader): NetworkAttachmentConfig {
  return create(NetworkAttachmentConfigSchema, {
    target: json.text('Target'), aliases: json.texts('Aliases'),
    driverAttachmentOpts: toPairs(json.record('DriverOpts')),
  });
}

export function attachmentToJson(attachment: NetworkAttachmentConfig): JsonObject {
  return compact({
    Target: nonEmpty(attachment.target), Aliases: nonEmpty(attachment.aliases),
    DriverOpts: nonEmpty(toRecord(attachment.driverAttachmentOpts)),
  });
}

export function taskSpecFromJson(json: Reader): TaskSpec {
  const runtime = json.text('Runtime');
  if (runtime !== '' && runtime !== 'container') {
    throw new AppFailure({
      code: 'unimplemented', message: `service runtime "${runtime}" is not supported: only container services are`,
    });
  }
  const spec = create(TaskSpecSchema, {
    networks: json.objects('Networks').map(attachmentFromJson), forceUpdate: json.uint('ForceUpdate'),
  });
  const container = json.object('ContainerSpec');
  if (container !== undefined) {
    const value = containerFromJson(container);
    value.pidsLimit = json.object('Resources')?.object('Limits')?.int('Pids') ?? 0n;
    spec.runtime = { case: 'container', value };
  }
  const resources = json.object('Resources');
  const restart = json.object('RestartPolicy');
  const placement = json.object('Placement');
  const logDriver = driverFromJson(json.object('LogDriver'));
  if (resources !== undefined) spec.resources = requirementsFromJson(resources);
  if (restart !== undefined) spec.restart = restartFromJson(restart);
  if (placement !== undefined) spec.placement = placementFromJson(placement);
  if (logDriver !== undefined) spec.logDriver = logDriver;
  return spec;
}

export function taskSpecToJson(spec: TaskSpec): JsonObject {
  const container = spec.runtime.case === 'container' ? spec.runtime.value : undefined;
  return compact({
    ContainerSpec: container === undefined ? undefined : containerToJson(container),
    Resources: spec.resources === undefined ? undefined : requirementsToJson(spec.resources, container?.pidsLimit ?? 0n),
    RestartPolicy: spec.restart === undefined ? undefined : restartToJson(spec.restart),
    Placement: spec.placement === undefined ? undefined : placementToJson(spec.placement),
    Networks: nonEmpty(spec.networks.map(attachmentToJson)),
    LogDriver: driverToJson(spec.logDriver),
    ForceUpdate: Number(spec.forceUpdate),
    Runtime: container === undefined ? undefined : 'container',
  });
}
