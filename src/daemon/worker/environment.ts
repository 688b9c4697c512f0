// A task's surroundings on this node: names, environment, hosts, DNS, secrets; templates expanded.

import { readFile } from 'node:fs/promises';
import { expand } from '../../core/agent/template.js';
import { unwrap } from '../../lib/result.js';
import { toRecord } from '../../model/pairs.js';
import type { Config, NodeDescription, Secret, Task } from '../../model/proto/swarmkit_pb.js';
import { addressOf } from '../../model/network.js';
import { taskName } from '../../model/task.js';
import type { TaskEnvironment } from '../../platform/executor.js';

export interface WorkerIdentity {
  readonly nodeId: string;
  readonly description: NodeDescription | undefined;
}

export async function environmentOf(
  task: Task, identity: WorkerIdentity, netns: string, secrets: ReadonlyMap<string, Secret>, configs: ReadonlyMap<string, Config>,
): Promise<TaskEnvironment> {
  const spec = task.spec?.runtime.case === 'container' ? task.spec.runtime.value : undefined;
  const node = { id: identity.nodeId, description: identity.description };
  const text = (value: string): string => unwrap(expand(value, task, node));
  const name = taskName(task);
  const hostname = spec !== undefined && spec.hostname !== '' ? text(spec.hostname) : task.id.slice(0, 12);
  const address = task.networks.find((a) => a.network?.spec?.ingress !== true)?.addresses[0] ?? task.networks[0]?.addresses[0];
  const dns = spec?.dnsConfig;
  return {
    netns,
    name,
    hostname,
    env: (spec?.env ?? []).map(text),
    dns: {
      nameservers: ['127.0.0.11'],
      search: dns !== undefined && dns.search.length > 0 ? dns.search : await hostSearch(),
      options: dns !== undefined && dns.options.length > 0 ? dns.options : ['ndots:0'],
    },
    hosts: [
      ...(address === undefined ? [] : [{ address: addressOf(address), names: [hostname] }]),
      ...(spec?.hosts ?? []).flatMap((line) => {
        const [ip, ...names] = line.trim().split(/\s+/);
        return ip === undefined || names.length === 0 ? [] : [{ address: ip, names }];
      }),
    ],
    labels: {
      ...toRecord(spec?.labels),
      'com.docker.swarm.task': '',
      'com.docker.swarm.task.id': task.id,
      'com.docker.swarm.task.name': name,
      'com.docker.swarm.node.id': identity.nodeId,
      'com.docker.swarm.service.id': task.serviceId,
      'com.docker.swarm.service.name': task.serviceAnnotations?.name ?? '',
    },
    secrets: new Map([...secrets].map(([id, secret]) => [id, secret.spec?.data ?? new Uint8Array()])),
    configs: new Map([...configs].map(([id, config]) => [id, config.spec?.data ?? new Uint8Array()])),
  };
}

async function hostSearch(): Promise<string[]> {
  const text = await readFile('/etc/resolv.conf', 'utf8').catch(() => '');
  const line = text.split('\n').filter((l) => l.startsWith('search ')).at(-1);
  return line === undefined ? [] : line.trim().split(/\s+/).slice(1).filter((domain) => domain !== '.');
}
