// Force new cluster: a manager whose group lost its quorum for good goes on alone, with all it has. Entries that were
// not known to be committed count as committed: the lost majority may have told somebody so. The manager gets another raft
// id, so that nothing of the old group can speak to it; the other managers become workers.

import { clone, create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { Store } from '../../core/store/store.js';
import { RaftLog } from '../../io/raftlog/raftlog.js';
import { AppFailure } from '../../lib/result.js';
import { CommandSchema, SnapshotFileSchema, StoreStateSchema } from '../../model/proto/skein_pb.js';
import { NodeRole, NodeSchema, NodeSpecSchema, RaftMemberSchema, type Node } from '../../model/proto/swarmkit_pb.js';

export interface NewGroup {
  readonly directory: string;
  readonly dek: Uint8Array;
  readonly pendingDek?: Uint8Array | undefined;
  /** This manager's from now on. */
  readonly raftId: bigint;
  readonly nodeId: string;
  readonly advertiseAddr: string;
}

/**
 * Rewrites the log, which nobody may have open. Done again after a kill it does the same. Fails with AppFailure, and changes nothing,
 * where the log is damaged or holds no swarm.
 */
export async function forceNewGroup(options: NewGroup): Promise<void> {
  const { raftId, nodeId, advertiseAddr: addr } = options;
  const log = new RaftLog(options.directory, options.dek, options.pendingDek);
  const { snapshot, hardState, entries } = await log.load();
  const store = new Store();
  if (snapshot !== undefined) store.restore(fromBinary(StoreStateSchema, snapshot.data));
  for (const { index, kind, data } of entries) {
    if (kind === 'normal' && data.length > 0) store.apply(index, fromBinary(CommandSchema, data));
  }
  if (store.cluster() === undefined) {
    await log.close();
    const message = 'this manager knows nothing of the swarm yet: begin the new cluster on another one';
    throw new AppFailure({ code: 'failed_precondition', message });
  }
  const last = entries.at(-1) ?? { index: snapshot?.index ?? 0n, term: snapshot?.term ?? 0n };
  const state = store.snapshot();
  if (state.objects !== undefined) state.objects.nodes = state.objects.nodes.map((node) => ofNewGroup(node, nodeId, last.index));
  await log.installSnapshot(create(SnapshotFileSchema, {
    index: last.index, term: last.term, voters: [raftId], learners: [],
    members: [create(RaftMemberSchema, { raftId, nodeId, addr })],
    data: toBinary(StoreStateSchema, state),
  }), { term: hardState.term, vote: 0n });
  await log.close();
}

/** This node is a manager, whatever was decided before; the other managers' nodes are in no group any more. */
function ofNewGroup(node: Node, nodeId: string, index: bigint): Node {
  const role = node.id === nodeId ? NodeRole.MANAGER : NodeRole.WORKER;
  if (node.role === role && node.spec?.desiredRole === role) return node;
  const next = clone(NodeSchema, node);
  next.role = role;
  next.spec = create(NodeSpecSchema, { ...node.spec, desiredRole: role });
  next.specChanged = index;
  delete next.managerStatus;
  return next;
}
