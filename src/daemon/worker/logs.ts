// Log subscriptions on a node: reads the selected tasks' logs and publishes them. Each subscription is one PublishLogs
// stream; with follow, tasks that appear later are picked up.

import { create } from '@bufbuild/protobuf';
import type { ManagerClient } from '../../io/grpc/client.js';
import { timestampFromMs } from '../../lib/time.js';
import {
  LogBroker, LogContextSchema, LogMessageSchema, LogStream, PublishLogsMessageSchema, TaskState,
  type LogMessage, type LogSelector, type PublishLogsMessage, type SubscriptionMessage, type Task,
} from '../../model/proto/swarmkit_pb.js';
import type { Executor, LogOptions, LogRecord } from '../../platform/executor.js';

const BATCH_MAX = 64;
const SUBSCRIPTIONS_MAX = 256;

export interface LogPublisherOptions {
  readonly executor: Executor;
  readonly nodeId: () => string;
  readonly tasks: () => readonly Task[];
  readonly onBug: (error: unknown) => void;
}

export class LogPublisher {
  private readonly running = new Map<string, { abort: AbortController; pickUp: () => void }>();
  private readonly options: LogPublisherOptions;

  constructor(options: LogPublisherOptions) {
    this.options = options;
  }

  handle(message: SubscriptionMessage, client: ManagerClient): void {
    if (message.close) {
      this.running.get(message.id)?.abort.abort();
      return;
    }
    if (this.running.has(message.id) || this.running.size >= SUBSCRIPTIONS_MAX) return;
    const abort = new AbortController();
    const subscription = new Publication(message, client, this.options, abort);
    const entry = { abort, pickUp: () => subscription.pickUp() };
    this.running.set(message.id, entry);
    subscription.run().catch(this.options.onBug).finally(() => {
      if (this.running.get(message.id) === entry) this.running.delete(message.id);
    });
  }

  /** Its streams go with the session, at once or after a while: the manager asks again for what it still wants. */
  sessionEnded(): void {
    for (const { abort } of this.running.values()) abort.abort();
    this.running.clear();
  }

  /** Tasks came or went. */
  tasksChanged(): void {
    for (const { pickUp } of this.running.values()) pickUp();
  }

  close(): void {
    for (const { abort } of this.running.values()) abort.abort();
  }
}

class Publication {
  private readonly readers = new Map<string, Promise<void>>();
  private readonly message: SubscriptionMessage;
  private readonly options: LogPublisherOptions;
  private readonly abort: AbortController;
  private readonly stream: { write(m: PublishLogsMessage, done: (error?: Error | null) => void): boolean; end(): void; cancel(): void };

  constructor(message: SubscriptionMessage, client: ManagerClient, options: LogPublisherOptions, abort: AbortController) {
    this.message = message;
    this.options = options;
    this.abort = abort;
    const stream = client.clientStream(LogBroker.method.publishLogs, () => abort.abort());
    stream.on('error', () => abort.abort()); // The manager lost interest, or the connection broke.
    this.stream = stream as unknown as typeof this.stream;
  }

  async run(): Promise<void> {
    this.pickUp();
    if (this.message.options?.follow === true) {
      await new Promise<void>((resolve) => this.abort.signal.addEventListener('abort', () => resolve(), { once: true }));
    }
    while (this.readers.size > 0) await Promise.all([...this.readers].map(async ([id, done]) => done.then(() => this.readers.delete(id))));
    if (!this.abort.signal.aborted) await this.send([], true);
    this.stream.end();
  }

  pickUp(): void {
    for (const task of this.options.tasks()) {
      if (!matches(this.message.selector, task) || this.readers.has(task.id) || (task.status?.state ?? 0) < TaskState.ASSIGNED) continue;
      const done = this.read(task);
      this.readers.set(task.id, done);
      done.catch(this.options.onBug);
    }
  }

  private async read(task: Task): Promise<void> {
    const context = create(LogContextSchema, { serviceId: task.serviceId, nodeId: this.options.nodeId(), taskId: task.id });
    let batch: LogMessage[] = [];
    for await (const record of this.options.executor.controller(task.id).logs(optionsOf(this.message, this.abort.signal))) {
      batch.push(toMessage(record, context));
      if (batch.length >= BATCH_MAX || this.message.options?.follow === true) {
        await this.send(batch, false);
        batch = [];
      }
      if (this.abort.signal.aborted) return;
    }
    if (batch.length > 0) await this.send(batch, false);
  }

  private send(messages: LogMessage[], close: boolean): Promise<void> {
    return new Promise((resolve) => {
      // A failed write ends the stream; its 'error' aborts the subscription.
      this.stream.write(create(PublishLogsMessageSchema, { subscriptionId: this.message.id, messages, close }), () => resolve());
    });
  }
}

function matches(selector: LogSelector | undefined, task: Task): boolean {
  return selector !== undefined
    && (selector.taskIds.includes(task.id) || selector.serviceIds.includes(task.serviceId) || selector.nodeIds.includes(task.nodeId));
}

function optionsOf(message: SubscriptionMessage, signal: AbortSignal): LogOptions {
  const options = message.options;
  const streams = options?.streams ?? [];
  const all = streams.length === 0;
  const tail = options?.tail ?? 0n;
  const since = options?.since;
  return {
    follow: options?.follow === true,
    stdout: all || streams.includes(LogStream.STDOUT),
    stderr: all || streams.includes(LogStream.STDERR),
    // 0 is everything, -n-1 the last n lines.
    tail: tail < 0n ? Number(-tail - 1n) : undefined,
    sinceNs: since === undefined ? undefined : since.seconds * 1_000_000_000n + BigInt(since.nanos),
    signal,
  };
}

function toMessage(record: LogRecord, context: LogMessage['context'] & object): LogMessage {
  const seconds = record.timestampNs / 1_000_000_000n;
  const message = create(LogMessageSchema, {
    context, stream: record.stream === 'stdout' ? LogStream.STDOUT : LogStream.STDERR, data: record.data,
  });
  message.timestamp = { ...timestampFromMs(0), seconds, nanos: Number(record.timestampNs - seconds * 1_000_000_000n) };
  return message;
}
