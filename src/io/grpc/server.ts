// The node protocol's server on TCP 2377: TLS with optional client certificates, HTTP/2 with or without ALPN (stock
// engines send none after their first renewal), gRPC on top. A certificate that is presented but does not verify ends
// the connection; a call without one is anonymous. Who may call what is decided per call: see authorize().

import tls from 'node:tls';
import type { AddressInfo } from 'node:net';
import { X509Certificate } from 'node:crypto';
import type { DescService } from '@bufbuild/protobuf';
import {
  Server, ServerCredentials, type ServerUnaryCall, type ServerWritableStream, type ServerReadableStream,
  type ServerDuplexStream, type sendUnaryData, type UntypedHandleCall,
} from '@grpc/grpc-js';
import { AppFailure, type AppError, type Result } from '../../lib/result.js';
import { identityOf, type NodeIdentity } from '../x509/certificates.js';
import { forwarded } from './forwarding.js';
import { Connections, LIMITS, type ConnectionCounts, type ConnectionLimits } from './connections.js';
import { serviceDefinition, toStatus } from './service.js';

/** Managers accept messages up to 4 MiB (SwarmKit). */
const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;

export interface Caller {
  /** Undefined for calls without a certificate. */
  readonly identity: NodeIdentity | undefined;
  /** Remote address without the port. */
  readonly address: string;
  /** The manager that passed the call on for the caller above, as it says (SwarmKit's forwarded_cert). */
  readonly forwardedBy?: NodeIdentity;
}

/** A stream's server side: write() waits for the peer, closed aborts when the peer or the server ends it. */
export interface Outgoing<T> {
  write(message: T): Promise<void>;
  readonly closed: AbortSignal;
}

export type UnaryHandler = (request: never, caller: Caller) => Promise<object>;
export type ServerStreamHandler = (request: never, caller: Caller, out: Outgoing<never>) => Promise<void>;
export type ClientStreamHandler = (requests: AsyncIterable<never>, caller: Caller) => Promise<object>;
export type DuplexHandler = (requests: AsyncIterable<never>, caller: Caller, out: Outgoing<never>) => Promise<void>;
export type Handler = UnaryHandler | ServerStreamHandler | ClientStreamHandler | DuplexHandler;

export interface ServerIdentity {
  readonly key: string;
  readonly certificate: string;
  readonly rootCa: string;
}

export interface GrpcServerOptions {
  readonly host: string;
  readonly port: number;
  readonly identity: ServerIdentity;
  readonly services: readonly { readonly service: DescService; readonly handlers: Readonly<Record<string, Handler>> }[];
  /** Runs before every call; a refusal is the call's answer. */
  readonly authorize: (path: string, caller: Caller) => Result<void>;
  /** Unexpected errors of handlers; the process decides. */
  readonly onBug: (error: unknown) => void;
  /** Connections that chose another protocol in their handshake, for as long as they may make this call. */
  readonly links?: {
    readonly protocol: string;
    readonly path: string;
    readonly accept: (socket: tls.TLSSocket, caller: Caller) => void;
  };
  readonly limits?: Partial<ConnectionLimits>;
  /** A connection was closed for a limit; called for each. */
  readonly onLimit?: (counts: Readonly<ConnectionCounts>) => void;
}

export interface GrpcServer {
  readonly port: number;
  /** Connections closed for a limit. */
  readonly counts: Readonly<ConnectionCounts>;
  /** New certificates for new connections. */
  setIdentity(identity: ServerIdentity): void;
  /** What authorize() goes by has changed: links that it refuses now end. */
  authorizeAgain(): void;
  close(): Promise<void>;
}

function contextOptions(identity: ServerIdentity): tls.SecureContextOptions {
  return { key: identity.key, cert: identity.certificate, ca: identity.rootCa, minVersion: 'TLSv1.2' };
}

