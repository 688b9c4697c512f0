// LogBroker's gRPC side: subscriptions out to the nodes, lines in from them.

import { AppFailure } from '../../lib/result.js';
import type { Caller, Handler, Outgoing } from '../../io/grpc/server.js';
import { create } from '@bufbuild/protobuf';
import {
  PublishLogsResponseSchema, type ListenSubscriptionsRequest, type PublishLogsMessage, type SubscriptionMessage,
} from '../../model/proto/swarmkit_pb.js';
import type { Publisher } from './logsubscription.js';
import type { Manager } from './manager.js';
import { checkThere, untilRemoved } from './untilremoved.js';

/** Subscriptions not yet taken by a node; a node that is this far behind is cut off and comes back. */
const QUEUE_MAX = 1024;

export function logBrokerHandlers(manager: Manager): Record<string, Handler> {
  return {
    listenSubscriptions: async (_request: ListenSubscriptionsRequest, caller: Caller, out: Outgoing<SubscriptionMessage>) => {
      const nodeId = caller.identity?.nodeId ?? '';
      return untilRemoved(manager, nodeId, out.closed, (over) => listen(manager, nodeId, over, out));
    },
    publishLogs: async (requests: AsyncIterable<PublishLogsMessage>, caller: Caller) => {
      const nodeId = caller.identity?.nodeId ?? '';
      let subscriptionId = '';
      let publisher: Publisher | undefined;
      let complete = false;
      try {
        for await (const message of requests) {
          checkThere(manager, nodeId);
          if (message.subscriptionId === '') throw new AppFailure({ code: 'invalid_argument', message: 'missing subscription ID' });
          if (publisher === undefined) {
            subscriptionId = message.subscriptionId;
            publisher = manager.broker.publisher(subscriptionId, nodeId);
          } else if (subscriptionId !== message.subscriptionId) {
            throw new AppFailure({ code: 'invalid_argument', message: 'different subscription IDs in the same session' });
          }
          if (message.messages.some((line) => line.context?.nodeId !== nodeId)) {
            throw new AppFailure({ code: 'permission_denied', message: `cannot publish logs of another node than ${nodeId}` });
          }
          // Also when it ended meanwhile: the node would go on for nobody.
          if (publisher === undefined || !await publisher.publish(message.messages)) {
            throw new AppFailure({ code: 'not_found', message: `unknown subscription ID ${subscriptionId}` });
          }
          complete = message.close;
          if (complete) break;
        }
      } finally {
        publisher?.end(complete);
      }
      return create(PublishLogsResponseSchema);
    },
  };
}

async function listen(manager: Manager, nodeId: string, over: AbortSignal, out: Outgoing<SubscriptionMessage>): Promise<void> {
  const queue: SubscriptionMessage[] = [];
  let wake: (() => void) | undefined;
  let overflow = false;
  const stop = manager.broker.listen(nodeId, (message) => {
    if (queue.length >= QUEUE_MAX) overflow = true;
    else queue.push(message);
    wake?.();
  });
  const end = (): void => wake?.();
  over.addEventListener('abort', end);
  try {
    while (!over.aborted && !overflow) {
      const message = queue.shift();
      if (message !== undefined) await out.write(message);
      else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
    if (overflow) throw new AppFailure({ code: 'resource_exhausted', message: 'log subscriptions are not being taken' });
  } finally {
    stop();
    over.removeEventListener('abort', end);
  }
}
