// Asks 127.0.0.11: an array of {hex, tcp, silent} on standard input, an array of the answers' hex on standard output, ''
// where none came. Behind each question goes one that is always answered: once that answer is there, no answer from rows
// can follow. Only for a silent question is that the end; an answer to any other may still come from the agent.
// Run by dns-differential.test.ts within a task's namespace.

import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { makeQuery } from '../support/dns.js';

const SERVER = '127.0.0.11';
const UDP_WORKERS = 24;
const TCP_WORKERS = 6;
const LOST_MS = 10_000;
const SENTINEL_ID = 0xfffe;
const sentinel = makeQuery({ name: 'sentinel.of.all', id: SENTINEL_ID });

interface Asked {
  readonly hex: string;
  readonly tcp: boolean;
  /** No answer is expected. */
  readonly silent: boolean;
}

/** Takes messages until it is clear what the answer is. */
function collector(silent: boolean, done: (answer: string) => void): { take(message: Buffer): void; end(): void } {
  let answer: string | undefined;
  let sentinels = 0;
  const finish = (): void => {
    clearTimeout(timer);
    done(answer ?? '');
  };
  const timer = setTimeout(() => {
    answer = 'lost';
    finish();
  }, LOST_MS);
  return {
    take(message) {
      if (message.readUInt16BE(0) === SENTINEL_ID) sentinels += 1;
      else answer = answer === undefined ? message.toString('hex') : 'twice';
      if (sentinels > 0 && (silent || answer !== undefined)) finish();
    },
    end: finish,
  };
}

function askUdp(query: Buffer, silent: boolean): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createSocket('udp4');
    const { take } = collector(silent, (answer) => {
      socket.close();
      resolve(answer);
    });
    socket.on('error', reject);
    socket.on('message', take);
    socket.connect(53, SERVER, () => {
      socket.send(query);
      socket.send(sentinel);
    });
  });
}

function askTcp(query: Buffer, silent: boolean): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(53, SERVER);
    let received = Buffer.alloc(0);
    let over = false;
    const { take, end } = collector(silent, (answer) => {
      over = true;
      socket.destroy();
      resolve(answer);
    });
    const framed = (message: Buffer): Buffer => Buffer.concat([Buffer.from([message.length >> 8, message.length & 255]), message]);
    socket.on('connect', () => socket.write(Buffer.concat([framed(query), framed(sentinel)])));
    socket.on('data', (data) => {
      received = Buffer.concat([received, data]);
      while (!over && received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
        const size = 2 + received.readUInt16BE(0);
        take(received.subarray(2, size));
        received = received.subarray(size);
      }
    });
    // A question that cannot be one ends the connection.
    socket.on('error', () => {});
    socket.on('close', () => over || end());
  });
}

const asked = JSON.parse(await text(process.stdin)) as Asked[];
const answers: string[] = [];
async function work(list: [number, Asked][], ask: (query: Buffer, silent: boolean) => Promise<string>): Promise<void> {
  for (let next = list.pop(); next !== undefined; next = list.pop()) {
    answers[next[0]] = await ask(Buffer.from(next[1].hex, 'hex'), next[1].silent);
  }
}
const all = [...asked.entries()].reverse();
const udp = all.filter(([, one]) => !one.tcp);
const tcp = all.filter(([, one]) => one.tcp);
await Promise.all([
  ...Array.from({ length: UDP_WORKERS }, () => work(udp, askUdp)), ...Array.from({ length: TCP_WORKERS }, () => work(tcp, askTcp)),
]);
process.stdout.write(JSON.stringify(answers));
