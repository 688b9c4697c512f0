// /containers: the tasks that run on this node, read-only, as `docker ps`, `inspect` and `logs` ask for them.

import type { ContainerSummary } from '../../platform/executor.js';
import { compact, goTimeOfMs, ZERO_TIME, type JsonObject } from '../convert/json.js';
import { failure, notFound } from '../errors.js';
import type { Call, Route } from '../http.js';

export function containerRoutes(): Route[] {
  return [
    ['GET', '/containers/json', list],
    ['GET', '/containers/:id/json', inspect],
  ];
}

/** How long, in Docker's words. */
function humanDuration(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 1) return 'Less than a second';
  if (seconds === 1) return '1 second';
  if (seconds < 60) return `${seconds} seconds`;
  const minutes = Math.floor(seconds / 60);
  if (minutes === 1) return 'About a minute';
  if (minutes < 60) return `${minutes} minutes`;
  const hours = Math.round(minutes / 60);
  if (hours === 1) return 'About an hour';
  if (hours < 48) return `${hours} hours`;
  if (hours < 24 * 7 * 2) return `${Math.floor(hours / 24)} days`;
  return `${Math.floor(hours / 24 / 7)} weeks`;
}

function statusText(container: ContainerSummary): string {
  const { exit } = container;
  if (container.state === 'running') return `Up ${humanDuration(Date.now() - (container.startedAtMs ?? container.createdMs))}`;
  if (exit === undefined) return 'Created';
  return `Exited (${exit.exitCode}) ${humanDuration(Date.now() - exit.finishedAtMs)} ago`;
}

async function list(call: Call): Promise<void> {
  const filters = call.filters('ancestor', 'before', 'exited', 'expose', 'health', 'id', 'is-task', 'isolation', 'label', 'name',
    'network', 'publish', 'since', 'status', 'volume');
  const all = call.flag('all') || filters.has('status');
  const limit = Number(call.query.get('limit') ?? '0');
  const containers = (await call.backend.executor.containers())
    .filter((container) => (all || limit > 0 || container.state === 'running')
      && filters.prefix('id', container.id) && filters.contains('name', container.name)
      && filters.exact('status', container.state) && filters.labels('label', container.labels)
      && (!filters.has('ancestor') || filters.get('ancestor').some((name) =>
        [container.image, container.imageId, container.image.split(':')[0]].includes(name)))
      && filters.flag('is-task') !== false)
    .sort((a, b) => b.createdMs - a.createdMs);
  call.reply(200, containers.slice(0, limit > 0 ? limit : undefined).map((container) => ({
    Id: container.id, Names: [`/${container.name}`], Image: container.image, ImageID: container.imageId,
    Command: container.command, Created: Math.floor(container.createdMs / 1000), Ports: [], Labels: container.labels,
    State: container.state, Status: statusText(container), HostConfig: { NetworkMode: 'default' },
    NetworkSettings: { Networks: {} }, Mounts: [],
  })));
}

/** By id, name, or id prefix. */
export async function findContainer(call: Call, reference: string): Promise<ContainerSummary> {
  const containers = await call.backend.executor.containers();
  const name = reference.replace(/^\//, '');
  const exact = containers.find((container) => container.id === name || container.name === name);
  if (exact !== undefined) return exact;
  const matches = containers.filter((container) => name !== '' && container.id.startsWith(name));
  if (matches.length > 1) throw failure('invalid_argument', `multiple IDs found with provided prefix: ${name}`);
  const [only] = matches;
  if (only === undefined) throw notFound(`No such container: ${reference}`);
  return only;
}

async function inspect(call: Call): Promise<void> {
  const container = await findContainer(call, call.param('id'));
  call.reply(200, containerToJson(container));
}

function containerToJson(container: ContainerSummary): JsonObject {
  const { exit } = container;
  return compact({
    Id: container.id, Created: goTimeOfMs(container.createdMs), Path: container.command.split(' ')[0] ?? '',
    Args: container.command.split(' ').slice(1),
    State: {
      Status: container.state, Running: container.state === 'running', Paused: false, Restarting: false,
      OOMKilled: exit?.reason === 'OOM killed', Dead: false, Pid: container.pid, ExitCode: exit?.exitCode ?? 0,
      Error: exit?.reason ?? '', StartedAt: goTimeOfMs(container.startedAtMs),
      FinishedAt: exit === undefined ? ZERO_TIME : goTimeOfMs(exit.finishedAtMs),
    },
    Image: container.imageId, Name: `/${container.name}`, RestartCount: 0, Driver: 'overlay2', Platform: 'linux',
    MountLabel: '', ProcessLabel: '', AppArmorProfile: '', ExecIDs: null, Mounts: [],
    HostConfig: { NetworkMode: 'default', LogConfig: { Type: 'json-file', Config: {} } },
    GraphDriver: { Data: null, Name: 'overlay2' },
    Config: { Hostname: '', Image: container.image, Labels: container.labels, Tty: false, Env: [], Cmd: null },
    NetworkSettings: { Networks: {}, Ports: {} },
  });
}
