// Proxy: a service whose state only the leader has, offered by every manager: the leader answers itself, a follower passes
// the call on, once. When the leadership ends, so does every call that was answered here.

import type { DescMessage, DescMethod, DescMethodBiDiStreaming, DescMethodClientStreaming, DescMethodServerStreaming, DescMethodUnary,
  DescService } from '@bufbuild/protobuf';
import type { ManagerClient } from '../../io/grpc/client.js';
import { forwardingMetadata } from '../../io/grpc/forwarding.js';
import type { Caller, Handler, Outgoing } from '../../io/grpc/server.js';
import { toAppError } from '../../io/grpc/service.js';
import { AppFailure } from '../../lib/result.js';
import { NO_LEADER } from './proposals.js';

/** SwarmKit's agents give a call five seconds. */
const UNARY_TIMEOUT_MS = 25_000;
const ELECTION_WAIT_MS = 3000;
const POLL_MS = 20;

export interface Leadership {
  /** While this manager leads: aborted when that ends. */
  readonly term: () => AbortSignal | undefined;
  /** To the manager that leads, when it is another one. */
  readonly leaderClient: () => ManagerClient | undefined;
}

export function throughLeader(
  service: DescService, handlers: Readonly<Record<string, Handler>>, leadership: Leadership,
): Readonly<Record<string, Handler>> {
  return Object.fromEntries(service.methods.flatMap((method): [string, Handler][] => {
    const handler = handlers[method.localName];
    return handler === undefined ? [] : [[method.localName, either(method, handler, leadership)]];
  }));
}

function either(method: DescMethod, handler: Handler, leadership: Leadership): Handler {
  return (async (input: never, caller: Caller, out: Outgoing<never>) => {
    await settled(leadership);
    const term = leadership.term();
    if (term !== undefined) return here(handler, term, input, caller, out);
    if (caller.forwardedBy !== undefined) throw new AppFailure({ code: 'resource_exhausted',
      message: 'more than one redirect to leader from: this manager does not lead' });
    const client = leadership.leaderClient();
    if (client === undefined) throw new AppFailure({ code: 'unavailable', message: NO_LEADER });
    try {
      return await elsewhere(method, client, input, caller, out);
    } catch (error) {
      throw new AppFailure(toAppError(error));
    }
  }) as Handler;
}

/** An election, or the first moments of a term, are waited out: the caller would only come again. */
export async function settled(leadership: Leadership): Promise<void> {
  const deadline = performance.now() + ELECTION_WAIT_MS;
  while (leadership.term() === undefined && leadership.leaderClient() === undefined && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function here(handler: Handler, term: AbortSignal, input: never, caller: Caller, out: Outgoing<never> | undefined): Promise<unknown> {
  // Not AbortSignal.any: on a signal that lives as long as a term it keeps a trace of every call.
  const over = new AbortController();
  const end = (): void => over.abort();
  let lost = end;
  const ended = new Promise<never>((_resolve, reject) => {
    lost = () => {
      over.abort();
      reject(new AppFailure({ code: 'aborted', message: 'this manager does not lead any more' }));
    };
  });
  ended.catch(() => undefined); // Nobody waits once the call is over.
  if (term.aborted) lost();
  term.addEventListener('abort', lost, { once: true });
  if (out?.closed.aborted === true) end();
  out?.closed.addEventListener('abort', end, { once: true });
  const bounded = out === undefined ? undefined : { write: out.write.bind(out), closed: over.signal };
  try {
    const work = (handler as (i: never, c: Caller, o: unknown) => Promise<unknown>)(input, caller, bounded);
    work.catch(() => undefined); // The loser of the race.
    return await Promise.race([work, ended]);
  } finally {
    term.removeEventListener('abort', lost);
    out?.closed.removeEventListener('abort', end);
  }
}

async function elsewhere(method: DescMethod, client: ManagerClient, input: never, caller: Caller, out: Outgoing<never>): Promise<unknown> {
  const metadata = forwardingMetadata(caller);
  type M = DescMessage;
  switch (method.methodKind) {
    case 'unary':
      return client.unary(method as DescMethodUnary<M, M>, input, UNARY_TIMEOUT_MS, metadata);
    case 'server_streaming': {
      const stream = client.serverStream(method as DescMethodServerStreaming<M, M>, input, metadata);
      return copy(stream, out);
    }
    case 'client_streaming':
      return new Promise((resolve, reject) => {
        const stream = client.clientStream(method as DescMethodClientStreaming<M, M>, (error, value) => (error === null
          ? resolve(value) : reject(error)), metadata);
        stream.on('error', reject);
        feed(input, stream).catch(() => stream.cancel());
      });
    case 'bidi_streaming': {
      const stream = client.duplex(method as DescMethodBiDiStreaming<M, M>, metadata);
      feed(input, stream).catch(() => stream.cancel());
      return copy(stream, out);
    }
  }
}

type Incoming = AsyncIterable<unknown> & { cancel(): void; on(event: 'error', listener: () => void): unknown };

async function copy(stream: Incoming, out: Outgoing<never>): Promise<void> {
  const end = (): void => stream.cancel();
  stream.on('error', () => undefined); // It surfaces where the stream is read.
  out.closed.addEventListener('abort', end, { once: true });
  try {
    for await (const message of stream) await out.write(message as never);
  } finally {
    out.closed.removeEventListener('abort', end);
    stream.cancel();
  }
}

interface Sink {
  write(message: unknown, done: (error?: Error | null) => void): unknown;
  end(): unknown;
}

/** One at a time: the leader's pace is the caller's. */
async function feed(requests: AsyncIterable<unknown>, sink: Sink): Promise<void> {
  for await (const request of requests) {
    await new Promise<void>((resolve, reject) => {
      sink.write(request, (error) => (error instanceof Error ? reject(error) : resolve()));
    });
  }
  sink.end();
}

