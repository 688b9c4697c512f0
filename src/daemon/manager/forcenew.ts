// Force new cluster: a manager whose group lost its quorum for good goes on alone, with all it has. Entries that were
// not known to be committed count as committed: the lost majority may have told somebody so. The manager gets another raft
// id, so that nothing of the old group can speak to it; the other managers become workers.

import { clone, create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { updateAction } from '../../core/store/actions.js';
import { Store } from '../../core/store/store.js';
import type { ReadTx } from '../../core/store/view.js';
import { RaftLog } from '../../io/raftlog/raftlog.js';
import { AppFailure } from '../../lib/result.js';
import { CommandSchema, SnapshotFileSchema, StoreStateSchema } from '../../model/proto/skein_pb.js';
import { NodeRole, NodeSchema, NodeSpecSchema, RaftMemberSchema, type StoreAction } from '../../model/proto/swarmkit_pb.js';

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
    const message = 'this manager knows nothing of the swarm yet: begin the new cluster on another one';
    throw new AppFailure({ code: 'failed_precondition', message });
  }
  const last = entries.at(-1) ?? { index: snapshot?.index ?? 0n, term: snapshot?.term ?? 0n };
  await log.installSnapshot(create(SnapshotFileSchema, {
    index: last.index, term: last.term, voters: [raftId], learners: [],
    members: [create(RaftMemberSchema, { raftId, nodeId, addr })],
    data: toBinary(StoreStateSchema, store.snapshot()),
  }), { term: hardState.term, vote: 0n, commit: last.index });
  await log.close();
}

/** What the other managers' nodes become: they are in no group any more. */
export function demoteOthers(view: ReadTx, nodeId: string): StoreAction[] {
  const others = view.list('node').filter((node) => node.id !== nodeId
    && (node.role === NodeRole.MANAGER || node.spec?.desiredRole === NodeRole.MANAGER));
  return others.map((node) => {
    const next = clone(NodeSchema, node);
    next.role = NodeRole.WORKER;
    next.spec = create(NodeSpecSchema, { ...node.spec, desiredRole: NodeRole.WORKER });
    delete next.managerStatus;
    return updateAction('node', next);
  });
}
