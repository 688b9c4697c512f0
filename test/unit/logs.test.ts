// Logs of services while nodes come and go: nothing is cut short without a word, nothing comes twice.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { LogBroker } from '../../src/daemon/manager/logbroker.js';
import { logBrokerHandlers } from '../../src/daemon/manager/logservice.js';
import type { Manager } from '../../src/daemon/manager/manager.js';
import { LogPublisher } from '../../src/daemon/worker/logs.js';
import type { ManagerClient } from '../../src/io/grpc/client.js';
import { timestampFromMs, timestampMs } from '../../src/lib/time.js';
import {
  LogContextSchema, LogMessageSchema, LogSelectorSchema, LogStream, LogSubscriptionOptionsSchema, PublishLogsMessageSchema,
  type LogMessage, type LogSubscriptionOptions, type PublishLogsMessage, type SubscriptionMessage, type Task,
} from '../../src/model/proto/swarmkit_pb.js';
import type { Executor, LogOptions, LogRecord } from '../../src/platform/executor.js';
import { Swarm } from './harness.js';

const WAITS = { resumeMs: 400, answerMs: 800 };

class World {
  readonly swarm = new Swarm({ nodes: 2 });
  readonly service = this.swarm.addService('web', { replicas: 2 });
  readonly broker: LogBroker;
  readonly lines: string[] = [];
  readonly abort = new AbortController();
  /** Of the leader; undefined when there is none. */
  term: AbortController | undefined = new AbortController();

  constructor() {
    this.swarm.settle();
    this.broker = new LogBroker(() => this.swarm.store, () => this.term?.signal, WAITS);
  }

  /** A node's session: what it is asked. */
  connect(nodeId: string): { asked: SubscriptionMessage[]; end: () => void } {
    const asked: SubscriptionMessage[] = [];
    const end = this.broker.listen(nodeId, (message) => { if (!message.close) asked.push(message); });
    return { asked, end };
  }

  /** Reads to the end; the text of the failure, or ''. */
  async read(options: Partial<Pick<LogSubscriptionOptions, 'follow' | 'tail'>> = {}): Promise<string> {
    const selector = create(LogSelectorSchema, { serviceIds: [this.service] });
    try {
      for await (const message of this.broker.subscribe(selector, create(LogSubscriptionOptionsSchema, options), this.abort.signal)) {
        this.lines.push(Buffer.from(message.data).toString());
      }
      return '';
    } catch (error) {
      return (error as Error).message;
    }
  }

  line(nodeId: string, atMs: number, text: string): LogMessage {
    const task = this.swarm.running(this.service).find((one) => one.nodeId === nodeId);
    return create(LogMessageSchema, {
      context: create(LogContextSchema, { serviceId: this.service, nodeId, taskId: task?.id ?? '' }),
      timestamp: timestampFromMs(atMs), stream: LogStream.STDOUT, data: Buffer.from(text),
    });
  }

  /** One PublishLogs call as the node makes it; resolves when it is answered or refused. */
  publish(nodeId: string, messages: Iterable<PublishLogsMessage> | AsyncIterable<PublishLogsMessage>): Promise<unknown> {
    const handler = logBrokerHandlers({ broker: this.broker, view: () => this.swarm.store } as unknown as Manager).publishLogs as
      (requests: AsyncIterable<PublishLogsMessage>, caller: object) => Promise<object>;
    const requests = (async function* () { yield* messages; })();
    return handler(requests, { identity: { nodeId, organization: '', roles: [] }, address: '' }).catch((error: unknown) => error);
  }

  message(asked: SubscriptionMessage | undefined, messages: LogMessage[], close = false): PublishLogsMessage {
    return create(PublishLogsMessageSchema, { subscriptionId: asked?.id ?? '', messages, close });
  }
}

