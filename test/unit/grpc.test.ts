// The node protocol's transport: identities, refusals, streams, with real TLS on loopback.

import assert from 'node:assert/strict';
import net from 'node:net';
import tls from 'node:tls';
import http2 from 'node:http2';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { startGrpcServer, type Caller, type GrpcServer, type Outgoing } from '../../src/io/grpc/server.js';
import type { ConnectionLimits } from '../../src/io/grpc/connections.js';
import { ManagerClient } from '../../src/io/grpc/client.js';
import { codeOf } from '../../src/io/grpc/service.js';
import { checkIssued, createCsr, createRootCa, joinToken, parseJoinToken, signCsr } from '../../src/io/x509/certificates.js';
import { fail, ok, unwrap } from '../../src/lib/result.js';
import {
  CA, Dispatcher, GetRootCACertificateRequestSchema, GetRootCACertificateResponseSchema, HeartbeatRequestSchema,
  HeartbeatResponseSchema, SessionMessageSchema, SessionRequestSchema, type SessionMessage, type SessionRequest,
} from '../../src/model/proto/swarmkit_pb.js';

const NOW = Date.now();

async function issue(root: { key: string; certificate: string }, role: 'swarm-manager' | 'swarm-worker', nodeId: string, nowMs = NOW) {
  const { key, csr } = await createCsr();
  const certificate = unwrap(await signCsr(root, { csr, nodeId, organization: 'cluster', role, expiryMs: 3_600_000, nowMs }));
  return { key, certificate };
}

async function start(limits: Partial<ConnectionLimits> = {}): Promise<{ server: GrpcServer; root: { key: string; certificate: string }; callers: Caller[] }> {
  const root = await createRootCa(NOW);
  const manager = await issue(root, 'swarm-manager', 'mgr');
  const callers: Caller[] = [];
  const server = await startGrpcServer({
    host: '127.0.0.1',
    port: 0,
    identity: { ...manager, rootCa: root.certificate },
    onBug: (error) => { throw error; },
    limits,
    authorize: (path, caller) => {
      callers.push(caller);
      return path.includes('CA/') || caller.identity !== undefined ? ok(undefined) : fail('permission_denied', 'no certificate');
    },
    services: [
      { service: CA, handlers: { getRootCACertificate: async () =>
        create(GetRootCACertificateResponseSchema, { certificate: Buffer.from(root.certificate) }) } },
      {
        service: Dispatcher,
        handlers: {
          heartbeat: async () => create(HeartbeatResponseSchema, {}),
          session: async (_request: SessionRequest, _caller: Caller, out: Outgoing<SessionMessage>) => {
            await out.write(create(SessionMessageSchema, { sessionId: 'one' }));
            await out.write(create(SessionMessageSchema, { sessionId: 'two' }));
          },
        },
      },
    ],
  });
  return { server, root, callers };
}

test('a caller is known by its certificate, and anonymous without one', async () => {
  const { server, root, callers } = await start();
  const address = `127.0.0.1:${server.port}`;
  const anonymous = new ManagerClient(address, { rootCa: undefined, key: undefined, certificate: undefined, serverName: 'swarm-ca' });
  const answer = await anonymous.unary(CA.method.getRootCACertificate, create(GetRootCACertificateRequestSchema), 5000);
  assert.equal(Buffer.from(answer.certificate).toString(), root.certificate);
  assert.equal(callers[0]?.identity, undefined);
  await assert.rejects(anonymous.unary(Dispatcher.method.heartbeat, create(HeartbeatRequestSchema), 5000), /no certificate/);
  const worker = await issue(root, 'swarm-worker', 'w1');
  const client = new ManagerClient(address, { rootCa: root.certificate, ...worker, serverName: 'swarm-manager' });
  await client.unary(Dispatcher.method.heartbeat, create(HeartbeatRequestSchema), 5000);
  assert.deepEqual(callers.at(-1)?.identity, { nodeId: 'w1', organization: 'cluster', roles: ['swarm-worker'] });
  assert.equal(callers.at(-1)?.address, '127.0.0.1');
  const seen: string[] = [];
  for await (const message of client.serverStream(Dispatcher.method.session,
    create(SessionRequestSchema)) as AsyncIterable<SessionMessage>) seen.push(message.sessionId);
  assert.deepEqual(seen, ['one', 'two']);
  anonymous.close();
  client.close();
  await server.close();
});

