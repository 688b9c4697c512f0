// Filters: which nodes may have a task, and in which words the others may not. They and their order are SwarmKit's, but where
// it is said.

import { meetsConstraints } from '../../model/constraint.js';
import { isSkeinNode, vtepOf } from '../../model/network.js';
import { NodeSpec_Availability, NodeStatus_State, type Task } from '../../model/proto/swarmkit_pb.js';
import { hostPorts } from '../../model/task.js';
import { nodeHasImage } from '../store/images.js';
import type { Acknowledgements } from '../store/soft.js';
import type { Candidate } from './candidate.js';

export interface Filter {
  /** The reason as SwarmKit words it; "n nodes" is counted in. */
  readonly explain: (nodes: number) => string;
  readonly enabled: (task: Task) => boolean;
  readonly check: (task: Task, candidate: Candidate, soft: Acknowledgements) => boolean;
}

function plural(nodes: number): string {
  return nodes === 1 ? '1 node' : `${nodes} nodes`;
}

export const FILTERS: readonly Filter[] = [
  {
    explain: (n) => `${plural(n)} not available for new tasks`,
    enabled: () => true,
    check: (_task, { node }) => node.status?.state === NodeStatus_State.READY
      && (node.spec?.availability ?? NodeSpec_Availability.ACTIVE) === NodeSpec_Availability.ACTIVE,
  },
  {
    explain: (n) => `insufficient resources on ${plural(n)}`,
    enabled: (task) => task.spec?.resources?.reservations !== undefined,
    check: (task, candidate) => candidate.holds(task.spec?.resources?.reservations),
  },
  {
    explain: (n) => `scheduling constraints not satisfied on ${plural(n)}`,
    enabled: (task) => (task.spec?.placement?.constraints.length ?? 0) > 0,
    check: (task, { node }) => meetsConstraints(task.spec?.placement?.constraints ?? [], node),
  },
  {
    explain: (n) => `unsupported platform on ${plural(n)}`,
    enabled: (task) => (task.spec?.placement?.platforms.length ?? 0) > 0,
    check: (task, { node }) => (task.spec?.placement?.platforms ?? []).some((platform) =>
      (platform.os === '' || platform.os === node.description?.platform?.os)
      && (platform.architecture === '' || sameArchitecture(platform.architecture, node.description?.platform?.architecture ?? ''))),
  },
  {
    explain: (n) => `host-mode port already in use on ${plural(n)}`,
    enabled: (task) => hostPorts(task.endpoint?.ports).some((port) => port.publishedPort > 0),
    check: (task, candidate) => hostPorts(task.endpoint?.ports)
      .every((port) => port.publishedPort === 0 || !candidate.hasPort(port)),
  },
  {
    explain: () => 'max replicas per node limit exceed',
    enabled: (task) => (task.spec?.placement?.maxReplicas ?? 0n) > 0n,
    check: (task, candidate) => BigInt(candidate.tasksOf(task.serviceId)) < (task.spec?.placement?.maxReplicas ?? 0n),
  },
  {
    // Not SwarmKit's: a node without a registry to pull from cannot run what it does not have.
    explain: (n) => `image not available on ${plural(n)}`,
    enabled: (task) => task.spec?.runtime.case === 'container',
    check: (task, { node }) => task.spec?.runtime.case !== 'container' || nodeHasImage(node, task.spec.runtime.value.image),
  },
  {
    // Not SwarmKit's: a stock engine learns of networks by gossip, which ours do not speak. A published port is open on every
    // node, or on the task's own with the client's address: neither is what such an engine would do.
    explain: (n) => `no Skein networks or published ports on ${n === 1 ? '1 stock engine' : `${n} stock engines`}`,
    enabled: (task) => task.networks.length > 0 || (task.endpoint?.ports.length ?? 0) > 0,
    check: (_task, { node }) => isSkeinNode(node),
  },
  {
    // Not SwarmKit's: a node that holds no rows yet could not reach the task's networks.
    explain: (n) => `no Skein network on ${plural(n)}`,
    enabled: (task) => task.networks.length > 0,
    check: (_task, { node }, soft) => soft.acked.has(node.id),
  },
  {
    // Not SwarmKit's: nothing could be sent to the task there; the node's status says why.
    explain: (n) => `no data-path address on ${plural(n)}`,
    enabled: (task) => task.networks.length > 0,
    check: (_task, { node }) => vtepOf(node) !== '',
  },
];

function sameArchitecture(a: string, b: string): boolean {
  const names: Record<string, string> = { x86_64: 'amd64', aarch64: 'arm64' };
  return (names[a] ?? a) === (names[b] ?? b);
}
