// Link: one connection to another manager that carries Raft messages that way, and nothing else: TLS of the managers'
// certificates, frames of messages.ts. gRPC would cost more than all else that is done for a message. It ends with either
// process, and so tells the other one.

import type { Socket } from 'node:net';
import tls from 'node:tls';
import type { Message } from '../../core/raft/types.js';
import { secureContext, type Credentials } from '../grpc/client.js';
import { FrameReader } from './frames.js';
import { PING, RAFT_PROTOCOL, WireError, decodeBatch, decodeSender, encodeFrame, encodeSender, type Sender } from './messages.js';

/**
 * A connection that is not made by then is begun anew: in a partition TCP tries again after 1, 3 and 7 seconds, and would
 * find out that long after the end of it.
 */
const CONNECT_MS = 1000;
/** After a partition TCP alone would go on waiting for up to two minutes. */
const KEEPALIVE_MS = 2000;
/** The other end asks every two seconds: it is gone, or stopped. */
const SILENCE_MS = 10_000;

export interface LinkEvents {
  /** The connection stands. */
  ready(): void;
  /** The other end has taken what was sent so far. */
  answered?(): void;
  /** Once, however it ends but by close(). */
  ended(): void;
}

export class Link {
  ready = false;
  private readonly socket: tls.TLSSocket;
  private readonly timers: (NodeJS.Timeout)[] = [];
  private answered = true;
  private ended = false;
  private readonly events: LinkEvents;

  constructor(address: string, from: Credentials, sender: Sender, events: LinkEvents) {
    this.events = events;
    const at = address.lastIndexOf(':');
    this.socket = tls.connect({
      host: address.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(address.slice(at + 1)), secureContext: secureContext(from),
      servername: from.serverName, ALPNProtocols: [RAFT_PROTOCOL],
    });
    this.socket.setNoDelay(true);
    this.socket.write(encodeSender(sender));
    this.socket.on('secureConnect', () => {
      // A manager of another version, which would take the frames for HTTP/2.
      if (this.socket.alpnProtocol !== RAFT_PROTOCOL) {
        this.end();
        return;
      }
      this.ready = true;
      this.timers.push(setInterval(() => this.ask(), KEEPALIVE_MS));
      events.ready();
      this.ask();
    });
    this.socket.on('data', () => {
      this.answered = true;
      events.answered?.();
    });
    this.socket.on('error', () => this.end()); // It is told as the end that it is.
    this.socket.on('close', () => this.end());
    this.timers.push(setTimeout(() => {
      if (!this.ready) this.end();
    }, CONNECT_MS));
  }

  /** Bytes that were not taken by the system yet. */
  get waitingBytes(): number {
    return this.socket.writableLength;
  }

  send(messages: readonly Message[]): void {
    this.socket.write(encodeFrame(messages));
  }

  close(): void {
    this.ended = true;
    for (const timer of this.timers) clearTimeout(timer);
    this.socket.destroy();
  }

  private ask(): void {
    if (!this.answered) {
      this.end();
      return;
    }
    this.answered = false;
    this.socket.write(PING);
  }

  private end(): void {
    if (this.ended) return;
    this.close();
    this.events.ended();
  }
}

/** What a manager does with the messages of another. */
export interface Receiver {
  /** What the link began with. */
  begun(sender: Sender): void;
  receive(message: Message): void;
  /** The connection ended, whichever way. */
  ended(): void;
}

/** The other end of a Link. */
export function acceptLink(socket: Socket, receiver: Receiver): void {
  const frames = new FrameReader();
  let first = true;
  socket.setNoDelay(true);
  socket.setTimeout(SILENCE_MS, () => socket.destroy());
  socket.on('close', () => receiver.ended());
  socket.on('data', (piece: Buffer) => {
    try {
      for (const frame of frames.push(piece)) {
        const sender = first ? decodeSender(frame) : undefined;
        first = false;
        if (sender !== undefined) receiver.begun(sender);
        else if (frame.length === 0) socket.write(PING);
        else for (const message of decodeBatch(frame)) receiver.receive(message);
      }
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      socket.destroy();
    }
  });
}