test('an expired certificate and one of another root are refused', async () => {
  const { server, root } = await start();
  const address = `127.0.0.1:${server.port}`;
  const expired = await issue(root, 'swarm-worker', 'w1', NOW - 10 * 3_600_000);
  const foreign = await issue(await createRootCa(NOW), 'swarm-worker', 'w2');
  for (const bad of [expired, foreign]) {
    const client = new ManagerClient(address, { rootCa: root.certificate, ...bad, serverName: 'swarm-manager' });
    await assert.rejects(client.unary(Dispatcher.method.heartbeat, create(HeartbeatRequestSchema), 3000), (error) => codeOf(error) === 14
      || codeOf(error) === 4);
    client.close();
  }
  await server.close();
});

test('a client that offers no ALPN is served HTTP/2 all the same (trap T1)', async () => {
  const { server, root } = await start();
  const worker = await issue(root, 'swarm-worker', 'w1');
  const socket = tls.connect({ port: server.port, host: '127.0.0.1', servername: 'swarm-manager', ca: root.certificate, key: worker.key,
    cert: worker.certificate });
  await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject));
  assert.equal(socket.alpnProtocol, false);
  const session = http2.connect('https://swarm-manager', { createConnection: () => socket });
  const request = session.request({ ':method': 'POST', ':path': '/docker.swarmkit.v1.Dispatcher/Heartbeat',
    'content-type': 'application/grpc', te: 'trailers' });
  request.end(Buffer.from([0, 0, 0, 0, 0]));
  const trailers = await new Promise<http2.IncomingHttpHeaders>((resolve, reject) => {
    request.on('trailers', resolve).on('error', reject).resume();
  });
  assert.equal(trailers['grpc-status'], '0');
  session.destroy();
  await server.close();
});

/** Connections that say nothing: TCP alone, or TLS without a certificate. */
async function hold(port: number, kind: 'tcp' | 'tls', count: number,
  localAddress = '127.0.0.1'): Promise<{ open: () => number; end: () => void }> {
  const sockets = await Promise.all(Array.from({ length: count }, () => new Promise<net.Socket>((resolve) => {
    const plain = net.connect({ port, host: '127.0.0.1', localAddress });
    const socket = kind === 'tcp' ? plain : tls.connect({ socket: plain, rejectUnauthorized: false, ALPNProtocols: ['h2'] });
    socket.on('error', () => resolve(socket));
    socket.once(kind === 'tcp' ? 'connect' : 'secureConnect', () => resolve(socket));
    socket.resume();
  })));
  return {
    open: () => sockets.filter((socket) => !socket.destroyed && !socket.readableEnded).length,
    end: () => sockets.forEach((socket) => socket.destroy()),
  };
}

