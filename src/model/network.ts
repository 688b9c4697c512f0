// Network helpers: what is read off a network or a service's attachments once the allocator was there.

import { formatPrefix, parsePrefix, type Prefix } from '../lib/cidr.js';
import { cutText } from '../lib/text.js';
import { pairValue } from './pairs.js';
import type { Network, NetworkAttachmentConfig, Node, Service } from './proto/swarmkit_pb.js';

/** RFC 7348, section 8: where tunnels are sent when the swarm was not told another port. */
export const VXLAN_PORT = 4789;
/** RFC 7348, section 5: 24 bits. */
export const VNI_MAX = 2 ** 24 - 1;
export const VNI_OPTION = 'com.docker.network.driver.overlay.vxlanid_list';
export const PREDEFINED_LABEL = 'com.docker.swarm.predefined';

/** The network's VXLAN id, once it was given one. */
export function vniOf(network: Network): number | undefined {
  const value = pairValue(network.driverState?.options, VNI_OPTION);
  return value === undefined ? undefined : Number(value.split(',')[0]);
}

/** A network of the node itself (bridge, host): nothing to allocate. */
export function isPredefined(network: Network): boolean {
  return pairValue(network.spec?.annotations?.labels, PREDEFINED_LABEL) !== undefined;
}

export function isIngress(network: Network): boolean {
  return network.spec?.ingress === true;
}

/** Subnets of a network once allocated. */
export function prefixesOf(network: Network): Prefix[] {
  return (network.ipam?.configs ?? []).flatMap((config) => parsePrefix(config.subnet) ?? []);
}

/** Networks a service's tasks join, as asked for: the task template's, or the service's own (before API 1.25). */
export function attachmentConfigs(service: Service): readonly NetworkAttachmentConfig[] {
  const fromTask = service.spec?.task?.networks ?? [];
  return fromTask.length > 0 ? fromTask : service.spec?.networks ?? [];
}

/** Address part of "a.b.c.d/len". */
export function addressOf(cidr: string): string {
  const slash = cidr.indexOf('/');
  return slash < 0 ? cidr : cidr.slice(0, slash);
}

/** MAC address of an overlay endpoint: 02:42 and the IPv4 bytes, as Docker makes it. */
export function macOf(address: string): string {
  const bytes = addressOf(address).split('.').map((part) => Number(part).toString(16).padStart(2, '0'));
  return ['02', '42', ...bytes].join(':');
}

/** Skein nodes tell their data-path address in this engine label (stock engines tell it by gossip). */
export const DATA_PATH_LABEL = 'com.skein.data-path-addr';

/** Its managers speak SwarmKit's Raft, ours do not. */
export const STOCK_ENGINE = 'a stock Docker Engine can be a worker of this swarm, not a manager';

/** A node of Skein: it holds a network view, or is about to. */
export function isSkeinNode(node: Node): boolean {
  return (pairValue(node.description?.engine?.labels, DATA_PATH_LABEL) ?? '') !== '';
}

/** The data-path address a node says it has; its control address where it says none. */
export function announcedAddress(node: Node): string {
  const announced = pairValue(node.description?.engine?.labels, DATA_PATH_LABEL);
  return announced !== undefined && announced !== '' ? announced : node.status?.addr ?? '';
}

/** The data-path address a node was given (core/allocator/datapath.ts); empty for none. */
export function vtepOf(node: Node): string {
  return node.dataPath?.addr ?? '';
}

/** The node's gateway network, CIDR text of the bridge's own address: in tasks it lies beside the overlay networks. */
export const GATEWAY_LABEL = 'com.skein.gateway-network';
/** Wider ones are not believed: a node could keep every subnet from the others. */
export const GATEWAY_BITS = { min: 12, max: 30 } as const;

/** What a Skein node tells of its addresses in its engine labels. */
export function addressLabels(dataPathAddr: string, gatewayNetwork: string): Record<string, string> {
  return { [DATA_PATH_LABEL]: dataPathAddr, [GATEWAY_LABEL]: gatewayNetwork };
}

const NAME_SHOWN_MAX = 64;

export interface Occupied {
  readonly prefix: Prefix;
  /** For messages: "the gateway network 172.18.0.0/16 of node m1". */
  readonly what: string;
}

/** Addresses that an overlay network must not have, because its tasks or the nodes themselves need them otherwise. */
export function occupiedBy(node: Node): Occupied[] {
  const name = cutText(node.description?.hostname || node.id, NAME_SHOWN_MAX);
  const managerAddr = node.managerStatus?.addr ?? '';
  const hosts = [announcedAddress(node), node.status?.addr ?? '', managerAddr.slice(0, Math.max(managerAddr.lastIndexOf(':'), 0))];
  const gateway = parsePrefix(pairValue(node.description?.engine?.labels, GATEWAY_LABEL) ?? '');
  return [
    ...[...new Set(hosts)].flatMap((host) => {
      const prefix = parsePrefix(`${host}/32`);
      return prefix === undefined ? [] : [{ prefix, what: `the address ${host} of node ${name}` }];
    }),
    ...(gateway === undefined || gateway.bits < GATEWAY_BITS.min || gateway.bits > GATEWAY_BITS.max ? []
      : [{ prefix: gateway, what: `the gateway network ${formatPrefix(gateway)} of node ${name}` }]),
  ];
}
