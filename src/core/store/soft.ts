// What the leader knows beside the store: which revision each node's data plane has installed, since when it has each revision
// itself, and since when it has known a node to be DOWN. Lost with the leader; nodes tell it again. Pure parts take it as input.

import { NodeStatus_State, TaskState, type Node, type Task } from '../../model/proto/swarmkit_pb.js';
import { isSkeinNode } from '../../model/network.js';
import { isTerminal } from '../../model/task.js';
import type { ReadTx } from './view.js';

export type Acked = ReadonlyMap<string, bigint>;

export interface Acknowledgements {
  /** Nodes that hold a NetworkView, with the highest revision they acknowledged. */
  readonly acked: Acked;
  /** installedBy() of them. */
  readonly installed: bigint;
  readonly reached: Reached;
  readonly downSince: DownSince;
  /** The time, by the clock that `reached` and `downSince` go by. */
  readonly steadyMs: number;
}

/**
 * Since when each node that is DOWN has been so, for all this leader saw of it. As with SwarmKit's timers a new leader begins
 * anew: a time of day that another manager noted may be of a clock that was never set.
 */
export type DownSince = ReadonlyMap<string, number>;

/** `before` is what was known last; undefined in a new term. */
export function known(before: Acknowledgements | undefined, view: ReadTx, acked: Acked, steadyMs: number): Acknowledgements {
  return {
    acked, installed: installedBy(view, acked), reached: reach(before?.reached ?? [], view.index, steadyMs),
    downSince: downNow(before?.downSince ?? new Map(), view, steadyMs), steadyMs,
  };
}

export function downNow(before: DownSince, view: ReadTx, steadyMs: number): DownSince {
  const down = view.list('node').filter((node) => node.status?.state === NodeStatus_State.DOWN);
  if (down.length === before.size && down.every(({ id }) => before.has(id))) return before;
  return new Map(down.map(({ id }) => [id, before.get(id) ?? steadyMs]));
}

/**
 * Which revision the leader had at which time, by a clock of its own that does not jump; the oldest first. Waiting is bounded by
 * it, not by times in the store: those are of other managers' clocks, and of when a change was asked for, not of when it came.
 */
export type Reached = readonly { readonly index: bigint; readonly atMs: number }[];

const REACHED_STEP_MS = 100;
/** Longer than anybody waits. */
const REACHED_KEPT_MS = 65_000;

export function reach(reached: Reached, index: bigint, steadyMs: number): Reached {
  const last = reached.at(-1);
  if (last?.index === index) return reached;
  // Of those within a step only the first and the last are kept: what lies between counts from the later time.
  const close = steadyMs - (reached.at(-2)?.atMs ?? -Infinity) < REACHED_STEP_MS;
  const kept = close ? reached.slice(0, -1) : reached;
  const old = kept.findIndex(({ atMs }) => atMs > steadyMs - REACHED_KEPT_MS);
  return [...kept.slice(Math.max(old < 0 ? kept.length - 1 : old - 1, 0)), { index, atMs: steadyMs }];
}

/** For how long this leader has had the revision. */
export function hadForMs({ reached, steadyMs }: Acknowledgements, revision: bigint): number {
  const first = reached.find(({ index }) => index >= revision);
  return first === undefined ? 0 : steadyMs - first.atMs;
}

/** Where no node forwards. */
const EVERYTHING = 2n ** 64n;

/**
 * The revision that every node which forwards by a network view has installed. A Skein node that has not told yet (it is
 * connecting, or the leader is new and the node's state unknown) may hold old tables: it is waited for.
 */
export function installedBy(view: ReadTx, acked: Acked): bigint {
  let least = EVERYTHING;
  for (const node of view.list('node')) {
    const revision = installedOn(node, acked);
    if (revision < least) least = revision;
  }
  return least;
}

/** Whether that is more than it was: asked after each acknowledgement, so it looks no further than to the first that lacks. */
export function advanced(view: ReadTx, acked: Acked, installed: bigint): boolean {
  return view.list('node').every((node) => installedOn(node, acked) > installed);
}

function installedOn(node: Node, acked: Acked): bigint {
  const state = node.status?.state;
  if (state !== NodeStatus_State.READY && state !== NodeStatus_State.UNKNOWN) return EVERYTHING;
  return acked.get(node.id) ?? (isSkeinNode(node) ? -1n : EVERYTHING);
}

export function acknowledged(soft: Acknowledgements, revision: bigint): boolean {
  return soft.installed >= revision;
}

/** What an ended task had is free after this even if a node never acknowledged. */
const RELEASE_TIMEOUT_MS = 10_000;

/** How long what the task has stays taken, if nobody acknowledges: 0 if it is free, undefined while the task has not ended. */
export function releasedInMs(soft: Acknowledgements, task: Task): number | undefined {
  if (!isTerminal(task)) return undefined;
  const revision = task.meta?.version?.index ?? 0n;
  return acknowledged(soft, revision) ? 0 : Math.max(RELEASE_TIMEOUT_MS - hadForMs(soft, revision), 0);
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
