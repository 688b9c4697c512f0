// Allocator: subnets, VNIs, addresses and ports come out of what the store says is taken; exhaustion is a reason.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { freeAddress, freeSubnet } from '../../src/core/allocator/pool.js';
import { removeAction } from '../../src/core/store/actions.js';
import { contains, overlaps, parseAddress, parsePrefix, prefixSize, type Prefix } from '../../src/lib/cidr.js';
import { VNI_OPTION, addressOf, prefixesOf, vniOf } from '../../src/model/network.js';
import { PortConfig_Protocol as Protocol, PortConfig_PublishMode as Mode } from '../../src/model/proto/swarmkit_pb.js';
import { Swarm, TaskState, addressesOf, stateOf } from './harness.js';

const prefix = (text: string): Prefix => parsePrefix(text) as Prefix;

describe('networks', () => {
  it('get a VNI from 4096 and a free /24 of the pool, with the first address as gateway', () => {
    const swarm = new Swarm();
    const [a, b] = [swarm.addNetwork('a'), swarm.addNetwork('b')];
    swarm.settle();
    assert.deepEqual([vniOf(swarm.get('network', a)), vniOf(swarm.get('network', b))], [4096, 4097]);
    const configs = [a, b].map((id) => swarm.get('network', id).ipam?.configs[0]);
    assert.deepEqual(configs.map((c) => [c?.subnet, c?.gateway]), [['10.0.0.0/24', '10.0.0.1'], ['10.0.1.0/24', '10.0.1.1']]);
  });

  it('subnets never overlap, whatever was asked for', () => {
    const swarm = new Swarm();
    swarm.addNetwork('wide', { subnet: '10.0.0.0/16' });
    for (let i = 0; i < 5; i++) swarm.addNetwork(`auto${i}`);
    swarm.addNetwork('odd', { subnet: '10.1.3.128/25' });
    for (let i = 5; i < 10; i++) swarm.addNetwork(`auto${i}`);
    swarm.settle();
    const all = swarm.store.list('network').flatMap(prefixesOf);
    assert.equal(all.length, 12);
    for (const [i, one] of all.entries()) for (const other of all.slice(i + 1)) assert.equal(overlaps(one, other), false);
    const vnis = swarm.store.list('network').map(vniOf);
    assert.equal(new Set(vnis).size, vnis.length);
  });

  it('a subnet that was taken since it was asked for is not given: the task says so', () => {
    const swarm = new Swarm();
    swarm.addNetwork('auto');
    swarm.settle();
    const late = swarm.addNetwork('late', { subnet: '10.0.0.0/23' });
    const id = swarm.addService('web', { networks: [late] });
    swarm.settle();
    assert.match(swarm.tasks(id)[0]?.status?.err ?? '', /late has no subnet/);
  });

  it('a VNI asked for is given once', () => {
    const swarm = new Swarm();
    const first = swarm.addNetwork('first', { options: { [VNI_OPTION]: '5000' } });
    swarm.settle();
    const second = swarm.addNetwork('second', { options: { [VNI_OPTION]: '5000' } });
    const id = swarm.addService('web', { networks: [second] });
    swarm.settle();
    assert.equal(vniOf(swarm.get('network', first)), 5000);
    assert.equal(swarm.get('network', second).driverState, undefined);
    assert.match(swarm.tasks(id)[0]?.status?.err ?? '', /second has no subnet/);
  });
});

