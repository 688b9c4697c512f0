// Links between managers, with real TLS on loopback: who may open one, what arrives, and how the end of either side is told.

import assert from 'node:assert/strict';
import tls from 'node:tls';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { afterEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Message } from '../../src/core/raft/types.js';
import type { Credentials } from '../../src/io/grpc/client.js';
import { startGrpcServer, type Caller, type GrpcServer } from '../../src/io/grpc/server.js';
import { Link, acceptLink } from '../../src/io/raftpeers/link.js';
import { RAFT_PROTOCOL, type Sender } from '../../src/io/raftpeers/messages.js';
import { createCsr, createRootCa, signCsr } from '../../src/io/x509/certificates.js';
import { fail, ok, unwrap } from '../../src/lib/result.js';

const SELF: Sender = { raftId: 2n, addr: '10.0.0.2:2377' };
type Root = Awaited<ReturnType<typeof createRootCa>>;

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function credentials(root: Root, role: 'swarm-manager' | 'swarm-worker', nodeId: string): Promise<Credentials> {
  const { key, csr } = await createCsr();
  const certificate = unwrap(await signCsr(root, { csr, nodeId, organization: 'c', role, expiryMs: 3_600_000, nowMs: Date.now() }));
  return { rootCa: root.certificate, key, certificate, serverName: 'swarm-manager' };
}

interface Received {
  readonly server: GrpcServer;
  readonly messages: Message[];
  readonly senders: Sender[];
  readonly callers: Caller[];
  ended: number;
}

async function serve(root: Root): Promise<Received> {
  const { key, certificate } = await credentials(root, 'swarm-manager', 'm1');
  const messages: Message[] = [];
  const callers: Caller[] = [];
  const senders: Sender[] = [];
  const server = await startGrpcServer({
    host: '127.0.0.1', port: 0, identity: { key: key ?? '', certificate: certificate ?? '', rootCa: root.certificate }, services: [],
    onBug: (error) => { throw error; },
    authorize: (_path, { identity }) =>
      (identity?.roles.includes('swarm-manager') === true ? ok(undefined) : fail('permission_denied', 'no manager')),
    links: {
      protocol: RAFT_PROTOCOL, path: '/skein.v1.ManagerGroup/Link',
      accept: (socket, caller) => {
        callers.push(caller);
        acceptLink(socket, {
          begun: (sender) => senders.push(sender), receive: (message) => messages.push(message), ended: () => { received.ended += 1; },
        });
      },
    },
  });
  const received: Received = { server, messages, senders, callers, ended: 0 };
  closing.push(() => server.close());
  return received;
}

interface Opened {
  readonly link: Link;
  readonly told: string[];
}

function open(port: number, from: Credentials): Opened {
  const told: string[] = [];
  const link = new Link(`127.0.0.1:${port}`, from, SELF, { ready: () => told.push('ready'), ended: () => told.push('end') });
  closing.push(() => link.close());
  return { link, told };
}

async function until(what: string, met: () => boolean, ms = 5000): Promise<void> {
  for (const deadline = Date.now() + ms; !met(); await sleep(5)) assert.ok(Date.now() < deadline, what);
}

function message(index: bigint, bytes: number): Message {
  return {
    kind: 'append', to: 1n, from: 2n, term: 3n, index, logTerm: 3n, commit: 0n, reject: false, rejectHint: 0n, transfer: false, context: 0n,
    snapshot: undefined, entries: [{ index: index + 1n, term: 3n, kind: 'normal', data: Buffer.alloc(bytes, Number(index % 251n)) }],
  };
}

describe('a link', () => {
  it('carries messages of any size in order, those from before the connection stood too, and tells both ends of its end', async () => {
    const root = await createRootCa(Date.now());
    const received = await serve(root);
    const { link, told } = open(received.server.port, await credentials(root, 'swarm-manager', 'm2'));
    const sent = [10, 0, 70_000, 1, 1_500_000, 300].map((bytes, i) => message(BigInt(i), bytes));
    for (const one of sent) link.send([one]);
    await until('all arrive', () => received.messages.length === sent.length);
    link.send(sent.slice(0, 2));
    await until('a batch arrives', () => received.messages.length === sent.length + 2);
    assert.deepEqual(received.messages.map(({ index }) => index), [0n, 1n, 2n, 3n, 4n, 5n, 0n, 1n]);
    assert.deepEqual(received.messages.map(({ entries }) => entries[0]?.data.length), [10, 0, 70_000, 1, 1_500_000, 300, 10, 0]);
    assert.ok(sent.every((one, i) => Buffer.from(received.messages[i]?.entries[0]?.data ?? []).equals(one.entries[0]?.data as Buffer)));
    assert.deepEqual(received.callers.map(({ identity }) => identity?.nodeId), ['m2']);
    assert.deepEqual(received.senders, [SELF]);
    link.close();
    await until('the other end is told', () => received.ended === 1);
    assert.deepEqual(told, ['ready']);
    const next = open(received.server.port, await credentials(root, 'swarm-manager', 'm2'));
    await until('another one stands', () => next.told.includes('ready'));
    await received.server.close();
    await until('the end of the server is told', () => next.told.includes('end'));
  });

  it('is for managers of the swarm only', async () => {
    const root = await createRootCa(Date.now());
    const received = await serve(root);
    const worker = open(received.server.port, await credentials(root, 'swarm-worker', 'w1'));
    const stranger = open(received.server.port, {
      ...await credentials(await createRootCa(Date.now()), 'swarm-manager', 'm3'), rootCa: root.certificate,
    });
    await until('both end', () => worker.told.includes('end') && stranger.told.includes('end'));
    assert.deepEqual([received.callers, received.messages], [[], []]);
  });

  it('ends at what is no frame', async () => {
    const root = await createRootCa(Date.now());
    const received = await serve(root);
    const { key, certificate } = await credentials(root, 'swarm-manager', 'm2');
    for (const noise of [Buffer.alloc(64, 0xff), Buffer.from([0, 0, 0, 3, 0x0a, 0x7f, 0])]) {
      const before = received.ended;
      const socket = tls.connect({
        host: '127.0.0.1', port: received.server.port, ca: root.certificate, key, cert: certificate, servername: 'swarm-manager',
        ALPNProtocols: [RAFT_PROTOCOL],
      });
      closing.push(() => socket.destroy());
      socket.on('error', () => undefined); // It is reset.
      await once(socket, 'secureConnect');
      socket.write(noise);
      await until('it is ended', () => received.ended === before + 1);
    }
    assert.deepEqual(received.messages, []);
  });

  it('that nobody answers on ends: not made within a second, or silent for a few', async () => {
    const root = await createRootCa(Date.now());
    const from = await credentials(root, 'swarm-manager', 'm2');
    // Takes connections and says nothing.
    const mute = await listen(createServer((socket) => closing.push(() => socket.destroy())));
    const unmade = open(mute, from);
    await until('it is given up', () => unmade.told.includes('end'), 3000);
    assert.deepEqual(unmade.told, ['end']);
    const { key, certificate } = await credentials(root, 'swarm-manager', 'm1');
    const silent = await listen(tls.createServer({ key, cert: certificate, ALPNProtocols: [RAFT_PROTOCOL] } as tls.TlsOptions, (socket) => {
      closing.push(() => socket.destroy());
      socket.resume();
    }));
    const unanswered = open(silent, from);
    await until('it stands', () => unanswered.told.includes('ready'));
    await until('it is given up', () => unanswered.told.includes('end'), 8000);
  });
});

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => server.close());
  return (server.address() as AddressInfo).port;
}
