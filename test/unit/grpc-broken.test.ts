// A peer that breaks its stream at any moment: the call ends, and is no bug of the handler that was reading it.

import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import tls from 'node:tls';
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { ManagerClient } from '../../src/io/grpc/client.js';
import { startGrpcServer, type Caller, type GrpcServer, type Outgoing } from '../../src/io/grpc/server.js';
import { createCsr, createRootCa, signCsr } from '../../src/io/x509/certificates.js';
import { ok, unwrap } from '../../src/lib/result.js';
import {
  AckSchema, InstallResponseSchema, ManagerGroup, NetworkView, ProposeRequestSchema, ProposeResponseSchema, SnapshotChunkSchema,
  type Ack, type SnapshotChunk, type Update,
} from '../../src/model/proto/skein_pb.js';

/** Longer than it takes until the server has seen the end of a connection. */
const SEEN_MS = 150;
let server: GrpcServer | undefined;
afterEach(async () => server?.close());

/** A server whose handlers wait, then read; their ends, and what was taken for a bug. */
async function serve(waitMs: number): Promise<{ client: ManagerClient; bugs: unknown[]; begun: () => number; ended: () => number }> {
  const root = await createRootCa(Date.now());
  const { key, csr } = await createCsr();
  const signed = await signCsr(root, {
    csr, nodeId: 'm1', organization: 'c', role: 'swarm-manager', expiryMs: 3_600_000, nowMs: Date.now(),
  });
  const certificate = unwrap(signed);
  const bugs: unknown[] = [];
  let [begun, ended] = [0, 0];
  const read = async (requests: AsyncIterable<object>): Promise<void> => {
    begun += 1;
    await sleep(waitMs);
    try {
      for await (const request of requests) assert.ok(request);
    } finally {
      ended += 1;
    }
  };
  server = await startGrpcServer({
    host: '127.0.0.1', port: 0, identity: { key, certificate, rootCa: root.certificate }, onBug: (error) => bugs.push(error),
    authorize: () => ok(undefined),
    services: [
      { service: NetworkView, handlers: {
        watch: async (requests: AsyncIterable<Ack>, _caller: Caller, _out: Outgoing<Update>) => read(requests),
      } },
      { service: ManagerGroup, handlers: {
        install: async (requests: AsyncIterable<SnapshotChunk>) => {
          await read(requests);
          return create(InstallResponseSchema);
        },
        propose: async () => {
          begun += 1;
          return create(ProposeResponseSchema);
        },
      } },
    ],
  });
  const client = new ManagerClient(`127.0.0.1:${server.port}`, { rootCa: root.certificate, key, certificate, serverName: 'swarm-manager' });
  return { client, bugs, begun: () => begun, ended: () => ended };
}

async function until(what: string, met: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 5000; !met(); await sleep(5)) assert.ok(Date.now() < deadline, what);
}

const STREAMS = {
  'both ways': (client: ManagerClient, first: boolean) => {
    const stream = client.duplex(NetworkView.method.watch);
    stream.on('error', () => undefined);
    if (first) stream.write(create(AckSchema));
    return stream;
  },
  'one way': (client: ManagerClient, first: boolean) => {
    const stream = client.clientStream(ManagerGroup.method.install, () => undefined);
    stream.on('error', () => undefined);
    if (first) stream.write(create(SnapshotChunkSchema));
    return stream;
  },
};

describe('a stream that its peer breaks', () => {
  for (const [kind, open] of Object.entries(STREAMS)) {
    for (const first of [false, true]) {
      for (const waitMs of [0, SEEN_MS]) {
        const moment = `${first ? 'after its first message' : 'before it said anything'}, ${waitMs > 0 ? 'before' : 'while'} it is read`;
        it(`${kind}, ${moment}`, async () => {
          const { client, bugs, begun, ended } = await serve(waitMs);
          const stream = open(client, first);
          await until('the call begins', () => begun() === 1);
          stream.cancel();
          await until('the call ends', () => ended() === 1);
          await sleep(20);
          assert.deepEqual(bugs, []);
          client.close();
        });
      }
    }
  }
});

it('a connection that ends in the moment its call begins is no bug', async (t) => {
  const { client, bugs, begun } = await serve(0);
  const ask = (): Promise<string> => client.unary(ManagerGroup.method.propose, create(ProposeRequestSchema), 2000)
    .then(() => 'answered', () => 'ended');
  assert.equal(await ask(), 'answered');
  const { getPeerCertificate } = tls.TLSSocket.prototype;
  const ends = t.mock.method(tls.TLSSocket.prototype, 'getPeerCertificate', function certificate(this: tls.TLSSocket) {
    this.destroy();
    return getPeerCertificate.call(this);
  });
  assert.equal(await ask(), 'ended');
  assert.ok(ends.mock.callCount() > 0);
  ends.mock.restore();
  assert.deepEqual(bugs, []);
  assert.equal(begun(), 1);
  assert.equal(await ask(), 'answered');
  client.close();
});
