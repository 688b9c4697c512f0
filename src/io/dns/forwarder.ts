// Forwarder: DNS questions that no row answers go to the node's upstream servers, as raw bytes under an id of our own.
// At most three servers, four seconds each; a server that refuses or fails hands over to the next (as Docker's
// resolver). More than IN_FLIGHT_MAX at once are refused.

import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { parseAddress } from '../../lib/cidr.js';

const SERVERS_MAX = 3;
const SERVER_TIMEOUT_MS = 4000;
const IN_FLIGHT_MAX = 1024;
const HEADER_BYTES = 12;
const RCODE = { servfail: 2, refused: 5 } as const;

export interface Upstream {
  readonly address: string;
  readonly port: number;
}

/** The machine's own servers, without loopback stubs that a task could mean itself by. */
export async function hostUpstreams(file = '/etc/resolv.conf'): Promise<Upstream[]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.split('\n').flatMap((line) => {
    const [keyword, address] = line.trim().split(/\s+/);
    return keyword === 'nameserver' && address !== undefined && address !== '127.0.0.11' ? [{ address, port: 53 }] : [];
  }).slice(0, SERVERS_MAX);
}

/** "192.0.2.1" or "192.0.2.1:5353". */
export function parseUpstream(text: string): Upstream | undefined {
  const match = /^(\d+\.\d+\.\d+\.\d+)(?::(\d{1,5}))?$/.exec(text);
  if (match === null || parseAddress(match[1] as string) === undefined) return undefined;
  return { address: match[1] as string, port: match[2] === undefined ? 53 : Number(match[2]) };
}

export class Forwarder {
  private inFlight = 0;
  readonly counts = { forwarded: 0, answered: 0, failed: 0, refused: 0 };
  /** Always answers: with the upstream's bytes, or SERVFAIL or REFUSED made from the question. */
  async forward(query: Uint8Array, tcp: boolean, upstreams: readonly Upstream[]): Promise<Uint8Array> {
    if (query.length < HEADER_BYTES) return new Uint8Array(0);
    if (this.inFlight >= IN_FLIGHT_MAX) {
      this.counts.refused += 1;
      return failure(query, RCODE.refused);
    }
    this.inFlight += 1;
    this.counts.forwarded += 1;
    try {
      for (const upstream of upstreams.slice(0, SERVERS_MAX)) {
        const answer = await (tcp ? askTcp : askUdp)(upstream, query);
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
  const answer = query.slice();
  answer[2] = (answer[2] ?? 0) | 0x80;
  answer[3] = ((answer[3] ?? 0) & 0xf0) | 0x80 | code;
  for (let i = 6; i < HEADER_BYTES; i++) answer[i] = 0;
  // Without the records that followed the question the message ends after it: find its end.
  let end = HEADER_BYTES;
  while (end < answer.length && answer[end] !== 0) end += (answer[end] as number) + 1;
  return answer.slice(0, Math.min(end + 5, answer.length));
}

function withId(message: Uint8Array, id: readonly [number, number]): Uint8Array {
  const copy = message.slice();
  copy[0] = id[0];
  copy[1] = id[1];
  return copy;
}

function askUdp(upstream: Upstream, query: Uint8Array): Promise<Uint8Array | undefined> {
  const own = randomBytes(2);
  const id: [number, number] = [own[0] as number, own[1] as number];
  return new Promise((resolve) => {
    const socket = createSocket(upstream.address.includes(':') ? 'udp6' : 'udp4');
    const finish = (answer: Uint8Array | undefined): void => {
      clearTimeout(timer);
      socket.removeAllListeners('message');
      try {
        socket.close();
      } catch {
        // Closed already by the error that brought us here.
      }
      resolve(answer === undefined ? undefined : withId(answer, [query[0] as number, query[1] as number]));
    };
    const timer = setTimeout(() => finish(undefined), SERVER_TIMEOUT_MS);
    socket.on('error', () => finish(undefined));
    // Connected: the kernel drops what comes from anyone else.
    socket.connect(upstream.port, upstream.address, () => {
      socket.on('message', (message) => {
        if (message.length >= HEADER_BYTES && message[0] === id[0] && message[1] === id[1]) finish(message);
      });
      socket.send(withId(query, id));
    });
  });
}

function askTcp(upstream: Upstream, query: Uint8Array): Promise<Uint8Array | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host: upstream.address, port: upstream.port, timeout: SERVER_TIMEOUT_MS });
    let received = Buffer.alloc(0);
    const finish = (answer: Uint8Array | undefined): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.on('connect', () => {
      const length = Buffer.alloc(2);
      length.writeUInt16BE(query.length);
      socket.write(Buffer.concat([length, query]));
    });
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) finish(received.subarray(2, 2 + received.readUInt16BE(0)));
      else if (received.length > 65_537) finish(undefined);
    });
    socket.on('timeout', () => finish(undefined));
    socket.on('error', () => finish(undefined));
    socket.on('close', () => finish(undefined));
  });
}
