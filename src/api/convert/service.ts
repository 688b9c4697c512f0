// Services between Docker's JSON and the model: mode, update config, endpoint, status. Pure.

import { create } from '@bufbuild/protobuf';
import { AppFailure } from '../../lib/result.js';
import { durationNs } from '../../lib/time.js';
import {
  AnnotationsSchema, EndpointSpecSchema, EndpointSpec_ResolutionMode, GlobalJobSchema, GlobalServiceSchema,
  PortConfigSchema, PortConfig_Protocol, PortConfig_PublishMode, ReplicatedJobSchema, ReplicatedServiceSchema,
  ServiceSpecSchema, UpdateConfigSchema, UpdateConfig_FailureAction, UpdateConfig_UpdateOrder,
  UpdateStatus_UpdateState,
  type Annotations, type Endpoint, type EndpointSpec, type Meta, type PortConfig, type Service, type ServiceSpec,
  type UpdateConfig, type UpdateStatus,
} from '../../model/proto/swarmkit_pb.js';
import { toPairs, toRecord } from '../../model/pairs.js';
import { withDefaults } from '../../core/control/defaults.js';
import { compact, goTime, nonEmpty, word, wordOf, type JsonObject, type Reader } from './json.js';
import { attachmentFromJson, attachmentToJson, taskSpecFromJson, taskSpecToJson } from './taskspec.js';

const RESOLUTION = {
  '': EndpointSpec_ResolutionMode.VIP, vip: EndpointSpec_ResolutionMode.VIP, dnsrr: EndpointSpec_ResolutionMode.DNSRR,
};
const PROTOCOL = {
  '': PortConfig_Protocol.TCP, tcp: PortConfig_Protocol.TCP, udp: PortConfig_Protocol.UDP, sctp: PortConfig_Protocol.SCTP,
};
const PUBLISH = {
  '': PortConfig_PublishMode.INGRESS, ingress: PortConfig_PublishMode.INGRESS, host: PortConfig_PublishMode.HOST,
};
const FAILURE = {
  '': UpdateConfig_FailureAction.PAUSE, pause: UpdateConfig_FailureAction.PAUSE,
  continue: UpdateConfig_FailureAction.CONTINUE, rollback: UpdateConfig_FailureAction.ROLLBACK,
};
const ORDER = {
  '': UpdateConfig_UpdateOrder.STOP_FIRST, 'stop-first': UpdateConfig_UpdateOrder.STOP_FIRST,
  'start-first': UpdateConfig_UpdateOrder.START_FIRST,
};
const UPDATE_STATE = {
  updating: UpdateStatus_UpdateState.UPDATING, paused: UpdateStatus_UpdateState.PAUSED,
  completed: UpdateStatus_UpdateState.COMPLETED, rollback_started: UpdateStatus_UpdateState.ROLLBACK_STARTED,
  rollback_paused: UpdateStatus_UpdateState.ROLLBACK_PAUSED,
  rollback_completed: UpdateStatus_UpdateState.ROLLBACK_COMPLETED,
};

function invalid(message: string): AppFailure {
  return new AppFailure({ code: 'invalid_argument', message });
}

export function annotationsFromJson(json: Reader): Annotations {
  return create(AnnotationsSchema, { name: json.text('Name'), labels: toPairs(json.record('Labels')) });
}

export function metaToJson(meta: Meta | undefined): JsonObject {
  return {
    Version: { Index: Number(meta?.version?.index ?? 0n) },
    CreatedAt: goTime(meta?.createdAt),
    UpdatedAt: goTime(meta?.updatedAt),
  };
}

