// Writes through a manager's Docker API: configs that are made and removed again, each request a write.

import http from 'node:http';
import type { LoadResult } from './control.js';

const VALUE_BYTES = 256;

export async function apiLoad(socketPath: string, inFlight: number, ms: number): Promise<Omit<LoadResult, 'cpuSeconds'>> {
  const agent = new http.Agent({ keepAlive: true, maxSockets: inFlight });
  const latencies: number[] = [];
  let errors = 0;
  const data = Buffer.alloc(VALUE_BYTES, 'x').toString('base64');
  const send = async (method: string, path: string, body: object | undefined): Promise<{ ID?: string } | undefined> => {
    const from = performance.now();
    const answer = await ask(agent, socketPath, method, path, body);
    if (answer === undefined) errors += 1;
    else latencies.push(performance.now() - from);
    return answer;
  };
  const from = performance.now();
  await Promise.all(Array.from({ length: inFlight }, async (_, writer) => {
    for (let i = 0; performance.now() < from + ms; i++) {
      const made = await send('POST', '/configs/create', { Name: `api-${writer}-${i}`, Data: data });
      if (made?.ID !== undefined) await send('DELETE', `/configs/${made.ID}`, undefined);
    }
  }));
  const seconds = (performance.now() - from) / 1000;
  agent.destroy();
  latencies.sort((a, b) => a - b);
  return { writes: latencies.length, errors, seconds, p50Us: 1000 * (latencies[latencies.length >> 1] ?? 0) };
}

/** Undefined when it was refused. */
function ask(
  agent: http.Agent, socketPath: string, method: string, path: string, body: object | undefined,
): Promise<{ ID?: string } | undefined> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const request = http.request({ agent, socketPath, method, path, headers }, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += String(chunk); });
      response.on('error', reject);
      response.on('end', () => {
        const done = (response.statusCode ?? 500) < 300;
        resolve(!done ? undefined : text === '' ? {} : JSON.parse(text) as { ID?: string });
      });
    });
    request.on('error', reject);
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}
