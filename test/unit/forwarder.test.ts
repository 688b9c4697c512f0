// The DNS forwarder against servers that are away, silent, wrong or hostile: every question is answered in time, and
// none of them ends the agent.

import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { Forwarder, hostUpstreams, parseUpstream, type Upstream } from '../../src/io/dns/forwarder.js';
import { describeAnswer, makeQuery } from '../support/dns.js';

const query = makeQuery({ name: 'example.com', id: 4711 });
/** Sending to it is refused by the kernel while connecting (EACCES, as ENETUNREACH without a route). */
const UNREACHABLE: Upstream = { address: '255.255.255.255', port: 53 };
const closers: (() => void)[] = [];
after(() => closers.forEach((close) => close()));

/** As an upstream server answers: the question with the answer bit and a code. */
function answerTo(message: Uint8Array, code: number): Buffer {
  const answer = Buffer.from(message);
  answer[2] = (answer[2] as number) | 0x80;
  answer[3] = 0x80 | code;
  return answer;
}

async function udpServer(replies: (message: Buffer) => readonly Uint8Array[]): Promise<Upstream> {
  const socket = createSocket('udp4');
  socket.on('message', (message, from) => replies(message).forEach((reply) => socket.send(reply, from.port, from.address)));
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  closers.push(() => socket.close());
  return { address: '127.0.0.1', port: socket.address().port };
}

async function tcpServer(onQuery: (socket: Socket, message: Buffer) => void): Promise<Upstream> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('data', (data) => onQuery(socket, data.subarray(2)));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return { address: '127.0.0.1', port: (server.address() as AddressInfo).port };
}

async function ask(servers: readonly Upstream[], tcp = false, forwarder = new Forwarder()): Promise<string> {
  const answer = await forwarder.forward(query, tcp, async () => servers);
  assert.equal(answer.length > 1 && Buffer.from(answer).readUInt16BE(0), 4711, 'the asker\'s own id');
  return describeAnswer(answer);
}

describe('the DNS forwarder', () => {
  it('answers SERVFAIL when no server can be reached, or there is none', async () => {
    for (const tcp of [false, true]) {
      const forwarder = new Forwarder();
      const away = [UNREACHABLE, { address: 'fe80::1%nosuchdevice', port: 53 }, { address: '127.0.0.1', port: 1 }];
      assert.equal(await ask(away, tcp, forwarder), 'SERVFAIL');
      assert.equal(await ask([], tcp, forwarder), 'SERVFAIL');
      assert.deepEqual(forwarder.counts, { forwarded: 2, answered: 0, failed: 2, refused: 0 });
    }
  });

  it('goes on to the next server after one that cannot be reached, refuses or fails', async () => {
    const udp = await Promise.all([5, 2, 0].map((code) => udpServer((message) => [answerTo(message, code)])));
    assert.equal(await ask([udp[0] as Upstream, udp[1] as Upstream, udp[2] as Upstream]), 'NOERROR');
    assert.equal(await ask([UNREACHABLE, udp[2] as Upstream]), 'NOERROR');
    const tcp = await tcpServer((socket, message) => socket.write(Buffer.concat([Buffer.from([0, message.length]), answerTo(message, 0)])));
    assert.equal(await ask([UNREACHABLE, tcp], true), 'NOERROR');
  });

  it('takes no echo, no other id and no fragment of a message for the answer', async () => {
    const udp = await udpServer((message) => {
      const foreign = answerTo(message, 3);
      foreign[0] = (foreign[0] as number) ^ 0xff;
      return [message, foreign, Buffer.from([1]), answerTo(message, 0)];
    });
    assert.equal(await ask([udp]), 'NOERROR');
    const echo = await tcpServer((socket, message) => socket.write(Buffer.concat([Buffer.from([0, message.length]), message])));
    const empty = await tcpServer((socket) => socket.write(Buffer.from([0, 0])));
    const closing = await tcpServer((socket) => socket.end(Buffer.from([0, 40, 1, 2])));
    assert.equal(await ask([echo, empty, closing], true), 'SERVFAIL');
  });

  it('waits its time for a server, and a time in all, also for one that sends a byte now and then', async () => {
    const silent = await udpServer(() => []);
    const slow = await tcpServer((socket) => {
      socket.write(Buffer.from([0]));
      const timer = setInterval(() => socket.write(Buffer.from([255])), 50);
      socket.on('close', () => clearInterval(timer));
    });
    const since = performance.now();
    const timed = (...args: Parameters<typeof ask>) => ask(...args).then((words) => [words, performance.now() - since] as const);
    const [one, all] = await Promise.all([
      timed([slow], true, new Forwarder({ server: 800, total: 1800 })),
      timed([silent, silent, silent], false, new Forwarder({ server: 800, total: 1800 })),
    ]);
    assert.equal(one[0], 'SERVFAIL');
    assert.ok(one[1] > 750 && one[1] < 1500, `${one[1]} ms`);
    assert.equal(all[0], 'SERVFAIL');
    assert.ok(all[1] > 1750 && all[1] < 2300, `${all[1]} ms`);
  });

  it('refuses what is more than 1024 questions at once, before it looks for servers', async () => {
    const forwarder = new Forwarder();
    let release: () => void = () => undefined;
    let looked = 0;
    const released = new Promise<void>((resolve) => { release = resolve; });
    const waiting = Array.from({ length: 1024 }, () => forwarder.forward(query, false, async () => {
      looked += 1;
      await released;
      return [];
    }));
    assert.equal(await ask([], false, forwarder), 'REFUSED');
    assert.deepEqual([looked, forwarder.counts.refused], [1024, 1]);
    release();
    await Promise.all(waiting);
    assert.equal(await ask([], false, forwarder), 'SERVFAIL', 'there is room again');
  });

  it('reads addresses from resolv.conf and nothing else', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'skein-resolv-'));
    const file = path.join(folder, 'resolv.conf');
    const read = async (text: string): Promise<string[]> => {
      await writeFile(file, text);
      return (await hostUpstreams(file)).map(({ address }) => address);
    };
    assert.deepEqual(await read('search a b\nnameserver dns.example.com\nnameserver\nnameserver 192.0.2.300\nnameserver ::1::\n'), []);
    assert.deepEqual(await read('nameserver 127.0.0.11\n  nameserver 192.0.2.1 # first\n#nameserver 192.0.2.9\nnameserver fe80::1%eth0\n'),
      ['192.0.2.1', 'fe80::1%eth0']);
    assert.deepEqual(await hostUpstreams(path.join(folder, 'none')), []);
    await rm(folder, { recursive: true });
  });

  it('reads a server of an option or a service with a port there is', () => {
    assert.deepEqual(parseUpstream('192.0.2.1:5353'), { address: '192.0.2.1', port: 5353 });
    for (const bad of ['192.0.2.1:0', '192.0.2.1:65536', '192.0.2.1:99999', '192.0.2.256', 'name:53', '']) {
      assert.equal(parseUpstream(bad), undefined, bad);
    }
  });
});
