// /events: the swarm's changes as a stream of JSON objects. Nothing is kept: `since` in the past gives what happens
// from now on. A client too slow to keep up is cut off rather than buffered without end.

import { nodeName } from '../../model/task.js';
import type { StoreEvent } from '../../core/store/view.js';
import { NodeRole, type Node, type Service } from '../../model/proto/swarmkit_pb.js';
import { toRecord } from '../../model/pairs.js';
import type { JsonObject } from '../convert/json.js';
import { nodeToJson } from '../convert/node.js';
import { serviceToJson } from '../convert/service.js';
import type { Filters } from '../filters.js';
import type { Call, Route } from '../http.js';

const MAX_PENDING = 4096;
const TYPES = ['node', 'service', 'network', 'secret', 'config'] as const;

export function eventRoutes(): Route[] {
  return [['GET', '/events', events]];
}

interface EventLine {
  readonly type: string;
  readonly action: string;
  readonly id: string;
  readonly attributes: Record<string, string>;
  readonly labels: Record<string, string>;
}

/** `key.old` and `key.new` for each member that differs. */
function differences(before: Record<string, string>, after: Record<string, string>): Record<string, string> {
  const result: Record<string, string> = {};
  for (const [key, value] of Object.entries(after)) {
    if (before[key] === value) continue;
    if (before[key] !== undefined && before[key] !== '') result[`${key}.old`] = before[key];
    if (value !== '') result[`${key}.new`] = value;
  }
  return result;
}

function nodeFacts(node: Node): Record<string, string> {
  const json = nodeToJson(node) as { Status: JsonObject; Spec: JsonObject; ManagerStatus?: JsonObject };
  return {
    state: String(json.Status.State), availability: String(json.Spec.Availability),
    role: node.role === NodeRole.MANAGER ? 'manager' : 'worker',
    leader: node.managerStatus === undefined ? '' : String(node.managerStatus.leader),
    reachability: String(json.ManagerStatus?.Reachability ?? ''),
  };
}

function serviceFacts(service: Service): Record<string, string> {
  const json = serviceToJson(service, false) as { UpdateStatus?: JsonObject };
  const { mode, task } = service.spec ?? {};
  return {
    updatestate: String(json.UpdateStatus?.State ?? ''),
    replicas: mode?.case === 'replicated' ? String(mode.value.replicas) : '',
    image: task?.runtime.case === 'container' ? task.runtime.value.image : '',
  };
}

function lineOf(event: StoreEvent): EventLine | undefined {
  if (!(TYPES as readonly string[]).includes(event.kind)) return undefined;
  const base = { type: event.kind, action: event.action, id: event.object.id };
  if (event.kind === 'node') {
    const changed = event.action === 'update' && event.old !== undefined
      ? differences(nodeFacts(event.old), nodeFacts(event.object)) : {};
    const labels = toRecord(event.object.spec?.annotations?.labels);
    return { ...base, attributes: { name: nodeName(event.object), ...changed }, labels };
  }
  if (event.kind === 'task' || event.kind === 'cluster') return undefined;
  const { annotations } = event.object.spec ?? {};
  const changed = event.kind === 'service' && event.action === 'update' && event.old !== undefined
    ? differences(serviceFacts(event.old), serviceFacts(event.object)) : {};
  return { ...base, attributes: { name: annotations?.name ?? '', ...changed }, labels: toRecord(annotations?.labels) };
}

function matches(filters: Filters, line: EventLine): boolean {
  if (!filters.exact('type', line.type) || !filters.exact('event', line.action) || !filters.exact('scope', 'swarm')) return false;
  if (!filters.labels('label', line.labels)) return false;
  const named = TYPES.filter((type) => filters.has(type));
  if (named.length === 0) return !['container', 'image', 'volume', 'daemon', 'plugin'].some((key) => filters.has(key));
  return named.some((type) => type === line.type && filters.get(type)
    .some((value) => line.id.startsWith(value) || line.attributes.name === value));
}

function untilMs(text: string | null): number | undefined {
  if (text === null || text === '') return undefined;
  const seconds = Number(text);
  return Number.isFinite(seconds) ? seconds * 1000 : undefined;
}

async function events(call: Call): Promise<void> {
  const filters = call.filters('type', 'event', 'scope', 'label', 'container', 'image', 'volume', 'daemon', 'plugin', ...TYPES);
  const manager = call.backend.manager();
  const pending: string[] = [];
  let wake: () => void = () => undefined;
  let overflow = false;
  const off = manager?.onEvents((changes, nowMs) => {
    for (const change of changes) {
      const line = lineOf(change);
      if (line === undefined || !matches(filters, line)) continue;
      overflow ||= pending.length >= MAX_PENDING;
      if (!overflow) pending.push(`${JSON.stringify(eventToJson(line, nowMs))}\n`);
    }
    wake();
  });
  const end = untilMs(call.query.get('until'));
  let over = end !== undefined && end <= Date.now();
  const timer = end === undefined || over ? undefined
    : setTimeout(() => { over = true; wake(); }, Math.min(end - Date.now(), 2 ** 31 - 1));
  const onAbort = (): void => wake();
  call.signal.addEventListener('abort', onAbort, { once: true });
  try {
    call.startStream('application/json');
    while (!call.signal.aborted && !overflow) {
      const lines = pending.splice(0);
      if (lines.length > 0) await call.write(lines.join(''));
      else if (over) break;
      else await new Promise<void>((resolve) => { wake = resolve; });
    }
    if (overflow) call.logger.warn('an events client is too slow: disconnected');
    call.end();
  } finally {
    off?.();
    clearTimeout(timer);
    call.signal.removeEventListener('abort', onAbort);
  }
}

function eventToJson(line: EventLine, nowMs: number): JsonObject {
  return {
    Type: line.type, Action: line.action, Actor: { ID: line.id, Attributes: line.attributes }, scope: 'swarm',
    time: Math.floor(nowMs / 1000), timeNano: Math.round(nowMs * 1e6),
  };
}
