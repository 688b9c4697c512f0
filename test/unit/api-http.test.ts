// The HTTP side: version gate, error JSON, limits, streams and what a disconnect leaves behind.

import assert from 'node:assert/strict';
import http from 'node:http';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { pino } from 'pino';
import { startApi, type ApiServer } from '../../src/api/server.js';
import { createAction } from '../../src/core/store/actions.js';
import { toPairs } from '../../src/model/pairs.js';
import { AnnotationsSchema, NetworkSchema, NetworkSpecSchema } from '../../src/model/proto/swarmkit_pb.js';
import { FakeNode } from '../support/fake-node.js';

let folder: string;
let socketPath: string;
let api: ApiServer;
const node = new FakeNode();
const logger = pino({ level: 'silent' });

before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'skein-api-'));
  socketPath = path.join(folder, 'docker.sock');
  api = await startApi({ socketPath, backend: node, logger });
});

after(async () => {
  node.stop();
  await api.close();
  await rm(folder, { recursive: true });
});

interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly text: string;
}

function open(method: string, url: string): { request: http.ClientRequest; response: Promise<http.IncomingMessage> } {
  const request = http.request({ socketPath, method, path: url, agent: false });
  const response = new Promise<http.IncomingMessage>((resolve, reject) => {
    request.once('response', resolve);
    request.once('error', reject);
  });
  return { request, response };
}

async function ask(method: string, url: string, body?: unknown): Promise<Answer> {
  const { request, response } = open(method, url);
  request.end(body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body));
  const answer = await response;
  let text = '';
  for await (const chunk of answer) text += String(chunk);
  return { status: answer.statusCode ?? 0, headers: answer.headers, text };
}

function message(answer: Answer): string {
  return (JSON.parse(answer.text) as { message: string }).message;
}

async function eventually(check: () => boolean): Promise<void> {
  for (let i = 0; i < 200; i++) {
    if (check()) return;
    await sleep(10);
  }
  assert.fail('did not happen within 2 s');
}

test('ping says what this is, with and without a version', async () => {
  for (const url of ['/_ping', '/v1.24/_ping', '/v1.50/_ping']) {
    const answer = await ask('GET', url);
    assert.equal(answer.text, 'OK');
    assert.equal(answer.headers['api-version'], '1.50');
    assert.equal(answer.headers.ostype, 'linux');
    assert.equal(answer.headers.swarm, 'inactive');
  }
  assert.equal((await ask('HEAD', '/_ping')).status, 200);
});

test('versions outside the range, unknown paths', async () => {
  const tooNew = await ask('GET', '/v1.99/info');
  assert.equal(tooNew.status, 400);
  assert.match(message(tooNew), /client version 1.99 is too new. Maximum supported API version is 1.50/);
  assert.match(message(await ask('GET', '/v1.12/info')), /client version 1.12 is too old/);
  const unknown = await ask('GET', '/v1.50/nothing');
  assert.deepEqual([unknown.status, message(unknown)], [404, 'page not found']);
});

test('the socket is private to its group and a second server is refused', async () => {
  assert.equal((await stat(socketPath)).mode & 0o777, 0o660);
  await assert.rejects(startApi({ socketPath, backend: node, logger }), /in use by another process/);
});

test('a socket left by a killed process is replaced', async () => {
  const stale = path.join(folder, 'killed.sock');
  const { spawnSync } = await import('node:child_process');
  spawnSync(process.execPath, ['-e',
    `require('net').createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 'SIGKILL'))`]);
  assert.ok((await stat(stale)).isSocket());
  const second = await startApi({ socketPath: stale, backend: new FakeNode(), logger });
  await second.close();
});

test('outside a swarm the manager commands answer 503', async () => {
  for (const url of ['/nodes', '/services', '/tasks', '/secrets', '/configs', '/swarm']) {
    const answer = await ask('GET', url);
    assert.equal(answer.status, 503);
    assert.equal(message(answer), 'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
      + 'connect this node to swarm and try again.');
  }
});

test('a malformed path is not a crash', async () => {
  assert.equal((await ask('GET', '/services/%zz')).status, 404);
  assert.equal((await ask('GET', '//')).status, 404);
});

