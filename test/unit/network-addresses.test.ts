// Overlay networks keep off the addresses of the nodes: their gateway networks, which lie beside an overlay network in
// every task, and what they reach one another by. Real managers; see test/support/test-node.ts.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createNetwork } from '../../src/core/control/networks.js';
import { agentOptions } from '../../src/daemon/options.js';
import { unwrap, type Result } from '../../src/lib/result.js';
import { network } from '../support/control.js';
import { testNodes, type TestNode } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

const OVERLAP = 'invalid pool request: Pool overlaps with other one on this address space';
const make = testNodes();

function ask(node: TestNode, name: string, subnet?: string): Promise<Result<string>> {
  const manager = node.node.manager() ?? assert.fail('a manager');
  return manager.commit((view, context) => createNetwork(view, network(name, subnet === undefined ? {} : { subnet }), context));
}

async function subnetOf(node: TestNode, name: string): Promise<string> {
  return eventually(`a subnet for ${name}`, 5000, async () => {
    const found = node.node.manager()?.view().byName('network', name)?.ipam?.configs[0]?.subnet ?? '';
    assert.notEqual(found, '');
    return found;
  });
}

describe('an overlay network', () => {
  it('is refused the gateway network, and subnets that hold a node\'s address, in Docker\'s words', async () => {
    const leader = await make();
    unwrap(await leader.init());
    const worker = await make();
    unwrap(await worker.join(leader, { dataPathAddr: '192.0.2.77' }));
    const refused: [string, RegExp][] = [
      ['172.18.0.0/16', /the gateway network 172\.18\.0\.0\/16 of node n1/], ['172.18.200.0/24', /the gateway network/],
      ['172.16.0.0/12', /the gateway network/], ['127.0.0.0/24', /the address 127\.0\.0\.1 of node n1/],
      ['192.0.2.64/26', /the address 192\.0\.2\.77 of node n1/],
    ];
    for (const [subnet, why] of refused) {
      const result = await ask(leader, 'net', subnet);
      assert.ok(!result.ok, `${subnet} is accepted`);
      assert.equal(result.error.code, 'permission_denied');
      assert.ok(result.error.message.startsWith(OVERLAP), result.error.message);
      assert.match(result.error.message, why);
      assert.match(result.error.message, /choose another --subnet$/);
    }
    for (const subnet of ['172.19.0.0/16', '192.0.2.0/26']) unwrap(await ask(leader, `net-${subnet.slice(0, 3)}`, subnet));
  });

  it('is given a subnet that holds none of them, the ingress network too', async () => {
    const leader = await make();
    unwrap(await leader.init({ defaultAddrPool: ['172.18.0.0/15'], subnetSize: 24 }));
    assert.equal(await subnetOf(leader, 'ingress'), '172.19.0.0/24');
    const other = await make();
    unwrap(await other.init({ defaultAddrPool: ['127.0.0.0/8'], subnetSize: 24, dataPathAddr: '127.0.1.7' }));
    assert.equal(await subnetOf(other, 'ingress'), '127.0.2.0/24');
    unwrap(await ask(other, 'net'));
    assert.equal(await subnetOf(other, 'net'), '127.0.3.0/24');
  });

  it('that is there before a node whose address it holds is warned of', async () => {
    const leader = await make();
    unwrap(await leader.init());
    assert.equal(await subnetOf(leader, 'ingress'), '10.0.0.0/24');
    const worker = await make();
    unwrap(await worker.join(leader, { dataPathAddr: '10.0.0.9' }));
    assert.match(leader.warnings().join('\n'), /addresses are taken: network ingress holds the address 10\.0\.0\.9 of node n1/);
  });
});

describe('the gateway network of a node', () => {
  it('has a size that leaves room for tasks and for other networks', async () => {
    for (const bits of [8, 11, 31, 32]) {
      const result = await agentOptions({ gatewayBridge: `172.18.0.1/${bits}` }, undefined);
      assert.match(result.ok ? '' : result.error.message, /option "gatewayBridge" must be .* from 12 to 30 like/);
    }
    unwrap(await agentOptions({ gatewayBridge: '172.16.0.1/12' }, undefined));
  });
});
