// Data-path addresses: a node is sent traffic at the address it announces only while that address is no other node's.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { removeAction } from '../../src/core/store/actions.js';
import { clusterRows, rowsForNode } from '../../src/core/network/rows.js';
import { nodeToJson } from '../../src/api/convert/node.js';
import { DATA_PATH_LABEL } from '../../src/model/network.js';
import { toPairs } from '../../src/model/pairs.js';
import { NodeState, Swarm } from './harness.js';

/** The address another node sends to. */
function vtep(swarm: Swarm, nodeId: string): string | undefined {
  const row = rowsForNode(swarm.store, clusterRows(swarm.store), 'n1').get(`node/${nodeId}`);
  return row?.row.case === 'node' ? row.row.value.vtep : undefined;
}

/** The node's next session: what it announces, and where it calls from. */
function announce(swarm: Swarm, nodeId: string, address: string, from?: string): void {
  swarm.editNode(nodeId, (node) => {
    if (node.description?.engine !== undefined) node.description.engine.labels = toPairs({ [DATA_PATH_LABEL]: address });
    if (node.status !== undefined) {
      node.status.state = NodeState.READY;
      if (from !== undefined) node.status.addr = from;
    }
  });
  swarm.alive.add(nodeId);
  swarm.acked.set(nodeId, 0n);
  swarm.settle();
}

function message(swarm: Swarm, nodeId: string): string {
  return ((nodeToJson(swarm.get('node', nodeId)) as { Status: { Message?: string } }).Status.Message) ?? '';
}

function world(): Swarm {
  const swarm = new Swarm({ nodes: 3 });
  swarm.addNetwork('ingress', { ingress: true });
  swarm.settle();
  assert.deepEqual(['n1', 'n2', 'n3'].map((id) => vtep(swarm, id)), ['192.0.2.1', '192.0.2.2', '192.0.2.3']);
  return swarm;
}

describe('a data-path address', () => {
  it('that is cut within a character is refused once, not decided on without end', () => {
    const swarm = world();
    announce(swarm, 'n3', `${'x'.repeat(63)}\u{1F600}`);
    assert.match(message(swarm, 'n3'), /is not an IPv4 address of one host/);
    swarm.editNode('n2', (node) => { if (node.description !== undefined) node.description.hostname = `${'y'.repeat(63)}\u{1F600}`; });
    announce(swarm, 'n3', '192.0.2.2');
    assert.match(message(swarm, 'n3'), /in use by node n2/);
  });

  it('of another node is not given: the owner keeps its traffic, the other one is told and gets no networked tasks', () => {
    const swarm = world();
    announce(swarm, 'n3', '192.0.2.2');
    assert.deepEqual(['n2', 'n3'].map((id) => vtep(swarm, id)), ['192.0.2.2', undefined]);
    assert.match(message(swarm, 'n3'), /data-path address 192\.0\.2\.2 is in use by node n2 \(n2\): join again with another --data-path-addr/);
    assert.equal(message(swarm, 'n2'), '');
    const net = swarm.addNetwork('net');
    const web = swarm.addService('web', { replicas: 4, networks: [net] });
    const here = swarm.addService('here', { replicas: 1, networks: [net], constraints: ['node.id==n3'] });
    swarm.settle();
    assert.deepEqual([...new Set(swarm.running(web).map((task) => task.nodeId))].sort(), ['n1', 'n2']);
    assert.match(swarm.tasks(here)[0]?.status?.err ?? '', /no data-path address on 1 node/);
    announce(swarm, 'n3', '192.0.2.3');
    assert.equal(vtep(swarm, 'n3'), '192.0.2.3');
    assert.equal(message(swarm, 'n3'), '');
    assert.equal(swarm.running(here).length, 1);
  });

  it('goes with its node: a node may change its own, and the old one is free', () => {
    const swarm = world();
    announce(swarm, 'n2', '192.0.2.22');
    announce(swarm, 'n3', '192.0.2.2');
    assert.deepEqual(['n2', 'n3'].map((id) => vtep(swarm, id)), ['192.0.2.22', '192.0.2.2']);
  });

  it('of a node that is down goes to the machine that replaced it; the old one cannot take it back', () => {
    const swarm = world();
    announce(swarm, 'n3', '192.0.2.2');
    swarm.nodeDown('n2');
    swarm.settle();
    assert.deepEqual([vtep(swarm, 'n2'), vtep(swarm, 'n3'), message(swarm, 'n3')], [undefined, '192.0.2.2', '']);
    announce(swarm, 'n2', '192.0.2.2');
    assert.deepEqual([vtep(swarm, 'n2'), vtep(swarm, 'n3')], [undefined, '192.0.2.2']);
    assert.match(message(swarm, 'n2'), /in use by node n3/);
    swarm.apply([removeAction('node', swarm.get('node', 'n3'))]);
    swarm.settle();
    assert.equal(vtep(swarm, 'n2'), '192.0.2.2');
  });

  it('goes to the one that calls from it: squatting on an address does not keep its owner out', () => {
    const swarm = world();
    swarm.nodeDown('n2');
    announce(swarm, 'n3', '192.0.2.2', '192.0.2.3');
    assert.equal(vtep(swarm, 'n3'), '192.0.2.2');
    announce(swarm, 'n2', '192.0.2.2', '192.0.2.2');
    assert.deepEqual(['n2', 'n3'].map((id) => vtep(swarm, id)), ['192.0.2.2', undefined]);
  });

  it('of a node that is unknown after a restart of the manager stays its own', () => {
    const swarm = world();
    swarm.setNodeState('n2', NodeState.UNKNOWN);
    announce(swarm, 'n3', '192.0.2.2');
    assert.deepEqual(['n2', 'n3'].map((id) => vtep(swarm, id)), ['192.0.2.2', undefined]);
  });

  it('that no host can have is not given', () => {
    const swarm = world();
    for (const address of ['0.0.0.0', '127.0.0.1', '224.0.0.1', '239.1.2.3', '240.0.0.1', '255.255.255.255', 'host', '::1', '192.0.2.300', '1'.repeat(5000)]) {
      announce(swarm, 'n3', address);
      assert.equal(vtep(swarm, 'n3'), undefined, address);
      assert.match(message(swarm, 'n3'), /is not an IPv4 address of one host: join again with --data-path-addr/);
      assert.ok(message(swarm, 'n3').length < 300);
    }
  });
});