export async function startGrpcServer(options: GrpcServerOptions): Promise<GrpcServer> {
  const server = new Server({
    'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
    'grpc.max_send_message_length': -1,
    'grpc-node.max_session_memory': 64,
  });
  for (const { service, handlers } of options.services) {
    const definition = serviceDefinition(service);
    const wrapped = Object.fromEntries(Object.entries(definition).flatMap(([name, method]) => {
      const handler = handlers[name];
      return handler === undefined ? [] : [[name, wrap(method, handler, options)]];
    }));
    server.addService(definition, wrapped);
  }
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const connections = new Connections({ ...LIMITS, ...options.limits }, options.onLimit ?? (() => undefined));
  const linked = new Linked(options);
  const listener = tls.createServer({
    ...contextOptions(options.identity), requestCert: true, rejectUnauthorized: false,
    ALPNProtocols: ['h2', ...(options.links === undefined ? [] : [options.links.protocol])],
  }, (socket) => {
    const raw = socket.destroyed ? undefined : socket.getPeerCertificate().raw;
    if (raw !== undefined && !socket.authorized) {
      socket.destroy();
      return;
    }
    const identity = raw === undefined ? undefined : identityOf(new X509Certificate(raw));
    connections.secured(socket, identity?.nodeId);
    if (socket.destroyed) return;
    if (options.links !== undefined && socket.alpnProtocol === options.links.protocol) {
      linked.accept(socket, { identity, address: addressOf(socket.remoteAddress ?? '') });
      return;
    }
    // Node's HTTP/2 refuses a TLS socket without ALPN unless it says h2.
    if (socket.alpnProtocol !== 'h2') Object.defineProperty(socket, 'alpnProtocol', { value: 'h2', configurable: true });
    injector.injectConnection(socket);
  });
  // Before TLS's own listener: the handshake counts already.
  listener.prependListener('connection', (socket) => connections.accepted(socket));
  const sockets = new Set<tls.TLSSocket>();
  listener.on('secureConnection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    // A broken connection is the peer's matter; its calls end with it.
    socket.on('error', () => socket.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    listener.once('error', (error: NodeJS.ErrnoException) => {
      const reason = error.code === 'EADDRINUSE' ? 'address already in use' : error.code === 'EADDRNOTAVAIL' ? 'cannot assign requested address' : error.message;
      reject(new AppFailure({ code: 'unavailable', message: `failed to listen on remote API address: listen tcp ${options.host}:${options.port}: bind: ${reason}` }));
    });
    listener.listen(options.port, options.host, () => {
      listener.removeAllListeners('error');
      resolve();
    });
  });
  return {
    port: (listener.address() as AddressInfo).port,
    counts: connections.counts,
    setIdentity: (identity) => listener.setSecureContext(contextOptions(identity)),
    authorizeAgain: () => linked.authorizeAgain(),
    close: async () => {
      server.forceShutdown();
      connections.close();
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => listener.close(() => resolve()));
    },
  };
}

/** Links, and who opened each: nothing but their end says that they may not go on. */
class Linked {
  private readonly callers = new Map<tls.TLSSocket, Caller>();
  private readonly options: GrpcServerOptions;

  constructor(options: GrpcServerOptions) {
    this.options = options;
  }

  accept(socket: tls.TLSSocket, caller: Caller): void {
    if (!this.mayGoOn(socket, caller)) return;
    this.callers.set(socket, caller);
    socket.on('close', () => this.callers.delete(socket));
    this.options.links?.accept(socket, caller);
  }

  authorizeAgain(): void {
    for (const [socket, caller] of this.callers) this.mayGoOn(socket, caller);
  }

  private mayGoOn(socket: tls.TLSSocket, caller: Caller): boolean {
    const { ok } = this.options.authorize(this.options.links?.path ?? '', caller);
    if (!ok) socket.destroy();
    return ok;
  }
}

type AnyCall = ServerUnaryCall<object, object> | ServerWritableStream<object, object>
  | ServerReadableStream<object, object> | ServerDuplexStream<object, object>;

/** An IPv4 address stays one on a socket that takes both. */
function addressOf(remote: string): string {
  return remote.replace(/^::ffff:/, '');
}

const identities = new Map<string, NodeIdentity | undefined>();
const IDENTITIES_MAX = 10_000;

/** Of a certificate that its connection has verified: every call has one, and nodes make theirs with the same for weeks. */
function knownIdentity(certificate: Buffer): NodeIdentity | undefined {
  const key = certificate.toString('latin1');
  if (identities.has(key)) return identities.get(key);
  if (identities.size >= IDENTITIES_MAX) identities.clear();
  const identity = identityOf(new X509Certificate(certificate));
  identities.set(key, identity);
  return identity;
}

