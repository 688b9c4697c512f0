// startApi: the Docker Engine API on a unix socket. Takes paths with and without a version prefix, answers errors as
// {"message": ...}, ends work when clients leave, and holds no state of its own.

import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import { chmod, lstat, unlink } from 'node:fs/promises';
import net from 'node:net';
import createRouter from 'find-my-way';
import type { Logger } from 'pino';
import { AppFailure } from '../lib/result.js';
import { apiVersion, engineVersion, minApiVersion } from '../lib/version.js';
import type { NodeBackend } from './backend.js';
import { failure, noLeader } from './errors.js';
import { Call, type Handler } from './http.js';
import { routes } from './routes/index.js';

const MAX_CONNECTIONS = 1024;
const HEADERS_TIMEOUT_MS = 30_000;
const MAX_HEADER_BYTES = 128 * 1024;
/** Of a request already answered with an error. */
const MAX_DISCARDED_BYTES = 4 * 1024 * 1024 * 1024;
/** Paths whose answers are about the swarm's state. */
const SWARM_OBJECTS = /^\/(services|tasks|nodes|configs|secrets|networks)(\/|$)/;

export interface ApiOptions {
  readonly socketPath: string;
  readonly backend: NodeBackend;
  readonly logger: Logger;
}

export interface ApiServer {
  close(): Promise<void>;
}

type Router = ReturnType<typeof createRouter<createRouter.HTTPVersion.V1>>;

export async function startApi(options: ApiOptions): Promise<ApiServer> {
  await removeStale(options.socketPath);
  const router = createRouter({ caseSensitive: true, maxParamLength: 4096, ignoreTrailingSlash: true });
  for (const [method, path, handler] of routes()) {
    router.on(method as createRouter.HTTPMethod, path, () => undefined, handler);
  }
  // One controller per request; not AbortSignal.any on a long-lived signal, which keeps a trace of every request.
  const open = new Set<AbortController>();
  const server = http.createServer({ maxHeaderSize: MAX_HEADER_BYTES }, (request, response) => {
    const gone = new AbortController();
    open.add(gone);
    response.once('close', () => {
      open.delete(gone);
      gone.abort();
    });
    void serve(options, router, gone, request, response);
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.headersTimeout = HEADERS_TIMEOUT_MS;
  // Image uploads and log streams take as long as they take.
  server.requestTimeout = 0;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.socketPath, resolve);
  });
  await chmod(options.socketPath, 0o660);
  return {
    async close() {
      for (const gone of open) gone.abort();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}

/** Removes the socket a killed agent left behind; refuses when somebody still answers on it. */
async function removeStale(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isSocket()) throw new Error(`${path} exists and is not a socket`);
  const alive = await new Promise<boolean>((resolve) => {
    const probe = net.connect(path);
    probe.once('connect', () => { probe.destroy(); resolve(true); });
    probe.once('error', () => resolve(false));
  });
  if (alive) throw new Error(`${path} is in use by another process`);
  await unlink(path);
}

interface Target {
  readonly path: string;
  readonly query: URLSearchParams;
  readonly minor: number;
}

function targetOf(url: string): Target {
  const at = url.indexOf('?');
  const query = new URLSearchParams(at < 0 ? '' : url.slice(at + 1));
  const full = at < 0 ? url : url.slice(0, at);
  const match = /^\/v([0-9]+)\.([0-9]+)(\/.*)$/.exec(full);
  const newest = Number(apiVersion.split('.')[1]);
  if (match === null) return { path: full, query, minor: newest };
  const minor = Number(match[2]);
  const asked = `${match[1]}.${match[2]}`;
  if (match[1] !== '1' || minor > newest) {
    throw failure('invalid_argument', `client version ${asked} is too new. Maximum supported API version is ${apiVersion}`);
  }
  if (minor < Number(minApiVersion.split('.')[1])) {
    throw failure('invalid_argument', `client version ${asked} is too old. Minimum supported API version is `
      + `${minApiVersion}, please upgrade your client to a newer version`);
  }
  return { path: match[3] ?? '/', query, minor };
}

async function serve(
  options: ApiOptions, router: Router, gone: AbortController, request: IncomingMessage, response: ServerResponse,
): Promise<void> {
  const { backend, logger } = options;
  response.setHeader('Api-Version', apiVersion);
  response.setHeader('Docker-Experimental', 'false');
  response.setHeader('Ostype', 'linux');
  response.setHeader('Server', `Docker/${engineVersion} (linux)`);
  response.on('error', () => gone.abort());
  const { signal } = gone;
  const base = { backend, logger, request, response, signal };
  let call = new Call({ ...base, params: {}, query: new URLSearchParams(), minor: 0 });
  let old = false;
  try {
    const target = targetOf(request.url ?? '/');
    const found = router.find((request.method ?? 'GET') as createRouter.HTTPMethod, target.path);
    call = new Call({ ...base, params: found?.params ?? {}, query: target.query, minor: target.minor });
    if (found === null || found.store === null) throw failure('not_found', 'page not found');
    if (target.path !== '/_ping') old = await backend.manager()?.fresh() === false && SWARM_OBJECTS.test(target.path);
    // RFC 9111 has made the field obsolete, but gives no other; clients of Docker ignore it.
    if (old) response.setHeader('Warning', '110 - "no leader confirms this answer: it may be old"');
    await (found.store as Handler)(call);
  } catch (error) {
    answerFailure(call, old && isAboutState(error) ? noLeader() : error);
  }
}

/** A refusal by the state of the swarm: from one that may be old it would be a guess. */
function isAboutState(error: unknown): boolean {
  return error instanceof AppFailure && (error.code === 'not_found' || error.code === 'already_exists' || /out of sequence/.test(error.message));
}

/** Reads what the client still sends, within a bound: closing on it would cost the client the answer. */
function discardBody(request: IncomingMessage): void {
  if (request.complete) return;
  let size = 0;
  request.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size > MAX_DISCARDED_BYTES) request.destroy();
  });
  request.resume();
}

function answerFailure(call: Call, error: unknown): void {
  const { response, logger } = call;
  if (call.signal.aborted) {
    response.destroy();
    return;
  }
  const expected = error instanceof AppFailure;
  if (!expected) {
    logger.error({ err: error, method: call.request.method, url: call.request.url }, 'request failed');
  }
  if (response.headersSent) {
    response.destroy();
    return;
  }
  discardBody(call.request);
  call.fail(expected ? error : failure('internal', error instanceof Error ? error.message : String(error)));
}
