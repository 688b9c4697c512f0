// Connections of port 2377, bounded by who holds them. Whoever has no certificate (yet) shares a small quota, so that
// nodes with one always get in; a joining node needs such a connection for a few short calls only, so these end soon.
// A full quota closes the oldest connection of the one who holds most: a newcomer is let in, and a flood ends itself.

import type { Socket } from 'node:net';
import type { Logger } from 'pino';

const LOG_INTERVAL_MS = 10_000;

export interface ConnectionLimits {
  /** Connections of nodes with a certificate, and of each node. */
  readonly certified: number;
  readonly perNode: number;
  /** Connections without one, those in their handshake included. */
  readonly anonymous: number;
  readonly handshakeMs: number;
  /** Without a byte in either direction: closed after this, at most after twice this. */
  readonly anonymousIdleMs: number;
  /** From the first byte: also for one that keeps talking. SwarmKit's calls have deadlines of five seconds. */
  readonly anonymousLifeMs: number;
}

export const LIMITS: ConnectionLimits = {
  certified: 10_000, perNode: 64, anonymous: 256, handshakeMs: 10_000, anonymousIdleMs: 10_000, anonymousLifeMs: 60_000,
};

/** How many connections were closed, by reason. */
export interface ConnectionCounts {
  /** To make room for another: nodes', and those without a certificate. */
  certifiedEvicted: number;
  anonymousEvicted: number;
  /** Their time was up: the handshake, idle, the whole life. */
  handshakeExpired: number;
  anonymousExpired: number;
}

/** Connections with an owner each; oldest first. */
class Quota {
  private readonly byOwner = new Map<string, Set<Socket>>();
  private size = 0;
  private readonly max: number;
  private readonly perOwner: number;
  private readonly onEvict: () => void;

  constructor(max: number, perOwner: number, onEvict: () => void) {
    this.max = max;
    this.perOwner = perOwner;
    this.onEvict = onEvict;
  }

  add(owner: string, socket: Socket): void {
    const own = this.byOwner.get(owner);
    if (own !== undefined && own.size >= this.perOwner) this.evict(owner);
    else if (this.size >= this.max) this.evict(this.greediest());
    const sockets = this.byOwner.get(owner) ?? new Set();
    this.byOwner.set(owner, sockets);
    sockets.add(socket);
    this.size += 1;
    socket.once('close', () => this.remove(owner, socket));
  }

  remove(owner: string, socket: Socket): void {
    const sockets = this.byOwner.get(owner);
    if (sockets?.delete(socket) !== true) return;
    this.size -= 1;
    if (sockets.size === 0) this.byOwner.delete(owner);
  }

  close(): void {
    for (const sockets of [...this.byOwner.values()]) for (const socket of [...sockets]) socket.destroy();
  }

  private greediest(): string {
    let best = '';
    let most = 0;
    for (const [owner, sockets] of this.byOwner) {
      if (sockets.size <= most) continue;
      best = owner;
      most = sockets.size;
    }
    return best;
  }

  private evict(owner: string): void {
    const [oldest] = this.byOwner.get(owner) ?? [];
    if (oldest === undefined) return;
    this.onEvict();
    this.remove(owner, oldest);
    oldest.destroy();
  }
}

export class Connections {
  readonly counts: ConnectionCounts = { certifiedEvicted: 0, anonymousEvicted: 0, handshakeExpired: 0, anonymousExpired: 0 };
  readonly limits: ConnectionLimits;
  private readonly certified: Quota;
  private readonly anonymous: Quota;
  private readonly onLimit: (counts: Readonly<ConnectionCounts>) => void;
  /** In their handshake: by both ends, because TLS makes another socket of them. */
  private readonly handshakes = new Map<string, { readonly socket: Socket; readonly timer: NodeJS.Timeout }>();

  constructor(limits: ConnectionLimits, onLimit: (counts: Readonly<ConnectionCounts>) => void) {
    this.limits = limits;
    this.onLimit = onLimit;
    this.certified = new Quota(limits.certified, limits.perNode, () => this.count('certifiedEvicted'));
    this.anonymous = new Quota(limits.anonymous, limits.anonymous, () => this.count('anonymousEvicted'));
  }

  /** A connection was accepted; nothing is known of it. */
  accepted(socket: Socket): void {
    const ends = endsOf(socket);
    this.anonymous.add(socket.remoteAddress ?? '', socket);
    const timer = this.expireAfter(socket, this.limits.handshakeMs, 'handshakeExpired');
    this.handshakes.set(ends, { socket, timer });
    socket.once('close', () => {
      if (this.handshakes.get(ends)?.socket === socket) this.handshakes.delete(ends);
    });
  }

  /** Its handshake is done: a node by its certificate, or still nobody. `secure` is the TLS socket around it. */
  secured(secure: Socket, nodeId: string | undefined): void {
    const accepted = this.handshakes.get(endsOf(secure));
    // Evicted at this very moment.
    if (accepted === undefined) {
      secure.destroy();
      return;
    }
    clearTimeout(accepted.timer);
    this.handshakes.delete(endsOf(secure));
    this.anonymous.remove(accepted.socket.remoteAddress ?? '', accepted.socket);
    if (nodeId !== undefined) {
      this.certified.add(nodeId, secure);
      return;
    }
    this.anonymous.add(secure.remoteAddress ?? '', secure);
    this.expireAfter(secure, this.limits.anonymousLifeMs, 'anonymousExpired');
    this.expireIdle(secure);
  }

  /** Ends them all, those in their handshake too: the listener closes only when none is left. */
  close(): void {
    this.anonymous.close();
    this.certified.close();
  }

  /** By the bytes: HTTP/2 reads past the socket's own timeout. */
  private expireIdle(socket: Socket): void {
    let seen = -1;
    const timer = setInterval(() => {
      const bytes = socket.bytesRead + socket.bytesWritten;
      if (bytes !== seen) {
        seen = bytes;
        return;
      }
      this.count('anonymousExpired');
      socket.destroy();
    }, this.limits.anonymousIdleMs);
    socket.once('close', () => clearInterval(timer));
  }

  private expireAfter(socket: Socket, ms: number, reason: keyof ConnectionCounts): NodeJS.Timeout {
    const timer = setTimeout(() => {
      this.count(reason);
      socket.destroy();
    }, ms);
    socket.once('close', () => clearTimeout(timer));
    return timer;
  }

  private count(reason: keyof ConnectionCounts): void {
    this.counts[reason] += 1;
    this.onLimit(this.counts);
  }
}

function endsOf(socket: Socket): string {
  return `${socket.remoteAddress ?? ''} ${socket.remotePort ?? 0} ${socket.localAddress ?? ''} ${socket.localPort ?? 0}`;
}

/** Says so at most once in a while, with the counts since the start. */
export function limitLog(logger: Logger): (counts: Readonly<ConnectionCounts>) => void {
  let nextMs = 0;
  return (counts) => {
    if (Date.now() < nextMs) return;
    nextMs = Date.now() + LOG_INTERVAL_MS;
    logger.warn({ ...counts }, 'connections to the management port were closed for a limit');
  };
}