/** Where the connection ends in the moment the call begins, grpc-js asks a certificate that is null, or a socket that is gone. */
function connectionOf(call: AnyCall): { readonly raw: Buffer | undefined; readonly peer: string } {
  try {
    return { raw: call.getAuthContext().sslPeerCertificate?.raw, peer: call.getPeer() };
  } catch {
    throw new StreamClosed('the connection has ended');
  }
}

function callerOf(call: AnyCall): Caller {
  const { raw, peer } = connectionOf(call);
  const address = addressOf(peer.replace(/^ipv[46]:/, '').replace(/:\d+$/, '').replace(/^\[|\]$/g, ''));
  const identity = raw === undefined ? undefined : knownIdentity(raw);
  return identity === undefined ? { identity, address } : forwarded(call.metadata, { identity, address });
}

function wrap(method: { path: string; requestStream: boolean; responseStream: boolean }, handler: Handler, options: GrpcServerOptions): UntypedHandleCall {
  const run = async <T>(call: AnyCall, body: (caller: Caller) => Promise<T>): Promise<T> => {
    const caller = callerOf(call);
    const allowed = options.authorize(method.path, caller);
    if (!allowed.ok) throw new AppFailure(allowed.error);
    return body(caller);
  };
  const failure = (error: unknown): AppError => {
    if (error instanceof AppFailure) return error.toError();
    if (error instanceof StreamClosed) return { code: 'aborted', message: 'stream closed' };
    options.onBug(error);
    return { code: 'internal', message: 'internal error' };
  };
  if (!method.responseStream) {
    const answer = (call: AnyCall, callback: sendUnaryData<object>, input: unknown): void => {
      run(call, (caller) => (handler as (r: unknown, c: Caller) => Promise<object>)(input, caller)).then(
        (value) => callback(null, value),
        (error) => callback(toStatus(failure(error))),
      );
    };
    return method.requestStream
      ? (call: ServerReadableStream<object, object>, callback: sendUnaryData<object>) => answer(call, callback, incoming(call))
      : (call: ServerUnaryCall<object, object>, callback: sendUnaryData<object>) => answer(call, callback, call.request);
  }
  return (call: ServerDuplexStream<object, object> & { readonly request?: object }) => {
    call.on('error', () => undefined); // The peer broke the stream: `closed` tells the handler.
    const out = outgoing(call as unknown as ServerWritableStream<object, object>);
    const input: unknown = method.requestStream ? incoming(call) : call.request;
    run(call, (caller) => (handler as (r: unknown, c: Caller, o: Outgoing<object>) => Promise<void>)(input, caller, out)).then(
      () => call.end(),
      (error) => {
        const { code, details } = toStatus(failure(error));
        call.emit('error', { code, details });
      },
    );
  };
}

/** Thrown by write(), and where the requests are read, once the stream is gone. */
export class StreamClosed extends Error {}

/** A peer that breaks its stream, at whatever moment, is no bug of a handler that reads it. */
async function* incoming(call: AsyncIterable<object>): AsyncGenerator<object> {
  const messages = call[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await messages.next().catch((error: unknown) => {
        throw new StreamClosed('', { cause: error });
      });
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    await messages.return?.();
  }
}

function outgoing(call: ServerWritableStream<object, object>): Outgoing<object> {
  const abort = new AbortController();
  const end = (): void => abort.abort();
  call.on('cancelled', end);
  call.on('close', end);
  call.on('error', end);
  return {
    closed: abort.signal,
    write: (message) => new Promise((resolve, reject) => {
      if (abort.signal.aborted || call.writableEnded) {
        reject(new StreamClosed());
        return;
      }
      const onEnd = (): void => reject(new StreamClosed());
      abort.signal.addEventListener('abort', onEnd, { once: true });
      call.write(message, (error: unknown) => {
        abort.signal.removeEventListener('abort', onEnd);
        if (error instanceof Error) reject(new StreamClosed());
        else resolve();
      });
    }),
  };
}
