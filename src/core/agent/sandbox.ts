// The network namespace a task needs, out of its attachments; and gateway addresses for the node's tasks.

import { contains, formatAddress, parseAddress, parsePrefix, prefixSize } from '../../lib/cidr.js';
import { pairValue, toRecord } from '../../model/pairs.js';
import type { Task } from '../../model/proto/swarmkit_pb.js';
import { macOf, vniOf } from '../../model/network.js';
import type { Sandbox } from '../../model/sandbox.js';

const MTU_OPTION = 'com.docker.network.driver.mtu';

export function sandboxOf(task: Task, gatewayAddress: string | undefined): Sandbox {
  const interfaces = task.networks.flatMap((attachment) => {
    const vni = attachment.network === undefined ? undefined : vniOf(attachment.network);
    const first = attachment.addresses[0];
    if (vni === undefined || first === undefined) return [];
    const mtu = Number(pairValue(attachment.network?.driverState?.options, MTU_OPTION) ?? 1500) - 50;
    return [{ vni, addresses: attachment.addresses, mac: macOf(first), mtu: mtu > 0 ? mtu : 1450 }];
  }).map((one, position) => ({ ifname: `eth${position}`, ...one }));
  const spec = task.spec?.runtime.case === 'container' ? task.spec.runtime.value : undefined;
  const sysctls = Object.fromEntries(Object.entries(toRecord(spec?.sysctls)).filter(([name]) => name.startsWith('net.')));
  return {
    id: task.id,
    interfaces,
    gateway: gatewayAddress === undefined ? undefined
      : { ifname: `eth${interfaces.length}`, address: gatewayAddress, mac: macOf(gatewayAddress) },
    sysctls,
  };
}

/** Internal networks only: no way out. A task without any network has one. */
export function needsGateway(task: Task): boolean {
  return task.networks.length === 0 || task.networks.some((attachment) => attachment.network?.spec?.internal !== true);
}

/** Lowest free address of the gateway bridge network ("172.18.0.1/16"), with its length; undefined when it is full. */
export function freeGatewayAddress(bridge: string, used: ReadonlySet<string>): string | undefined {
  const prefix = parsePrefix(bridge);
  const own = parseAddress(bridge.split('/')[0] as string);
  if (prefix === undefined || own === undefined) return undefined;
  // The top 256 addresses stay with the data plane itself.
  const last = prefix.base + prefixSize(prefix) - 257;
  for (let address = prefix.base + 2; address <= last; address++) {
    const text = `${formatAddress(address)}/${prefix.bits}`;
    if (address !== own && contains(prefix, address) && !used.has(text)) return text;
  }
  return undefined;
}
