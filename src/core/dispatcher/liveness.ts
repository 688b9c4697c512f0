// Liveness: whether a node is dead, by two kinds of signs: heartbeats of its agent, and answers of its data plane to
// probes. A node is lost when neither came for longer than can be explained. An agent that is down under a data plane that
// answers is no dead node: its tasks serve on, and SwarmKit's slow rule (sessions.ts) decides. Pure.
//
// How long a silence can be explained is learnt from the gaps so far (round trips, load, lost packets are all in them): never
// less than a floor, and half as long again as the longest gap of late. The longest, not the usual one and its spread: what a
// busy machine does to its processes has no bell curve, it is short gaps and now and then a long one. Times are those the
// observer lived through: while it did not run itself, it could not hear anybody.

export interface Life {
  readonly lastMs: number;
  /** Signs since it began anew, and answers of the data plane among them. */
  readonly signs: number;
  readonly answers: number;
  /** The longest gap, fading. */
  readonly worstMs: number;
}

/** Answers before silence says anything: a data plane that was never heard may be behind a firewall. */
const ANSWERS_MIN = 5;
const WORST_HALVES_MS = 60_000;
const WORST_MARGIN = 1.5;
/** What a false alarm teaches at most, in floors. */
const RELIEF_MAX = 1.6;

export function newLife(nowMs: number): Life {
  return { lastMs: nowMs, signs: 0, answers: 0, worstMs: 0 };
}

export function heard(life: Life, kind: 'agent' | 'plane', nowMs: number): Life {
  // Before the first sign there was nothing to be late.
  const gap = life.signs === 0 ? 0 : Math.max(nowMs - life.lastMs, 0);
  return {
    lastMs: nowMs,
    signs: life.signs + 1,
    answers: life.answers + (kind === 'plane' ? 1 : 0),
    worstMs: Math.max(gap, life.worstMs * 0.5 ** (gap / WORST_HALVES_MS)),
  };
}

/** The silence that can still be explained. */
export function limitMs(life: Life, floorMs: number): number {
  return Math.max(floorMs, WORST_MARGIN * life.worstMs);
}

export function isLost(life: Life, nowMs: number, floorMs: number): boolean {
  return life.answers >= ANSWERS_MIN && nowMs - life.lastMs > limitMs(life, floorMs);
}

/**
 * A node that was lost begins anew when it is heard again. `alive`: it had been alive all the time, so the observer was too
 * impatient, or the link is not steady; either way a silence of that length is explained from now on, in bounds.
 */
export function revived(life: Life, alive: boolean, nowMs: number, floorMs: number): Life {
  const gap = Math.min(nowMs - life.lastMs, RELIEF_MAX * floorMs);
  return { ...newLife(nowMs), worstMs: alive ? Math.max(gap, life.worstMs) : 0 };
}

/** So many nodes, all silent: it is the observer that is cut off. */
const CUT_OFF_MIN = 3;

/** Nodes that are dead; none while the observer itself may be what is cut off: then the slow rule decides. */
export function judge(lives: ReadonlyMap<string, Life>, nowMs: number, floorMs: number): readonly string[] {
  const lost = [...lives].filter(([, life]) => isLost(life, nowMs, floorMs)).map(([nodeId]) => nodeId);
  if (lost.length === 0) return lost;
  const known = [...lives.values()].filter(({ answers }) => answers >= ANSWERS_MIN);
  const cutOff = known.length >= CUT_OFF_MIN && known.every(({ lastMs }) => nowMs - lastMs > floorMs / 2);
  return cutOff ? [] : lost;
}

/** The observer's own time: a step in which it did not run counts as the longest one it would have taken. */
export interface Observer {
  readonly clockMs: number;
  readonly livedMs: number;
  /** What it missed, in all. */
  readonly stalledMs: number;
}

export function newObserver(clockMs: number): Observer {
  return { clockMs, livedMs: 0, stalledMs: 0 };
}

export function observe(observer: Observer, clockMs: number, stepMaxMs: number): Observer {
  const step = Math.max(clockMs - observer.clockMs, 0);
  const lived = Math.min(step, stepMaxMs);
  return { clockMs, livedMs: observer.livedMs + lived, stalledMs: observer.stalledMs + step - lived };
}

export interface Pace {
  readonly tickMs: number;
  /** Between two probes of a node's data plane. */
  readonly probeMs: number;
  /** Between two heartbeats of an agent of ours. */
  readonly heartbeatMs: number;
  /** No silence below this means anything. */
  readonly floorMs: number;
}

/** What the leader spends on a node at most: a heartbeat costs it about a millisecond, a probe a hundredth of that. */
const HEARTBEATS_APART_MS = 12;
const PROBES_APART_MS = 2;

/**
 * From the swarm's heartbeat period: what SwarmKit notices after three of them is noticed after a fifth of one. Many nodes
 * are heard less often, at most some 80 heartbeats a second in all; then more silence is needed, 2.4 s at 100 nodes.
 */
export function paceOf(periodMs: number, nodes: number): Pace {
  const probeMs = Math.min(Math.max(periodMs / 25, PROBES_APART_MS * nodes, 40), 5000);
  const heartbeatMs = Math.min(Math.max(periodMs / 10, HEARTBEATS_APART_MS * nodes, 100), periodMs);
  return { tickMs: probeMs / 2, probeMs, heartbeatMs, floorMs: Math.max(periodMs / 5, 5 * probeMs, 2 * heartbeatMs, 400) };
}