describe('addresses', () => {
  it('VIP, tasks and gateway are all different and inside the subnet', () => {
    const swarm = new Swarm({ nodes: 3 });
    const net = swarm.addNetwork('front', { subnet: '10.9.0.0/26' });
    const id = swarm.addService('web', { replicas: 10, networks: [net] });
    swarm.settle();
    const vip = swarm.get('service', id).endpoint?.virtualIps[0]?.addr ?? '';
    const all = [swarm.get('network', net).ipam?.configs[0]?.gateway ?? '', addressOf(vip),
      ...swarm.running(id).flatMap(addressesOf).map(addressOf)];
    assert.equal(new Set(all).size, 12);
    for (const address of all) assert.ok(contains(prefix('10.9.0.0/26'), parseAddress(address) as number));
    assert.ok(swarm.running(id).every((task) => addressesOf(task)[0]?.endsWith('/26')));
  });

  it('a dnsrr service gets no virtual address', () => {
    const swarm = new Swarm();
    const net = swarm.addNetwork('front');
    const id = swarm.addService('web', { networks: [net], dnsrr: true });
    swarm.settle();
    assert.deepEqual(swarm.get('service', id).endpoint?.virtualIps, []);
    assert.equal(swarm.running(id).length, 1);
  });

  it('a full network is a reason on the task at once, and the task goes on when an address is free', () => {
    const swarm = new Swarm();
    const net = swarm.addNetwork('tiny', { subnet: '10.9.0.0/29' });
    // Six hosts: the gateway, the VIP, four tasks.
    const id = swarm.addService('web', { replicas: 5, networks: [net] });
    swarm.settle();
    assert.equal(swarm.running(id).length, 4);
    const pending = swarm.tasks(id).find((task) => stateOf(task) === TaskState.NEW);
    assert.equal(pending?.status?.err, 'no free address in network tiny');
    swarm.updateService(id, { replicas: 4, networks: [net] });
    swarm.advance(20_000);
    const other = swarm.addService('more', { replicas: 1, networks: [net], dnsrr: true });
    swarm.settle();
    assert.match(swarm.tasks(other)[0]?.status?.err ?? '', /no free address/);
    swarm.updateService(id, { replicas: 3, networks: [net] });
    swarm.advance(20_000);
    assert.equal(swarm.running(other).length, 1);
  });

  it('a task that cannot have all its addresses holds none of them', () => {
    const swarm = new Swarm();
    const small = swarm.addNetwork('small', { subnet: '10.9.0.0/30' });
    const tiny = swarm.addNetwork('tiny', { subnet: '10.9.1.0/30' });
    const holder = swarm.addService('a-holder', { networks: [tiny], dnsrr: true });
    swarm.settle();
    assert.equal(swarm.running(holder).length, 1);
    const both = swarm.addService('b-both', { networks: [small, tiny], dnsrr: true });
    const one = swarm.addService('c-one', { networks: [small], dnsrr: true });
    swarm.settle();
    assert.match(swarm.tasks(both)[0]?.status?.err ?? '', /no free address/);
    assert.equal(swarm.running(one).length, 1);
  });

  it('an address is not given out again before every node forgot it', () => {
    const swarm = new Swarm({ nodes: 2 });
    const net = swarm.addNetwork('tiny', { subnet: '10.9.0.0/30' });
    const id = swarm.addService('web', { networks: [net], dnsrr: true, restart: { delayMs: 0 } });
    swarm.settle();
    const [first] = swarm.running(id);
    assert.ok(first);
    swarm.acknowledging = false;
    swarm.exit(first, TaskState.FAILED);
    swarm.settle();
    assert.equal(swarm.running(id).length, 0);
    assert.match(swarm.tasks(id).find((task) => task.id !== first.id)?.status?.err ?? '', /no free address/);
    swarm.acknowledging = true;
    swarm.settle();
    assert.deepEqual(swarm.running(id).flatMap(addressesOf), ['10.9.0.2/30']);
  });

  it('no address is ever held by two live tasks while a service is updated and nodes come and go', () => {
    const swarm = new Swarm({ nodes: 3 });
    const net = swarm.addNetwork('front', { subnet: '10.9.0.0/27' });
    const options = { replicas: 8, networks: [net], update: { parallelism: 3 } };
    const id = swarm.addService('web', options);
    const check = (): void => {
      const live = swarm.tasks(id).filter((task) => stateOf(task) <= TaskState.RUNNING).flatMap(addressesOf);
      assert.equal(new Set(live).size, live.length);
    };
    swarm.settle(check);
    swarm.updateService(id, { ...options, image: 'app:2' });
    swarm.advance(2000, check);
    swarm.nodeDown('n2');
    swarm.advance(30_000, check);
    assert.deepEqual(new Set(swarm.images(id)), new Set(['app:2']));
    assert.equal(swarm.running(id).length, 8);
  });

  it('every node has its own ingress address, and published tasks have one too', () => {
    const swarm = new Swarm({ nodes: 2 });
    swarm.addNetwork('ingress', { ingress: true, subnet: '10.255.0.0/24' });
    const id = swarm.addService('web', { replicas: 2, ports: [{ targetPort: 80, publishedPort: 8080 }] });
    swarm.settle();
    const all = [...swarm.store.list('node').flatMap((node) => node.attachments.flatMap((a) => a.addresses)),
      ...swarm.running(id).flatMap(addressesOf)];
    assert.equal(all.length, 4);
    assert.equal(new Set(all).size, 4);
  });

  it('a published port without an ingress network is a reason', () => {
    const swarm = new Swarm();
    const id = swarm.addService('web', { ports: [{ targetPort: 80, publishedPort: 8080 }] });
    swarm.settle();
    assert.equal(swarm.tasks(id)[0]?.status?.err, 'service needs ingress network, but no ingress network is present');
  });
});

