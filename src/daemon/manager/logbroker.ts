// LogBroker: brings log lines from the nodes to whoever reads them. A subscription goes to every node that has a
// matching task; it ends when they all published their last line, or, with follow, when the reader goes away. A node
// that does not answer is given a deadline and then left out: one dead node never hangs a reader.

import { create } from '@bufbuild/protobuf';
import { newId } from '../../lib/ids.js';
import { randomBytes } from 'node:crypto';
import { AppFailure } from '../../lib/result.js';
import type { ReadTx } from '../../core/store/view.js';
import {
  SubscriptionMessageSchema, TaskState, type LogMessage, type LogSelector, type LogSubscriptionOptions, type SubscriptionMessage, type Task,
} from '../../model/proto/swarmkit_pb.js';
import { stateOf } from '../../model/task.js';

const SUBSCRIPTIONS_MAX = 256;
/** Lines held for a slow reader; publishers wait beyond it. */
const BUFFER_MAX = 4096;
const FIRST_ANSWER_MS = 5000;

interface Subscription {
  readonly message: SubscriptionMessage;
  readonly pending: Set<string>;
  readonly buffer: LogMessage[];
  wakeReader: (() => void) | undefined;
  wakePublishers: (() => void)[];
  closed: boolean;
}

type NodeListener = (message: SubscriptionMessage) => void;

export class LogBroker {
  private readonly subscriptions = new Map<string, Subscription>();
  private readonly nodes = new Map<string, NodeListener>();
  private readonly view: () => ReadTx;

  constructor(view: () => ReadTx) {
    this.view = view;
  }

  /** A node listens; running subscriptions that concern it are told at once. Returns the function that ends it. */
  listen(nodeId: string, listener: NodeListener): () => void {
    this.nodes.set(nodeId, listener);
    for (const subscription of this.subscriptions.values()) {
      if (subscription.message.options?.follow === true) listener(subscription.message);
    }
    return () => {
      if (this.nodes.get(nodeId) !== listener) return;
      this.nodes.delete(nodeId);
      for (const subscription of this.subscriptions.values()) this.done(subscription, nodeId);
    };
  }

  has(subscriptionId: string): boolean {
    return this.subscriptions.has(subscriptionId);
  }

  /** Lines from a node; waits while the reader is behind. */
  async publish(subscriptionId: string, messages: readonly LogMessage[]): Promise<void> {
    const subscription = this.subscriptions.get(subscriptionId);
    if (subscription === undefined) return;
    while (subscription.buffer.length >= BUFFER_MAX && !subscription.closed) {
      await new Promise<void>((resolve) => subscription.wakePublishers.push(resolve));
    }
    subscription.buffer.push(...messages);
    subscription.wakeReader?.();
  }

  finished(subscriptionId: string, nodeId: string): void {
    const subscription = this.subscriptions.get(subscriptionId);
    if (subscription !== undefined) this.done(subscription, nodeId);
  }

  async *subscribe(selector: LogSelector, options: LogSubscriptionOptions, signal: AbortSignal): AsyncIterable<LogMessage> {
    if (this.subscriptions.size >= SUBSCRIPTIONS_MAX) {
      throw new AppFailure({ code: 'resource_exhausted', message: 'too many log readers: try again later' });
    }
    const message = create(SubscriptionMessageSchema, { id: newId(randomBytes), selector, options, close: false });
    const concerned = nodesOf(this.view(), selector).filter((nodeId) => this.nodes.has(nodeId));
    const subscription: Subscription = {
      message, pending: new Set(concerned), buffer: [], wakeReader: undefined, wakePublishers: [], closed: false,
    };
    this.subscriptions.set(message.id, subscription);
    const tell = options.follow ? [...this.nodes.keys()] : concerned;
    for (const nodeId of tell) this.nodes.get(nodeId)?.(message);
    const wake = (): void => subscription.wakeReader?.();
    signal.addEventListener('abort', wake);
    let deadline = Date.now() + FIRST_ANSWER_MS;
    try {
      while (!signal.aborted) {
        const batch = subscription.buffer.splice(0);
        for (const resume of subscription.wakePublishers.splice(0)) resume();
        if (batch.length > 0) deadline = Date.now() + FIRST_ANSWER_MS;
        yield* batch;
        if (subscription.buffer.length > 0 || signal.aborted) continue;
        if (!options.follow && (subscription.pending.size === 0 || Date.now() >= deadline)) return;
        await waitForLines(subscription, options.follow ? undefined : deadline - Date.now());
      }
    } finally {
      subscription.closed = true;
      signal.removeEventListener('abort', wake);
      this.subscriptions.delete(message.id);
      for (const resume of subscription.wakePublishers.splice(0)) resume();
      const close = create(SubscriptionMessageSchema, { id: message.id, close: true });
      for (const nodeId of tell) this.nodes.get(nodeId)?.(close);
    }
  }

  private done(subscription: Subscription, nodeId: string): void {
    subscription.pending.delete(nodeId);
    subscription.wakeReader?.();
  }
}

function waitForLines(subscription: Subscription, timeoutMs: number | undefined): Promise<void> {
  return new Promise((resolve) => {
    const timer = timeoutMs === undefined ? undefined : setTimeout(finish, Math.max(timeoutMs, 1));
    function finish(): void {
      clearTimeout(timer);
      subscription.wakeReader = undefined;
      resolve();
    }
    subscription.wakeReader = finish;
  });
}

export function selects(selector: LogSelector, task: Task): boolean {
  return selector.taskIds.includes(task.id) || selector.serviceIds.includes(task.serviceId) || selector.nodeIds.includes(task.nodeId);
}

function nodesOf(view: ReadTx, selector: LogSelector): string[] {
  const nodes = new Set<string>();
  const tasks = [
    ...selector.taskIds.flatMap((id) => view.get('task', id) ?? []),
    ...selector.serviceIds.flatMap((id) => view.tasksOfService(id)),
    ...selector.nodeIds.flatMap((id) => view.tasksOfNode(id)),
  ];
  for (const task of tasks) if (task.nodeId !== '' && stateOf(task) >= TaskState.ASSIGNED) nodes.add(task.nodeId);
  return [...nodes].sort();
}
