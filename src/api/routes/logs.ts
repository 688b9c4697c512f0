// Logs of services, tasks and local containers: Docker's multiplexed stream (8-byte header per frame), raw for a TTY.
// Ends when the client leaves; a slow client slows the source.

import { create } from '@bufbuild/protobuf';
import { TimestampSchema, type Timestamp } from '@bufbuild/protobuf/wkt';
import { find } from '../../core/control/lookup.js';
import { AppFailure, unwrap } from '../../lib/result.js';
import {
  LogSelectorSchema, LogStream, LogSubscriptionOptionsSchema,
  type LogMessage, type LogSelector, type Service, type TaskSpec,
} from '../../model/proto/swarmkit_pb.js';
import { failure } from '../errors.js';
import type { Call, Route } from '../http.js';
import { findContainer } from './containers.js';

const MULTIPLEXED = 'application/vnd.docker.multiplexed-stream';
const RAW = 'application/vnd.docker.raw-stream';

export function logRoutes(): Route[] {
  return [
    ['GET', '/services/:id/logs', serviceLogs],
    ['GET', '/tasks/:id/logs', taskLogs],
    ['GET', '/containers/:id/logs', containerLogs],
  ];
}

interface LogQuery {
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly follow: boolean;
  readonly timestamps: boolean;
  readonly details: boolean;
  /** Undefined for all. */
  readonly tail: number | undefined;
  readonly since: Timestamp | undefined;
}

function queryOf(call: Call): LogQuery {
  const stdout = call.flag('stdout');
  const stderr = call.flag('stderr');
  if (!stdout && !stderr) {
    throw failure('invalid_argument', 'Bad parameters: you must choose at least one stream');
  }
  const tail = call.query.get('tail') ?? '';
  const all = tail === '' || tail === 'all' || !/^[0-9]{1,9}$/.test(tail);
  return {
    stdout, stderr, follow: call.flag('follow'), timestamps: call.flag('timestamps'), details: call.flag('details'),
    tail: all ? undefined : Number(tail), since: sinceOf(call.query.get('since') ?? ''),
  };
}

/** Unix time, with a fraction of up to nine digits. */
function sinceOf(text: string): Timestamp | undefined {
  if (text === '' || text === '0') return undefined;
  const match = /^(-?[0-9]{1,15})(?:\.([0-9]{1,9}))?$/.exec(text);
  if (match === null) throw failure('invalid_argument', `invalid value for "since": ${text}`);
  return create(TimestampSchema, { seconds: BigInt(match[1] ?? '0'), nanos: Number((match[2] ?? '').padEnd(9, '0')) });
}

function isTty(spec: TaskSpec | undefined): boolean {
  return spec?.runtime.case === 'container' && spec.runtime.value.tty;
}

async function serviceLogs(call: Call): Promise<void> {
  const service: Service = unwrap(find(call.manager().view(), 'service', call.param('id')));
  await swarmLogs(call, create(LogSelectorSchema, { serviceIds: [service.id] }), isTty(service.spec?.task));
}

async function taskLogs(call: Call): Promise<void> {
  const task = unwrap(find(call.manager().view(), 'task', call.param('id')));
  await swarmLogs(call, create(LogSelectorSchema, { taskIds: [task.id] }), isTty(task.spec));
}

