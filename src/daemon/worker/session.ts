// Session: a node's connection to a manager. Session, heartbeats, assignments, log subscriptions and the network view
// run side by side; when one of them ends, all end, and after a back-off the next manager is tried (SwarmKit's rules,
// docs section 3.1).

import { create } from '@bufbuild/protobuf';
import { status as Status } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import { applyChanges, EMPTY_SET, type AssignmentSet } from '../../core/dispatcher/assignments.js';
import { ManagerClient, type Credentials } from '../../io/grpc/client.js';
import { codeOf } from '../../io/grpc/service.js';
import { AppFailure } from '../../lib/result.js';
import { durationMs } from '../../lib/time.js';
import { AckSchema, LeaveRequestSchema, NetworkView, type Update } from '../../model/proto/skein_pb.js';
import {
  AssignmentsMessage_Type, AssignmentsRequestSchema, Dispatcher, HeartbeatRequestSchema, ListenSubscriptionsRequestSchema, LogBroker,
  SessionRequestSchema, UpdateTaskStatusRequestSchema, UpdateTaskStatusRequest_TaskStatusUpdateSchema,
  type NodeDescription, type SessionMessage, type SubscriptionMessage, type TaskStatus,
} from '../../model/proto/swarmkit_pb.js';

const RPC_TIMEOUT_MS = 5000;
const BACKOFF_MIN_MS = 100;
const BACKOFF_MAX_MS = 8000;
/** A session that stood for so long was none that failed: what comes after it begins with the shortest back-off. */
const STOOD_MS = 1000;
const STATUS_BATCH_MAX = 100;
/** Above what the manager waits for: 15 s for the tasks, 5 s for acknowledgements. */
const LEAVE_TIMEOUT_MS = 22_000;
const RESTART = 'restart';

export interface SessionOptions {
  readonly logger: Logger;
  readonly credentials: () => Credentials;
  /** Addresses to try, in turn. */
  readonly managers: () => readonly string[];
  readonly describe: () => Promise<NodeDescription>;
  readonly onSession: (message: SessionMessage) => void;
  readonly onAssignments: (set: AssignmentSet) => void;
  readonly onUpdate: (update: Update) => Promise<bigint>;
  readonly onSubscription: (message: SubscriptionMessage, client: ManagerClient) => void;
  /** All statuses this node owns: reported again on every new session. */
  readonly statuses: () => ReadonlyMap<string, TaskStatus>;
  readonly onConnected: (connected: boolean, error: string) => void;
}

type Stream<T> = AsyncIterable<T> & { cancel(): void };

export class SessionLoop {
  private readonly options: SessionOptions;
  private sessionId = '';
  private stopped = false;
  private readonly pending = new Map<string, TaskStatus>();
  private wakeReporter: (() => void) | undefined;
  private endCurrent: (() => void) | undefined;
  private wakeBackoff: (() => void) | undefined;
  private loop: Promise<void> | undefined;
  /** Of the session that stands. */
  private client: ManagerClient | undefined;
  /** When that began; Infinity when none did. */
  private sinceMs = Infinity;

  constructor(options: SessionOptions) {
    this.options = options;
  }

  start(onBug: (error: unknown) => void): void {
    this.loop = this.run();
    this.loop.catch(onBug);
  }

  report(taskId: string, status: TaskStatus): void {
    this.pending.set(taskId, status);
    this.wakeReporter?.();
  }

  /** The description or the certificate changed: connect anew, keeping the session id. */
  restart(): void {
    this.endCurrent?.();
  }

  /** Tells the manager that this node leaves, so that nothing leads to it any more; no session follows. */
  async leave(): Promise<void> {
    this.stopped = true;
    try {
      await this.client?.unary(NetworkView.method.leave, create(LeaveRequestSchema, { sessionId: this.sessionId }), LEAVE_TIMEOUT_MS);
    } catch (error) {
      // Away, or a stock manager: it notices by the missing heartbeats.
      this.options.logger.info({ error: describeError(error) }, 'the manager was not told of leaving');
    }
  }

  async close(): Promise<void> {
    this.stopped = true;
    this.endCurrent?.();
    this.wakeBackoff?.();
    await this.loop;
  }

