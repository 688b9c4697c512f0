// A node's way into a swarm and out of it when calls meet, and when the machine does not do what it is told.

import assert from 'node:assert/strict';
import http from 'node:http';
import path from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { pino } from 'pino';
import { startApi } from '../../src/api/server.js';
import { addressTowards } from '../../src/daemon/addresses.js';
import { unwrap } from '../../src/lib/result.js';
import { TestNode } from '../support/test-node.js';

const IN_SWARM = 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.';
const nodes: TestNode[] = [];
afterEach(async () => {
  for (const node of nodes.splice(0).reverse()) {
    await node.down();
    assert.deepEqual(node.bugs, []);
  }
});

async function make(): Promise<TestNode> {
  const node = await TestNode.make();
  nodes.push(node);
  return node;
}

function post(socketPath: string, url: string, body: object): Promise<{ status: number; message: string }> {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, path: url, method: 'POST', headers: { 'content-type': 'application/json' } }, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += String(chunk); });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, message: (JSON.parse(text || '{}') as { message?: string }).message ?? '' }));
    });
    request.on('error', reject);
    request.end(JSON.stringify(body));
  });
}

describe('joining', () => {
  it('lets one of several calls at once win; the others hear that the node is part of a swarm', async () => {
    const leader = await make();
    unwrap(await leader.init());
    const node = await make();
    const socketPath = path.join(node.stateDir, 'docker.sock');
    const api = await startApi({ socketPath, backend: node.node, logger: pino({ level: 'silent' }) });
    // A name takes time to be resolved: both calls are in the middle of that.
    const join = { ListenAddr: node.address, RemoteAddrs: [leader.address.replace('127.0.0.1', 'localhost')], JoinToken: leader.workerToken };
    const init = { ListenAddr: node.address, AdvertiseAddr: node.address };
    const answers = await Promise.all([
      post(socketPath, '/v1.50/swarm/join', join), post(socketPath, '/v1.50/swarm/join', join), post(socketPath, '/v1.50/swarm/init', init),
    ]);
    await api.close();
    const won = answers.filter(({ status }) => status === 200);
    const lost = answers.filter(({ status }) => status !== 200);
    assert.equal(won.length, 1, JSON.stringify(answers));
    for (const answer of lost) assert.deepEqual(answer, { status: 503, message: IN_SWARM });
    const known = leader.node.manager()?.view().list('node').length;
    assert.equal(known, node.node.local().isManager ? 1 : 2, 'no second self');
  });

  it('takes no address for its own that leads nowhere', async () => {
    assert.equal(await addressTowards('127.0.0.1'), '127.0.0.1');
    assert.equal(await addressTowards('255.255.255.255'), undefined);
    assert.equal(await addressTowards('no such host'), undefined);
  });
});