async function until(what: string, met: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 3000; !met();) {
    assert.ok(Date.now() < deadline, `not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe('service logs', () => {
  it('are whole and come once when a node\'s session breaks half-way and it comes back', async () => {
    const world = new World();
    const [n1, n2] = [world.connect('n1'), world.connect('n2')];
    const failure = world.read();
    await until('both were asked', () => n1.asked.length === 1 && n2.asked.length === 1);
    await world.publish('n2', [world.message(n2.asked[0], [world.line('n2', 5, 'other')]), world.message(n2.asked[0], [], true)]);
    await world.publish('n1', [world.message(n1.asked[0], [world.line('n1', 1, 'one'), world.line('n1', 2, 'two'),
      world.line('n1', 2, 'two again')])]);
    n1.end();
    const again = world.connect('n1');
    assert.equal(again.asked[0]?.id, n1.asked[0]?.id, 'the open subscription was sent again');
    const lines = [world.line('n1', 1, 'one'), world.line('n1', 2, 'two'), world.line('n1', 2, 'two again'),
      world.line('n1', 2, 'two more'), world.line('n1', 3, 'three')];
    await world.publish('n1', [world.message(again.asked[0], lines), world.message(again.asked[0], [], true)]);
    assert.equal(await failure, '');
    assert.deepEqual(world.lines, ['other', 'one', 'two', 'two again', 'two more', 'three']);
  });

  it('say what is missing when it does not come back, when a node has no session, and when it is down', async () => {
    const world = new World();
    const n1 = world.connect('n1');
    const failure = world.read();
    await until('it was asked', () => n1.asked.length === 1);
    await world.publish('n1', [world.message(n1.asked[0], [world.line('n1', 1, 'one')])]);
    n1.end();
    const words = 'rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be retrieved for the following reasons: ';
    assert.equal(await failure, `${words}node n2 is not available, node n1 disconnected unexpectedly`);
    assert.deepEqual(world.lines, ['one']);

    const down = new World();
    down.swarm.nodeDown('n2');
    const session = down.connect('n1');
    const started = Date.now();
    const missing = down.read();
    await until('it was asked', () => session.asked.length === 1);
    await down.publish('n1', [down.message(session.asked[0], [], true)]);
    assert.equal(await missing, `${words}node n2 is not available`);
    assert.ok(Date.now() - started < WAITS.resumeMs, 'nobody waits for a node that is down');
  });

  it('say so when a node with a session does not answer', async () => {
    const world = new World();
    world.swarm.updateService(world.service, { replicas: 1 });
    world.swarm.advance(20_000);
    const session = world.connect(world.swarm.running(world.service)[0]?.nodeId ?? '');
    assert.match(await world.read(), /incomplete log stream.*: node n\d did not answer in time$/);
    assert.equal(session.asked.length, 1);
  });

  it('followed go on when the session is back, from where they were', async () => {
    const world = new World();
    const n1 = world.connect('n1');
    world.connect('n2');
    const end = world.read({ follow: true, tail: -2n });
    await until('it was asked', () => n1.asked.length === 1);
    const nowMs = Date.now();
    let back = false;
    const old = world.publish('n1', (async function* () {
      yield world.message(n1.asked[0], [world.line('n1', nowMs - 5000, 'last of before')]);
      await until('the node is asked again', () => back);
      yield world.message(n1.asked[0], [world.line('n1', nowMs + 1, 'from the old stream')]);
    })());
    await until('a line', () => world.lines.length === 1);
    n1.end();
    const again = world.connect('n1');
    back = true;
    const { options } = again.asked[0] ?? assert.fail('not asked again');
    assert.deepEqual([options?.follow, options?.tail, timestampMs(options?.since)], [true, 0n, nowMs - 5000],
      'from the last line on, not the last one again');
    assert.match(String(await old), /unknown subscription/, 'the broken session\'s stream is told to end');
    const lines = [world.line('n1', nowMs - 5000, 'last of before'), world.line('n1', nowMs + 1, 'while it was away'),
      world.line('n1', nowMs + 2, 'and after')];
    void world.publish('n1', [world.message(again.asked[0], lines)]);
    await until('the lines', () => world.lines.length >= 3);
    world.abort.abort();
    assert.equal(await end, '');
    assert.deepEqual(world.lines, ['last of before', 'while it was away', 'and after']);
  });

  it('followed say that a node is away, and go on when it is back', async () => {
    const world = new World();
    const n1 = world.connect('n1');
    world.connect('n2');
    const end = world.read({ follow: true });
    await until('it was asked', () => n1.asked.length === 1);
    n1.end();
    await until('the note', () => world.lines.length === 1);
    assert.equal(world.lines[0], 'skein: node n1 disconnected unexpectedly: its lines go on when it is back\n');
    const again = world.connect('n1');
    void world.publish('n1', [world.message(again.asked[0], [world.line('n1', 1, 'back')])]);
    await until('its line', () => world.lines[1] === 'back');
    world.abort.abort();
    await end;
  });

  it('end with the leader\'s term, also for a reader that takes its time, and begin in none', async () => {
    const over = 'the manager that gathered these logs does not lead the swarm any more: ask for them again';
    const world = new World();
    const n1 = world.connect('n1');
    const n2 = world.connect('n2');
    const ends = Promise.all([world.read(), world.read({ follow: true })]);
    const selector = create(LogSelectorSchema, { serviceIds: [world.service] });
    const options = create(LogSubscriptionOptionsSchema, { follow: true });
    const slow = world.broker.subscribe(selector, options, world.abort.signal)[Symbol.asyncIterator]();
    const first = slow.next();
    await until('all were asked', () => n1.asked.length === 3 && n2.asked.length === 3);
    await world.publish('n1', [world.message(n1.asked[2], [world.line('n1', 1, 'one'), world.line('n1', 2, 'two')])]);
    assert.equal(Buffer.from((await first).value?.data ?? []).toString(), 'one');
    const { term } = world;
    world.term = undefined;
    term?.abort();
    assert.match(String(await world.publish('n2', [world.message(n2.asked[2], [world.line('n2', 3, 'three')])])), /unknown subscription/,
      'nothing waits for the slow one');
    n1.end();
    const again = world.connect('n1');
    assert.deepEqual(again.asked, []);
    assert.deepEqual(await ends, [over, over]);
    assert.deepEqual(world.lines, [], 'not a word of nodes that are well');
    assert.equal(Buffer.from((await slow.next()).value?.data ?? []).toString(), 'two', 'what had come is not lost');
    await assert.rejects(slow.next(), { name: 'AppFailure', code: 'aborted', message: over });
    assert.match(await world.read(), /The swarm does not have a leader/);
  });
});

describe('a node', () => {
  it('publishes on its new session what it is asked again, and no more on the old one', async () => {
    const sent: { client: string; text: string; close: boolean }[] = [];
    const client = (name: string): ManagerClient => ({
      clientStream: () => ({
        on: () => undefined, end: () => sent.push({ client: name, text: 'ended', close: false }), cancel: () => undefined,
        write: (message: PublishLogsMessage, done: () => void) => {
          for (const line of message.messages) sent.push({ client: name, text: Buffer.from(line.data).toString(), close: message.close });
          setImmediate(done);
        },
      }),
    }) as unknown as ManagerClient;
    async function* logs(options: LogOptions): AsyncGenerator<LogRecord> {
      for (let i = 0; !options.signal.aborted; i++) {
        yield { timestampNs: BigInt(i), stream: 'stdout', data: Buffer.from('tick') };
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
    const task = { id: 't1', serviceId: 's1', status: { state: 512 } } as unknown as Task;
    const publisher = new LogPublisher({
      executor: { controller: () => ({ logs }) } as unknown as Executor, nodeId: () => 'n1', tasks: () => [task],
        onBug: (error) => { throw error; },
    });
    const message = {
      id: 'sub', close: false, selector: create(LogSelectorSchema, { serviceIds: ['s1'] }),
        options: create(LogSubscriptionOptionsSchema, { follow: true }),
    } as SubscriptionMessage;
    publisher.handle(message, client('old'));
    await until('a line', () => sent.length > 0);
    publisher.sessionEnded();
    publisher.handle(message, client('new'));
    await until('the old stream ends', () => sent.some(({ client: name, text }) => name === 'old' && text === 'ended'));
    await until('lines on the new one', () => sent.filter(({ client: name }) => name === 'new').length > 3);
    publisher.handle({ ...message, close: true }, client('new'));
    await until('the new one ends', () => sent.at(-1)?.text === 'ended');
  });
});
