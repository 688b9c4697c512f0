// What the end of a connection between managers says about the other end: only the end of its newest one says anything.

import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { describe, test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { Consensus } from '../../src/daemon/manager/consensus.js';
import { groupServices } from '../../src/daemon/manager/groupservice.js';
import { RaftBatchSchema, RaftMessageSchema, RaftMessage_Kind } from '../../src/model/proto/skein_pb.js';

describe('streams between managers', () => {
  test('an old one that ends late makes nobody suspect a member that has begun another', async () => {
    const suspected: bigint[] = [];
    let steps = 0;
    const consensus = {
      members: { get: () => ({ nodeId: 'n2' }) }, step: () => { steps += 1; }, suspect: (member: bigint) => suspected.push(member),
    } as unknown as Consensus;
    const { group } = groupServices(() => consensus, () => undefined, () => ({
      rootCa: undefined, key: undefined, certificate: undefined, serverName: 'swarm-manager',
    }));
    const message = create(RaftMessageSchema, { kind: RaftMessage_Kind.HEARTBEAT, from: 2n, to: 1n });
    const stream = (): { it: PassThrough; done: Promise<unknown> } => {
      const it = new PassThrough({ objectMode: true });
      const handler = group.exchange as unknown as (requests: unknown, caller: unknown) => Promise<unknown>;
      return { it, done: handler(it, { identity: { nodeId: 'n2' } }) };
    };
    const told = async (it: PassThrough): Promise<void> => {
      const before = steps;
      it.write(create(RaftBatchSchema, { messages: [message] }));
      while (steps === before) await new Promise((resolve) => setImmediate(resolve));
    };
    const old = stream();
    await told(old.it);
    const next = stream();
    await told(next.it);
    old.it.end();
    await old.done;
    assert.deepEqual(suspected, []);
    next.it.destroy(new Error('read ECONNRESET'));
    await next.done;
    assert.deepEqual(suspected, [2n]);
  });
});
