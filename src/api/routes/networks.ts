// /networks: the swarm's overlay networks beside the node's predefined ones.

import { createNetwork, removeNetwork } from '../../core/control/networks.js';
import { find } from '../../core/control/lookup.js';
import { taskName } from '../../model/task.js';
import { networkTargets } from '../../core/control/service-checks.js';
import type { ReadTx } from '../../core/store/view.js';
import { unwrap } from '../../lib/result.js';
import { timestampMs } from '../../lib/time.js';
import { TaskState, type Network } from '../../model/proto/swarmkit_pb.js';
import { toRecord } from '../../model/pairs.js';
import { isIngress, isPredefined, macOf } from '../../model/network.js';
import { networkSpecFromJson, networkToJson, predefinedNetwork } from '../convert/network.js';
import type { JsonObject } from '../convert/json.js';
import { failure, notFound } from '../errors.js';
import type { Filters } from '../filters.js';
import type { Call, Route } from '../http.js';
import { digestId } from '../names.js';

const PREDEFINED = ['bridge', 'host', 'none'];

export function networkRoutes(): Route[] {
  return [
    ['GET', '/networks', list],
    ['POST', '/networks/create', createOne],
    ['POST', '/networks/prune', prune],
    ['GET', '/networks/:id', inspect],
    ['DELETE', '/networks/:id', remove],
  ];
}

function localNetworks(call: Call): JsonObject[] {
  const { backend } = call;
  return PREDEFINED.map((name) =>
    predefinedNetwork(name, digestId(`network ${name} ${backend.hostname} ${backend.stateDir}`)));
}

function matches(filters: Filters, network: JsonObject, inUse: (id: string) => boolean): boolean {
  const scope = network.Scope as string;
  const builtin = scope === 'local' || network.Ingress === true;
  const dangling = filters.flag('dangling');
  if (dangling !== undefined && (builtin || dangling === inUse(network.Id as string))) return false;
  return filters.contains('name', network.Name as string) && filters.contains('id', network.Id as string)
    && filters.exact('driver', network.Driver as string) && filters.exact('scope', scope)
    && filters.exact('type', builtin ? 'builtin' : 'custom')
    && filters.labels('label', network.Labels as Record<string, string>);
}

function list(call: Call): void {
  const filters = call.filters('dangling', 'driver', 'id', 'label', 'name', 'scope', 'type');
  filters.oneOf('type', ['builtin', 'custom'], (value) => `invalid filter: 'type'='${value}'`);
  const view = call.backend.manager()?.view();
  // Docker does not list the swarm's records of the node-local networks either: each node lists its own.
  const swarm = view?.list('network').filter((network) => !isPredefined(network)).map((network) => networkToJson(network)) ?? [];
  const inUse = (id: string): boolean => view !== undefined && isUsed(view, id);
  call.reply(200, [...localNetworks(call), ...swarm].filter((network) => matches(filters, network, inUse)));
}

function isUsed(view: ReadTx, id: string): boolean {
  return view.list('service').some((service) => networkTargets(service.spec).includes(id))
    || view.list('task').some((task) => task.desiredState <= TaskState.RUNNING
      && task.networks.some((attachment) => attachment.network?.id === id));
}

/** Swarm first, then the node's own: a service's network is what the CLI asks for with scope=swarm. */
function inspect(call: Call): void {
  const id = call.param('id');
  const scope = call.query.get('scope') ?? '';
  const view = call.backend.manager()?.view();
  const local = scope === '' || scope === 'local'
    ? localNetworks(call).find((network) => network.Name === id || network.Id === id
      || (id.length >= 12 && (network.Id as string).startsWith(id)))
    : undefined;
  if (view !== undefined && (scope === '' || scope === 'swarm')) {
    const found = find(view, 'network', id);
    if (found.ok) {
      call.reply(200, networkToJson(found.value, details(call, view, found.value)));
      return;
    }
    if (found.error.code !== 'not_found') unwrap(found);
  }
  if (local === undefined) throw notFound(`network ${id} not found`);
  call.reply(200, local);
}

