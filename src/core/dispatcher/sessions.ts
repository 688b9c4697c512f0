// Sessions: which nodes are connected, by heartbeats: SwarmKit's slow rule, for every node. A plain table: times come in,
// verdicts go out. Nodes of ours that are dead are told sooner, by liveness.ts.

import type { Duration } from '@bufbuild/protobuf/wkt';
import { durationMs } from '../../lib/time.js';

const HEARTBEAT_DEFAULT_MS = 5000;
/** What is asked for beyond these would mark every node as down at once, or overflow the nodes' timers. */
const HEARTBEAT_MIN_MS = 1000;
const HEARTBEAT_MAX_MS = 24 * 3_600_000;
const GRACE = 3;
/** Nodes found UNKNOWN after a change of leader get longer to come back (SwarmKit: twice the grace). */
const GRACE_UNKNOWN = 6;
const REGISTRATIONS_MAX = 3;
const REGISTRATION_WINDOW_MS = 8000;

/** The period that is kept, out of the one that is configured. */
export function heartbeatMs(configured: Duration | undefined): number {
  const ms = durationMs(configured);
  return ms === 0 ? HEARTBEAT_DEFAULT_MS : Math.min(Math.max(ms, HEARTBEAT_MIN_MS), HEARTBEAT_MAX_MS);
}

interface Session {
  sessionId: string;
  deadlineMs: number;
  registrations: number[];
  connected: boolean;
}

export type Registered = { readonly ok: true; readonly sessionId: string } | { readonly ok: false; readonly reason: 'rate limited' };

export class Sessions {
  private readonly byNode = new Map<string, Session>();

  /** A new session; the id is kept when the node names its current one. */
  register(nodeId: string, previousId: string, freshId: string, nowMs: number, periodMs: number): Registered {
    const old = this.byNode.get(nodeId);
    const registrations = (old?.registrations ?? []).filter((at) => at > nowMs - REGISTRATION_WINDOW_MS);
    // A node that comes back with its current session only has something new to tell: that is not a storm. A node
    // that is only expected has no id yet, nor has an agent that just started: neither is a session to keep.
    const same = old?.connected === true && previousId !== '' && old.sessionId === previousId;
    if (!same) {
      if (registrations.length >= REGISTRATIONS_MAX) return { ok: false, reason: 'rate limited' };
      registrations.push(nowMs);
    }
    const sessionId = same ? previousId : freshId;
    this.byNode.set(nodeId, { sessionId, deadlineMs: nowMs + GRACE * periodMs, registrations, connected: true });
    return { ok: true, sessionId };
  }

  /** A node from the store that has not called yet. */
  expect(nodeId: string, nowMs: number, periodMs: number): void {
    if (this.byNode.has(nodeId)) return;
    this.byNode.set(nodeId, { sessionId: '', deadlineMs: nowMs + GRACE_UNKNOWN * periodMs, registrations: [], connected: true });
  }

  check(nodeId: string, sessionId: string): 'ok' | 'unknown node' | 'wrong session' {
    const session = this.byNode.get(nodeId);
    if (session === undefined || !session.connected || session.sessionId === '') return 'unknown node';
    return session.sessionId === sessionId ? 'ok' : 'wrong session';
  }

  heartbeat(nodeId: string, sessionId: string, nowMs: number, periodMs: number): 'ok' | 'unknown node' | 'wrong session' {
    const verdict = this.check(nodeId, sessionId);
    if (verdict === 'ok') (this.byNode.get(nodeId) as Session).deadlineMs = nowMs + GRACE * periodMs;
    return verdict;
  }

  /** It is known to be dead: its time is up now, also where it was named before: it may have been taken for ready since. */
  lose(nodeId: string, nowMs: number): void {
    const session = this.byNode.get(nodeId);
    if (session === undefined) this.byNode.set(nodeId, { sessionId: '', deadlineMs: nowMs, registrations: [], connected: true });
    else Object.assign(session, { deadlineMs: nowMs, connected: true });
  }

  /** Its registration is in the store. Whose time was up meanwhile was not READY yet when it was named: it is named again. */
  registered(nodeId: string, nowMs: number): void {
    if (this.byNode.get(nodeId)?.connected === false) this.lose(nodeId, nowMs);
  }

  /** The manager itself did not run for so long, and could hear nobody. */
  stalled(ms: number): void {
    for (const session of this.byNode.values()) session.deadlineMs += ms;
  }

  /** Nodes whose time is up; each is named once. */
  expire(nowMs: number): string[] {
    const expired: string[] = [];
    for (const [nodeId, session] of this.byNode) {
      if (!session.connected || session.deadlineMs > nowMs) continue;
      session.connected = false;
      expired.push(nodeId);
    }
    return expired;
  }

  /** Earliest deadline; undefined when nobody is connected. */
  nextDeadlineMs(): number | undefined {
    let next: number | undefined;
    for (const session of this.byNode.values()) {
      if (session.connected && (next === undefined || session.deadlineMs < next)) next = session.deadlineMs;
    }
    return next;
  }

  forget(nodeId: string): void {
    this.byNode.delete(nodeId);
  }
}
