// Sessions: which nodes are connected, by heartbeats. A plain table: times come in, verdicts go out.

export const HEARTBEAT_DEFAULT_MS = 5000;
const GRACE = 3;
/** Nodes found UNKNOWN after a change of leader get longer to come back (SwarmKit: twice the grace). */
const GRACE_UNKNOWN = 6;
const REGISTRATIONS_MAX = 3;
const REGISTRATION_WINDOW_MS = 8000;

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
