// Wire compatibility: the data plane against a VXLAN device of the kernel.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { NET_A, taskMac, until, World } from './datapath-world.js';

const KERNEL = '10.0.1.50';

describe('datapath and kernel VXLAN', { timeout: 120_000 }, () => {
  const world = new World(1);
  const n1 = world.nodes[0] as World['nodes'][0];
  let task = '';
  let peer = '';

  before(async () => {
    peer = world.addHost('kern', '10.99.0.60');
    await world.start();
    task = await world.task(n1, 't1', [{ vni: NET_A.vni, address: '10.0.1.11', prefix: 24 }]);
    world.endpoint(NET_A.vni, KERNEL, '10.99.0.60', 'kernel');
    await world.apply();
    const made = await world.run(peer, [
      'sh', '-ec',
      `ip link add vx0 address ${taskMac(KERNEL)} type vxlan id ${NET_A.vni} dstport 4789 local 10.99.0.60 dev eth0 nolearning
       ip link set vx0 mtu 1450 up
       ip addr add ${KERNEL}/24 dev vx0
       bridge fdb append 00:00:00:00:00:00 dev vx0 dst ${n1.address}
       bridge fdb append ${taskMac('10.0.1.11')} dev vx0 dst ${n1.address}`,
    ]);
    assert.equal(made.status, 0, made.text);
  });
  after(() => world.close());

  test('ping both ways; ARP of the peer is answered', async () => {
    const out = await world.ping(task, KERNEL);
    assert.equal(out.status, 0, out.text);
    assert.equal((await world.ping(peer, '10.0.1.11', '-s', '1400')).status, 0);
    assert.equal((await world.ping(peer, '10.0.1.11', '-s', '5000')).status, 0, 'fragments');
  });

  for (const gsoMaxSize of [65_536, 2_000]) {
    test(`bulk TCP both ways, the peer's frames at most ${gsoMaxSize} bytes`, async () => {
      const set = await world.run(peer, ['ip', 'link', 'set', 'vx0', 'gso_max_size', String(gsoMaxSize)]);
      assert.equal(set.status, 0, set.text);
      for (const reverse of [[], ['-R']]) {
        const server = world.spawn(peer, ['iperf3', '-s', '-1', '--forceflush', '-p', '5201']);
        await until('iperf3', () => server.lines.some((l) => l.includes('listening')));
        const result = await world.run(task, ['iperf3', '-c', KERNEL, '-t', '1', '-J', ...reverse]);
        const report = JSON.parse(result.text) as { end: { sum_received: { bits_per_second: number } } };
        const gbits = report.end.sum_received.bits_per_second / 1e9;
        console.log(`# ${reverse.length ? 'kernel to engine' : 'engine to kernel'}: ${gbits.toFixed(2)} Gbit/s`);
        assert.ok(gbits > 0.2, result.text.slice(-1500));
      }
    });
  }

  test('small TCP and UDP exchanges', async () => {
    const server = await world.serve(peer, 'kernel', 80);
    assert.match((await world.tcp(task, KERNEL, 80))[0] ?? '', /^kernel 10\.0\.1\.11 /);
    assert.match(await world.udp(task, KERNEL, 80, 1400), /^kernel 10\.0\.1\.11 \d+ 1400$/);
    server.stop();
    await world.serve(task, 'task', 81);
    assert.match((await world.tcp(peer, '10.0.1.11', 81))[0] ?? '', /^task 10\.0\.1\.50 /);
    assert.match(await world.udp(peer, '10.0.1.11', 81, 1400), /^task 10\.0\.1\.50 \d+ 1400$/);
  });

  test('a source address the peer does not own is not delivered', async () => {
    await world.run(peer, ['ip', 'addr', 'add', '10.0.1.51/24', 'dev', 'vx0']);
    const before = await world.counter(n1, 'drop.spoofed_peer');
    assert.notEqual((await world.ping(peer, '10.0.1.11', '-I', '10.0.1.51')).status, 0);
    assert.ok((await world.counter(n1, 'drop.spoofed_peer')) > before);
  });
});
