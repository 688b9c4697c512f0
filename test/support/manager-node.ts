// What tests ask of a node that manages: its view of the cluster, its part in the group, a change of somebody's role, and a
// write that can be told apart from others.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { clone } from '@bufbuild/protobuf';
import { updateNode } from '../../src/core/control/nodes.js';
import { updateAction } from '../../src/core/store/actions.js';
import type { Consensus } from '../../src/daemon/manager/consensus.js';
import type { Manager } from '../../src/daemon/manager/manager.js';
import type { NodeRecord } from '../../src/daemon/noderecord.js';
import type { SwarmState } from '../../src/daemon/swarmstate.js';
import { fail, ok, unwrap, type Result } from '../../src/lib/result.js';
import { unlockKeyOf } from '../../src/model/cluster.js';
import { ClusterSchema, NodeSchema, type Cluster, type NodeRole } from '../../src/model/proto/swarmkit_pb.js';
import type { TestNode } from './test-node.js';

export const manager = (node: TestNode): NonNullable<ReturnType<TestNode['node']['manager']>> =>
  node.node.manager() ?? assert.fail('a manager');
export const cluster = (node: TestNode): Cluster => manager(node).view().cluster() ?? assert.fail('a cluster');

/** The number of the last write() it knows. */
export const counted = (node: TestNode): number => Number(cluster(node).spec?.annotations?.labels[0]?.value ?? '0');

export const consensusOf = (node: TestNode): Consensus => (manager(node) as Manager).consensus;
export const recordOf = (node: TestNode): NodeRecord => (node.node as unknown as { record: NodeRecord }).record;
export const stateOf = async (node: TestNode): Promise<SwarmState> =>
  JSON.parse(await readFile(node.file('state.json'), 'utf8')) as SwarmState;
export const keyOf = (node: TestNode): Uint8Array => new Uint8Array(unlockKeyOf(cluster(node)) ?? assert.fail('an unlock key'));

/** With it a node joins as a manager. */
export const managerToken = (node: TestNode): string => cluster(node).rootCa?.joinTokens?.manager ?? '';

/** Voters and learners, by what is applied. */
export function membersOf(node: TestNode): readonly bigint[] {
  const { voters, learners } = consensusOf(node).status.confState;
  return [...voters, ...learners];
}

/** As `node promote` and `node demote`. */
export function setRole(via: TestNode, nodeId: string, role: NodeRole): Promise<Result<void>> {
  return manager(via).commit((view) => {
    const node = view.get('node', nodeId);
    if (node === undefined) return fail('not_found', nodeId);
    const { spec } = clone(NodeSchema, node);
    assert.ok(spec !== undefined);
    spec.desiredRole = role;
    return updateNode(view, { id: nodeId, version: node.meta?.version?.index ?? 0n, spec });
  });
}

/** One command; its number is what a restored node tells back. */
export async function write(node: TestNode, number: number): Promise<void> {
  unwrap(await manager(node).commit((view) => {
    const next = clone(ClusterSchema, view.cluster() ?? assert.fail('a cluster'));
    if (next.spec?.annotations === undefined) assert.fail('a spec');
    next.spec.annotations.labels = [{ $typeName: 'docker.swarmkit.v1.Pair', key: 'n', value: String(number) }];
    return ok({ actions: [updateAction('cluster', next)], value: undefined });
  }));
}