async function swarmLogs(call: Call, selector: LogSelector, tty: boolean): Promise<void> {
  const query = queryOf(call);
  const streams = [...(query.stdout ? [LogStream.STDOUT] : []), ...(query.stderr ? [LogStream.STDERR] : [])];
  const options = create(LogSubscriptionOptionsSchema, {
    streams, follow: query.follow,
    // SwarmKit counts from the end, off by one: -1 is no line, -n-1 the last n; 0 is everything.
    tail: query.tail === undefined ? 0n : -BigInt(query.tail) - 1n,
    ...(query.since === undefined ? {} : { since: query.since }),
  });
  const messages = call.manager().logs(selector, options, call.signal);
  call.startStream(tty ? RAW : MULTIPLEXED);
  try {
    for await (const message of untilAborted(messages, call.signal)) {
      const line = lineOf(message, query);
      await call.write(tty ? line : frame(message.stream === LogStream.STDERR ? 2 : 1, line));
    }
  } catch (error) {
    if (!(error instanceof AppFailure) || call.signal.aborted) throw error;
    // The answer has begun: Docker tells what went wrong in its stream, where the client makes an error of it.
    const line = Buffer.from(`Error grabbing logs: ${error.message}\n`);
    await call.write(tty ? line : frame(3, line));
  }
  call.end();
}

function lineOf(message: LogMessage, query: LogQuery): Buffer {
  const parts: Uint8Array[] = [];
  if (query.timestamps) {
    const { timestamp } = message;
    parts.push(Buffer.from(`${fixedTime(timestamp?.seconds ?? 0n, timestamp?.nanos ?? 0)} `));
  }
  if (query.details) parts.push(Buffer.from(`${attributesOf(message)} `));
  parts.push(message.data);
  return Buffer.concat(parts);
}

/** RFC 3339 with all nine digits, so that columns line up. */
function fixedTime(seconds: bigint, nanos: number): string {
  const whole = new Date(Number(seconds) * 1000).toISOString().slice(0, 19);
  return `${whole}.${String(nanos).padStart(9, '0')}Z`;
}

function attributesOf(message: LogMessage): string {
  const pairs = new Map<string, string>(message.attrs.map((attr) => [attr.key, attr.value]));
  pairs.set('com.docker.swarm.node.id', message.context?.nodeId ?? '');
  pairs.set('com.docker.swarm.service.id', message.context?.serviceId ?? '');
  pairs.set('com.docker.swarm.task.id', message.context?.taskId ?? '');
  return [...pairs].sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`).join(',');
}

/** 1 and 2 are the task's outputs, 3 is the daemon's own word. */
function frame(stream: 1 | 2 | 3, line: Buffer): Buffer {
  const header = Buffer.alloc(8);
  header[0] = stream;
  header.writeUInt32BE(line.length, 4);
  return Buffer.concat([header, line]);
}

async function containerLogs(call: Call): Promise<void> {
  const query = queryOf(call);
  const container = await findContainer(call, call.param('id'));
  const taskId = container.labels['com.docker.swarm.task.id'];
  if (taskId === undefined) throw failure('unimplemented', `container ${container.id} belongs to no task: its logs are not kept`);
  const records = call.backend.executor.controller(taskId).logs({
    follow: query.follow, stdout: query.stdout, stderr: query.stderr, tail: query.tail, signal: call.signal,
    sinceNs: query.since === undefined ? undefined : query.since.seconds * 1_000_000_000n + BigInt(query.since.nanos),
  });
  call.startStream(MULTIPLEXED);
  for await (const record of untilAborted(records, call.signal)) {
    const stamp = query.timestamps
      ? `${fixedTime(record.timestampNs / 1_000_000_000n, Number(record.timestampNs % 1_000_000_000n))} ` : '';
    const line = Buffer.concat([Buffer.from(stamp), record.data]);
    await call.write(frame(record.stream === 'stderr' ? 2 : 1, line));
  }
  call.end();
}

/** Ends at once when aborted, also while the source has nothing to say. */
async function* untilAborted<T>(source: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T> {
  const iterator = source[Symbol.asyncIterator]();
  let onAbort: () => void = () => undefined;
  const aborted = new Promise<IteratorResult<T>>((resolve) => {
    onAbort = () => resolve({ done: true, value: undefined });
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    for (;;) {
      const next = await Promise.race([iterator.next(), aborted]);
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    // Not awaited: a generator that waits for its source finishes its return only when the source speaks again.
    void iterator.return?.()?.catch(() => undefined);
  }
}
