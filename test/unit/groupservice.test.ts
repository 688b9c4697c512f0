// What the end of a connection between managers says about the other end: only the end of its newest one says anything.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Message } from '../../src/core/raft/types.js';
import type { Consensus } from '../../src/daemon/manager/consensus.js';
import { IncomingLinks } from '../../src/daemon/manager/groupservice.js';
import type { Caller } from '../../src/io/grpc/server.js';
import type { Receiver } from '../../src/io/raftpeers/link.js';

const caller = (nodeId: string): Caller => ({ identity: { nodeId, organization: 'c', roles: ['swarm-manager'] }, address: '10.0.0.2' });
const heartbeat: Message = {
  kind: 'heartbeat', from: 2n, to: 1n, term: 1n, index: 0n, logTerm: 0n, entries: [], commit: 0n, reject: false, rejectHint: 0n,
  transfer: false, context: 0n, snapshot: undefined,
};

interface Links {
  readonly it: IncomingLinks;
  readonly suspected: bigint[];
  readonly stepped: Message[];
  readonly located: readonly (readonly [bigint, string | undefined])[];
}

function links(known = true, status: { leader?: bigint } = {}, removed: readonly bigint[] = []): Links {
  const suspected: bigint[] = [];
  const stepped: Message[] = [];
  const located: (readonly [bigint, string | undefined])[] = [];
  const consensus = {
    members: { get: () => (known ? { nodeId: 'n2' } : undefined), wasRemoved: (id: bigint) => removed.includes(id) },
    status: { hearsLeader: false, leader: 0n, activeConfState: { voters: [1n, 3n] }, ...status },
    step: (message: Message) => stepped.push(message),
    located: (member: bigint, addr: string | undefined) => located.push([member, addr]),
    suspect: (member: bigint) => suspected.push(member), leading: status.leader === 1n,
  } as unknown as Consensus;
  return { it: new IncomingLinks(() => consensus), suspected, stepped, located };
}

describe('links between managers', () => {
  test('an old one that ends late makes nobody suspect a member that has begun another', () => {
    const { it, suspected } = links();
    const old = it.open(caller('n2')) as Receiver;
    old.receive(heartbeat);
    const next = it.open(caller('n2')) as Receiver;
    next.receive(heartbeat);
    old.ended();
    assert.deepEqual(suspected, []);
    next.ended();
    assert.deepEqual(suspected, [2n]);
  });

  test('a message in the name of another manager is not heard, nor is a snapshot that did not come by its own call', () => {
    const { it, suspected, stepped } = links();
    const foreign = it.open(caller('n3')) as Receiver;
    foreign.receive(heartbeat);
    foreign.ended();
    const own = it.open(caller('n2')) as Receiver;
    own.receive({ ...heartbeat, kind: 'snapshot' });
    own.ended();
    assert.deepEqual([stepped, suspected], [[], []]);
  });

  test('say where their manager is reached as long as they stand, and speak for nobody else', () => {
    const { it, stepped, located } = links();
    const old = it.open(caller('n2')) as Receiver;
    old.begun({ raftId: 2n, addr: '10.0.0.9:2377' });
    const next = it.open(caller('n2')) as Receiver;
    next.begun({ raftId: 2n, addr: '0.0.0.0:2378' });
    old.ended();
    old.receive({ ...heartbeat, from: 3n });
    assert.deepEqual([located, stepped], [[[2n, '10.0.0.9:2377'], [2n, '10.0.0.2:2378']], []]);
    next.ended();
    assert.deepEqual(located.at(-1), [2n, undefined]);
    for (const addr of ['nowhere', '10.0.0.2:', '10.0.0.2:99999', '']) {
      const { it: wrong, located: at } = links();
      wrong.open(caller('n2'))?.begun({ raftId: 2n, addr });
      assert.deepEqual(at, [], addr);
    }
    const { it: foreign, located: nobody } = links();
    foreign.open(caller('n3'))?.begun({ raftId: 2n, addr: '10.0.0.3:2377' });
    assert.deepEqual(nobody, []);
  });

  test('of one that is not known here count where its coming may have been missed, and never after its going', () => {
    const heard = (status: object, removed: readonly bigint[] = []): number => {
      const { it, stepped } = links(false, status, removed);
      it.open(caller('n2'))?.receive(heartbeat);
      return stepped.length;
    };
    assert.equal(heard({}), 1, 'there is no leader');
    assert.equal(heard({ leader: 3n }), 1, 'a leader that has fallen silent');
    assert.equal(heard({ leader: 2n, hearsLeader: true }), 1, 'it leads');
    assert.equal(heard({ leader: 3n, hearsLeader: true }), 0, 'who leads knows it, or nobody does');
    assert.equal(heard({ leader: 1n, hearsLeader: true }), 0, 'this one leads');
    assert.equal(heard({ leader: 1n, hearsLeader: true, activeConfState: { voters: [1n] } }), 1, 'this one leads nobody else');
    assert.equal(heard({}, [2n]), 0, 'it was taken out');
  });
});
