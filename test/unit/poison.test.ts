// What comes in with a manager's certificate and is no message ends at the door: in the log, or in a snapshot, it would end every
// manager at every start.

import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { create, toBinary } from '@bufbuild/protobuf';
import type { Message } from '../../src/core/raft/types.js';
import { SwarmFiles } from '../../src/daemon/swarmstate.js';
import { ManagerClient } from '../../src/io/grpc/client.js';
import { toAppError } from '../../src/io/grpc/service.js';
import { encodeMessage } from '../../src/io/raftpeers/messages.js';
import { unwrap, type AppError } from '../../src/lib/result.js';
import { timestampFromMs } from '../../src/lib/time.js';
import {
  CommandSchema, ManagerGroup, ProposeRequestSchema, SnapshotChunkSchema, SnapshotFileSchema, StoreStateSchema,
} from '../../src/model/proto/skein_pb.js';
import { consensusOf, counted, write } from '../support/manager-node.js';
import { testNodes, type TestNode } from '../support/test-node.js';

const make = testNodes();
const clients: ManagerClient[] = [];
afterEach(() => {
  for (const client of clients.splice(0)) client.close();
});

/** A manager, and a client with a manager's certificate. */
async function swarm(): Promise<{ node: TestNode; client: ManagerClient }> {
  const node = await make();
  unwrap(await node.init());
  await write(node, 1);
  const certificates = await new SwarmFiles(node.stateDir).loadCertificates();
  const client = new ManagerClient(node.address, { ...certificates, serverName: 'swarm-manager' });
  clients.push(client);
  return { node, client };
}

async function stillWorks(node: TestNode): Promise<void> {
  await write(node, 2);
  await node.restart();
  assert.equal(counted(node), 2);
  await write(node, 3);
}

const command = (id: string): Uint8Array =>
  toBinary(CommandSchema, create(CommandSchema, { id, time: timestampFromMs(Date.now()), actions: [] }));

describe('poison with a manager\'s certificate', () => {
  it('that is no command is not proposed', async () => {
    const { node, client } = await swarm();
    const propose = (bytes: Uint8Array): Promise<boolean | AppError> =>
      client.unary(ManagerGroup.method.propose, create(ProposeRequestSchema, { command: bytes }), 3000)
        .then(({ taken }) => taken, toAppError);
    const before = consensusOf(node).status.last;
    const noise = [Buffer.from('garbage'), Buffer.alloc(40, 0xff), command('x').subarray(0, -1), Buffer.alloc(0), command('')];
    for (const bytes of noise) assert.deepEqual(await propose(bytes), { code: 'invalid_argument', message: 'the proposal is no command' });
    assert.equal(consensusOf(node).status.last, before);
    assert.equal(await propose(command('x')), true);
    await stillWorks(node);
  });

  it('that is no snapshot is not installed', async () => {
    const { node, client } = await swarm();
    const heartbeat: Message = {
      kind: 'heartbeat', to: consensusOf(node).raftId, from: 99n, term: 1000n, index: 0n, logTerm: 0n, entries: [], commit: 0n,
      reject: false, rejectHint: 0n, transfer: false, context: 0n, snapshot: undefined,
    };
    const install = (kind: Message['kind'], data: Uint8Array): Promise<AppError | undefined> => new Promise((resolve) => {
      const stream = client.clientStream(ManagerGroup.method.install, (error) => resolve(error === null ? undefined : toAppError(error)));
      stream.on('error', () => undefined); // Told above.
      stream.write(create(SnapshotChunkSchema, { message: encodeMessage({ ...heartbeat, kind }), data }));
      stream.end();
    });
    const file = (data: Uint8Array): Uint8Array =>
      toBinary(SnapshotFileSchema, create(SnapshotFileSchema, { index: 1000n, term: 999n, voters: [99n], data }));
    const ahead = toBinary(StoreStateSchema, create(StoreStateSchema, { index: 1001n }));
    for (const noise of [Buffer.from('garbage'), file(Buffer.from('garbage')), file(ahead)]) {
      assert.deepEqual(await install('snapshot', noise), { code: 'invalid_argument', message: 'the snapshot is damaged' });
    }
    const noSnapshot = { code: 'invalid_argument', message: 'a snapshot without its message' };
    assert.deepEqual(await install('heartbeat', file(new Uint8Array(0))), noSnapshot);
    await stillWorks(node);
  });
});
