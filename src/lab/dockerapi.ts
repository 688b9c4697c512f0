// A small client of the Docker API over a unix socket, for the lab, the demo and the tests.

import http from 'node:http';

export class ApiError extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
  }
}

export async function api<T = unknown>(
  socketPath: string, method: string, path: string, body?: unknown, timeoutMs = 30_000,
  onHeaders?: (headers: http.IncomingHttpHeaders) => void,
): Promise<T> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const request = http.request({
      socketPath, method, path, timeout: timeoutMs, headers: text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) },
    }, (response) => {
      onHeaders?.(response.headers);
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const answer = Buffer.concat(chunks).toString();
        const parsed: unknown = answer === '' || !response.headers['content-type']?.includes('json') ? answer : JSON.parse(answer);
        if ((response.statusCode ?? 500) >= 400) {
          const message = typeof parsed === 'object' && parsed !== null && 'message' in parsed ? String(parsed.message) : answer;
          reject(new ApiError(response.statusCode ?? 500, message));
        } else resolve(parsed as T);
      });
    });
    request.on('timeout', () => request.destroy(new Error(`${method} ${path}: no answer within ${timeoutMs} ms`)));
    request.on('error', reject);
    request.end(text);
  });
}

/** Polls until `check` gives a value, or fails with an error that is marked as fatal. */
export async function until<T>(what: string, timeoutMs: number, check: () => Promise<T | undefined>): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await check();
      if (value !== undefined) return value;
    } catch (error) {
      if (error instanceof Error && 'fatal' in error) throw error;
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms${last instanceof Error ? ` (${last.message})` : ''}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
