// The data plane when others misbehave: a task that deletes its device or plays a node, a run directory without room,
// a firewall that was emptied, tasks that come and go.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { DatapathClient } from '../../src/io/datapath/client.js';
import { INGRESS, NET_A, sleep, until, World } from './datapath-world.js';

const a = (address: string) => ({ vni: NET_A.vni, address, prefix: 24 });
const ingress = (address: string) => ({ vni: INGRESS.vni, address, prefix: 16 });
const BINARY = path.resolve(import.meta.dirname, '../../../build/skein-datapath');
const backend = (address: string) => ({ taskId: address, address, weight: 1, draining: false });

/** Processor time of a process so far, in ticks of 10 ms. */
function ticks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

describe('datapath among misbehaviour', { timeout: 120_000 }, () => {
  const world = new World(2);
  const [n1, n2] = world.nodes as [World['nodes'][0], World['nodes'][0]];
  let t1 = '';
  let t2 = '';

  before(async () => {
    await world.start();
    t1 = await world.task(n1, 't1', [a('10.0.1.11'), ingress('10.255.0.11')], '172.18.0.11');
    t2 = await world.task(n2, 't2', [a('10.0.1.12'), ingress('10.255.0.12')], '172.18.0.12');
    world.row('name/4096/web', 'name', { vni: NET_A.vni, name: 'web', addresses: ['10.0.1.2'] });
    world.row('port/tcp/8080', 'port', { protocol: 6, published: 8080, target: 80, backends: [backend('10.255.0.12')] });
    await world.apply();
    await world.serve(t2, 't2', 80);
  });
  after(() => world.close());

  test('a task that deletes its device costs no processor time', async () => {
    const gone = await world.task(n1, 'gone', [a('10.0.1.13')], '172.18.0.13');
    execFileSync('nsenter', [`--net=${gone}`, 'ip', 'link', 'del', 'eth0']);
    await sleep(200);
    const before = ticks(n1.client.pid);
    await sleep(1000);
    const used = ticks(n1.client.pid) - before;
    assert.ok(used < 30, `${used * 10} ms of processor time in a second`);
    await n1.client.detach('gone');
    world.attached.delete('gone');
  });

  test('a full run directory costs the memory of flows, not the data plane', async () => {
    const netns = world.addHost('full', '10.99.0.50');
    const runDir = `${world.runDir}/full`;
    mkdirSync(runDir, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', runDir]);
    const client = new DatapathClient({ binary: BINARY, runDir, prefix: ['nsenter', `--net=${netns}`], flows: 65536 });
    try {
      await client.start();
      assert.equal((await client.counters())['flows.unsaved'], 1n);
      const pid = client.pid;
      // Now nothing fits any more, and it has to start again.
      assert.throws(() => writeFileSync(path.join(runDir, 'rest'), Buffer.alloc(1 << 20)), /ENOSPC/);
      process.kill(pid, 'SIGKILL');
      await until('restart', async () => client.pid !== pid && (await client.counters())['flows.unsaved'] === 1n);
      assert.equal(readFileSync(path.join(runDir, 'datapath.pid'), 'utf8'), `${client.pid}\n`);
    } finally {
      await client.destroy().catch(() => {});
      execFileSync('umount', ['-l', runDir]);
    }
    assert.equal(await world.counter(n1, 'flows.unsaved'), 0n);
  });

  test('published ports come back after the ruleset was emptied', async () => {
    const nft = (...args: string[]) => execFileSync('nsenter', [`--net=${n1.netns}`, 'nft', ...args], { stdio: 'pipe' });
    const outside = world.addHost('out', '10.99.0.100');
    const reach = (port: number) => world.tcp(outside, n1.address, port);
    assert.match((await reach(8080))[0] ?? '', /^t2 /);
    // A new agent configures and sends the same rows.
    nft('flush', 'ruleset');
    await n1.client.configure(n1.config);
    await world.apply();
    assert.match((await reach(8080))[0] ?? '', /^t2 /);
    // Rows change while nobody configures.
    nft('flush', 'ruleset');
    world.row('port/tcp/8081', 'port', { protocol: 6, published: 8081, target: 80, backends: [backend('10.255.0.12')] });
    await world.apply();
    assert.match((await reach(8081))[0] ?? '', /^t2 /);
    // What failed once is tried again, though the ports are the same.
    nft('flush', 'ruleset');
    nft('add', 'table', 'inet', 'skein');
    nft('add', 'set', 'inet', 'skein', 'ports', '{ type ipv4_addr ; }');
    world.row('port/tcp/8082', 'port', { protocol: 6, published: 8082, target: 80, backends: [backend('10.255.0.12')] });
    await assert.rejects(world.apply(), /nft/);
    nft('flush', 'ruleset');
    await world.apply();
    assert.match((await reach(8082))[0] ?? '', /^t2 /);
  });

  test('a task that speaks VXLAN to the nodes is a stranger to them', async () => {
    const frame = Buffer.alloc(60);
    frame.set([...Buffer.from('02420a00010c02420a00010b0800', 'hex')]);
    frame.set([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0x64, 0xa7, 10, 0, 1, 11, 10, 0, 1, 12, 0, 7, 0, 80, 0, 26], 14);
    const packet = Buffer.concat([Buffer.from([8, 0, 0, 0, 0, NET_A.vni >> 8, NET_A.vni & 255, 0]), frame]).toString('hex');
    const dropped = (node: typeof n1) => world.counter(node, 'drop.unknown_vtep');
    for (const node of [n1, n2]) {
      const before = await dropped(node);
      const arrived = await world.counter(node, 'interface.tx_packets');
      const send = `const s = require('dgram').createSocket('udp4'); const b = Buffer.from('${packet}', 'hex');
        let n = 0; const t = setInterval(() => { s.send(b, 4789, '${node.address}'); if (++n === 5) { clearInterval(t); setTimeout(() => s.close(), 50); } }, 10);`;
      await world.run(t1, [process.execPath, '-e', send]);
      await until('drops', async () => (await dropped(node)) === before + 5n);
      assert.equal(await world.counter(node, 'interface.tx_packets'), arrived);
    }
  });

  test('tasks that come and go leave no descriptor, device or namespace behind', async () => {
    const open = () => readdirSync(`/proc/${n1.client.pid}/fd`).length;
    const names = async () => [await n1.client.sandboxes(), readdirSync(path.join(n1.runDir, 'netns')).length];
    const before = [open(), await names()];
    for (let i = 0; i < 40; i++) {
      const sandbox = world.sandbox('flighty', [a('10.0.1.77'), ingress('10.255.0.77')], '172.18.0.77');
      await n1.client.attach(sandbox);
      // Once more, with another set of interfaces; and sometimes with one that cannot be had.
      await n1.client.attach({ ...sandbox, interfaces: sandbox.interfaces.slice(0, 1) });
      if (i % 4 === 0) {
        const bad = { ...sandbox, interfaces: [...sandbox.interfaces, { ...sandbox.interfaces[0], ifname: 'lo', mac: '02:42:00:00:00:09' }] };
        await assert.rejects(n1.client.attach(bad as typeof sandbox));
      }
      await n1.client.detach('flighty');
    }
    assert.deepEqual([open(), await names()], before);
  });

  test('a task may be a DNS server on port 53 of all addresses, and still asks 127.0.0.11', async () => {
    const serve = `const udp = require('dgram').createSocket('udp4');
      udp.on('message', (m, from) => udp.send('own ' + m, from.port, from.address));
      udp.bind(53, '0.0.0.0', () => require('net').createServer((c) => c.end('own')).listen(53, '0.0.0.0', () => console.log('bound')));`;
    const ask = `const s = require('dgram').createSocket('udp4'); s.on('message', (m) => { console.log(String(m)); s.close(); });
      s.send('question', 53, '10.0.1.11');`;
    const server = world.spawn(t1, [process.execPath, '-e', serve]);
    await until('the port is had', () => server.lines.includes('bound'));
    const check = async (when: string): Promise<void> => {
      for (const transport of ['+notcp', '+tcp']) {
        const dig = await world.run(t1, ['dig', '@127.0.0.11', transport, '+tries=1', '+time=2', '+short', 'web']);
        assert.equal(dig.text, '10.0.1.2', `${when}, ${transport}`);
      }
      assert.equal((await world.run(t2, [process.execPath, '-e', ask])).text, 'own question', when);
    };
    await check('at first');
    const pid = n1.client.pid;
    const sandbox = world.attached.get('t1')?.sandbox;
    assert.ok(sandbox);
    process.kill(pid, 'SIGKILL');
    await until('restart', () => n1.client.pid !== pid);
    await n1.client.configure(n1.config);
    await n1.client.attach(sandbox);
    await world.apply();
    await check('after a restart');
    server.stop();
  });
});
