// Allocator: subnets, VNIs, virtual addresses, published ports, task and node addresses. allocate(input) -> actions.
// What is taken is read off the store on every pass, so nothing can leak. A task's address stays taken until the task
// has ended and every node has installed tables without it (core/store/soft). Exhaustion is a reason on the task at once.

import { create } from '@bufbuild/protobuf';
import { copyOf } from '../../model/message.js';
import { timestampFromMs, timestampMs } from '../../lib/time.js';
import { compareText, pairValue, toPairs, toRecord } from '../../model/pairs.js';
import {
  DataPathSchema, DriverSchema, EndpointSchema, EndpointSpecSchema, Endpoint_VirtualIPSchema, IPAMConfigSchema,
  IPAMConfig_AddressFamily, IPAMOptionsSchema, NetworkAttachmentSchema, TaskState,
  equalsEndpoint,
} from './wire.js';
import type {
  IPAMConfig, Network, NetworkAttachment, Node, PortConfig, Service, StoreAction, Task,
} from '../../model/proto/swarmkit_pb.js';
import { VNI_MAX, VNI_OPTION, attachmentConfigs, isIngress, isPredefined, occupiedBy, prefixesOf, vniOf } from '../../model/network.js';
import { hostPorts, ingressPorts, isRunnable, stateOf, usesVip } from '../../model/task.js';
import { formatPrefix, overlaps, parsePrefix, type Prefix } from '../../lib/cidr.js';
import { updateAction } from '../store/actions.js';
import { releasedInMs, type Acknowledgements } from '../store/soft.js';
import type { ReadTx } from '../store/view.js';
import { decideDataPaths, type DataPathDecision } from './datapath.js';
import { freeAddress, freeSubnet, numberOf, withBits } from './pool.js';

const VNI_FIRST = 4096;
const DYNAMIC_PORT_FIRST = 30000;
const DYNAMIC_PORT_LAST = 32767;
const ALLOCATIONS_MAX = 200;

export interface AllocatorInput {
  readonly view: ReadTx;
  readonly soft: Acknowledgements;
  readonly nowMs: number;
}

/** State of one pass: objects as they will be, and what is taken. */
interface Pass {
  readonly input: AllocatorInput;
  readonly networks: Map<string, Network>;
  readonly services: Map<string, Service>;
  readonly used: Map<string, Set<number>>;
  /** Services that ask for a port another one has, and why they get none. */
  readonly conflicts: Map<string, string>;
  readonly actions: StoreAction[];
}

export function allocate(input: AllocatorInput): readonly StoreAction[] {
  const { view } = input;
  if (view.cluster() === undefined) return [];
  const pass: Pass = {
    input,
    networks: new Map(view.list('network').map((network) => [network.id, network])),
    services: new Map(view.list('service').map((service) => [service.id, service])),
    used: new Map(),
    conflicts: new Map(),
    actions: [],
  };
  for (const network of byAge(view.list('network'))) allocateNetwork(pass, network);
  collectUsed(pass);
  const paths = decideDataPaths(view.list('node'));
  for (const node of view.list('node')) allocateNode(pass, node, paths.get(node.id) as DataPathDecision);
  for (const service of byAge(view.list('service'))) allocateService(pass, service);
  for (const task of byAge(view.list('task').filter((each) => stateOf(each) === TaskState.NEW && isRunnable(each)))) {
    if (pass.actions.length >= ALLOCATIONS_MAX) break;
    allocateTask(pass, task);
  }
  return pass.actions;
}

function byAge<T extends { id: string; meta?: { createdAt?: Parameters<typeof timestampMs>[0] } | undefined }>(list: readonly T[]): T[] {
  return [...list].sort((a, b) => timestampMs(a.meta?.createdAt) - timestampMs(b.meta?.createdAt) || compareText(a.id, b.id));
}

