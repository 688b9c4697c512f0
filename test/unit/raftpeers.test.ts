// Connections between managers over a change of certificates: what is to be sent still arrives, and nobody is told of an end,
// however long the new ones take to be made.

import assert from 'node:assert/strict';
import net, { type AddressInfo } from 'node:net';
import { afterEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Message } from '../../src/core/raft/types.js';
import type { Credentials } from '../../src/io/grpc/client.js';
import { startGrpcServer } from '../../src/io/grpc/server.js';
import { acceptLink } from '../../src/io/raftpeers/link.js';
import { RAFT_PROTOCOL } from '../../src/io/raftpeers/messages.js';
import { RaftPeers } from '../../src/io/raftpeers/peers.js';
import { createCsr, createRootCa, signCsr } from '../../src/io/x509/certificates.js';
import { ok, unwrap } from '../../src/lib/result.js';

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function until(what: string, met: () => boolean, ms = 5000): Promise<void> {
  for (const deadline = Date.now() + ms; !met(); await sleep(5)) assert.ok(Date.now() < deadline, what);
}

const heartbeat = (context: bigint): Message => ({
  kind: 'heartbeat', to: 1n, from: 2n, term: 1n, index: 0n, logTerm: 0n, entries: [], commit: 0n, reject: false, rejectHint: 0n,
  transfer: false, context, snapshot: undefined,
});

/** What the other end sees of one link. */
interface Seen {
  readonly heard: bigint[];
  ended: boolean;
}

interface Other {
  readonly address: string;
  readonly links: Seen[];
  readonly credentials: () => Credentials;
  /** As long as it is set, what comes in by new connections is not read. */
  slow: boolean;
}

/** Another manager, behind a relay that may be slow to take connections. */
async function other(): Promise<Other> {
  const root = await createRootCa(Date.now());
  const { key, csr } = await createCsr();
  const certificate = unwrap(await signCsr(root, { csr, nodeId: 'm1', organization: 'c', role: 'swarm-manager', expiryMs: 3_600_000,
    nowMs: Date.now() }));
  const links: Seen[] = [];
  const server = await startGrpcServer({
    host: '127.0.0.1', port: 0, identity: { key, certificate, rootCa: root.certificate }, services: [], onBug: (error) => { throw error; },
    authorize: () => ok(undefined),
    links: {
      protocol: RAFT_PROTOCOL, path: '/skein.v1.ManagerGroup/Link',
      accept: (socket) => {
        const seen: Seen = { heard: [], ended: false };
        acceptLink(socket, {
          begun: () => links.push(seen), receive: ({ context }) => seen.heard.push(context), ended: () => { seen.ended = true; },
        });
      },
    },
  });
  closing.push(() => server.close());
  const relay = net.createServer((socket) => {
    const way = net.connect(server.port, '127.0.0.1');
    for (const end of [socket, way]) {
      end.on('error', () => undefined); // The other one ends with it.
      end.on('close', () => [socket, way].forEach((each) => each.destroy()));
      closing.push(() => end.destroy());
    }
    way.pipe(socket);
    if (!made.slow) socket.pipe(way);
  });
  await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve));
  closing.push(() => relay.close());
  const made: Other = {
    address: `127.0.0.1:${(relay.address() as AddressInfo).port}`, links, slow: false,
    credentials: () => ({ rootCa: root.certificate, key, certificate, serverName: 'swarm-manager' }),
  };
  return made;
}

function peersTo(to: Other, unreachable: bigint[]): RaftPeers {
  const peers = new RaftPeers({
    self: { raftId: 2n, addr: '10.0.0.2:2377' }, credentials: to.credentials, readSnapshot: async () => new Uint8Array(0),
    onUnreachable: (member) => unreachable.push(member), onSnapshotSent: () => undefined, onBug: (error) => { throw error; },
  });
  closing.push(() => peers.close());
  peers.setMembers(new Map([[1n, to.address]]));
  return peers;
}

describe('new certificates', () => {
  it('interrupt nothing: the old connection goes on until the new one is heard, also where that takes seconds', async () => {
    const to = await other();
    const unreachable: bigint[] = [];
    const peers = peersTo(to, unreachable);
    let count = 0n;
    const send = (): void => peers.send([heartbeat(++count)]);
    send();
    await until('the first link', () => to.links[0]?.heard.length === 1);

    to.slow = true;
    peers.reconnect();
    peers.reconnect();
    for (const end = Date.now() + 2500; Date.now() < end; await sleep(50)) send();
    await until('all have arrived', () => to.links[0]?.heard.length === Number(count));
    assert.deepEqual([to.links.length, to.links[0]?.ended, unreachable], [1, false, []]);

    to.slow = false;
    await until('the second link', () => {
      send();
      return (to.links[1]?.heard.length ?? 0) > 0;
    });
    assert.equal(to.links[0]?.ended, false, 'what it carries still arrives');
    await until('the end of the first one', () => to.links[0]?.ended === true);
    send();
    await until('the last', () => to.links[1]?.heard.at(-1) === count);
    assert.deepEqual(to.links.flatMap(({ heard }) => heard), Array.from({ length: Number(count) }, (_, i) => BigInt(i + 1)));
    assert.deepEqual([to.links.length, to.links[1]?.ended, unreachable], [2, false, []]);
  });

  it('while a connection is still being made wait for none', async () => {
    const to = await other();
    const unreachable: bigint[] = [];
    const peers = peersTo(to, unreachable);
    peers.reconnect();
    peers.send([heartbeat(1n)]);
    await until('it arrives', () => to.links.some(({ heard }) => heard.length === 1));
    peers.close();
    await until('all end', () => to.links.every(({ ended }) => ended));
  });
});
