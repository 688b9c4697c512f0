// The userspace data plane across nodes: overlay, VIP, published ports, egress, DNS, isolation.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { INGRESS, NET_A, NET_B, sleep, until, World } from './datapath-world.js';

const a = (address: string) => ({ vni: NET_A.vni, address, prefix: 24 });
const b = (address: string) => ({ vni: NET_B.vni, address, prefix: 24 });
const ingress = (address: string) => ({ vni: INGRESS.vni, address, prefix: 16 });
const backend = (address: string, draining = false) => ({ taskId: address, address, weight: 1, draining });

describe('datapath', { timeout: 240_000 }, () => {
  const world = new World(3);
  const [n1, n2, n3] = world.nodes as [World['nodes'][0], World['nodes'][0], World['nodes'][0]];
  let t1 = '';
  let t2 = '';
  let t3 = '';
  let t4 = '';
  let lone = '';
  let outside = '';

  before(async () => {
    outside = world.addHost('out', '10.99.0.100');
    await world.start();
    t1 = await world.task(n1, 't1', [a('10.0.1.11'), ingress('10.255.0.11')], '172.18.0.11');
    t2 = await world.task(n2, 't2', [a('10.0.1.12'), ingress('10.255.0.12')], '172.18.0.12');
    t3 = await world.task(n1, 't3', [a('10.0.1.13')], '172.18.0.13');
    t4 = await world.task(n2, 't4', [b('10.0.2.14')], '172.18.0.14');
    lone = await world.task(n1, 'lone', [b('10.0.2.15')]);
    world.service(NET_A.vni, '10.0.1.2', [backend('10.0.1.11'), backend('10.0.1.12')]);
    world.row('port/tcp/8080', 'port', {
      protocol: 6,
      published: 8080,
      target: 80,
      backends: [backend('10.255.0.12')],
    });
    world.row('port/udp/8080', 'port', {
      protocol: 17,
      published: 8080,
      target: 80,
      backends: [backend('10.255.0.12')],
    });
    world.row('port/udp/8085', 'port', {
      protocol: 17,
      published: 8085,
      target: 99,
      backends: [backend('10.255.0.12')],
    });
    world.row('port/tcp/8081', 'port', {
      protocol: 6,
      published: 8081,
      target: 80,
      backends: [backend('10.255.0.11')],
    });
    world.row('port/tcp/8082', 'port', { protocol: 6, published: 8082, target: 80, backends: [] });
    world.row('hostport/tcp/8083', 'port', {
      protocol: 6,
      published: 8083,
      target: 80,
      hostMode: true,
      backends: [backend('172.18.0.11')],
    });
    world.row('name/4096/web', 'name', { vni: NET_A.vni, name: 'web', addresses: ['10.0.1.2'] });
    world.row('name/4096/tasks.web', 'name', {
      vni: NET_A.vni,
      name: 'tasks.web',
      addresses: ['10.0.1.11', '10.0.1.12'],
    });
    world.row('name/4096/many', 'name', {
      vni: NET_A.vni,
      name: 'many',
      addresses: Array.from({ length: 100 }, (_, i) => `10.0.1.${i + 100}`),
    });
    world.row('ptr/4096/10.0.1.12', 'pointer', { vni: NET_A.vni, address: '10.0.1.12', name: 'web.2.abc.neta' });
    await world.apply();
    await world.serve(t1, 't1', 80);
    await world.serve(t2, 't2', 80);
  });
  after(() => world.close());

  test('tasks reach each other: same node, other node; TTL and MTU as on one link', async () => {
    assert.equal((await world.ping(t3, '10.0.1.11')).status, 0);
    const far = await world.ping(t3, '10.0.1.12');
    assert.equal(far.status, 0, far.text);
    assert.match(far.text, /ttl=64/);
    assert.match((await world.tcp(t3, '10.0.1.12', 80))[0] ?? '', /^t2 10\.0\.1\.13 \d+$/);
    assert.match(await world.udp(t3, '10.0.1.12', 80, 1000), /^t2 10\.0\.1\.13 \d+ 1000$/);
    assert.equal((await world.ping(t3, '10.0.1.12', '-s', '1422')).status, 0);
    assert.equal((await world.ping(t3, '10.0.1.12', '-s', '4000')).status, 0, 'fragments');
    assert.match(await world.udp(t3, '10.0.1.12', 80, 20_000), / 20000$/);
  });

  test('bulk TCP goes across in super-frames', async () => {
    const server = world.spawn(t2, ['iperf3', '-s', '-1', '--forceflush', '-p', '5201']);
    await until('iperf3', () => server.lines.some((l) => l.includes('listening')));
    const result = await world.run(t3, ['iperf3', '-c', '10.0.1.12', '-t', '2', '-J']);
    const report = JSON.parse(result.text) as { end: { sum_received: { bits_per_second: number } } };
    assert.ok(report.end.sum_received.bits_per_second > 5e8, result.text.slice(-2000));
    const sent = await n1.client.counters();
    const whole = sent['offload.tunnelled'] ?? 0n;
    assert.ok(whole > 100n || (sent['offload.segmented'] ?? 0n) > 1000n);
    assert.ok(whole > 100n || (await world.counter(n2, 'offload.coalesced')) > 1000n);
  });

  test('a VIP spreads connections evenly, answers ping, and serves its own backend (hairpin)', async () => {
    const answers = await world.tcp(t3, '10.0.1.2', 80, 6);
    assert.equal(answers.filter((l) => l.startsWith('t1 10.0.1.13 ')).length, 3, answers.join());
    assert.equal(answers.filter((l) => l.startsWith('t2 10.0.1.13 ')).length, 3, answers.join());
    assert.match(await world.udp(t3, '10.0.1.2', 80), /^t[12] 10\.0\.1\.13 /);
    assert.equal((await world.ping(t3, '10.0.1.2')).status, 0);
    assert.equal((await world.ping(t3, '10.0.1.1')).status, 0, 'gateway');
    const self = await world.tcp(t1, '10.0.1.2', 80, 4);
    assert.equal(self.filter((l) => l.startsWith('t1 10.0.1.2 ')).length, 2, self.join());
    assert.equal(self.filter((l) => l.startsWith('t2 10.0.1.11 ')).length, 2, self.join());
    assert.match(await world.udp(t3, '10.0.1.2', 80, 5000), /^t[12] 10\.0\.1\.13 \d+ 5000$/, 'fragments');
    assert.equal(await world.udp(t3, '10.0.1.2', 9999), 'ECONNREFUSED', 'an ICMP error is translated back');
    assert.deepEqual(await world.tcp(t3, '10.0.1.2', 9999), ['ECONNREFUSED']);
    world.service(NET_A.vni, '10.0.1.3', []);
    await world.apply();
    assert.deepEqual(await world.tcp(t3, '10.0.1.3', 80), ['ECONNREFUSED']);
    assert.equal(await world.udp(t3, '10.0.1.3', 80), 'ECONNREFUSED');
  });

  test('a published port shows the real client from every node, tcp and udp', async () => {
    for (const node of world.nodes) {
      assert.match((await world.tcp(outside, node.address, 8080))[0] ?? '', /^t2 10\.99\.0\.100 /, node.name);
      assert.match(await world.udp(outside, node.address, 8080), /^t2 10\.99\.0\.100 /, node.name);
      assert.match((await world.tcp(outside, node.address, 8081))[0] ?? '', /^t1 10\.99\.0\.100 /, node.name);
    }
    assert.match((await world.tcp(outside, n1.address, 8083))[0] ?? '', /^t1 10\.99\.0\.100 /, 'host mode');
    assert.match(await world.udp(outside, n1.address, 8080, 5000), /^t2 10\.99\.0\.100 \d+ 5000$/, 'fragments');
    assert.equal(await world.udp(outside, n1.address, 8085), 'ECONNREFUSED', 'ICMP error from the backend');
    assert.deepEqual(await world.tcp(outside, n1.address, 8082), ['ECONNREFUSED'], 'no backend');
    assert.deepEqual(await world.tcp(outside, n1.address, 8099), ['ECONNREFUSED'], 'not published');
  });

  test('a UDP client that goes on sending notices that a port came and went', async () => {
    // Always from the same port, so that the host's connection tracking knows the flow.
    const script = `const u = require('dgram').createSocket('udp4'); const end = (t) => { console.log(t); process.exit(0); };
      u.bind(7777, () => u.connect(8095, process.argv[1], () => u.send('x'))); u.on('message', (m) => end(String(m))); u.on('error', (e) => end(e.code));
      setTimeout(() => end('ETIMEDOUT'), 2500);`;
    const ask = async (): Promise<string> => (await world.run(outside, [process.execPath, '-e', script, n1.address])).text;
    const local = await world.serve(n1.netns, 'local', 8095);
    assert.match(await ask(), /^local /);
    world.row('port/udp/8095', 'port', { protocol: 17, published: 8095, target: 80, backends: [backend('10.255.0.12')] });
    await world.apply();
    assert.match(await ask(), /^t2 10\.99\.0\.100 /);
    await world.apply(true, ['port/udp/8095']);
    assert.match(await ask(), /^local /);
    local.stop();
  });

  test('a published port answers the node itself, 127.0.0.1 and tasks', async () => {
    for (const node of world.nodes) {
      assert.match((await world.tcp(node.netns, '127.0.0.1', 8080))[0] ?? '', /^t2 10\.255\.0\.20\d /, node.name);
      assert.match(await world.udp(node.netns, '127.0.0.1', 8080), /^t2 10\.255\.0\.20\d /, node.name);
      assert.match((await world.tcp(node.netns, node.address, 8080))[0] ?? '', /^t2 /, node.name);
    }
    assert.match((await world.tcp(n1.netns, '127.0.0.1', 8081))[0] ?? '', /^t1 /);
    assert.match((await world.tcp(n1.netns, '127.0.0.1', 8083))[0] ?? '', /^t1 /);
    assert.match((await world.tcp(n1.netns, n2.address, 8080))[0] ?? '', /^t2 10\.99\.0\.1 /, 'one node asks another');
    assert.match((await world.tcp(t3, n1.address, 8080))[0] ?? '', /^t2 /, 'a task asks its own node');
    assert.match((await world.tcp(t3, n3.address, 8080))[0] ?? '', /^t2 /, 'a task asks another node');
  });

  test('bulk through a published port, both ways', async () => {
    world.row('port/tcp/8090', 'port', { protocol: 6, published: 8090, target: 5201, backends: [backend('10.255.0.12')] });
    await world.apply();
    for (const reverse of [[], ['-R']]) {
      const server = world.spawn(t2, ['iperf3', '-s', '-1', '--forceflush', '-p', '5201']);
      await until('iperf3', () => server.lines.some((l) => l.includes('listening')));
      const result = await world.run(outside, ['iperf3', '-c', n1.address, '-p', '8090', '-t', '1', '-J', ...reverse]);
      const report = JSON.parse(result.text) as { end: { sum_received: { bits_per_second: number } } };
      assert.ok(report.end.sum_received.bits_per_second > 1e8, `${reverse}: ${result.text.slice(-1500)}`);
    }
  });

  test('egress: masqueraded by the node, ping included; tasks do not meet on the gateway network', async () => {
    const server = await world.serve(outside, 'out', 9000);
    assert.match((await world.tcp(t1, '10.99.0.100', 9000))[0] ?? '', /^out 10\.99\.0\.1 /);
    assert.match(await world.udp(t2, '10.99.0.100', 9000), /^out 10\.99\.0\.2 /);
    const ping = await world.ping(t4, '10.99.0.100');
    assert.equal(ping.status, 0, ping.text);
    assert.notEqual((await world.ping(t1, '172.18.0.13')).status, 0);
    assert.ok((await world.counter(n1, 'drop.task_isolation')) > 0n);
    assert.notEqual((await world.ping(lone, '10.99.0.100')).status, 0, 'internal');
    server.stop();
  });

  test('no spoofing, no crossing between networks', async () => {
    const before = await world.counter(n1, 'drop.spoofed_source');
    await world.run(t3, ['ip', 'addr', 'add', '10.0.1.99/24', 'dev', 'eth0']);
    assert.notEqual((await world.ping(t3, '10.0.1.12', '-I', '10.0.1.99')).status, 0);
    await world.run(t3, ['ip', 'addr', 'del', '10.0.1.99/24', 'dev', 'eth0']);
    assert.ok((await world.counter(n1, 'drop.spoofed_source')) > before);
    await world.run(t3, ['sh', '-c', 'ip link add mv0 link eth0 type macvlan 2>/dev/null || ip link set eth0 address 02:00:00:00:00:99']);
    await world.run(t3, ['ip', 'link', 'set', 'eth0', 'address', '02:00:00:00:00:99']);
    assert.notEqual((await world.ping(t3, '10.0.1.12')).status, 0);
    assert.ok((await world.counter(n1, 'drop.spoofed_mac')) > 0n);
    await world.run(t3, ['ip', 'link', 'del', 'mv0']);
    await world.run(t3, ['ip', 'link', 'set', 'eth0', 'address', '02:42:0a:00:01:0d']);
    await until('back again', async () => (await world.ping(t3, '10.0.1.12')).status === 0);
    await world.run(t3, ['ip', 'route', 'add', '10.0.2.0/24', 'dev', 'eth0']);
    assert.notEqual((await world.ping(t3, '10.0.2.14')).status, 0);
    await world.run(t3, ['ip', 'route', 'del', '10.0.2.0/24', 'dev', 'eth0']);
    // A stranger that speaks VXLAN is not heard.
    const unknown = await world.counter(n1, 'drop.unknown_vtep');
    await world.run(outside, [
      'sh', '-ec',
      `ip link add vx0 type vxlan id ${NET_A.vni} remote ${n1.address} dstport 4789 dev eth0; ip addr add 10.0.1.77/24 dev vx0; ip link set vx0 up`,
    ]);
    assert.notEqual((await world.ping(outside, '10.0.1.11')).status, 0);
    await world.run(outside, ['ip', 'link', 'del', 'vx0']);
    assert.ok((await world.counter(n1, 'drop.unknown_vtep')) > unknown);
  });

  test('DNS: names, tasks, reverse, families, TCP, truncation, scope', async () => {
    const dig = async (ns: string, ...q: string[]) => (await world.run(ns, ['dig', '@127.0.0.11', '+tries=1', '+time=2', ...q])).text;
    assert.equal(await dig(t1, '+short', 'web'), '10.0.1.2');
    assert.equal(await dig(t1, '+short', 'WEB.NetA.'), '10.0.1.2');
    assert.equal(await dig(t1, '+short', '+tcp', 'web'), '10.0.1.2');
    assert.deepEqual((await dig(t1, '+short', 'tasks.web')).split('\n').sort(), ['10.0.1.11', '10.0.1.12']);
    assert.equal(await dig(t1, '+short', '-x', '10.0.1.12'), 'web.2.abc.neta.');
    const aaaa = await dig(t1, 'web', 'AAAA');
    assert.match(aaaa, /NOERROR/);
    assert.match(aaaa, /ANSWER: 0/);
    assert.equal((await dig(t1, '+short', 'many')).split('\n').length, 100, 'EDNS makes room');
    assert.match(await dig(t1, '+noedns', '+ignore', 'many'), /flags: qr[^;]* tc/);
    assert.equal((await dig(t1, '+noedns', '+tcp', '+short', 'many')).split('\n').length, 100);
    const first = new Set<string>();
    for (let i = 0; i < 12; i++) first.add((await dig(t1, '+short', 'tasks.web')).split('\n')[0] ?? '');
    assert.equal(first.size, 2, 'shuffled');
    // Another network's names are unknown; with no handler they time out at the agent, so answer here.
    for (const node of world.nodes) {
      node.client.onDnsMiss((miss) => {
        const answer = Buffer.from(miss.query);
        answer[2] = 0x81;
        answer[3] = 0x83;
        answer.writeUInt16BE(0, 10);
        miss.reply(answer.subarray(0, answer.indexOf(0, 12) + 5));
      });
    }
    assert.match(await dig(t4, 'web'), /NXDOMAIN/);
    assert.match(await dig(t4, '+tcp', 'web'), /NXDOMAIN/);
    assert.match(await dig(lone, 'example.com'), /SERVFAIL/);
    assert.ok((await world.counter(n2, 'dns.missed')) >= 2n);
  });

  test('draining backends keep flows and get no new ones; flows to removed backends are reset', async () => {
    world.service(NET_A.vni, '10.0.1.4', [backend('10.0.1.12')]);
    await world.apply();
    const ticker = world.ticker(t3, '10.0.1.4', 80);
    await until('ticks', () => ticker.lines.length > 5);
    world.service(NET_A.vni, '10.0.1.4', [backend('10.0.1.12', true), backend('10.0.1.11')]);
    await world.apply();
    const answers = await world.tcp(t3, '10.0.1.4', 80, 4);
    assert.ok(answers.every((l) => l.startsWith('t1 ')), answers.join());
    const seen = ticker.lines.length;
    await until('more ticks', () => ticker.lines.length > seen + 5);
    await n1.client.attach(world.attached.get('t3')!.sandbox); // repeated by an agent that restarted: nothing is disturbed
    world.service(NET_A.vni, '10.0.1.4', [backend('10.0.1.11')]);
    await world.apply();
    // UDP has nobody to reset: the same client port goes to another backend.
    const talk = `const u = require('dgram').createSocket('udp4'); u.bind(5555); u.on('message', (m) => console.log(String(m)));
      setInterval(() => u.send('x', 80, '10.0.1.5'), 50);`;
    world.service(NET_A.vni, '10.0.1.5', [backend('10.0.1.12')]);
    await world.apply();
    const talker = world.spawn(t3, [process.execPath, '-e', talk]);
    await until('udp answers', () => talker.lines.some((l) => l.startsWith('t2 ')));
    world.service(NET_A.vni, '10.0.1.5', [backend('10.0.1.11')]);
    await world.apply();
    await until('udp moves', () => talker.lines.some((l) => l.startsWith('t1 ')));
    talker.stop();
    await until('reset', () => ticker.lines.some((l) => l.endsWith('ECONNRESET')), 2000);
  });

  test('what is too big for the underlay is answered, not lost', async () => {
    const big = await world.task(n1, 'big', [{ ...a('10.0.1.40'), mtu: 1500 }]);
    await world.apply();
    // The first datagram has DF set and is answered with an ICMP error; the kernel then cuts to the path's MTU.
    await world.udp(big, '10.0.1.12', 80, 1472);
    assert.match((await world.run(big, ['ip', 'route', 'get', '10.0.1.12'])).text, /mtu 1450/);
    assert.match(await world.udp(big, '10.0.1.12', 80, 1472), /^t2 .* 1472$/);
    await world.run(big, ['ip', 'route', 'flush', 'cache']);
    await world.run(big, ['sysctl', '-qw', 'net.ipv4.ip_no_pmtu_disc=1']);
    assert.equal((await world.ping(big, '10.0.1.11', '-s', '1472')).status, 0);
    assert.match(await world.udp(big, '10.0.1.12', 80, 1472), /^t2 .* 1472$/, 'cut by the data plane when DF is clear');
    assert.match((await world.tcp(big, '10.0.1.12', 80))[0] ?? '', /^t2 /);
    await n1.client.detach('big');
    assert.ok(!(await n1.client.sandboxes()).includes('big'));
  });

  test('rows that cannot be used are refused whole', async () => {
    world.row('svc/1/bad', 'service', { vni: 1, vip: 'fd00::1', backends: [] });
    await assert.rejects(world.apply(), /IPv6/);
    world.rows.delete('svc/1/bad');
    assert.match((await world.tcp(t3, '10.0.1.2', 80))[0] ?? '', /^t/);
    await sleep(0);
  });
});
