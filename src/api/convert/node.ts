// Nodes and tasks: model to Docker's JSON, and the node spec back. Pure.

import { create } from '@bufbuild/protobuf';
import {
  NodeRole, NodeSpecSchema, NodeSpec_Availability, NodeStatus_State, RaftMemberStatus_Reachability,
  TaskSpecSchema, TaskState,
  type Network, type Node, type NodeDescription, type NodeSpec, type NodeTLSInfo, type Task, type TaskStatus,
} from '../../model/proto/swarmkit_pb.js';
import { toRecord } from '../../model/pairs.js';
import { compact, goTime, nonEmpty, word, wordOf, type JsonObject, type Reader } from './json.js';
import { driverToJson } from './mount.js';
import { ipamToJson, networkSpecToJson } from './network.js';
import { annotationsFromJson, metaToJson, portToJson } from './service.js';
import { genericToJson, taskSpecToJson } from './taskspec.js';

export const ROLE = { worker: NodeRole.WORKER, manager: NodeRole.MANAGER };
export const AVAILABILITY = {
  active: NodeSpec_Availability.ACTIVE, pause: NodeSpec_Availability.PAUSE, drain: NodeSpec_Availability.DRAIN,
};
const NODE_STATE = {
  unknown: NodeStatus_State.UNKNOWN, down: NodeStatus_State.DOWN, ready: NodeStatus_State.READY,
  disconnected: NodeStatus_State.DISCONNECTED,
};
const REACHABILITY = {
  unknown: RaftMemberStatus_Reachability.UNKNOWN, unreachable: RaftMemberStatus_Reachability.UNREACHABLE,
  reachable: RaftMemberStatus_Reachability.REACHABLE,
};

export function taskStateName(state: TaskState): string {
  return (TaskState[state] ?? 'new').toLowerCase();
}

export function nodeSpecFromJson(json: Reader): NodeSpec {
  const role = json.text('Role').toLowerCase();
  const availability = json.text('Availability').toLowerCase();
  return create(NodeSpecSchema, {
    annotations: annotationsFromJson(json),
    desiredRole: word(ROLE, role, `invalid Role: "${role}"`),
    availability: word(AVAILABILITY, availability, `invalid Availability: "${availability}"`),
  });
}

export function tlsInfoToJson(info: NodeTLSInfo | undefined): JsonObject {
  if (info === undefined) return {};
  const base64 = (bytes: Uint8Array): string | undefined => nonEmpty(Buffer.from(bytes).toString('base64'));
  return compact({
    TrustRoot: nonEmpty(Buffer.from(info.trustRoot).toString('utf8')),
    CertIssuerSubject: base64(info.certIssuerSubject),
    CertIssuerPublicKey: base64(info.certIssuerPublicKey),
  });
}

function descriptionToJson(description: NodeDescription | undefined): JsonObject {
  if (description === undefined) return { Platform: {}, Resources: {}, Engine: {}, TLSInfo: {} };
  const { platform, resources, engine } = description;
  return {
    Hostname: description.hostname,
    Platform: compact({ Architecture: nonEmpty(platform?.architecture ?? ''), OS: nonEmpty(platform?.os ?? '') }),
    Resources: compact({
      NanoCPUs: nonEmpty(Number(resources?.nanoCpus ?? 0n)), MemoryBytes: nonEmpty(Number(resources?.memoryBytes ?? 0n)),
      GenericResources: nonEmpty((resources?.generic ?? []).map(genericToJson)),
    }),
    Engine: compact({
      EngineVersion: nonEmpty(engine?.engineVersion ?? ''),
      Labels: nonEmpty(toRecord(engine?.labels)),
      Plugins: nonEmpty((engine?.plugins ?? []).map((x) => ({ Type: x.type, Name: x.name }))),
    }),
    TLSInfo: tlsInfoToJson(description.tlsInfo),
  };
}

export function nodeToJson(node: Node): JsonObject {
  const { spec, status, managerStatus } = node;
  return compact({
    ID: node.id,
    ...metaToJson(node.meta),
    Spec: compact({
      Name: nonEmpty(spec?.annotations?.name ?? ''),
      Labels: toRecord(spec?.annotations?.labels),
      Role: wordOf(ROLE, spec?.desiredRole ?? NodeRole.WORKER, 'worker'),
      Availability: wordOf(AVAILABILITY, spec?.availability ?? NodeSpec_Availability.ACTIVE, 'active'),
    }),
    Description: descriptionToJson(node.description),
    Status: compact({
      State: wordOf(NODE_STATE, status?.state ?? NodeStatus_State.UNKNOWN, 'unknown'),
      Message: nonEmpty([status?.message ?? '', node.dataPath?.problem ?? ''].filter((text) => text !== '').join('; ')),
      Addr: nonEmpty(status?.addr ?? ''),
    }),
    ManagerStatus: managerStatus === undefined ? undefined : compact({
      Leader: nonEmpty(managerStatus.leader),
      Reachability: wordOf(REACHABILITY, managerStatus.reachability, 'unknown'),
      Addr: nonEmpty(managerStatus.addr),
    }),
  });
}

function statusToJson(status: TaskStatus | undefined): JsonObject {
  const runtime = status?.runtimeStatus;
  return compact({
    Timestamp: goTime(status?.timestamp),
    State: taskStateName(status?.state ?? TaskState.NEW),
    Message: nonEmpty(status?.message ?? ''),
    Err: nonEmpty(status?.err ?? ''),
    ContainerStatus: runtime?.case !== 'container' ? undefined : {
      ContainerID: runtime.value.containerId, PID: runtime.value.pid, ExitCode: runtime.value.exitCode,
    },
    PortStatus: compact({ Ports: nonEmpty((status?.portStatus?.ports ?? []).map(portToJson)) }),
  });
}

function attachedNetworkToJson(network: Network | undefined): JsonObject {
  if (network === undefined) return { Spec: {} };
  return compact({
    ID: network.id,
    ...metaToJson(network.meta),
    Spec: network.spec === undefined ? {} : networkSpecToJson(network.spec),
    DriverState: driverToJson(network.driverState),
    IPAMOptions: network.ipam === undefined ? undefined : ipamToJson(network.ipam),
  });
}

export function taskToJson(task: Task): JsonObject {
  return compact({
    ID: task.id,
    ...metaToJson(task.meta),
    Name: nonEmpty(task.annotations?.name ?? ''),
    Labels: toRecord(task.annotations?.labels),
    Spec: taskSpecToJson(task.spec ?? create(TaskSpecSchema)),
    ServiceID: nonEmpty(task.serviceId),
    Slot: nonEmpty(Number(task.slot)),
    NodeID: nonEmpty(task.nodeId),
    Status: statusToJson(task.status),
    DesiredState: taskStateName(task.desiredState),
    NetworksAttachments: nonEmpty(task.networks.map((x) => compact({
      Network: attachedNetworkToJson(x.network), Addresses: nonEmpty(x.addresses),
    }))),
    GenericResources: nonEmpty(task.assignedGenericResources.map(genericToJson)),
    JobIteration: task.jobIteration === undefined ? undefined : { Index: Number(task.jobIteration.index) },
    Volumes: nonEmpty(task.volumes.map((x) => ({ ID: x.id, Source: x.source, Target: x.target }))),
  });
}