function details(call: Call, view: ReadTx, network: Network): JsonObject {
  const nodeId = call.backend.local().nodeId;
  const attached = view.list('task').flatMap((task) => {
    if (task.status?.state !== TaskState.RUNNING) return [];
    const attachment = task.networks.find((x) => x.network?.id === network.id);
    return attachment === undefined ? [] : [{ task, address: attachment.addresses[0] ?? '' }];
  });
  const Containers = Object.fromEntries(attached.filter(({ task }) => task.nodeId === nodeId).map(({ task, address }) => [
    task.status?.runtimeStatus.case === 'container' ? task.status.runtimeStatus.value.containerId : task.id,
    {
      Name: taskName(task), EndpointID: digestId(`endpoint ${network.id} ${task.id}`), MacAddress: address === '' ? '' : macOf(address),
      IPv4Address: address, IPv6Address: '',
    },
  ]));
  const peers = view.list('node').filter((node) => node.status?.addr !== undefined && node.status.addr !== '');
  const Peers = peers.map((node) => ({ Name: node.id.slice(0, 12), IP: node.status?.addr ?? '' }));
  if (!call.flag('verbose')) return { Containers, Peers };
  const hostOf = (id: string): string => view.get('node', id)?.status?.addr ?? '';
  const Services = Object.fromEntries(view.list('service').flatMap((service) => {
    const vip = service.endpoint?.virtualIps.find((x) => x.networkId === network.id)?.addr.split('/')[0];
    const tasks = attached.filter(({ task }) => task.serviceId === service.id);
    if (vip === undefined && tasks.length === 0) return [];
    return [[service.spec?.annotations?.name ?? service.id, {
      VIP: vip ?? '', Ports: [], LocalLBIndex: 0,
      Tasks: tasks.map(({ task, address }) => ({
        Name: taskName(task), EndpointID: digestId(`endpoint ${network.id} ${task.id}`),
        EndpointIP: address.split('/')[0], Info: { 'Host IP': hostOf(task.nodeId) },
      })),
    }]];
  }));
  return { Containers, Peers, Services };
}

async function createOne(call: Call): Promise<void> {
  const json = await call.json();
  const driver = json.text('Driver');
  const scope = json.text('Scope');
  const name = json.text('Name');
  if (driver !== 'overlay') {
    const shown = driver === '' ? 'bridge' : driver;
    throw failure('unimplemented',
      `network driver "${shown}" is not supported by skein: create an overlay network with \`-d overlay\``);
  }
  if (scope !== '' && scope !== 'swarm') throw failure('invalid_argument', `overlay networks have scope swarm, not ${scope}`);
  const manager = call.manager();
  if (name === '') throw failure('invalid_argument', 'network name cannot be empty');
  const spec = networkSpecFromJson(json);
  const id = unwrap(await manager.commit((view, context) => createNetwork(view, spec, context)));
  call.reply(201, { Id: id, Warning: '' });
}

async function remove(call: Call): Promise<void> {
  const id = call.param('id');
  const local = localNetworks(call).find((network) => network.Name === id || network.Id === id);
  if (local !== undefined) {
    throw failure('permission_denied', `${String(local.Name)} is a pre-defined network and cannot be removed`);
  }
  const manager = call.backend.manager();
  if (manager === undefined) throw notFound(`network ${id} not found`);
  unwrap(await manager.commit((view) => removeNetwork(view, id)));
  call.reply(204);
}

async function prune(call: Call): Promise<void> {
  const filters = call.filters('label', 'label!', 'until');
  const before = filters.time('until', Date.now()) ?? Infinity;
  const manager = call.backend.manager();
  const removed: string[] = [];
  for (const network of manager?.view().list('network') ?? []) {
    if (manager === undefined || isPredefined(network) || isIngress(network) || isUsed(manager.view(), network.id)) continue;
    const labels = toRecord(network.spec?.annotations?.labels);
    if (!filters.labels('label', labels) || (filters.has('label!') && filters.labels('label!', labels))) continue;
    if (timestampMs(network.meta?.createdAt) >= before) continue;
    const result = await manager.commit((view) => removeNetwork(view, network.id));
    if (result.ok) removed.push(network.spec?.annotations?.name ?? network.id);
  }
  call.reply(200, { NetworksDeleted: removed });
}
