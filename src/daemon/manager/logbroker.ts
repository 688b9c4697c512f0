// LogBroker: brings log lines from the nodes to whoever reads them. A subscription goes to every node that has a
// matching task; it ends when they all published their last line, or, with follow, when the reader goes away. A node
// that does not answer is given a deadline and then left out: one dead node never hangs a reader, but the reader is told
// (SwarmKit's words). A node whose session broke is asked again when it has a new one. With the leader's term everything
// ends: the nodes go to the next leader, and what is left here would wait for them for ever.

import { create } from '@bufbuild/protobuf';
import { newId } from '../../lib/ids.js';
import { randomBytes } from 'node:crypto';
import { AppFailure } from '../../lib/result.js';
import type { ReadTx } from '../../core/store/view.js';
import {
  LogContextSchema, NodeStatus_State, SubscriptionMessageSchema, TaskState,
  type LogContext, type LogMessage, type LogSelector, type LogSubscriptionOptions, type SubscriptionMessage,
} from '../../model/proto/swarmkit_pb.js';
import { stateOf } from '../../model/task.js';
import { LogSubscription, WAITS, type Publisher, type Waits } from './logsubscription.js';
import { NO_LEADER } from './proposals.js';

const SUBSCRIPTIONS_MAX = 256;
const INCOMPLETE = 'rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be retrieved for the '
  + 'following reasons: ';
const TERM_OVER = 'the manager that gathered these logs does not lead the swarm any more: ask for them again';

type NodeListener = (message: SubscriptionMessage) => void;

export class LogBroker {
  private readonly subscriptions = new Map<string, LogSubscription>();
  private readonly nodes = new Map<string, NodeListener>();
  private readonly view: () => ReadTx;
  private readonly term: () => AbortSignal | undefined;
  private readonly waits: Waits;

  /** `term`: while this manager leads; aborted when that ends. */
  constructor(view: () => ReadTx, term: () => AbortSignal | undefined, waits: Waits = WAITS) {
    this.view = view;
    this.term = term;
    this.waits = waits;
  }

  /** A node listens; running subscriptions that it owes lines to are told at once. Returns the function that ends it. */
  listen(nodeId: string, listener: NodeListener): () => void {
    this.nodes.set(nodeId, listener);
    for (const subscription of this.subscriptions.values()) {
      const message = subscription.ask(nodeId, undefined);
      if (message !== undefined) listener(message);
    }
    return () => {
      if (this.nodes.get(nodeId) !== listener) return;
      this.nodes.delete(nodeId);
      for (const subscription of this.subscriptions.values()) subscription.away(nodeId);
    };
  }

  /** Where a node's lines for a subscription go; undefined when there is none of that id. */
  publisher(subscriptionId: string, nodeId: string): Publisher | undefined {
    return this.subscriptions.get(subscriptionId)?.publisher(nodeId);
  }

  async *subscribe(selector: LogSelector, options: LogSubscriptionOptions, signal: AbortSignal): AsyncIterable<LogMessage> {
    const term = this.term();
    if (term === undefined) throw new AppFailure({ code: 'unavailable', message: NO_LEADER });
    if (this.subscriptions.size >= SUBSCRIPTIONS_MAX) {
      throw new AppFailure({ code: 'resource_exhausted', message: 'too many log readers: try again later' });
    }
    const message = create(SubscriptionMessageSchema, { id: newId(randomBytes), selector, options, close: false });
    const subscription = new LogSubscription(message, Date.now(), this.waits);
    this.subscriptions.set(message.id, subscription);
    this.askAll(subscription, selector);
    const wake = (): void => subscription.wake();
    signal.addEventListener('abort', wake);
    // At once: the reader may be busy with a line for as long as it likes.
    const end = (): void => this.end(subscription);
    term.addEventListener('abort', end);
    try {
      yield* options.follow ? followed(subscription, signal) : untilComplete(subscription, signal);
    } finally {
      signal.removeEventListener('abort', wake);
      term.removeEventListener('abort', end);
      this.end(subscription);
      const close = create(SubscriptionMessageSchema, { id: message.id, close: true });
      for (const listener of this.nodes.values()) listener(close);
    }
  }

  private end(subscription: LogSubscription): void {
    this.subscriptions.delete(subscription.message.id);
    subscription.close();
  }

  private askAll(subscription: LogSubscription, selector: LogSelector): void {
    const concerned = contextsOf(this.view(), selector);
    for (const [nodeId, context] of concerned) {
      if (this.nodes.has(nodeId)) continue;
      // It may be between two sessions, unless it is known to be gone.
      const state = this.view().get('node', nodeId)?.status?.state;
      const mayCome = state === NodeStatus_State.READY || state === NodeStatus_State.UNKNOWN;
      subscription.expect(nodeId, context, Date.now(), mayCome ? this.waits.resumeMs : 0);
    }
    for (const [nodeId, listener] of this.nodes) {
      const message = subscription.ask(nodeId, concerned.get(nodeId));
      if (message !== undefined) listener(message);
    }
  }
}

async function* followed(subscription: LogSubscription, signal: AbortSignal): AsyncIterable<LogMessage> {
  while (!signal.aborted) {
    subscription.expire(Date.now());
    yield* subscription.take();
    if (subscription.buffer.length > 0 || signal.aborted) continue;
    checkOpen(subscription);
    await subscription.wait(subscription.nextMs() - Date.now());
  }
}

async function* untilComplete(subscription: LogSubscription, signal: AbortSignal): AsyncIterable<LogMessage> {
  while (!signal.aborted) {
    subscription.expire(Date.now());
    yield* subscription.take();
    if (subscription.buffer.length > 0 || signal.aborted) continue;
    if (!subscription.pending) break;
    checkOpen(subscription);
    await subscription.wait(subscription.nextMs() - Date.now());
  }
  if (subscription.errors.length > 0 && !signal.aborted) {
    throw new AppFailure({ code: 'unavailable', message: INCOMPLETE + subscription.errors.join(', ') });
  }
}

/** Its reader is there, so that only the term can have ended it. */
function checkOpen({ closed }: LogSubscription): void {
  if (closed) throw new AppFailure({ code: 'aborted', message: TERM_OVER });
}

/** Nodes with tasks that may have logs, each with one of these tasks. */
function contextsOf(view: ReadTx, selector: LogSelector): Map<string, LogContext> {
  const tasks = [
    ...selector.taskIds.flatMap((id) => view.get('task', id) ?? []),
    ...selector.serviceIds.flatMap((id) => view.tasksOfService(id)),
    ...selector.nodeIds.flatMap((id) => view.tasksOfNode(id)),
  ].filter((task) => task.nodeId !== '' && stateOf(task) >= TaskState.ASSIGNED);
  return new Map(tasks.map(({ id, serviceId, nodeId }) => [nodeId, create(LogContextSchema, { serviceId, nodeId, taskId: id })]));
}