describe('what others still hold', () => {
  it('VXLAN id and subnet of a removed network are not given out while a task of it still runs', () => {
    const swarm = new Swarm({ nodes: 2 });
    const before = swarm.addNetwork('before');
    const id = swarm.addService('web', { networks: [before] });
    swarm.settle();
    const old = swarm.get('network', before);
    swarm.removeService(id);
    swarm.apply([removeAction('network', old)]);
    const after = swarm.addNetwork('after');
    swarm.pass();
    assert.notEqual(vniOf(swarm.get('network', after)), vniOf(old));
    assert.notEqual(swarm.get('network', after).ipam?.configs[0]?.subnet, old.ipam?.configs[0]?.subnet);
    swarm.advance(30_000);
    const later = swarm.addNetwork('later');
    swarm.settle();
    assert.equal(vniOf(swarm.get('network', later)), vniOf(old), 'free once the task has ended');
  });

  it('a published port asked for by two services at once goes to one; the other waits for it and says so', () => {
    const swarm = new Swarm({ nodes: 2 });
    swarm.addNetwork('ingress', { ingress: true });
    const ports = [{ targetPort: 80, publishedPort: 8080 }];
    const [first, second] = [swarm.addService('first', { ports }), swarm.addService('second', { ports })];
    swarm.settle();
    assert.equal(swarm.running(first).length, 1);
    assert.equal(swarm.running(second).length, 0);
    assert.equal(swarm.tasks(second)[0]?.status?.err, 'port 8080 is already in use by service first');
    swarm.removeService(first);
    swarm.advance(30_000);
    assert.equal(swarm.running(second).length, 1);
  });
});

describe('ports', () => {
  const published = (swarm: Swarm, id: string): number[] => swarm.get('service',
    id).endpoint?.ports.map((port) => port.publishedPort) ?? [];

  it('left open get a free one from 30000, by protocol, and keep it over updates', () => {
    const swarm = new Swarm();
    swarm.addNetwork('ingress', { ingress: true });
    const a = swarm.addService('a', { ports: [{ targetPort: 80 }, { targetPort: 81 }, { targetPort: 53, protocol: Protocol.UDP }] });
    const b = swarm.addService('b', { ports: [{ targetPort: 80, publishedPort: 30002 }] });
    const c = swarm.addService('c', { ports: [{ targetPort: 80 }] });
    swarm.settle();
    assert.deepEqual(published(swarm, a), [30000, 30001, 30000]);
    assert.deepEqual(published(swarm, b), [30002]);
    assert.deepEqual(published(swarm, c), [30003]);
    swarm.removeService(a);
    swarm.updateService(c, { image: 'app:2', ports: [{ targetPort: 80 }] });
    swarm.advance(20_000);
    assert.deepEqual(published(swarm, c), [30003]);
  });

  it('host-mode ports left open are the node\'s business', () => {
    const swarm = new Swarm();
    const id = swarm.addService('a', { ports: [{ targetPort: 80, publishMode: Mode.HOST }] });
    swarm.settle();
    assert.deepEqual(published(swarm, id), [0]);
    assert.equal(swarm.running(id).length, 1);
  });
});

describe('pools', () => {
  it('freeAddress gives the lowest free host address inside the range, or none', () => {
    fc.assert(fc.property(fc.integer({ min: 24, max: 30 }), fc.uniqueArray(fc.integer({ min: 0, max: 255 })), (bits, taken) => {
      const subnet: Prefix = { base: 10 * 2 ** 24, bits };
      const used = new Set(taken.map((offset) => subnet.base + offset));
      const hosts = Array.from({ length: prefixSize(subnet) - 2 }, (_, i) => subnet.base + 1 + i).filter((address) => !used.has(address));
      assert.equal(freeAddress(subnet, used), hosts[0]);
    }));
  });

  it('freeSubnet gives an aligned one inside a pool that overlaps nothing, or none because all is covered', () => {
    const used = fc.array(fc.tuple(fc.integer({ min: 0, max: 15 }), fc.integer({ min: 26, max: 28 })), { maxLength: 12 });
    fc.assert(fc.property(used, fc.integer({ min: 26, max: 28 }), (taken, bits) => {
      const pool = prefix('10.0.0.0/24');
      const others = taken.map(([at, length]) => ({ base: pool.base + (at * 16 - ((at * 16) % 2 ** (32 - length))), bits: length }));
      const found = freeSubnet([pool], bits, others);
      const size = 2 ** (32 - bits);
      const candidates = Array.from({ length: prefixSize(pool) / size }, (_, i) => ({ base: pool.base + i * size, bits }));
      assert.deepEqual(found, candidates.find((one) => !others.some((other) => overlaps(one, other))));
    }));
  });
});
