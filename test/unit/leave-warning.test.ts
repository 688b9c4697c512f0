// What a manager is told that is asked to leave without --force: Docker's words, by what that does to the quorum (moby's
// removingManagerCausesLossOfQuorum).

import assert from 'node:assert/strict';
import http from 'node:http';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { pino } from 'pino';
import type { NodeBackend } from '../../src/api/backend.js';
import { startApi } from '../../src/api/server.js';
import {
  ManagerStatusSchema, NodeRole, NodeSchema, RaftMemberStatus_Reachability as Reachability,
} from '../../src/model/proto/swarmkit_pb.js';

const MANAGER = 'You are attempting to leave the swarm on a node that is participating as a manager. ';
const ONLY_WAY = 'The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. '
  + 'Use `--force` to suppress this message.';

/** Answers as a manager would that sees these members, and so many nodes that left by force. */
async function warning(reachable: number, unreachable: number, left: number): Promise<string> {
  const status = (reachability: Reachability) => create(NodeSchema, {
    role: NodeRole.MANAGER, managerStatus: create(ManagerStatusSchema, { reachability }),
  });
  const nodes = [
    ...Array.from({ length: reachable }, () => status(Reachability.REACHABLE)),
    ...Array.from({ length: unreachable }, () => status(Reachability.UNREACHABLE)),
    ...Array.from({ length: left }, () => create(NodeSchema, { role: NodeRole.MANAGER })),
  ];
  const manager = { view: () => ({ list: () => nodes }), fresh: async () => true, onEvents: () => () => undefined };
  const backend = { local: () => ({ state: 'active', isManager: true }), manager: () => manager } as unknown as NodeBackend;
  const directory = await mkdtemp(path.join(os.tmpdir(), 'skein-leave-'));
  const socketPath = path.join(directory, 'docker.sock');
  const api = await startApi({ socketPath, backend, logger: pino({ level: 'silent' }) });
  const text = await new Promise<string>((resolve, reject) => {
    http.request({ socketPath, path: '/v1.50/swarm/leave', method: 'POST' }, (response) => {
      let body = '';
      response.on('data', (chunk) => { body += String(chunk); });
      response.on('end', () => resolve(body));
    }).on('error', reject).end();
  });
  await api.close();
  await rm(directory, { recursive: true });
  return (JSON.parse(text) as { message: string }).message;
}

const LAST = 'Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ';
const leaves = (managers: string): string =>
  `Removing this node leaves ${managers}. Without a Raft quorum your swarm will be inaccessible. ${ONLY_WAY}`;

for (const { reachable, unreachable, left, says } of [
  { reachable: 1, unreachable: 0, left: 2, says: LAST },
  { reachable: 3, unreachable: 0, left: 2, says: ONLY_WAY },
  { reachable: 4, unreachable: 1, left: 0, says: ONLY_WAY },
  { reachable: 2, unreachable: 0, left: 0, says: leaves('1 managers out of 2') },
  { reachable: 3, unreachable: 1, left: 0, says: leaves('2 managers out of 4') },
  { reachable: 2, unreachable: 1, left: 1, says: leaves('1 managers out of 3') },
]) {
  test(`${reachable} managers are heard from, ${unreachable} are not, ${left} have left by force`, async () => {
    assert.equal(await warning(reachable, unreachable, left), `${MANAGER}${says}`);
  });
}