test('a large upload that is refused still gets its answer', async () => {
  const answer = await ask('POST', '/build', 'x'.repeat(30 * 1024 * 1024));
  assert.equal(answer.status, 501);
  node.executor.images.failWith = 'invalid tar header';
  const load = await ask('POST', '/images/load', 'x'.repeat(30 * 1024 * 1024));
  node.executor.images.failWith = undefined;
  assert.deepEqual([load.status, message(load)], [400, 'invalid tar header']);
});

test('what is not supported says so', async () => {
  for (const [method, url] of [['POST', '/containers/create'], ['POST', '/build'], ['POST', '/containers/x/exec'], ['POST', '/images/create?fromImage=a']] as const) {
    const answer = await ask(method, url, {});
    assert.equal(answer.status, 501, url);
    assert.match(message(answer), /not supported/);
  }
});

test('bad bodies', async () => {
  assert.match(message(await ask('POST', '/swarm/init', '{')), /invalid JSON/);
  assert.match(message(await ask('POST', '/swarm/init', '[]')), /body must be an object/);
  assert.match(message(await ask('POST', '/swarm/init', { ListenAddr: 5 })), /body.ListenAddr must be a string/);
  const large = await ask('POST', '/swarm/init', `{"x":"${'a'.repeat(20 * 1024 * 1024)}"}`);
  assert.deepEqual([large.status, message(large)], [400, 'request body is larger than 4194304 bytes']);
});

