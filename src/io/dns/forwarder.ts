// Forwarder: DNS questions that no row answers go to the node's upstream servers, as raw bytes under an id of our own.
// At most three servers, four seconds each and nine in all; a server that refuses, fails or cannot be reached hands
// over to the next (as Docker's resolver). More than IN_FLIGHT_MAX at once are refused.

import { createSocket } from 'node:dgram';
import { connect, isIP } from 'node:net';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { parseAddress } from '../../lib/cidr.js';

const SERVERS_MAX = 3;
/** The data plane gives up after ten seconds: an answer has to be there before. */
const TIMEOUTS_MS = { server: 4000, total: 9000 } as const;
const IN_FLIGHT_MAX = 1024;
const HEADER_BYTES = 12;
const MESSAGE_BYTES_MAX = 65_535;
const RCODE = { servfail: 2, refused: 5 } as const;

export interface Upstream {
  readonly address: string;
  readonly port: number;
}

/**
 * The machine's own servers, without loopback stubs that a task could mean itself by. What is no address is no server,
 * as for libc: a name in its place could only be looked up by itself.
 */
export async function hostUpstreams(file = '/etc/resolv.conf'): Promise<Upstream[]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.split('\n').flatMap((line) => {
    const [keyword, address] = line.trim().split(/\s+/);
    return keyword === 'nameserver' && address !== undefined && isIP(address) !== 0 && address !== '127.0.0.11'
      ? [{ address, port: 53 }] : [];
  }).slice(0, SERVERS_MAX);
}

/** "192.0.2.1" or "192.0.2.1:5353". */
export function parseUpstream(text: string): Upstream | undefined {
  const match = /^(\d+\.\d+\.\d+\.\d+)(?::(\d{1,5}))?$/.exec(text);
  if (match === null || parseAddress(match[1] as string) === undefined) return undefined;
  const port = match[2] === undefined ? 53 : Number(match[2]);
  return port < 1 || port > 65_535 ? undefined : { address: match[1] as string, port };
}

export class Forwarder {
  private inFlight = 0;
  private readonly timeoutsMs: { readonly server: number; readonly total: number };
  readonly counts = { forwarded: 0, answered: 0, failed: 0, refused: 0 };

  constructor(timeoutsMs: { readonly server: number; readonly total: number } = TIMEOUTS_MS) {
    this.timeoutsMs = timeoutsMs;
  }

  /** Always answers: with the upstream's bytes, or SERVFAIL or REFUSED made from the question. */
  async forward(query: Uint8Array, tcp: boolean, servers: () => Promise<readonly Upstream[]>): Promise<Uint8Array> {
    if (query.length < HEADER_BYTES || query.length > MESSAGE_BYTES_MAX) return new Uint8Array(0);
    if (this.inFlight >= IN_FLIGHT_MAX) {
      this.counts.refused += 1;
      return failure(query, RCODE.refused);
    }
    this.inFlight += 1;
    this.counts.forwarded += 1;
    try {
      const deadlineMs = performance.now() + this.timeoutsMs.total;
      for (const upstream of (await servers()).slice(0, SERVERS_MAX)) {
        const waitMs = Math.min(this.timeoutsMs.server, deadlineMs - performance.now());
        const answer = waitMs <= 0 ? undefined : await (tcp ? askTcp : askUdp)(upstream, query, waitMs);
        if (answer === undefined) continue;
        const code = (answer[3] ?? 0) & 15;
        if (code === RCODE.servfail || code === RCODE.refused) continue;
        this.counts.answered += 1;
        return answer;
      }
    } finally {
      this.inFlight -= 1;
    }
    this.counts.failed += 1;
    return failure(query, RCODE.servfail);
  }
}

/** The question with the answer bit and a code; counts other than the question's are cleared. */
function failure(query: Uint8Array, code: number): Uint8Array {
  const answer = Uint8Array.from(query);
  answer[2] = (answer[2] ?? 0) | 0x80;
  answer[3] = ((answer[3] ?? 0) & 0xf0) | 0x80 | code;
  for (let i = 6; i < HEADER_BYTES; i++) answer[i] = 0;
  // Without the records that followed the question the message ends after it: find its end.
  let end = HEADER_BYTES;
  while (end < answer.length && answer[end] !== 0) end += (answer[end] as number) + 1;
  return answer.slice(0, Math.min(end + 5, answer.length));
}

function withId(message: Uint8Array, id: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(message); // slice() of a Buffer would be the same bytes.
  copy.set(id.subarray(0, 2));
  return copy;
}

/** An answer, to a question with this id: no stray message, and no echo of our own. */
function answers(message: Uint8Array, id: Uint8Array): boolean {
  return message.length >= HEADER_BYTES && message[0] === id[0] && message[1] === id[1] && ((message[2] ?? 0) & 0x80) !== 0;
}

/** From a port of its own and under an id of its own; undefined for whatever is not an answer in time. */
function askUdp(upstream: Upstream, query: Uint8Array, waitMs: number): Promise<Uint8Array | undefined> {
  const id = randomBytes(2);
  return new Promise((resolve) => {
    const socket = createSocket(isIP(upstream.address) === 6 ? 'udp6' : 'udp4');
    let done = false;
    const finish = (answer: Uint8Array | undefined): void => {
      if (done) return;
      done = true;
      clearTimeout(timer);
      socket.close();
      resolve(answer === undefined ? undefined : withId(answer, query));
    };
    const timer = setTimeout(() => finish(undefined), waitMs);
    socket.on('error', () => finish(undefined));
    socket.on('message', (message) => {
      if (answers(message, id)) finish(message);
    });
    // Connected: the kernel drops what comes from anyone else. The callback is given the error (no route, an address of
    // an interface that is gone) that 'error' is not: sending then would throw.
    socket.connect(upstream.port, upstream.address, ((error?: Error) => {
      if (error !== undefined) finish(undefined);
      else if (!done) socket.send(withId(query, id));
    }) as () => void);
  });
}

function askTcp(upstream: Upstream, query: Uint8Array, waitMs: number): Promise<Uint8Array | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host: upstream.address, port: upstream.port });
    let received = Buffer.alloc(0);
    const finish = (answer: Uint8Array | undefined): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    // Of the whole exchange: a server that sends a byte now and then would never be idle.
    const timer = setTimeout(() => finish(undefined), waitMs);
    socket.on('connect', () => {
      const length = Buffer.alloc(2);
      length.writeUInt16BE(query.length);
      socket.write(Buffer.concat([length, query]));
    });
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (received.length < 2 || received.length < 2 + received.readUInt16BE(0)) return;
      const message = received.subarray(2, 2 + received.readUInt16BE(0));
      finish(answers(message, query) ? message : undefined);
    });
    socket.on('error', () => finish(undefined));
    socket.on('close', () => finish(undefined));
  });
}
