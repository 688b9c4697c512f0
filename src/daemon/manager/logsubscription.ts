// One reader's log subscription: lines waiting for the reader, what each node still owes, and how far each task's log has
// come. A node whose session breaks is asked again when it is back; what it then sends a second time is dropped here.

import { clone, create } from '@bufbuild/protobuf';
import { TimestampSchema } from '@bufbuild/protobuf/wkt';
import {
  LogContextSchema, LogMessageSchema, LogStream, LogSubscriptionOptionsSchema, SubscriptionMessageSchema,
  type LogContext, type LogMessage, type LogSubscriptionOptions, type SubscriptionMessage,
} from '../../model/proto/swarmkit_pb.js';

/** Lines held for a slow reader; publishers wait beyond it. */
const BUFFER_MAX = 4096;
/** Tasks' streams whose position is known; beyond it the one that was silent longest is forgotten. */
const POSITIONS_MAX = 10_000;
export interface Waits {
  /** A node whose session broke is given so long to come back. */
  readonly resumeMs: number;
  /** A node that has a session, between two messages. */
  readonly answerMs: number;
}
export const WAITS: Waits = { resumeMs: 5000, answerMs: 5000 };
const NS = 1_000_000_000n;

/** What a node still owes. `away`: it was asked, or would be, but has no session. */
type NodeState = 'sending' | 'away' | 'done';

interface NodeProgress {
  state: NodeState;
  /** Counts how often it was asked: what an older answer brings is not looked at. */
  asked: number;
  /** When it is given up, unless something comes in. */
  untilMs: number;
  /** Why, in that case. */
  reason: string;
  /** Its messages that wait for the reader: no fault of the node. */
  waiting: number;
  replay: Map<string, Position>;
  /** Of one of its tasks. */
  context: LogContext | undefined;
}

/** The last line of a task's stream that was taken, and how many had the same time. */
interface Position {
  readonly nodeId: string;
  readonly ns: bigint;
  readonly count: number;
}

/** Lines of one PublishLogs call. */
export interface Publisher {
  /** Waits while the reader is behind. False: the reader is gone, or the node was asked again since. */
  publish(messages: readonly LogMessage[]): Promise<boolean>;
  /** `complete`: the node said that these were all. */
  end(complete: boolean): void;
}

export class LogSubscription {
  readonly message: SubscriptionMessage;
  readonly errors: string[] = [];
  readonly buffer: LogMessage[] = [];
  closed = false;
  private readonly options: LogSubscriptionOptions;
  private readonly waits: Waits;
  private readonly startMs: number;
  private readonly nodes = new Map<string, NodeProgress>();
  private readonly positions = new Map<string, Position>();
  private wakeReader: (() => void) | undefined;
  private wakePublishers: (() => void)[] = [];

  constructor(message: SubscriptionMessage, nowMs: number, waits: Waits) {
    this.message = message;
    this.waits = waits;
    this.options = message.options ?? create(LogSubscriptionOptionsSchema);
    this.startMs = nowMs;
  }

  get follow(): boolean {
    return this.options.follow;
  }

  /** Lines are still to come. */
  get pending(): boolean {
    return [...this.nodes.values()].some((node) => node.state !== 'done');
  }

  /** A node with matching tasks that has no session. `context` is one of its tasks. */
  expect(nodeId: string, context: LogContext, nowMs: number, graceMs: number): void {
    this.nodes.set(nodeId, {
      state: 'away', asked: 0, untilMs: nowMs + graceMs, reason: `node ${nodeId} is not available`, waiting: 0, replay: new Map(), context,
    });
  }

  /** What to ask a node that has a session; undefined when it owes nothing. */
  ask(nodeId: string, context: LogContext | undefined): SubscriptionMessage | undefined {
    const before = this.nodes.get(nodeId);
    if (!this.follow && (before === undefined ? context === undefined : before.state === 'done')) return undefined;
    const asked = (before?.asked ?? 0) + 1;
    const replay = new Map([...this.positions].filter(([, position]) => position.nodeId === nodeId));
    this.nodes.set(nodeId, {
      state: 'sending', asked, untilMs: Date.now() + this.waits.answerMs, reason: `node ${nodeId} did not answer in time`, waiting: 0, replay,
      context: context ?? before?.context,
    });
    if (asked === 1 || !this.follow) return this.message;
    return this.resumed(replay);
  }

  publisher(nodeId: string): Publisher {
    const asked = this.nodes.get(nodeId)?.asked;
    const current = (): NodeProgress | undefined => {
      const node = this.nodes.get(nodeId);
      return node !== undefined && node.asked === asked && !this.closed ? node : undefined;
    };
    return {
      publish: async (messages) => {
        const asking = current();
        if (asking !== undefined) asking.waiting += 1;
        while (this.buffer.length >= BUFFER_MAX && !this.closed) {
          await new Promise<void>((resolve) => this.wakePublishers.push(resolve));
        }
        if (asking !== undefined) asking.waiting -= 1;
        const node = current();
        if (node === undefined) return false;
        // Also of a node whose session broke: this stream of it goes on.
        if (node.state !== 'done') node.untilMs = Date.now() + this.waits.answerMs;
        node.context ??= messages[0]?.context;
        for (const message of messages) if (this.isNew(nodeId, node, message)) this.buffer.push(message);
        this.wake();
        return true;
      },
      end: (complete) => {
        const node = current();
        if (node === undefined) return;
        if (complete) node.state = 'done';
        else this.away(nodeId);
        this.wake();
      },
    };
  }