test('init, and what needs it', async () => {
  const init = await ask('POST', '/swarm/init', { ListenAddr: '0.0.0.0:2377', AdvertiseAddr: '127.0.0.1', Spec: {} });
  assert.equal(init.status, 200);
  assert.match(JSON.parse(init.text) as string, /^[0-9a-z]{25}$/);
  assert.equal((await ask('HEAD', '/_ping')).headers.swarm, 'active/manager');
  const again = await ask('POST', '/swarm/init', { ListenAddr: '', AdvertiseAddr: '127.0.0.1' });
  assert.deepEqual([again.status, message(again)], [503,
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.']);
  const bad = await ask('POST', '/services/x/update?version=y', {});
  assert.equal(bad.status, 400);
  assert.match(message(await ask('GET', '/services?filters={"bogus":["1"]}')), /invalid filter 'bogus'/);
});

test('filters with values that nothing can have are refused', async () => {
  const asked = async (path: string, filters: object): Promise<string> =>
    message(await ask('GET', `${path}?filters=${encodeURIComponent(JSON.stringify(filters))}`));
  assert.equal(await asked('/nodes', { role: ['boss'] }), "invalid role filter: 'boss'");
  assert.equal(await asked('/nodes', { membership: ['boss'] }), "invalid membership filter: 'boss'");
  assert.equal(await asked('/networks', { type: ['boss'] }), "invalid filter: 'type'='boss'");
});

test('pruning networks spares what the filters and the swarm keep', async () => {
  for (const [name, labels] of [['keep', { keep: '1' }], ['old', {}]] as const) {
    assert.equal((await ask('POST', '/networks/create', { Name: name, Driver: 'overlay', Labels: labels })).status, 201);
  }
  node.apply([createAction('network', create(NetworkSchema, { id: 'local1', spec: create(NetworkSpecSchema, {
    annotations: create(AnnotationsSchema, { name: 'host', labels: toPairs({ 'com.docker.swarm.predefined': 'true' }) }) }) }))]);
  const prune = async (filters: object): Promise<unknown> => {
    const answer = await ask('POST', `/networks/prune?filters=${encodeURIComponent(JSON.stringify(filters))}`);
    return answer.status === 200 ? (JSON.parse(answer.text) as { NetworksDeleted: unknown }).NetworksDeleted : message(answer);
  };
  for (const until of ['1h', '1h30m0.5s', '1600000000', '2020-01-01T00:00:00Z']) assert.deepEqual(await prune({ until: [until] }), []);
  assert.equal(await prune({ until: ['soon'] }), 'failed to parse value as time or duration: "soon"');
  assert.deepEqual(await prune({ 'label!': ['keep'] }), ['old']);
  assert.deepEqual(await prune({}), ['keep']);
  assert.ok(node.view.get('network', 'local1') !== undefined);
});

test('a stale version is refused in the words scripts look for', async () => {
  const created = await ask('POST', '/services/create', { Name: 'web', TaskTemplate: { ContainerSpec: { Image: 'app:1' } } });
  assert.equal(created.status, 201);
  const id = (JSON.parse(created.text) as { ID: string }).ID;
  const stale = await ask('POST', `/services/${id}/update?version=1`, { Name: 'web', TaskTemplate: { ContainerSpec: { Image: 'app:2' } } });
  assert.deepEqual([stale.status, message(stale)], [500, 'rpc error: code = Unknown desc = update out of sequence']);
});

test('logs are framed; tail, timestamps and details', async () => {
  await eventually(() => node.view.list('task').some((task) => task.status?.state === 512));
  const url = '/services/web/logs?stdout=1&stderr=1&tail=1&timestamps=1&details=1';
  const { request, response } = open('GET', url);
  request.end();
  const answer = await response;
  assert.equal(answer.headers['content-type'], 'application/vnd.docker.multiplexed-stream');
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk as Buffer);
  const all = Buffer.concat(chunks);
  assert.equal(all[0], 1);
  assert.equal(all.readUInt32BE(4), all.length - 8);
  assert.match(all.subarray(8).toString(),
    /^2023-11-14T22:13:20.002000000Z com.docker.swarm.node.id=\w{25},com.docker.swarm.service.id=\w{25},com.docker.swarm.task.id=\w{25} line 2\n$/);
  assert.match(message(await ask('GET', '/services/web/logs')), /you must choose at least one stream/);
});

test('logs that end too early say so in the stream, as an error of the daemon', async () => {
  node.logFailure = 'warning: incomplete log stream';
  const { request, response } = open('GET', '/services/web/logs?stdout=1&tail=1');
  request.end();
  const chunks: Buffer[] = [];
  for await (const chunk of await response) chunks.push(chunk as Buffer);
  node.logFailure = '';
  const all = Buffer.concat(chunks);
  const second = 8 + all.readUInt32BE(4);
  assert.deepEqual([all[0], all[second]], [1, 3]);
  assert.equal(all.subarray(second + 8).toString(), 'Error grabbing logs: warning: incomplete log stream\n');
});

test('events stream, and a disconnect ends the subscription', async () => {
  const { request, response } = open('GET', '/events?filters={"type":["network"]}');
  request.end();
  const answer = await response;
  await eventually(() => node.listening === 1);
  await ask('POST', '/networks/create', { Name: 'n1', Driver: 'overlay' });
  const [first] = await Promise.race([
    new Promise<Buffer[]>((resolve) => answer.once('data', (chunk: Buffer) => resolve([chunk]))), sleep(2000).then(() => []),
  ]) as Buffer[];
  const event = JSON.parse(String(first).split('\n')[0] ?? '') as { Type: string; Action: string; scope: string };
  assert.deepEqual([event.Type, event.Action, event.scope], ['network', 'create', 'swarm']);
  request.destroy();
  await eventually(() => node.listening === 0);
  const past = await ask('GET', '/events?until=1');
  assert.deepEqual([past.status, past.text], [200, '']);
});

test('a followed log ends when the client leaves', async () => {
  const { request, response } = open('GET', '/services/web/logs?stdout=1&follow=1');
  request.end();
  const answer = await response;
  await new Promise((resolve) => answer.once('data', resolve));
  request.destroy();
  await eventually(() => node.following === 0);
});

test('closing the server ends its streams', async () => {
  const second = path.join(folder, 'second.sock');
  const other = await startApi({ socketPath: second, backend: node, logger });
  const request = http.request({ socketPath: second, path: '/events', agent: false }).end();
  const answer = await new Promise<http.IncomingMessage>((resolve, reject) => {
    request.once('response', resolve);
    request.once('error', reject);
  });
  answer.on('error', () => undefined);
  await eventually(() => node.listening === 1);
  await other.close();
  await eventually(() => node.listening === 0);
});

test('a client that does not read stops the source', async () => {
  node.flood = true;
  const { request, response } = open('GET', '/services/web/logs?stdout=1&follow=1');
  request.end();
  const answer = await response;
  answer.pause();
  let seen = -1;
  for (let i = 0; i < 100 && seen !== node.produced; i++) {
    seen = node.produced;
    await sleep(100);
  }
  assert.equal(seen, node.produced);
  assert.ok(seen < 64 * 1024 * 1024, `${seen} bytes were buffered`);
  request.destroy();
  await eventually(() => node.following === 0);
  node.flood = false;
});
