// What the leader knows beside the store: which revision each node's data plane has installed. Lost with the leader;
// nodes tell it again. Pure parts take it as input.

import { NodeStatus_State, TaskState, type Task } from '../../model/proto/swarmkit_pb.js';
import { isSkeinNode } from '../../model/network.js';
import { isTerminal } from '../../model/task.js';
import type { ReadTx } from './view.js';

export interface Acknowledgements {
  /** Nodes that hold a NetworkView, with the highest revision they acknowledged. */
  readonly acked: ReadonlyMap<string, bigint>;
}

export const NO_ACKNOWLEDGEMENTS: Acknowledgements = { acked: new Map() };

/**
 * Every node that forwards by a network view has installed at least this revision. A Skein node that has not told yet
 * (it is connecting, or the leader is new and the node's state unknown) may hold old tables: it is waited for.
 */
export function acknowledged(view: ReadTx, soft: Acknowledgements, revision: bigint): boolean {
  return view.list('node').every((node) => {
    const state = node.status?.state;
    if (state !== NodeStatus_State.READY && state !== NodeStatus_State.UNKNOWN) return true;
    const acked = soft.acked.get(node.id);
    return acked === undefined ? !isSkeinNode(node) : acked >= revision;
  });
}

/** No node forwards to the ended task any more: its addresses may be given out again. */
export function released(view: ReadTx, soft: Acknowledgements, task: Task): boolean {
  return isTerminal(task) && acknowledged(view, soft, task.meta?.version?.index ?? 0n);
}

/** The highest revision somebody waits to see acknowledged. */
export function awaitedRevision(view: ReadTx): bigint {
  let awaited = 0n;
  for (const node of view.list('node')) {
    const revision = node.meta?.version?.index ?? 0n;
    if (node.status?.state === NodeStatus_State.DOWN && revision > awaited) awaited = revision;
  }
  for (const task of view.list('task')) {
    let revision = 0n;
    if (isTerminal(task) && task.networks.length > 0) revision = task.meta?.version?.index ?? 0n;
    else if (task.drainState !== undefined && task.desiredState <= TaskState.RUNNING) revision = task.drainState.revision;
    if (revision > awaited) awaited = revision;
  }
  return awaited;
}
