// The data plane and its client under SIGKILL: connections go on, rows come back, nobody runs twice.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { DatapathClient } from '../../src/io/datapath/client.js';
import { INGRESS, NET_A, type Program, sleep, until, World } from './datapath-world.js';

const a = (address: string) => ({ vni: NET_A.vni, address, prefix: 24 });
const ingress = (address: string) => ({ vni: INGRESS.vni, address, prefix: 16 });
const backend = (address: string) => ({ taskId: address, address, weight: 1, draining: false });
const BINARY = path.resolve(import.meta.dirname, '../../../build/skein-datapath');

/** The longest time between two echoes, and that none is missing. */
function longestGapMs(program: Program): number {
  const times = program.lines.filter((l) => l.includes(' tick ')).map((l) => Number(l.split(' ')[0]));
  return times.reduce((gap, t, i) => Math.max(gap, i === 0 ? 0 : t - (times[i - 1] ?? t)), 0);
}

describe('datapath restarts', { timeout: 120_000 }, () => {
  const world = new World(2);
  const [n1, n2] = world.nodes as [World['nodes'][0], World['nodes'][0]];
  let t1 = '';
  let outside = '';

  before(async () => {
    outside = world.addHost('out', '10.99.0.100');
    await world.start();
    t1 = await world.task(n1, 't1', [a('10.0.1.11')], '172.18.0.11');
    const t2 = await world.task(n2, 't2', [a('10.0.1.12'), ingress('10.255.0.12')], '172.18.0.12');
    world.service(NET_A.vni, '10.0.1.2', [backend('10.0.1.12')]);
    world.row('port/tcp/8080', 'port', { protocol: 6, published: 8080, target: 80, backends: [backend('10.255.0.12')] });
    await world.apply();
    await world.serve(t2, 't2', 80);
    for (const node of world.nodes) {
      node.client.onRestart(() => {
        void (async () => {
          await node.client.configure(node.config);
          for (const { node: owner, sandbox } of world.attached.values()) {
            if (owner === node) await node.client.attach(sandbox);
          }
          await node.client.apply({ revision: 100n, replace: true, upsert: [...world.rows.values()], remove: [] });
        })();
      });
    }
  });
  after(() => world.close());

  test('connections through a VIP and a published port outlive SIGKILL of the data plane', async () => {
    const inside = world.ticker(t1, '10.0.1.2', 80);
    const through = world.ticker(outside, n1.address, 8080);
    await until('ticks', () => inside.lines.length > 10 && through.lines.length > 10);
    for (const node of [n1, n2]) {
      const pid = node.client.pid;
      process.kill(pid, 'SIGKILL');
      await until('restart', async () => node.client.pid !== pid && (await world.counter(node, 'revision')) === 100n);
      assert.ok((await world.counter(node, 'flows.adopted')) >= 1n);
      const seen = [inside.lines.length, through.lines.length];
      await until('ticks go on', () => inside.lines.length > (seen[0] ?? 0) + 10 && through.lines.length > (seen[1] ?? 0) + 10);
    }
    for (const program of [inside, through]) {
      assert.ok(!program.lines.some((l) => /ECONN|closed/.test(l)), program.lines.slice(-3).join());
      assert.ok(longestGapMs(program) < 2000, `gap of ${longestGapMs(program)} ms`);
    }
    console.log(`# gaps: VIP ${longestGapMs(inside)} ms, published ${longestGapMs(through)} ms`);
    inside.stop();
    through.stop();
  });

  test('a second data plane on the same directory refuses to run', async () => {
    const result = await world.run(n1.netns, [BINARY, '--run-dir', n1.runDir]);
    assert.equal(result.status, 3);
    assert.match(result.text, /locked/);
  });

  test('forwarding and known names go on while the client is dead; a new client adopts', async () => {
    const ticker = world.ticker(t1, '10.0.1.2', 80);
    await until('ticks', () => ticker.lines.length > 5);
    const pid = n1.client.pid;
    // A second client takes the place of the first one, in a process that is then killed.
    const script = `
      const { DatapathClient } = await import(${JSON.stringify(path.resolve(import.meta.dirname, '../../src/io/datapath/client.js'))});
      const client = new DatapathClient({ binary: ${JSON.stringify(BINARY)}, runDir: ${JSON.stringify(n1.runDir)} });
      await client.start();
      console.log('adopted ' + client.pid);
      setInterval(() => {}, 1000);`;
    await n1.client.close();
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.on('data', (d) => {
      text += String(d);
    });
    await until('adoption', () => text.includes(`adopted ${pid}`));
    child.kill('SIGKILL');
    const seen = ticker.lines.length;
    await sleep(500);
    assert.ok(ticker.lines.length > seen + 15);
    const dig = await world.run(t1, ['dig', '@127.0.0.11', '+tries=1', '+time=2', 'nobody.example']);
    assert.match(dig.text, /SERVFAIL/, 'a miss without an agent');
    const next = new DatapathClient({ binary: BINARY, runDir: n1.runDir });
    await next.start();
    assert.equal(next.pid, pid);
    assert.deepEqual(await next.sandboxes(), ['t1']);
    (n1 as { client: DatapathClient }).client = next;
    assert.ok(longestGapMs(ticker) < 500);
    ticker.stop();
  });

  test('a data plane that hangs is replaced', { timeout: 60_000 }, async () => {
    const pid = n2.client.pid;
    process.kill(pid, 'SIGSTOP');
    await n2.client.close();
    const next = new DatapathClient({ binary: BINARY, runDir: n2.runDir, prefix: ['nsenter', `--net=${n2.netns}`], flows: 4096 });
    (n2 as { client: DatapathClient }).client = next;
    await next.start();
    assert.notEqual(next.pid, pid);
    assert.deepEqual(await next.sandboxes(), ['t2']);
  });

  test('frames that break the format end the connection, not the process', async () => {
    const { connect } = await import('node:net');
    const { randomBytes } = await import('node:crypto');
    const pid = n1.client.pid;
    for (let i = 0; i < 50; i++) {
      await new Promise<void>((resolve) => {
        const socket = connect(path.join(n1.runDir, 'datapath.sock'), () => {
          // Half of them are well framed with nonsense inside.
          const body = randomBytes(i * 7);
          const head = Buffer.alloc(16);
          head.writeUInt32LE(body.length, 0);
          // Every type but destroy (11), which takes no body and would be obeyed.
          head.writeUInt16LE([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 77][i % 12] ?? 0, 4);
          head.writeUInt16LE(i % 3 === 0 ? 99 : 1, 6);
          socket.end(Buffer.concat([head, body]));
        });
        socket.on('data', () => {});
        socket.on('error', () => resolve());
        socket.on('close', () => resolve());
      });
    }
    process.kill(pid, 0);
    await until('client is back', async () => (await n1.client.counters())['revision'] !== undefined);
    assert.equal(n1.client.pid, pid);
  });
});
