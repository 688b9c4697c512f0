// Reading logs at any manager: the leader's broker gathers the lines, a follower passes them on. When the leader's term ends,
// so does the reading, with an error.

import { create } from '@bufbuild/protobuf';
import { toAppError } from '../../io/grpc/service.js';
import { AppFailure } from '../../lib/result.js';
import { ManagerGroup } from '../../model/proto/skein_pb.js';
import {
  SubscribeLogsRequestSchema, type LogMessage, type LogSelector, type LogSubscriptionOptions, type SubscribeLogsMessage,
} from '../../model/proto/swarmkit_pb.js';
import type { LogBroker } from './logbroker.js';
import { NO_LEADER } from './proposals.js';
import { settled, type Leadership } from './proxy.js';

export async function* readLogs(
  manager: Leadership & { readonly broker: LogBroker }, selector: LogSelector, options: LogSubscriptionOptions, signal: AbortSignal,
): AsyncIterable<LogMessage> {
  await settled(manager);
  if (manager.term() !== undefined) {
    yield* manager.broker.subscribe(selector, options, signal);
    return;
  }
  const client = manager.leaderClient();
  if (client === undefined) throw new AppFailure({ code: 'unavailable', message: NO_LEADER });
  const stream = client.serverStream(ManagerGroup.method.subscribeLogs, create(SubscribeLogsRequestSchema, { selector, options }));
  const end = (): void => stream.cancel();
  stream.on('error', () => undefined); // It surfaces where the stream is read.
  signal.addEventListener('abort', end, { once: true });
  // While the leader was waited for.
  if (signal.aborted) end();
  try {
    for await (const { messages } of stream as AsyncIterable<SubscribeLogsMessage>) yield* messages;
  } catch (error) {
    if (!signal.aborted) throw new AppFailure(toAppError(error));
  } finally {
    signal.removeEventListener('abort', end);
    stream.cancel();
  }
}
