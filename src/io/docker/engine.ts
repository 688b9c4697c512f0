// The Engine behind dockerode: its errors as AppFailure in its own words, and streams that dockerode would buffer.

import type { Readable } from 'node:stream';
import Docker from 'dockerode';
import { AppFailure, appError, type ErrorCode } from '../../lib/result.js';

export type { default as Docker } from 'dockerode';

const codes: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid_argument', 403: 'permission_denied', 404: 'not_found', 409: 'failed_precondition', 500: 'internal', 503: 'unavailable',
};
const connectionErrors = new Set(['ECONNREFUSED', 'ECONNRESET', 'ENOENT', 'EPIPE', 'EACCES']);

export function engineFailure(error: unknown): unknown {
  const { statusCode, json, reason, message, code } = error as { statusCode?: number; json?: unknown; reason?: string; message?: string; code?: string };
  if (statusCode !== undefined) {
    const words = (json as { message?: string } | null | undefined)?.message ?? message ?? reason ?? 'the Docker Engine refused';
    return new AppFailure(appError(codes[statusCode] ?? 'internal', words.trim()));
  }
  if (code !== undefined && connectionErrors.has(code)) return new AppFailure(appError('unavailable', `Cannot connect to the Docker daemon: ${message ?? code}`));
  return error;
}

/** Awaits an Engine call; its refusals become AppFailure. */
export async function call<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    throw engineFailure(error);
  }
}

/** Like call, but undefined for what does not exist. */
export async function callOrMissing<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await call(promise);
  } catch (error) {
    if (error instanceof AppFailure && error.code === 'not_found') return undefined;
    throw error;
  }
}

/** A request whose answer is read as a stream, with repeated query parameters (dockerode would join them as JSON). */
export function openStream(docker: Docker, method: 'GET' | 'POST', path: string, query: URLSearchParams, body?: NodeJS.ReadableStream): Promise<Readable> {
  return new Promise((resolve, reject) => {
    const options = {
      // docker-modem cuts the last character of a path with a query of its own.
      path: `${path}?${query.toString()}&`, method, isStream: true, file: body,
      statusCodes: { 200: true, 201: true, 404: 'not found', 500: 'server error' },
    };
    const modem = docker.modem as { dial: (options: object, done: (error: unknown, stream?: Readable) => void) => void };
    modem.dial(options, (error, stream) => {
      if (error !== null && error !== undefined) reject(engineFailure(error));
      else if (stream === undefined) reject(new AppFailure(appError('internal', 'the Docker Engine gave no answer')));
      else resolve(stream);
    });
  });
}

const maxMessages = 100_000;

/** The JSON messages of a progress stream; an error message in it is thrown. */
export async function readMessages(stream: Readable): Promise<Record<string, unknown>[]> {
  const messages: Record<string, unknown>[] = [];
  let text = '';
  for await (const chunk of stream) {
    text += (chunk as Buffer).toString('utf8');
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    for (const line of lines) add(line);
  }
  add(text);
  return messages;

  function add(line: string): void {
    if (line.trim() === '' || messages.length >= maxMessages) return;
    const message = JSON.parse(line) as Record<string, unknown>;
    if (typeof message['error'] === 'string') throw new AppFailure(appError('invalid_argument', message['error']));
    messages.push(message);
  }
}