async function until(what: string, met: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 5000; !met();) {
    assert.ok(Date.now() < deadline, `not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

for (const kind of ['tcp', 'tls'] as const) {
  test(`hundreds of silent ${kind} connections keep neither a worker nor a joining node out`, async () => {
    const { server, root } = await start({ certified: 50, anonymous: 40 });
    const address = `127.0.0.1:${server.port}`;
    const held = await hold(server.port, kind, 300);
    await until('the quota holds', () => held.open() <= 40);
    assert.ok(server.counts.anonymousEvicted >= 260, `${server.counts.anonymousEvicted} counted`);
    const worker = new ManagerClient(address, { rootCa: root.certificate, ...await issue(root, 'swarm-worker', 'w1'),
      serverName: 'swarm-manager' });
    await worker.unary(Dispatcher.method.heartbeat, create(HeartbeatRequestSchema), 3000);
    const joining = new ManagerClient(address, { rootCa: undefined, key: undefined, certificate: undefined, serverName: 'swarm-ca' });
    await joining.unary(CA.method.getRootCACertificate, create(GetRootCACertificateRequestSchema), 3000);
    // More of them do not push the worker out either.
    const more = await hold(server.port, kind, 100);
    const evicted = server.counts.certifiedEvicted;
    await worker.unary(Dispatcher.method.heartbeat, create(HeartbeatRequestSchema), 3000);
    assert.equal(evicted, 0);
    for (const one of [held, more]) one.end();
    worker.close();
    joining.close();
    await server.close();
  });
}

test('a flood from one address closes its own connections, not those of another one', async (t) => {
  const { server } = await start({ anonymous: 40 });
  t.after(() => server.close());
  const joining = await hold(server.port, 'tls', 10, '127.0.0.3');
  t.after(joining.end);
  const flood = await hold(server.port, 'tls', 200, '127.0.0.2');
  t.after(flood.end);
  await until('the quota holds', () => flood.open() <= 30);
  const late = await hold(server.port, 'tls', 5, '127.0.0.4');
  t.after(late.end);
  await until('room was made', () => flood.open() <= 25);
  assert.deepEqual([joining.open(), late.open()], [10, 5]);
});

test('a handshake that does not go on ends', async (t) => {
  const { server } = await start({ handshakeMs: 300 });
  t.after(() => server.close());
  const held = await hold(server.port, 'tcp', 3);
  t.after(held.end);
  await until('handshakes expire', () => held.open() === 0);
  assert.equal(server.counts.handshakeExpired, 3);
});

test('a silent connection ends without a certificate; with one, or while it talks, it stays', async (t) => {
  const { server, root } = await start({ anonymousIdleMs: 800 });
  t.after(() => server.close());
  const certified = tls.connect({
    port: server.port, host: '127.0.0.1', servername: 'swarm-manager', ca: root.certificate,
      ...certOf(await issue(root, 'swarm-worker', 'w1')), ALPNProtocols: ['h2'],
  });
  t.after(() => certified.destroy());
  await new Promise((resolve, reject) => certified.once('secureConnect', resolve).once('error', reject));
  certified.resume();
  const talking = new ManagerClient(`127.0.0.1:${server.port}`,
    { rootCa: undefined, key: undefined, certificate: undefined, serverName: 'swarm-ca' });
  t.after(() => talking.close());
  const held = await hold(server.port, 'tls', 3);
  t.after(held.end);
  for (const deadline = Date.now() + 5000; held.open() > 0;) {
    assert.ok(Date.now() < deadline, 'the silent ones are still open');
    await talking.unary(CA.method.getRootCACertificate, create(GetRootCACertificateRequestSchema), 3000);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(server.counts.anonymousExpired, 3, 'the silent ones only');
  assert.equal(certified.destroyed || certified.readableEnded, false);
});

test('a connection without a certificate ends after its whole life, however much it says', async (t) => {
  const { server } = await start({ anonymousLifeMs: 500 });
  t.after(() => server.close());
  const talking = new ManagerClient(`127.0.0.1:${server.port}`,
    { rootCa: undefined, key: undefined, certificate: undefined, serverName: 'swarm-ca' });
  t.after(() => talking.close());
  // A call on the connection that ends may fail with it; another one has a new connection.
  const call = (): Promise<boolean> => talking.unary(CA.method.getRootCACertificate, create(GetRootCACertificateRequestSchema),
    3000).then(() => true, () => false);
  assert.ok(await call());
  for (const deadline = Date.now() + 5000; server.counts.anonymousExpired === 0;) {
    assert.ok(Date.now() < deadline, 'the one that talks ends too');
    await call();
  }
  for (const deadline = Date.now() + 5000; !await call();) assert.ok(Date.now() < deadline, 'and comes back');
});

test('one node cannot take the connections of the others', async () => {
  const { server, root } = await start({ perNode: 3, certified: 6 });
  const connect = async (nodeId: string): Promise<tls.TLSSocket> => {
    const socket = tls.connect({ port: server.port, host: '127.0.0.1', servername: 'swarm-manager', ca: root.certificate,
      ...certOf(await issue(root, 'swarm-worker', nodeId)) });
    socket.on('error', () => undefined).resume();
    await new Promise((resolve) => socket.once('secureConnect', resolve));
    return socket;
  };
  const other = await connect('w2');
  const many: tls.TLSSocket[] = [];
  for (let i = 0; i < 8; i++) many.push(await connect('w1'));
  await until('the oldest are closed', () => many.filter((socket) => !socket.destroyed).length === 3);
  assert.ok(many.slice(-3).every((socket) => !socket.destroyed) && !other.destroyed);
  assert.equal(server.counts.certifiedEvicted, 5);
  for (const socket of [...many, other]) socket.destroy();
  await server.close();
});

function certOf(from: { key: string; certificate: string }): { key: string; cert: string } {
  return { key: from.key, cert: from.certificate };
}

test('join tokens: digest over the exact bytes of the root, 50 and 25 base36 characters', async () => {
  const root = await createRootCa(NOW);
  const token = joinToken(root.certificate, 'a'.repeat(25));
  assert.match(token, /^SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}$/);
  assert.deepEqual(unwrap(parseJoinToken(token)).secret, 'a'.repeat(25));
  assert.notEqual(joinToken(`${root.certificate}\n`, 'a'.repeat(25)), token);
  for (const bad of ['', 'SWMTKN-1-x-y', token.replace('SWMTKN', 'SWMTKM'), `${token}-x`]) assert.equal(parseJoinToken(bad).ok, false);
});

test('an issued certificate is checked: chain, dates, identity', async () => {
  const root = await createRootCa(NOW);
  const { certificate } = await issue(root, 'swarm-manager', 'n1');
  assert.deepEqual(unwrap(checkIssued(certificate, root.certificate, NOW)),
    { nodeId: 'n1', organization: 'cluster', roles: ['swarm-manager'] });
  assert.equal(checkIssued(certificate, (await createRootCa(NOW)).certificate, NOW).ok, false);
  assert.equal(checkIssued(certificate, root.certificate, NOW + 5 * 3_600_000).ok, false);
});