function allocateNetwork(pass: Pass, network: Network): void {
  if (network.driverState !== undefined) return;
  if (pass.actions.length >= ALLOCATIONS_MAX) return;
  const next = copyOf(network);
  if (isPredefined(network)) {
    next.driverState = create(DriverSchema, { name: network.spec?.driverConfig?.name ?? '' });
    next.ipam = create(IPAMOptionsSchema, { driver: create(DriverSchema, { name: 'default' }) });
  } else {
    const vni = chooseVni(pass, network);
    const configs = chooseSubnets(pass, network);
    if (vni === undefined || configs === undefined) return;
    const options = { ...toRecord(network.spec?.driverConfig?.options), [VNI_OPTION]: String(vni) };
    next.driverState = create(DriverSchema, { name: 'overlay', options: toPairs(options) });
    next.ipam = create(IPAMOptionsSchema, { driver: create(DriverSchema, { name: 'default' }), configs });
  }
  pass.networks.set(next.id, next);
  pass.actions.push(updateAction('network', next));
}

function chooseVni(pass: Pass, network: Network): number | undefined {
  const used = new Set([...pass.networks.values(), ...lingering(pass)].map(vniOf));
  const asked = pairValue(network.spec?.driverConfig?.options, VNI_OPTION);
  if (asked !== undefined) {
    const vni = Number(asked.split(',')[0]);
    return used.has(vni) ? undefined : vni;
  }
  for (let vni = VNI_FIRST; vni <= VNI_MAX; vni++) if (!used.has(vni)) return vni;
  return undefined;
}

function chooseSubnets(pass: Pass, network: Network): ReturnType<typeof ipamConfig>[] | undefined {
  const others = [...pass.networks.values(), ...lingering(pass)].filter((other) => other.id !== network.id);
  const taken = others.flatMap(prefixesOf);
  const asked = askedConfigs(network);
  if (asked.length > 0) {
    // The request was checked against what was there then; another network may have been faster.
    if (asked.some((config) => taken.some((other) => overlaps(other, parsePrefix(config.subnet) as Prefix)))) return undefined;
    return asked.map((config) => {
      const prefix = parsePrefix(config.subnet) as Prefix;
      const gateway = config.gateway !== '' ? config.gateway : withBits(prefix.base + 1, prefix.bits).split('/')[0] as string;
      return ipamConfig(formatPrefix(prefix), gateway, config.range);
    });
  }
  // What a user named for a network that is not allocated yet is as good as taken.
  const reserved = others.flatMap(askedConfigs).flatMap((config) => parsePrefix(config.subnet) ?? []);
  const { view } = pass.input;
  const occupied = view.list('node').flatMap(occupiedBy).map(({ prefix }) => prefix);
  const cluster = view.cluster();
  const pools = (cluster?.defaultAddressPool ?? []).flatMap((text) => parsePrefix(text) ?? []);
  const bits = cluster?.subnetSize === undefined || cluster.subnetSize === 0 ? 24 : cluster.subnetSize;
  const subnet = freeSubnet(pools.length > 0 ? pools : [{ base: 10 * 2 ** 24, bits: 8 }], bits, [...taken, ...reserved, ...occupied]);
  if (subnet === undefined) return undefined;
  return [ipamConfig(formatPrefix(subnet), withBits(subnet.base + 1, bits).split('/')[0] as string, '')];
}

/** Subnets named by the user. */
function askedConfigs(network: Network): IPAMConfig[] {
  return (network.spec?.ipam?.configs ?? []).filter((config) => config.subnet !== '');
}

function ipamConfig(subnet: string, gateway: string, range: string) {
  return create(IPAMConfigSchema, { family: IPAMConfig_AddressFamily.IPV4, subnet, gateway, range });
}

/** Everything that holds an address now. */
function collectUsed(pass: Pass): void {
  const { view } = pass.input;
  for (const network of pass.networks.values()) {
    const used = new Set<number>();
    for (const config of network.ipam?.configs ?? []) {
      const gateway = numberOf(config.gateway);
      if (gateway !== undefined) used.add(gateway);
      for (const { value } of config.reserved) {
        const reserved = numberOf(value);
        if (reserved !== undefined) used.add(reserved);
      }
    }
    pass.used.set(network.id, used);
  }
  const take = (networkId: string | undefined, cidr: string): void => {
    const address = numberOf(cidr);
    if (networkId !== undefined && address !== undefined) pass.used.get(networkId)?.add(address);
  };
  for (const node of view.list('node')) {
    for (const attachment of node.attachments) for (const cidr of attachment.addresses) take(attachment.network?.id, cidr);
  }
  for (const service of view.list('service')) {
    for (const vip of service.endpoint?.virtualIps ?? []) take(vip.networkId, vip.addr);
  }
  for (const task of view.list('task')) {
    if (isFree(pass.input, task)) continue;
    for (const attachment of task.networks) for (const cidr of attachment.addresses) take(attachment.network?.id, cidr);
  }
}