  private async run(): Promise<void> {
    let limitMs = 0;
    for (let attempt = 0; !this.stopped; attempt++) {
      const managers = this.options.managers();
      const address = managers[attempt % Math.max(managers.length, 1)];
      const error = address === undefined ? 'no manager is known' : await this.once(address);
      if (this.stopped) return;
      this.options.onConnected(false, error);
      this.options.logger.info({ manager: address, error }, 'session ended');
      if (error === RESTART) {
        // Asked for, not failed: no back-off, and the same manager.
        limitMs = 0;
        attempt -= 1;
        continue;
      }
      const stood = performance.now() - this.sinceMs > STOOD_MS;
      this.sinceMs = Infinity;
      limitMs = stood ? BACKOFF_MIN_MS : Math.min(BACKOFF_MIN_MS + 2 * limitMs, BACKOFF_MAX_MS);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.random() * limitMs);
        this.wakeBackoff = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** One session from start to end; resolves with the reason it ended. */
  private async once(address: string): Promise<string> {
    const client = new ManagerClient(address, this.options.credentials());
    const streams: Stream<unknown>[] = [];
    let ended = false;
    const end = new Promise<string>((resolve) => {
      this.endCurrent = () => resolve(RESTART);
    });
    const track = <T>(stream: Stream<T>): Stream<T> => {
      streams.push(stream);
      // Errors surface where the stream is read.
      (stream as unknown as { on(event: 'error', listener: () => void): void }).on('error', () => undefined);
      return stream;
    };
    try {
      const description = await this.options.describe();
      const session = track(client.serverStream(Dispatcher.method.session, create(SessionRequestSchema, { description, sessionId: this.sessionId })));
      const messages = session[Symbol.asyncIterator]();
      const first = await withTimeout(messages.next(), RPC_TIMEOUT_MS, 'the manager did not answer in time');
      if (first.done === true) return 'the manager ended the session';
      this.sessionId = first.value.sessionId;
      this.client = client;
      this.sinceMs = performance.now();
      this.options.onSession(first.value);
      this.options.onConnected(true, '');
      for (const [id, status] of this.options.statuses()) this.pending.set(id, status);
      const parts = [
        end,
        this.readSession(messages),
        this.heartbeats(client, () => ended),
        this.readAssignments(track(client.serverStream(Dispatcher.method.assignments, create(AssignmentsRequestSchema, { sessionId: this.sessionId })))),
        this.readSubscriptions(track(client.serverStream(LogBroker.method.listenSubscriptions, create(ListenSubscriptionsRequestSchema))), client),
        this.readNetwork(client, track),
        this.reportStatuses(client, () => ended),
      ];
      return await Promise.race(parts.map((part) => part.catch(describeError)));
    } catch (error) {
      return describeError(error);
    } finally {
      ended = true;
      this.client = undefined;
      this.wakeReporter?.();
      for (const stream of streams) stream.cancel();
      client.close();
    }
  }

  private async readSession(messages: AsyncIterator<SessionMessage>): Promise<string> {
    for (let next = await messages.next(); next.done !== true; next = await messages.next()) this.options.onSession(next.value);
    return 'the manager ended the session';
  }

  private async heartbeats(client: ManagerClient, ended: () => boolean): Promise<string> {
    while (!ended()) {
      const { period } = await client.unary(Dispatcher.method.heartbeat, create(HeartbeatRequestSchema, { sessionId: this.sessionId }), RPC_TIMEOUT_MS);
      await new Promise((resolve) => setTimeout(resolve, Math.max(durationMs(period), 100)));
    }
    return 'ended';
  }

  private async readAssignments(stream: Stream<{ type: AssignmentsMessage_Type; appliesTo: string; resultsIn: string; changes: Parameters<typeof applyChanges>[2] }>): Promise<string> {
    let set: AssignmentSet = EMPTY_SET;
    let applied = '';
    for await (const message of stream) {
      const complete = message.type === AssignmentsMessage_Type.COMPLETE;
      // A gap means a lost message: only a new session brings the complete set again.
      if (!complete && message.appliesTo !== applied) return 'assignments are out of sequence';
      set = applyChanges(set, complete, message.changes);
      applied = message.resultsIn;
      this.options.onAssignments(set);
    }
    return 'the manager ended the assignments';
  }

  private async readSubscriptions(stream: Stream<SubscriptionMessage>, client: ManagerClient): Promise<string> {
    try {
      for await (const message of stream) this.options.onSubscription(message, client);
    } catch (error) {
      if (codeOf(error) === Status.UNIMPLEMENTED) return forever();
      throw error;
    }
    return 'the manager ended the log subscriptions';
  }

  private async readNetwork(client: ManagerClient, track: <T>(stream: Stream<T>) => Stream<T>): Promise<string> {
    const stream = client.duplex(NetworkView.method.watch);
    const updates = track(stream as unknown as Stream<Update>);
    stream.write(create(AckSchema, { sessionId: this.sessionId }));
    try {
      for await (const update of updates) {
        // Installed in order; the manager may send ahead of the acknowledgement.
        const revision = await this.options.onUpdate(update);
        stream.write(create(AckSchema, { revision }));
      }
    } catch (error) {
      // A stock manager has no network view; nor would this node be given tasks with networks by one of ours.
      if (codeOf(error) === Status.UNIMPLEMENTED) return forever();
      throw error;
    }
    return 'the manager ended the network view';
  }

  private async reportStatuses(client: ManagerClient, ended: () => boolean): Promise<string> {
    while (!ended()) {
      if (this.pending.size === 0) {
        await new Promise<void>((resolve) => {
          this.wakeReporter = resolve;
        });
        continue;
      }
      const batch = [...this.pending].slice(0, STATUS_BATCH_MAX);
      await client.unary(Dispatcher.method.updateTaskStatus, create(UpdateTaskStatusRequestSchema, {
        sessionId: this.sessionId,
        updates: batch.map(([taskId, status]) => create(UpdateTaskStatusRequest_TaskStatusUpdateSchema, { taskId, status })),
      }), RPC_TIMEOUT_MS);
      // Only what was sent is done: a newer status may have come in meanwhile.
      for (const [taskId, status] of batch) if (this.pending.get(taskId) === status) this.pending.delete(taskId);
    }
    return 'ended';
  }
}

function forever(): Promise<string> {
  return new Promise(() => undefined);
}

function describeError(error: unknown): string {
  if (codeOf(error) !== undefined && error instanceof Error) return error.message;
  // A data plane that is just being restarted: the new session brings the complete rows.
  if (error instanceof Timeout || error instanceof AppFailure) return error.message;
  throw error;
}

class Timeout extends Error {}

async function withTimeout<T>(promise: Promise<T>, ms: number, message: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Timeout(message)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
