// Super-frames by UDP tunnel GSO and by the sockets: the same bytes arrive, at the engine and at a kernel VXLAN device.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { NET_A, sleep, taskMac, until, World } from './datapath-world.js';

const KERNEL = '10.0.1.50';
const TASK = '10.0.1.12';
const SIZE = 48 << 20;
const OFF = 'SKEIN_NO_TUNNEL_GSO';

const SINK = `
const hash = require('crypto').createHash('sha256');
require('net').createServer((s) => { s.on('data', (d) => hash.update(d)); s.on('end', () => { console.log('hash ' + hash.digest('hex')); process.exit(0); }); })
  .listen(+process.argv[1], '0.0.0.0', () => console.log('ready'));`;
// Pieces of odd sizes, so that frames of all lengths come about.
const SOURCE = `
const [host, port, size] = process.argv.slice(1);
const crypto = require('crypto');
const data = crypto.createCipheriv('aes-128-ctr', crypto.randomBytes(16), Buffer.alloc(16)).update(Buffer.alloc(+size));
const s = require('net').connect({ host, port: +port });
let at = 0, step = 1;
const more = () => { for (;;) { if (at >= data.length) { s.end(); return; }
  const piece = data.subarray(at, at + step); at += piece.length; step = (step * 7 + 1) % 199999; if (!s.write(piece)) { s.once('drain', more); return; } } };
more();
console.log('hash ' + crypto.createHash('sha256').update(data).digest('hex'));`;

for (const whole of [true, false]) {
  describe(`bulk TCP, super-frames ${whole ? 'whole' : 'by the sockets'}`, { timeout: 120_000 }, () => {
    const world = new World(2);
    const [n1, n2] = world.nodes as [World['nodes'][0], World['nodes'][0]];
    let task = '';
    let other = '';
    let peer = '';
    let port = 6000;
    let supported = false;

    before(async () => {
      if (!whole) process.env[OFF] = '1';
      peer = world.addHost('kern', '10.99.0.60');
      try {
        await world.start();
      } finally {
        delete process.env[OFF];
      }
      supported = (await n1.client.probe()).findings.some((f) => f.name === 'udp_tunnel_gso' && f.ok);
      task = await world.task(n1, 't1', [{ vni: NET_A.vni, address: '10.0.1.11', prefix: 24 }]);
      other = await world.task(n2, 't2', [{ vni: NET_A.vni, address: TASK, prefix: 24 }]);
      world.endpoint(NET_A.vni, KERNEL, '10.99.0.60', 'kernel');
      await world.apply();
      const made = await world.run(peer, [
        'sh', '-ec',
        `ip link add vx0 address ${taskMac(KERNEL)} type vxlan id ${NET_A.vni} dstport 4789 local 10.99.0.60 dev eth0 nolearning
         ip link set vx0 mtu 1450 up
         ip addr add ${KERNEL}/24 dev vx0
         bridge fdb append ${taskMac('10.0.1.11')} dev vx0 dst ${n1.address}`,
      ]);
      assert.equal(made.status, 0, made.text);
      await world.run(peer, ['ip', 'neigh', 'replace', '10.0.1.11', 'lladdr', taskMac('10.0.1.11'), 'dev', 'vx0']);
    });
    after(() => world.close());

    async function transfer(to: string, address: string): Promise<void> {
      port++;
      const sink = world.spawn(to, [process.execPath, '-e', SINK, String(port)]);
      await until('sink', () => sink.lines.includes('ready'));
      const sent = await world.run(task, [process.execPath, '-e', SOURCE, address, String(port), String(SIZE)], 40_000);
      await until('hash', () => sink.lines.some((l) => l.startsWith('hash')), 20_000);
      assert.equal(sent.status, 0, 'the sender ends');
      assert.equal(sink.lines.find((l) => l.startsWith('hash')), sent.text);
    }

    for (const wire of [false, true]) {
      test(`the same bytes arrive, frames ${wire ? 'cut on the uplink' : 'as they are'}`, async () => {
        if (wire) assert.equal((await world.run(n1.netns, ['ip', 'link', 'set', 'eth0', 'gso_max_size', '1515', 'gso_max_segs', '1'])).status, 0);
        const before = await n1.client.counters();
        const coalesced = await world.counter(n2, 'offload.coalesced');
        await transfer(other, TASK);
        await transfer(peer, KERNEL);
        const now = await n1.client.counters();
        const rose = (name: string): bigint => (now[name] ?? 0n) - (before[name] ?? 0n);
        assert.equal(rose('offload.tunnelled') > 100n, whole && supported, JSON.stringify(now, (_, v: unknown) => String(v)));
        assert.equal(rose('offload.segmented') > 1000n, !(whole && supported));
        assert.equal(rose('offload.tunnel_refused'), 0n);
        if (wire) assert.ok((await world.counter(n2, 'offload.coalesced')) - coalesced > 1000n, 'glued again');
      });
    }

    test('a path MTU that the kernel was told of stops nothing', async () => {
      // As ICMP would leave it.
      const route = [`${n2.address}/32`, 'dev', 'eth0', 'mtu', '600'];
      assert.equal((await world.run(n1.netns, ['ip', 'route', 'add', ...route])).status, 0);
      const before = await world.counter(n1, 'drop.underlay_error');
      await transfer(other, TASK);
      assert.equal(await world.counter(n1, 'drop.underlay_error'), before);
      assert.equal((await world.run(n1.netns, ['ip', 'route', 'del', ...route])).status, 0);
    });

    test('a firewall that drops what is forwarded does not stop it', async () => {
      const ruled = await world.run(n1.netns, ['nft', 'add table ip fw; add chain ip fw forward { type filter hook forward priority 10; policy drop; }']);
      assert.equal(ruled.status, 0, ruled.text);
      await sleep(1100);
      const before = await n1.client.counters();
      await transfer(other, TASK);
      const now = await n1.client.counters();
      if (whole && supported) assert.ok((now['offload.tunnel_refused'] ?? 0n) > (before['offload.tunnel_refused'] ?? 0n));
assert.ok((now['offload.segmented'] ?? 0n) - (before['offload.segmented'] ?? 0n) > 1000n);
    });

    test('the device goes with the data plane', async () => {
      const link = ['ip', 'link', 'show', 'skeintx0'];
      assert.equal((await world.run(n2.netns, link)).status === 0, whole && supported);
      await n2.client.reset();
      assert.notEqual((await world.run(n2.netns, link)).status, 0);
    });
  });
}
