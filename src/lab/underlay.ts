// The lab's wire: a bridge in a namespace of its own, one veth pair per host. Every sysctl a namespace inherits from
// the machine and that matters is set explicitly.

import { inNamespace, ip } from './run.js';
import { LAB_SUBNET_BITS, type LabPlan } from './plan.js';

export async function buildUnderlay(plan: LabPlan): Promise<void> {
  await ip('netns', 'add', plan.switchNetns);
  await inNamespace(plan.switchNetns, 'ip', ['link', 'set', 'lo', 'up']);
  await inNamespace(plan.switchNetns, 'ip', ['link', 'add', 'br0', 'type', 'bridge', 'forward_delay', '0']);
  await inNamespace(plan.switchNetns, 'ip', ['link', 'set', 'br0', 'up']);
  // The wire filters nothing; where br_netfilter is loaded, a new namespace begins with it on.
  await inNamespace(plan.switchNetns, 'sysctl', ['-e', '-qw', 'net.bridge.bridge-nf-call-iptables=0', 'net.bridge.bridge-nf-call-ip6tables=0',
    'net.bridge.bridge-nf-call-arptables=0']);
  const hosts = [...plan.nodes, { name: 'client', netns: plan.clientNetns, address: plan.clientAddress }];
  for (const host of hosts) await addHost(plan, host.name, host.netns, host.address);
}

/** A host on the lab's wire. */
export async function addHost(plan: LabPlan, name: string, netns: string, address: string): Promise<void> {
  await ip('netns', 'add', netns);
  const inside = (args: string): Promise<string> => inNamespace(netns, 'ip', args.split(' '));
  await inNamespace(plan.switchNetns, 'ip', ['link', 'add', `v-${name}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', `/run/netns/${netns}`]);
  await inNamespace(plan.switchNetns, 'ip', ['link', 'set', `v-${name}`, 'master', 'br0', 'up']);
  await inside('link set lo up');
  await inside(`addr add ${address}/${LAB_SUBNET_BITS} dev eth0`);
  await inside('link set eth0 up');
  await inNamespace(netns, 'sysctl', ['-qw', 'net.ipv4.conf.all.rp_filter=0', 'net.ipv4.conf.default.rp_filter=0', 'net.ipv4.conf.eth0.rp_filter=0',
    'net.ipv4.ip_unprivileged_port_start=0']);
}

export async function removeUnderlay(plan: LabPlan): Promise<void> {
  const known = (await ip('netns', 'list')).split('\n').map((line) => line.split(' ')[0]);
  for (const netns of [...plan.nodes.map((n) => n.netns), plan.clientNetns, plan.switchNetns]) {
    if (known.includes(netns)) await ip('netns', 'del', netns);
  }
}