  /** Its session or its answer broke. */
  away(nodeId: string): void {
    const node = this.nodes.get(nodeId);
    if (node === undefined || node.state !== 'sending') return;
    node.state = 'away';
    node.untilMs = Date.now() + this.waits.resumeMs;
    node.reason = `node ${nodeId} disconnected unexpectedly`;
    this.wake();
  }

  /** Gives up on nodes whose time is up. A follower is told in a line, and goes on when the node is back. */
  expire(nowMs: number): void {
    if (this.closed) return;
    for (const node of this.nodes.values()) {
      if (!this.expires(node) || nowMs < node.untilMs) continue;
      node.state = 'done';
      if (!this.follow) this.errors.push(node.reason);
      else if (node.context !== undefined && this.wantsErrors) this.buffer.push(noteLine(node.context, node.reason, nowMs));
    }
  }

  /** When expire() has something to do. */
  nextMs(): number {
    return Math.min(...[...this.nodes.values()].filter((node) => this.expires(node)).map((node) => node.untilMs));
  }

  /** A follower's node may be silent for as long as its tasks are. */
  private expires(node: NodeProgress): boolean {
    return node.state === 'away' || (node.state === 'sending' && !this.follow && node.waiting === 0);
  }

  private get wantsErrors(): boolean {
    const { streams } = this.options;
    return streams.length === 0 || streams.includes(LogStream.STDERR);
  }

  take(): LogMessage[] {
    const batch = this.buffer.splice(0);
    for (const resume of this.wakePublishers.splice(0)) resume();
    return batch;
  }

  wake(): void {
    this.wakeReader?.();
  }

  /** Nothing comes in any more. */
  close(): void {
    this.closed = true;
    this.wake();
    for (const resume of this.wakePublishers.splice(0)) resume();
  }

  /** Until something came in, or the time. */
  wait(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = Number.isFinite(timeoutMs) ? setTimeout(() => finish(), Math.max(timeoutMs, 1)) : undefined;
      const finish = (): void => {
        clearTimeout(timer);
        this.wakeReader = undefined;
        resolve();
      };
      this.wakeReader = finish;
    });
  }

  /** A follower's question to a node that is back: from its oldest last line on; everything before was taken. */
  private resumed(replay: ReadonlyMap<string, Position>): SubscriptionMessage {
    const { tail } = this.options;
    const options = clone(LogSubscriptionOptionsSchema, this.options);
    const oldest = [...replay.values()].reduce<bigint | undefined>((min, { ns }) => (min === undefined || ns < min ? ns : min), undefined);
    const startNs = BigInt(this.startMs) * 1_000_000n;
    if (tail < 0n && (oldest !== undefined || tail === -1n)) {
      // Tasks without a line so far had none when the reader came.
      const from = oldest === undefined || oldest > startNs ? startNs : oldest;
      options.tail = 0n;
      options.since = create(TimestampSchema, { seconds: from / NS, nanos: Number(from % NS) });
    }
    return create(SubscriptionMessageSchema, { ...this.message, options });
  }

  private isNew(nodeId: string, node: NodeProgress, message: LogMessage): boolean {
    const { timestamp } = message;
    if (timestamp === undefined) return true;
    const key = `${message.context?.taskId ?? ''}/${message.stream}`;
    const ns = timestamp.seconds * NS + BigInt(timestamp.nanos);
    const replayed = node.replay.get(key);
    if (replayed !== undefined) {
      if (ns < replayed.ns) return false;
      if (ns === replayed.ns && replayed.count > 0) {
        node.replay.set(key, { ...replayed, count: replayed.count - 1 });
        return false;
      }
      node.replay.delete(key);
    }
    const before = this.positions.get(key);
    this.positions.delete(key);
    this.positions.set(key, { nodeId, ns, count: before?.ns === ns ? before.count + 1 : 1 });
    if (this.positions.size > POSITIONS_MAX) this.positions.delete(this.positions.keys().next().value as string);
    return true;
  }
}

/** Stands among the lines of a task, because that is all a follower reads. */
function noteLine(context: LogContext, reason: string, nowMs: number): LogMessage {
  const seconds = BigInt(Math.floor(nowMs / 1000));
  return create(LogMessageSchema, {
    context: clone(LogContextSchema, context), stream: LogStream.STDERR,
    timestamp: create(TimestampSchema, { seconds, nanos: (nowMs % 1000) * 1_000_000 }),
    data: new TextEncoder().encode(`skein: ${reason}: its lines go on when it is back\n`),
  });
}
