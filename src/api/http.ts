// Call: one HTTP request with what handlers need: parameters, query, body within a bound, JSON answers, and streams
// that respect back-pressure and end when the client goes away.

import type { IncomingMessage, ServerResponse } from 'node:http';
import { once } from 'node:events';
import type { Logger } from 'pino';
import { AppFailure } from '../lib/result.js';
import { failure, notManager, statusOf } from './errors.js';
import type { ManagerBackend, NodeBackend } from './backend.js';
import { Reader } from './convert/json.js';
import { Filters } from './filters.js';

const MAX_JSON_BYTES = 4 * 1024 * 1024;

export class Call {
  readonly backend: NodeBackend;
  readonly logger: Logger;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly params: Readonly<Record<string, string | undefined>>;
  readonly query: URLSearchParams;
  /** API version the client asked for, as minor number of 1.x. */
  readonly minor: number;
  /** Aborted when the client disconnects or the server closes. */
  readonly signal: AbortSignal;

  constructor(parts: {
    backend: NodeBackend; logger: Logger; request: IncomingMessage; response: ServerResponse;
    params: Readonly<Record<string, string | undefined>>; query: URLSearchParams; minor: number; signal: AbortSignal;
  }) {
    this.backend = parts.backend;
    this.logger = parts.logger;
    this.request = parts.request;
    this.response = parts.response;
    this.params = parts.params;
    this.query = parts.query;
    this.minor = parts.minor;
    this.signal = parts.signal;
  }

  manager(): ManagerBackend {
    const manager = this.backend.manager();
    if (manager === undefined) throw notManager(this.backend.local());
    return manager;
  }

  param(name: string): string {
    return this.params[name] ?? '';
  }

  /** Go's truth of a form value: everything but empty, 0, no, false and none. */
  flag(name: string): boolean {
    const value = (this.query.get(name) ?? '').trim().toLowerCase();
    return !['', '0', 'no', 'false', 'none'].includes(value);
  }

  filters(...allowed: string[]): Filters {
    return Filters.parse(this.query.get('filters'), allowed);
  }

  /** The object version that an update names. */
  version(kind: string): bigint {
    const text = this.query.get('version') ?? '';
    if (!/^[0-9]{1,20}$/.test(text)) {
      throw failure('invalid_argument', `invalid ${kind} version '${text}': strconv.ParseUint: parsing "${text}": invalid syntax`);
    }
    return BigInt(text);
  }

  /** The body as it arrives. A reader that stops early leaves the connection open, so that it gets its answer. */
  body(): AsyncIterable<Uint8Array> {
    return this.request.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
  }

  async json(): Promise<Reader> {
    const chunks: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of this.body()) {
      size += chunk.length;
      if (size > MAX_JSON_BYTES) {
        throw failure('invalid_argument', `request body is larger than ${MAX_JSON_BYTES} bytes`);
      }
      chunks.push(chunk);
    }
    const text = Buffer.concat(chunks).toString('utf8');
    if (text.trim() === '') throw failure('invalid_argument', 'invalid JSON: got EOF while reading request body');
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch (error) {
      throw failure('invalid_argument', `invalid JSON: ${(error as Error).message}`);
    }
    return new Reader(parsed);
  }

  reply(status: number, body?: unknown): void {
    const { response } = this;
    response.statusCode = status;
    if (body === undefined) {
      response.setHeader('Content-Length', 0);
      response.end();
      return;
    }
    const text = `${JSON.stringify(body)}\n`;
    response.setHeader('Content-Type', 'application/json');
    response.setHeader('Content-Length', Buffer.byteLength(text));
    response.end(this.request.method === 'HEAD' ? undefined : text);
  }

  startStream(contentType: string): void {
    this.response.statusCode = 200;
    this.response.setHeader('Content-Type', contentType);
    this.response.flushHeaders();
  }

  /** Writes and waits while the client is slower than we are. Throws once it is gone. */
  async write(data: string | Uint8Array): Promise<void> {
    this.signal.throwIfAborted();
    if (!this.response.write(data)) await once(this.response, 'drain', { signal: this.signal });
  }

  end(): void {
    this.response.end();
  }

  fail(error: AppFailure): void {
    this.reply(statusOf(error.toError()), { message: error.message });
  }
}

export type Handler = (call: Call) => Promise<void> | void;
/** Method, path with :parameters, handler. */
export type Route = readonly [method: string, path: string, handler: Handler];
