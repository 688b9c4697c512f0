// What tests of backups and of restored managers ask of a node that manages: its view of the cluster, and a write that can be
// told apart from others.

import assert from 'node:assert/strict';
import { clone } from '@bufbuild/protobuf';
import { updateAction } from '../../src/core/store/actions.js';
import { ok, unwrap } from '../../src/lib/result.js';
import { ClusterSchema, type Cluster } from '../../src/model/proto/swarmkit_pb.js';
import type { TestNode } from './test-node.js';

export const manager = (node: TestNode): NonNullable<ReturnType<TestNode['node']['manager']>> =>
  node.node.manager() ?? assert.fail('a manager');
export const cluster = (node: TestNode): Cluster => manager(node).view().cluster() ?? assert.fail('a cluster');

/** The number of the last write() it knows. */
export const counted = (node: TestNode): number => Number(cluster(node).spec?.annotations?.labels[0]?.value ?? '0');

/** One command; its number is what a restored node tells back. */
export async function write(node: TestNode, number: number): Promise<void> {
  unwrap(await manager(node).commit((view) => {
    const next = clone(ClusterSchema, view.cluster() ?? assert.fail('a cluster'));
    if (next.spec?.annotations === undefined) assert.fail('a spec');
    next.spec.annotations.labels = [{ $typeName: 'docker.swarmkit.v1.Pair', key: 'n', value: String(number) }];
    return ok({ actions: [updateAction('cluster', next)], value: undefined });
  }));
}
