// Networks: create and remove. Subnets a user names are checked against each other, against those of all networks at
// once, and against the addresses of the nodes; subnets left open are given out by the allocator.

import { create } from '@bufbuild/protobuf';
import { formatPrefix } from '../../lib/cidr.js';
import { fail, type Result } from '../../lib/result.js';
import {
  DriverSchema, NetworkSchema, NetworkSpecSchema, TaskState,
  type IPAMConfig, type IPAMOptions, type Network, type NetworkSpec, type Node,
} from '../../model/proto/swarmkit_pb.js';
import { PREDEFINED_LABEL, VNI_MAX, VNI_OPTION, isPredefined, occupiedBy } from '../../model/network.js';
import { pairValue } from '../../model/pairs.js';
import { createAction, removeAction } from '../store/actions.js';
import type { ReadTx } from '../store/view.js';
import { change, rpcFail, type Change, type ChangeContext } from './context.js';
import { checkNetworkSize } from './limits.js';
import { find } from './lookup.js';
import { networkTargets, usesIngress } from './service-checks.js';
import { addressText, containsAddress, containsRange, overlaps, parseSubnet, type AddressRange } from './subnet.js';
import { checkAnnotations, checkDriver, firstRefusal, invalid, type Refusal } from './validate.js';

const INTERNAL_LABEL = 'com.docker.swarm.internal';
const PREDEFINED = ['bridge', 'host', 'none', 'default'];
const OVERLAP = 'invalid pool request: Pool overlaps with other one on this address space';

export function createNetwork(view: ReadTx, spec: NetworkSpec, context: ChangeContext): Result<Change<string>> {
  const name = spec.annotations?.name ?? '';
  if (PREDEFINED.includes(name)) {
    return fail('permission_denied', `operation is not permitted on predefined ${name} network`);
  }
  const refusal = firstRefusal(
    () => checkAnnotations(spec.annotations),
    () => checkDriver(spec.driverConfig),
    () => checkKind(view, spec),
    () => checkVni(pairValue(spec.driverConfig?.options, VNI_OPTION)),
    () => checkIpam(spec.ipam),
    () => checkNetworkSize(spec),
  );
  if (refusal !== undefined) return refusal;
  if (view.byName('network', name) !== undefined) {
    return fail('already_exists', `network with name ${name} already exists`);
  }
  const overlap = checkOverlap(view, spec.ipam);
  if (overlap !== undefined) return overlap;
  const driverConfig = spec.driverConfig ?? create(DriverSchema, { name: 'overlay' });
  const network = create(NetworkSchema, {
    id: context.newId(), spec: create(NetworkSpecSchema, { ...spec, driverConfig }),
  });
  return change([createAction('network', network)], network.id);
}

function checkKind(view: ReadTx, spec: NetworkSpec): Refusal {
  const driver = spec.driverConfig?.name ?? 'overlay';
  if (driver !== 'overlay') {
    return invalid(`network driver "${driver}" is not supported: only overlay networks are (use \`-d overlay\`)`);
  }
  if (pairValue(spec.annotations?.labels, PREDEFINED_LABEL) !== undefined) {
    return rpcFail('permission_denied',
      `label ${PREDEFINED_LABEL} is for internally created predefined networks and cannot be applied by users`);
  }
  if (pairValue(spec.annotations?.labels, INTERNAL_LABEL) !== undefined) {
    return rpcFail('permission_denied',
      `label ${INTERNAL_LABEL} is for predefined internal networks and cannot be applied by users`);
  }
  // What the data plane cannot carry yet is refused here, not accepted and then dropped on the wire.
  if (pairValue(spec.driverConfig?.options, 'encrypted') !== undefined) {
    return fail('unimplemented', 'encrypted overlay networks are not supported yet: create the network without --opt encrypted');
  }
  if (spec.ipv6Enabled || spec.ipam?.configs.some((config) => config.subnet.includes(':')) === true) {
    return fail('unimplemented', 'IPv6 in overlay networks is not supported yet: create the network without --ipv6');
  }
  if (spec.configFrom.case !== undefined) return invalid('config-only networks are not supported for the overlay driver');
  if (!spec.ingress) return undefined;
  if (spec.attachable) return invalid('ingress network cannot be attachable');
  if (spec.internal) return invalid('ingress network cannot be internal');
  const present = view.list('network').find((network) => network.spec?.ingress === true);
  if (present === undefined) return undefined;
  return rpcFail('already_exists', `ingress network (${present.id}) is already present`);
}

/** Docker's words, for numbers that are no VNI as well. */
function checkVni(asked: string | undefined): Refusal {
  const wrong = asked?.split(',').find((text) => !/^\d{1,8}$/.test(text) || Number(text) < 1 || Number(text) > VNI_MAX);
  return wrong === undefined ? undefined
    : invalid(`invalid vxlan id value "${wrong}" passed: --opt ${VNI_OPTION} takes a number from 1 to ${VNI_MAX}`);
}

