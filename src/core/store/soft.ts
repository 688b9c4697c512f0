// What the leader knows beside the store: which revision each node's data plane has installed. Lost with the leader;
// nodes tell it again. Pure parts take it as input.

import { NodeStatus_State, type Task } from '../../model/proto/swarmkit_pb.js';
import { isTerminal } from '../../model/task.js';
import type { ReadTx } from './view.js';

export interface Acknowledgements {
  /** Nodes that hold a NetworkView, with the highest revision they acknowledged. */
  readonly acked: ReadonlyMap<string, bigint>;
}

export const NO_ACKNOWLEDGEMENTS: Acknowledgements = { acked: new Map() };

/** Every READY node with a network view has installed at least this revision. */
export function acknowledged(view: ReadTx, soft: Acknowledgements, revision: bigint): boolean {
  for (const [nodeId, acked] of soft.acked) {
    if (acked >= revision) continue;
    if (view.get('node', nodeId)?.status?.state === NodeStatus_State.READY) return false;
  }
  return true;
}

/** No node forwards to the ended task any more: its addresses may be given out again. */
export function released(view: ReadTx, soft: Acknowledgements, task: Task): boolean {
  return isTerminal(task) && acknowledged(view, soft, task.meta?.version?.index ?? 0n);
}