/** What the task has may be given to others. */
function isFree({ soft }: AllocatorInput, task: Task): boolean {
  return releasedInMs(soft, task) === 0;
}

/** Networks that were removed while tasks on their way out are still in them: their VXLAN ids and subnets are not free yet. */
function lingering(pass: Pass): Network[] {
  const found = new Map<string, Network>();
  for (const task of pass.input.view.list('task')) {
    if (task.networks.every(({ network }) => network === undefined || pass.networks.has(network.id)) || isFree(pass.input, task)) continue;
    for (const { network } of task.networks) if (network !== undefined && !pass.networks.has(network.id)) found.set(network.id, network);
  }
  return [...found.values()];
}

function takeAddress(pass: Pass, network: Network): string | undefined {
  const used = pass.used.get(network.id) as Set<number>;
  for (const config of network.ipam?.configs ?? []) {
    const prefix = parsePrefix(config.subnet);
    if (prefix === undefined) continue;
    const address = freeAddress(prefix, used, parsePrefix(config.range) ?? prefix);
    if (address === undefined) continue;
    used.add(address);
    return withBits(address, prefix.bits);
  }
  return undefined;
}

function giveBack(pass: Pass, network: Network | undefined, cidr: string): void {
  const address = numberOf(cidr);
  if (network !== undefined && address !== undefined) pass.used.get(network.id)?.delete(address);
}

function allocateNode(pass: Pass, node: Node, path: DataPathDecision): void {
  if (pass.actions.length >= ALLOCATIONS_MAX) return;
  const decided = (node.dataPath?.addr ?? '') !== path.addr || (node.dataPath?.problem ?? '') !== path.problem;
  const attachment = ingressAttachment(pass, node);
  if (!decided && attachment === undefined) return;
  const next = copyOf(node);
  if (path.addr === '' && path.problem === '') delete next.dataPath;
  else next.dataPath = create(DataPathSchema, path);
  if (attachment !== undefined) next.attachments.push(attachment);
  pass.actions.push(updateAction('node', next));
}

/** Every node has its own address on the ingress network: the source of rewritten local clients. */
function ingressAttachment(pass: Pass, node: Node): NetworkAttachment | undefined {
  const ingress = [...pass.networks.values()].find(isIngress);
  if (ingress === undefined || ingress.driverState === undefined) return undefined;
  if (node.attachments.some((attachment) => attachment.network?.id === ingress.id)) return undefined;
  const address = takeAddress(pass, ingress);
  return address === undefined ? undefined : create(NetworkAttachmentSchema, { network: ingress, addresses: [address] });
}

function allocateService(pass: Pass, service: Service): void {
  const spec = service.spec?.endpoint ?? create(EndpointSpecSchema);
  const conflict = portConflict(pass, service);
  if (conflict !== undefined) {
    pass.conflicts.set(service.id, conflict);
    return;
  }
  const ports = allocatePorts(pass, service);
  const endpoint = create(EndpointSchema, { spec, ports });
  if (usesVip(service)) {
    for (const { target } of attachmentConfigs(service)) {
      const network = pass.networks.get(target);
      if (network?.driverState === undefined || isPredefined(network)) continue;
      const existing = service.endpoint?.virtualIps.find((vip) => vip.networkId === target);
      const addr = existing?.addr ?? takeAddress(pass, network);
      if (addr !== undefined) endpoint.virtualIps.push(create(Endpoint_VirtualIPSchema, { networkId: target, addr }));
    }
  }
  if (service.endpoint !== undefined && equalsEndpoint(service.endpoint, endpoint)) return;
  if (pass.actions.length >= ALLOCATIONS_MAX) return;
  const next = copyOf(service);
  next.endpoint = endpoint;
  pass.services.set(next.id, next);
  pass.actions.push(updateAction('service', next));
}

