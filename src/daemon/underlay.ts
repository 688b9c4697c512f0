// The interface that the tunnels go out by.

import { spawnSync } from 'node:child_process';
import os from 'node:os';

const MTU_DEFAULT = 1500;

/** MTU is not in os.networkInterfaces(): Linux tells it in sysfs of the interface that has the address. */
export function underlayMtu(address: string): number {
  const found = Object.entries(os.networkInterfaces()).find(([, list]) => list?.some((a) => a.address === address));
  return found === undefined ? MTU_DEFAULT : interfaceMtu(found[0]);
}

function interfaceMtu(name: string): number {
  // /sys belongs to the namespace it was mounted in; the routing table of our own is in /proc/self/net, without MTUs.
  // An ioctl would need native code, so `ip` is asked.
  const result = spawnSync('ip', ['-j', 'link', 'show', 'dev', name], { encoding: 'utf8', timeout: 5000 });
  if (result.status !== 0) return MTU_DEFAULT;
  const parsed = JSON.parse(result.stdout) as { mtu?: number }[];
  return parsed[0]?.mtu ?? MTU_DEFAULT;
}