function checkIpam(ipam: IPAMOptions | undefined): Refusal {
  if (ipam === undefined) return undefined;
  const driver = ipam.driver?.name ?? '';
  if (driver !== '' && driver !== 'default') return invalid(`invalid IPAM specified: IPAM driver "${driver}" not found`);
  for (const config of ipam.configs) {
    const refusal = checkIpamConfig(config);
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

function checkIpamConfig(config: IPAMConfig): Refusal {
  if (config.subnet === '') {
    if (config.gateway === '' && config.range === '') return undefined;
    return invalid('ipam configuration: a gateway or range needs a subnet');
  }
  const subnet = parseSubnet(config.subnet);
  if (subnet === undefined) return invalid(`ipam configuration: invalid subnet ${config.subnet}`);
  if (!subnet.canonical) {
    return fail('invalid_argument', `invalid network config:\ninvalid subnet ${config.subnet}: it should be `
      + `${addressText(subnet.family, subnet.first)}/${subnet.prefix}`);
  }
  if (subnet.family === 4 && (subnet.prefix > 29 || subnet.prefix < 8)) {
    return invalid(`ipam configuration: invalid subnet ${config.subnet}: the prefix length must be between 8 and 29`);
  }
  if (config.range !== '') {
    const range = parseSubnet(config.range);
    if (range === undefined) return invalid(`ipam configuration: invalid range ${config.range}`);
    if (!containsRange(subnet, range)) {
      return invalid(`ipam configuration: subnet ${config.subnet} does not contain range ${config.range}`);
    }
  }
  const addresses = [['gateway', config.gateway] as const, ...config.reserved.map((x) => ['auxiliary address', x.value] as const)];
  for (const [what, address] of addresses) {
    if (address !== '' && !containsAddress(subnet, address)) {
      return invalid(`ipam configuration: subnet ${config.subnet} does not contain ${what} ${address}`);
    }
  }
  return undefined;
}

function rangesOf(configs: readonly IPAMConfig[]): AddressRange[] {
  return configs.map((config) => parseSubnet(config.subnet)).filter((range) => range !== undefined);
}

function checkOverlap(view: ReadTx, ipam: IPAMOptions | undefined): Refusal {
  const wanted = rangesOf(ipam?.configs ?? []);
  for (const [position, range] of wanted.entries()) {
    if (wanted.slice(0, position).some((earlier) => overlaps(earlier, range))) return fail('permission_denied', OVERLAP);
  }
  for (const network of view.list('network')) {
    const taken = rangesOf([...(network.ipam?.configs ?? []), ...(network.spec?.ipam?.configs ?? [])]);
    if (taken.some((range) => wanted.some((own) => overlaps(own, range)))) return fail('permission_denied', OVERLAP);
  }
  for (const node of view.list('node')) {
    const what = occupiedIn(node, wanted);
    if (what !== undefined) return fail('permission_denied', `${OVERLAP}: it holds ${what}: choose another --subnet`);
  }
  return undefined;
}

function occupiedIn(node: Node, ranges: readonly AddressRange[]): string | undefined {
  return occupiedBy(node).find(({ prefix }) => {
    const occupied = parseSubnet(formatPrefix(prefix));
    return occupied !== undefined && ranges.some((range) => overlaps(range, occupied));
  })?.what;
}

/** A node that came later than the networks: which of them it cannot work with, in words. */
export function networksOver(view: ReadTx, nodeId: string): string[] {
  const node = view.get('node', nodeId);
  if (node === undefined) return [];
  return view.list('network').flatMap((network) => {
    const what = occupiedIn(node, rangesOf(network.ipam?.configs ?? []));
    return what === undefined ? [] : [`network ${network.spec?.annotations?.name ?? network.id} holds ${what}`];
  });
}

export function removeNetwork(view: ReadTx, reference: string): Result<Change<Network>> {
  const found = find(view, 'network', reference);
  if (!found.ok) return found;
  const network = found.value;
  if (isPredefined(network) || pairValue(network.spec?.annotations?.labels, INTERNAL_LABEL) !== undefined) {
    return rpcFail('permission_denied', `${network.id} is a pre-defined network and cannot be removed`);
  }
  const user = network.spec?.ingress === true ? ingressUser(view) : networkUser(view, network.id);
  if (user !== undefined) return user;
  return change([removeAction('network', network)], network);
}

function ingressUser(view: ReadTx): Refusal {
  const service = view.list('service').find((x) => usesIngress(x.spec?.endpoint));
  if (service === undefined) return undefined;
  return rpcFail('failed_precondition', `ingress network cannot be removed because service ${service.id} depends on it`);
}

function networkUser(view: ReadTx, id: string): Refusal {
  const service = view.list('service').find((x) => networkTargets(x.spec).includes(id));
  if (service !== undefined) {
    return rpcFail('failed_precondition', `network ${id} is in use by service ${service.id}`);
  }
  // Tasks of a removed service are on their way out and hold their own copy of the network.
  const task = view.list('task').find((x) => x.desiredState <= TaskState.RUNNING && x.status !== undefined
    && x.status.state <= TaskState.RUNNING && (x.serviceId === '' || view.get('service', x.serviceId) !== undefined)
    && (x.networks.some((attachment) => attachment.network?.id === id)
      || (x.spec?.networks ?? []).some((attachment) => attachment.target === id)));
  if (task === undefined) return undefined;
  return rpcFail('failed_precondition', `network ${id} is in use by task ${task.id}`);
}