/** The request was checked against what was there then; another service may have been faster. It waits until the port is free. */
function portConflict(pass: Pass, service: Service): string | undefined {
  const asked = ingressPorts(service.spec?.endpoint?.ports).filter((port) => port.publishedPort !== 0);
  if (asked.length === 0) return undefined;
  for (const other of pass.services.values()) {
    if (other.id === service.id) continue;
    for (const { protocol, publishedPort } of ingressPorts(other.endpoint?.ports)) {
      if (!asked.some((port) => port.publishedPort === publishedPort && port.protocol === protocol)) continue;
      return `port ${publishedPort} is already in use by service ${other.spec?.annotations?.name ?? other.id}`;
    }
  }
  return undefined;
}

function allocatePorts(pass: Pass, service: Service): PortConfig[] {
  const wanted = service.spec?.endpoint?.ports ?? [];
  const key = (port: PortConfig): string => `${port.protocol}/${port.publishedPort}`;
  const taken = new Set<string>();
  for (const other of pass.services.values()) {
    if (other.id === service.id) continue;
    for (const port of ingressPorts(other.endpoint?.ports)) taken.add(key(port));
  }
  for (const port of ingressPorts(wanted)) taken.add(key(port));
  return wanted.map((port) => {
    if (port.publishedPort !== 0 || hostPorts([port]).length > 0) return port;
    const before = service.endpoint?.ports.find((p) => p.targetPort === port.targetPort && p.protocol === port.protocol
      && p.publishMode === port.publishMode && p.publishedPort >= DYNAMIC_PORT_FIRST && p.publishedPort <= DYNAMIC_PORT_LAST);
    if (before !== undefined && !taken.has(key(before))) {
      taken.add(key(before));
      return { ...port, publishedPort: before.publishedPort };
    }
    for (let published = DYNAMIC_PORT_FIRST; published <= DYNAMIC_PORT_LAST; published++) {
      const candidate = { ...port, publishedPort: published };
      if (taken.has(key(candidate))) continue;
      taken.add(key(candidate));
      return candidate;
    }
    return port;
  });
}

function allocateTask(pass: Pass, task: Task): void {
  const service = pass.services.get(task.serviceId);
  if (service === undefined) return;
  const next = copyOf(task);
  next.networks = [];
  const configs = [...attachmentConfigs(service)];
  const ingress = [...pass.networks.values()].find(isIngress);
  const problem = (): string | undefined => {
    const conflict = pass.conflicts.get(service.id);
    if (conflict !== undefined) return conflict;
    if (ingressPorts(service.endpoint?.ports).length > 0) {
      if (ingress?.driverState === undefined) return 'service needs ingress network, but no ingress network is present';
      const address = takeAddress(pass, ingress);
      if (address === undefined) return `no free address in network ${ingress.spec?.annotations?.name ?? ingress.id}`;
      next.networks.push(create(NetworkAttachmentSchema, { network: ingress, addresses: [address] }));
    }
    for (const config of configs) {
      const network = pass.networks.get(config.target);
      if (network === undefined) return `network ${config.target} not found`;
      const name = network.spec?.annotations?.name ?? network.id;
      if (network.driverState === undefined) {
        return `network ${name} has no subnet: the address pools are exhausted, or its subnet or VXLAN id is taken`;
      }
      const { aliases, driverAttachmentOpts } = config;
      const attachment = create(NetworkAttachmentSchema, { network, aliases, driverAttachmentOpts });
      if (!isPredefined(network)) {
        const address = takeAddress(pass, network);
        if (address === undefined) return `no free address in network ${name}`;
        attachment.addresses = [address];
      }
      next.networks.push(attachment);
    }
    return undefined;
  };
  const reason = problem();
  const status = next.status;
  if (status === undefined) return;
  if (reason !== undefined) {
    // What was taken before the problem came up is not held: other tasks may have it in this pass.
    for (const { network, addresses } of next.networks) for (const cidr of addresses) giveBack(pass, network, cidr);
    if (status.err === reason) return;
    next.networks = [];
    status.err = reason;
    status.message = 'pending address allocation';
  } else {
    if (service.endpoint !== undefined) next.endpoint = service.endpoint;
    status.state = TaskState.PENDING;
    status.message = 'pending task scheduling';
    status.err = '';
    status.timestamp = timestampFromMs(pass.input.nowMs);
  }
  pass.actions.push(updateAction('task', next));
}
