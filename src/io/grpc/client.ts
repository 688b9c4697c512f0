// Calls to a manager: one channel per (address, credentials). Names to verify are `swarm-manager` with a certificate
// and `swarm-ca` without one; the very first call verifies nothing and its answer is checked against the token's digest.

import tls from 'node:tls';
import type { DescMethodBiDiStreaming, DescMethodServerStreaming, DescMethodClientStreaming, DescMethodUnary, DescMessage, MessageShape } from '@bufbuild/protobuf';
import {
  Client, Metadata, credentials, type ChannelCredentials, type ClientDuplexStream, type ClientReadableStream, type ClientWritableStream,
} from '@grpc/grpc-js';
import { methodDefinition } from './service.js';

/** Workers accept any size; a bound all the same. */
const MESSAGE_BYTES_MAX = 512 * 1024 * 1024;
const IDLE_MS = 2 ** 31 - 1;

export interface Credentials {
  readonly rootCa: string | undefined;
  readonly key: string | undefined;
  readonly certificate: string | undefined;
  readonly serverName: 'swarm-manager' | 'swarm-ca';
}

export function secureContext(from: Credentials): tls.SecureContext {
  return tls.createSecureContext({
    minVersion: 'TLSv1.2',
    ...(from.rootCa === undefined ? {} : { ca: from.rootCa }),
    ...(from.key === undefined ? {} : { key: from.key }),
    ...(from.certificate === undefined ? {} : { cert: from.certificate }),
  });
}

function channelCredentials(from: Credentials): ChannelCredentials {
  return credentials.createFromSecureContext(secureContext(from), from.rootCa === undefined
    ? { rejectUnauthorized: false, checkServerIdentity: () => undefined } : {});
}

export class ManagerClient {
  readonly address: string;
  private readonly client: Client;

  /** `keepaliveMs`: a connection that does not answer for this long is given up and made anew. */
  constructor(address: string, from: Credentials, keepaliveMs?: number) {
    this.address = address;
    this.client = new Client(address, channelCredentials(from), {
      'grpc.ssl_target_name_override': from.serverName,
      'grpc.default_authority': from.serverName,
      'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
      'grpc.enable_retries': 0,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 2000,
      // One channel of ours never shares a connection made with other credentials.
      'grpc.use_local_subchannel_pool': 1,
      ...(keepaliveMs === undefined ? {} : {
        'grpc.keepalive_time_ms': keepaliveMs, 'grpc.keepalive_timeout_ms': keepaliveMs, 'grpc.keepalive_permit_without_calls': 1,
        // Calls are rare, and must not wait for a connection.
        'grpc.client_idle_timeout_ms': IDLE_MS,
      }),
    });
  }

  unary<I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, request: MessageShape<I>, timeoutMs: number,
    metadata = new Metadata()): Promise<MessageShape<O>> {
    const d = methodDefinition(method.parent, method);
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(d.path, d.requestSerialize, d.responseDeserialize, request as object, metadata,
        { deadline: Date.now() + timeoutMs }, (error, value) => {
          if (error !== null) reject(error);
          else resolve(value as MessageShape<O>);
        });
    });
  }

  serverStream<I extends DescMessage, O extends DescMessage>(method: DescMethodServerStreaming<I, O>, request: MessageShape<I>,
    metadata = new Metadata()): ClientReadableStream<MessageShape<O>> {
    const d = methodDefinition(method.parent, method);
    return this.client.makeServerStreamRequest(d.path, d.requestSerialize, d.responseDeserialize, request as object,
      metadata) as unknown as ClientReadableStream<MessageShape<O>>;
  }

  clientStream<I extends DescMessage, O extends DescMessage>(method: DescMethodClientStreaming<I, O>, done: (error: Error | null,
    value?: MessageShape<O>) => void, metadata = new Metadata()): ClientWritableStream<MessageShape<I>> {
    const d = methodDefinition(method.parent, method);
    return this.client.makeClientStreamRequest(d.path, d.requestSerialize, d.responseDeserialize, metadata, (error, value) =>
      done(error, value as MessageShape<O> | undefined)) as unknown as ClientWritableStream<MessageShape<I>>;
  }

  duplex<I extends DescMessage, O extends DescMessage>(method: DescMethodBiDiStreaming<I, O>,
    metadata = new Metadata()): ClientDuplexStream<MessageShape<I>, MessageShape<O>> {
    const d = methodDefinition(method.parent, method);
    return this.client.makeBidiStreamRequest(d.path, d.requestSerialize, d.responseDeserialize,
      metadata) as unknown as ClientDuplexStream<MessageShape<I>, MessageShape<O>>;
  }

  /** Begins a connection, if none stands, before the first call wants it. */
  connect(): void {
    this.client.getChannel().getConnectivityState(true);
  }

  close(): void {
    this.client.close();
  }
}
