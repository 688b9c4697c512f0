// VXLAN on the wire: datagrams of the running data plane, taken by a plain UDP socket in a peer's namespace, read with
// the codec of core/vxlan; and frames made with that codec, sent to the data plane.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { parseAddress } from '../../src/lib/cidr.js';
import { checksumsRight, decodeVxlan, encodeVxlan, parseFrame, word16, type Frame } from '../../src/core/vxlan/frame.js';
import { fromBackend, rewrite } from '../../src/core/vxlan/balance.js';
import { NET_A, taskMac, until, World, type Program } from './datapath-world.js';

const [TASK, PEER, VIP] = ['10.0.1.11', '10.0.1.50', '10.0.1.2'] as const;
/** Prints each datagram to port 4789 in hex, and sends it back with its inner frame turned round. */
const SOCKET = `
const s = require('dgram').createSocket('udp4');
s.on('message', (m, r) => {
  console.log(r.port + ' ' + m.toString('hex'));
  const b = Buffer.from(m);
  const turn = (at, n) => { const one = Buffer.from(b.subarray(at, at + n)); b.copy(b, at, at + n, at + 2 * n); one.copy(b, at + n); };
  // MAC addresses, IP addresses, ports: the checksums stay right.
  turn(8, 6); turn(34, 4); turn(42, 2);
  if (m[31] === 17) s.send(b, 4789, r.address);
});
s.bind(4789, () => console.log('ready'));`;

const number = (text: string): number => parseAddress(text) ?? assert.fail(text);

describe('VXLAN on the wire', { timeout: 60_000 }, () => {
  const world = new World(1);
  const node = world.nodes[0] as World['nodes'][0];
  let task = '';
  let peer: Program;

  before(async () => {
    const netns = world.addHost('peer', '10.99.0.60');
    await world.start();
    task = await world.task(node, 't1', [{ vni: NET_A.vni, address: TASK, prefix: 24 }]);
    world.endpoint(NET_A.vni, PEER, '10.99.0.60', 'peer');
    world.service(NET_A.vni, VIP, [{ taskId: 'peer', address: PEER, weight: 1, draining: false }]);
    await world.apply();
    peer = world.spawn(netns, [process.execPath, '-e', SOCKET]);
    await until('socket', () => peer.lines.includes('ready'));
  });
  after(() => world.close());

  /** What came in during the work, header and inner frame checked. */
  async function taken(work: () => Promise<unknown>): Promise<{ bytes: Uint8Array; frame: Frame; port: number }[]> {
    const from = peer.lines.length;
    await work();
    await until('datagrams', () => peer.lines.length > from);
    return peer.lines.slice(from).map((line) => {
      const [port = '', hex = ''] = line.split(' ');
      const datagram = Buffer.from(hex, 'hex');
      assert.equal(datagram.subarray(0, 8).toString('hex'), '0800000000100000', 'I bit only, VNI 4096, reserved bits zero');
      const inside = decodeVxlan(datagram) ?? assert.fail(line);
      assert.deepEqual(Buffer.from(encodeVxlan(inside.vni, inside.frame)), datagram);
      const frame = parseFrame(inside.frame);
      if (typeof frame === 'string') return assert.fail(`${frame}: ${line}`);
      assert.equal(Buffer.from(inside.frame.subarray(0, 6)).toString('hex'), taskMac(PEER).replaceAll(':', ''));
      assert.deepEqual([frame.source, frame.destination], [number(TASK), number(PEER)]);
      if (!frame.fragment) assert.ok(checksumsRight(inside.frame, frame), line);
      return { bytes: inside.frame, frame, port: Number(port) };
    });
  }

  test('UDP: the frame is whole and right, and the reply reaches the task', async () => {
    const [one] = await taken(async () => assert.equal(await world.udp(task, PEER, 80, 100), 'x'.repeat(100)));
    assert.ok(one !== undefined && one.frame.protocol === 17 && one.frame.destinationPort === 80);
    assert.equal(one.frame.size, 14 + 20 + 8 + 100);
  });

  test('a virtual address: the destination is rewritten, the source kept; the reply comes as from it', async () => {
    const [one] = await taken(async () => assert.equal(await world.udp(task, VIP, 80, 33), 'x'.repeat(33)));
    assert.ok(one !== undefined);
    // The reference takes it back to what the task sent, and its reply to what the task received: both right.
    const asked = rewrite(one.bytes, one.frame, { ...one.frame, destination: number(VIP) });
    const frame = parseFrame(asked);
    assert.ok(typeof frame !== 'string' && frame.destination === number(VIP) && checksumsRight(asked, frame));
    const { source, destination, sourcePort, destinationPort } = one.frame;
    const turned = { source: destination, destination: source, sourcePort: destinationPort, destinationPort: sourcePort };
    const reply = rewrite(one.bytes, one.frame, turned);
    const replied = parseFrame(reply);
    assert.ok(typeof replied !== 'string');
    const received = fromBackend(reply, replied, number(VIP));
    assert.equal(word16(received, 26) * 65_536 + word16(received, 28), number(VIP));
    assert.ok(checksumsRight(received, replied));
  });

  test('TCP and ICMP; a datagram too big for the tunnel travels in fragments of the inner packet', async () => {
    const [syn] = await taken(() => world.tcp(task, PEER, 81));
    assert.ok(syn !== undefined && syn.frame.protocol === 6 && syn.frame.destinationPort === 81);
    const [ping] = await taken(() => world.ping(task, PEER));
    assert.equal(ping?.frame.protocol, 1);
    const parts = await taken(() => world.udp(task, PEER, 82, 4000));
    assert.ok(parts.length >= 3 && parts.every((one) => one.frame.fragment && one.frame.size <= 14 + 1450));
    assert.equal(new Set(parts.map((one) => word16(one.bytes, 18))).size, 1, 'one identification');
    assert.equal(new Set(parts.map((one) => one.port)).size, 1, 'one outer source port');
  });
});