function modeFromJson(json: Reader | undefined): ServiceSpec['mode'] {
  const names = ['Replicated', 'Global', 'ReplicatedJob', 'GlobalJob'].filter((name) => json?.has(name));
  if (names.length > 1) throw invalid('must specify only one service mode');
  if (names[0] === 'Global') return { case: 'global', value: create(GlobalServiceSchema) };
  if (names[0] === 'GlobalJob') return { case: 'globalJob', value: create(GlobalJobSchema) };
  if (names[0] === 'ReplicatedJob') {
    const job = json?.object('ReplicatedJob');
    const maxConcurrent = job?.optionalUint('MaxConcurrent') ?? 1n;
    const totalCompletions = job?.optionalUint('TotalCompletions') ?? maxConcurrent;
    return { case: 'replicatedJob', value: create(ReplicatedJobSchema, { maxConcurrent, totalCompletions }) };
  }
  const replicas = json?.object('Replicated')?.optionalUint('Replicas') ?? 1n;
  return { case: 'replicated', value: create(ReplicatedServiceSchema, { replicas }) };
}

function modeToJson(mode: ServiceSpec['mode']): JsonObject {
  switch (mode.case) {
    case 'replicated': return { Replicated: { Replicas: Number(mode.value.replicas) } };
    case 'global': return { Global: {} };
    case 'replicatedJob': return {
      ReplicatedJob: {
        MaxConcurrent: Number(mode.value.maxConcurrent), TotalCompletions: Number(mode.value.totalCompletions),
      },
    };
    case 'globalJob': return { GlobalJob: {} };
    default: return {};
  }
}

function updateFromJson(json: Reader): UpdateConfig {
  const action = json.text('FailureAction');
  const order = json.text('Order');
  const config = create(UpdateConfigSchema, {
    parallelism: json.uint('Parallelism'),
    failureAction: word(FAILURE, action, `unrecognized update failure action ${action}`),
    maxFailureRatio: json.float('MaxFailureRatio'),
    order: word(ORDER, order, `unrecognized update order ${order}`),
  });
  const delay = json.duration('Delay');
  const monitor = json.nonZeroDuration('Monitor');
  if (delay !== undefined) config.delay = delay;
  if (monitor !== undefined) config.monitor = monitor;
  return config;
}

function updateToJson(config: UpdateConfig): JsonObject {
  return compact({
    Parallelism: Number(config.parallelism),
    Delay: nonEmpty(Number(durationNs(config.delay))),
    FailureAction: wordOf(FAILURE, config.failureAction, 'pause'),
    Monitor: nonEmpty(Number(durationNs(config.monitor))),
    // Floats are 32 bits wide in the store: print the shortest decimal that means the same.
    MaxFailureRatio: Number(config.maxFailureRatio.toPrecision(7)),
    Order: wordOf(ORDER, config.order, 'stop-first'),
  });
}

function portFromJson(json: Reader): PortConfig {
  const protocol = json.text('Protocol').toLowerCase();
  const mode = json.text('PublishMode').toLowerCase();
  return create(PortConfigSchema, {
    name: json.text('Name'),
    protocol: word(PROTOCOL, protocol, `invalid protocol: "${protocol}"`),
    targetPort: json.uint32('TargetPort'),
    publishedPort: json.uint32('PublishedPort'),
    publishMode: word(PUBLISH, mode, `invalid publish mode: "${mode}"`),
  });
}

export function portToJson(port: PortConfig): JsonObject {
  return compact({
    Name: nonEmpty(port.name),
    Protocol: wordOf(PROTOCOL, port.protocol, 'tcp'),
    TargetPort: nonEmpty(port.targetPort),
    PublishedPort: nonEmpty(port.publishedPort),
    PublishMode: wordOf(PUBLISH, port.publishMode, 'ingress'),
  });
}

function endpointSpecFromJson(json: Reader): EndpointSpec {
  const mode = json.text('Mode');
  return create(EndpointSpecSchema, {
    mode: word(RESOLUTION, mode.toLowerCase(), `invalid resolution mode: "${mode}"`),
    ports: json.objects('Ports').map(portFromJson),
  });
}

function endpointSpecToJson(spec: EndpointSpec): JsonObject {
  return compact({ Mode: wordOf(RESOLUTION, spec.mode, 'vip'), Ports: nonEmpty(spec.ports.map(portToJson)) });
}

function endpointToJson(endpoint: Endpoint | undefined): JsonObject {
  if (endpoint === undefined) return { Spec: {} };
  return compact({
    Spec: endpoint.spec === undefined ? {} : endpointSpecToJson(endpoint.spec),
    Ports: nonEmpty(endpoint.ports.map(portToJson)),
    VirtualIPs: nonEmpty(endpoint.virtualIps.map((x) =>
      compact({ NetworkID: nonEmpty(x.networkId), Addr: nonEmpty(x.addr) }))),
  });
}

export function serviceSpecFromJson(json: Reader): ServiceSpec {
  const task = json.object('TaskTemplate');
  const spec = create(ServiceSpecSchema, {
    annotations: annotationsFromJson(json),
    networks: json.objects('Networks').map(attachmentFromJson),
    mode: modeFromJson(json.object('Mode')),
  });
  if (task !== undefined) spec.task = taskSpecFromJson(task);
  const update = json.object('UpdateConfig');
  const rollback = json.object('RollbackConfig');
  const endpoint = json.object('EndpointSpec');
  if (update !== undefined) spec.update = updateFromJson(update);
  if (rollback !== undefined) spec.rollback = updateFromJson(rollback);
  if (endpoint !== undefined) spec.endpoint = endpointSpecFromJson(endpoint);
  return spec;
}

export function serviceSpecToJson(spec: ServiceSpec): JsonObject {
  return compact({
    Name: spec.annotations?.name ?? '',
    Labels: toRecord(spec.annotations?.labels),
    TaskTemplate: spec.task === undefined ? {} : taskSpecToJson(spec.task),
    Mode: modeToJson(spec.mode),
    UpdateConfig: spec.update === undefined ? undefined : updateToJson(spec.update),
    RollbackConfig: spec.rollback === undefined ? undefined : updateToJson(spec.rollback),
    Networks: nonEmpty(spec.networks.map(attachmentToJson)),
    EndpointSpec: spec.endpoint === undefined ? undefined : endpointSpecToJson(spec.endpoint),
  });
}

function updateStatusToJson(status: UpdateStatus | undefined): JsonObject | undefined {
  if (status === undefined || status.state === UpdateStatus_UpdateState.UNKNOWN) return undefined;
  return compact({
    State: wordOf(UPDATE_STATE, status.state, ''),
    StartedAt: status.startedAt === undefined ? undefined : goTime(status.startedAt),
    CompletedAt: status.completedAt === undefined ? undefined : goTime(status.completedAt),
    Message: nonEmpty(status.message),
  });
}

export interface ServiceCounts {
  readonly running: number;
  readonly desired: number;
  readonly completed: number;
}

export function serviceToJson(service: Service, insertDefaults: boolean, counts?: ServiceCounts): JsonObject {
  const shown = (spec: ServiceSpec): JsonObject => serviceSpecToJson(insertDefaults ? withDefaults(spec) : spec);
  const { jobStatus } = service;
  return compact({
    ID: service.id,
    ...metaToJson(service.meta),
    Spec: shown(service.spec ?? create(ServiceSpecSchema)),
    PreviousSpec: service.previousSpec === undefined ? undefined : shown(service.previousSpec),
    Endpoint: endpointToJson(service.endpoint),
    UpdateStatus: updateStatusToJson(service.updateStatus),
    ServiceStatus: counts === undefined ? undefined : {
      RunningTasks: counts.running, DesiredTasks: counts.desired, CompletedTasks: counts.completed,
    },
    JobStatus: jobStatus === undefined ? undefined : {
      JobIteration: { Index: Number(jobStatus.jobIteration?.index ?? 0n) }, LastExecution: goTime(jobStatus.lastExecution),
    },
  });
}
