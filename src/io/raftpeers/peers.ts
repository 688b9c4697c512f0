// RaftPeers: the way out to the other managers: one link to each (link.ts), made anew when it breaks. It stands also where
// there is nothing to say, as between two followers: votes for the next leader do not wait for handshakes. Messages may be
// lost (Raft asks again), never reordered within a link, and wait in a bounded queue. Snapshots go in a gRPC call of their own,
// one at a time to each manager, so that heartbeats never wait behind one.

import { create } from '@bufbuild/protobuf';
import type { Message } from '../../core/raft/types.js';
import { ManagerGroup, SnapshotChunkSchema, type SnapshotChunk } from '../../model/proto/skein_pb.js';
import { ManagerClient, type Credentials } from '../grpc/client.js';
import { Link } from './link.js';
import { encodeMessage, type Sender } from './messages.js';

/** A batch of messages; managers take 4 MiB. */
const BATCH_BYTES_MAX = 2 * 1024 * 1024;
const MESSAGE_OVERHEAD = 128;
/** Bytes that a slow manager may have waiting; beyond, messages to it are dropped, and counted. */
const QUEUE_BYTES_MAX = 32 * 1024 * 1024;
const CHUNK_BYTES = 1024 * 1024;
const RECONNECT_MS = 100;
/** Where nobody has anything to send. */
const RECONNECT_IDLE_MS = 1000;
/** What an old link has on its way arrives in this time. */
const RETIRE_MS = 1000;
/** A manager that does not take new connections is told by the end of the old one. */
const RENEW_MS_MAX = 10_000;
/** After a partition TCP alone would go on waiting for up to two minutes. */
const KEEPALIVE_MS = 2000;

export interface RaftPeersOptions {
  readonly self: Sender;
  readonly credentials: () => Credentials;
  /** The newest snapshot there is, a SnapshotFile encoded. */
  readonly readSnapshot: () => Promise<Uint8Array>;
  readonly onUnreachable: (member: bigint) => void;
  readonly onSnapshotSent: (member: bigint, ok: boolean) => void;
  readonly onBug: (error: unknown) => void;
}

export class RaftPeers {
  /** Messages that found the queue full. */
  dropped = 0;
  private readonly peers = new Map<bigint, Peer>();
  private readonly options: RaftPeersOptions;
  private closed = false;

  constructor(options: RaftPeersOptions) {
    this.options = options;
  }

  /** Who can be sent to, by raft id, and where ("ip:port"). */
  setMembers(addresses: ReadonlyMap<bigint, string>): void {
    for (const [member, peer] of this.peers) {
      if (addresses.get(member) === peer.address) continue;
      peer.close();
      this.peers.delete(member);
    }
    for (const [member, address] of addresses) {
      if (!this.peers.has(member) && !this.closed) this.peers.set(member, this.peer(member, address));
    }
  }

  private peer(member: bigint, address: string, before?: Peer): Peer {
    return new Peer(member, address, this.options, () => { this.dropped += 1; }, before);
  }

  send(messages: readonly Message[]): void {
    const byPeer = new Map<bigint, Message[]>();
    for (const message of messages) {
      const list = byPeer.get(message.to);
      if (list === undefined) byPeer.set(message.to, [message]);
      else list.push(message);
    }
    for (const [member, list] of byPeer) {
      const peer = this.peers.get(member);
      if (peer !== undefined) {
        peer.send(list);
        continue;
      }
      this.options.onUnreachable(member);
      // Raft waits for the fate of each snapshot.
      if (list.some(({ kind }) => kind === 'snapshot')) this.options.onSnapshotSent(member, false);
    }
  }

  /** A client to the member for other calls; undefined when it is not known. */
  client(member: bigint): ManagerClient | undefined {
    return this.peers.get(member)?.client;
  }

  /**
   * New certificates: for new connections. An old one goes on until the other end has heard the new one: an end alone is taken for
   * the end of this manager, and a leader would be voted out.
   */
  reconnect(): void {
    for (const [member, peer] of this.peers) this.peers.set(member, this.peer(member, peer.address, peer));
  }

  close(): void {
    this.closed = true;
    for (const peer of this.peers.values()) peer.close();
    this.peers.clear();
  }
}

class Peer {
  readonly address: string;
  /** For calls. Its connection is made anew with each link: after a partition the old one would wait for long. */
  client: ManagerClient;
  readonly member: bigint;
  private readonly options: RaftPeersOptions;
  private readonly onDrop: () => void;
  private link: Link | undefined;
  private again: NodeJS.Timeout | undefined;
  private broken = false;
  private notBeforeMs = 0;
  private installing = false;
  private closed = false;
  /** With older credentials: what is to be sent goes by it until the own link is heard at the other end. */
  private before: Peer | undefined;
  private heard = false;
  private superseded = false;
  private retire: NodeJS.Timeout | undefined;

  constructor(member: bigint, address: string, options: RaftPeersOptions, onDrop: () => void, before: Peer | undefined) {
    before?.supersede();
    this.before = before;
    this.member = member;
    this.address = address;
    this.options = options;
    this.onDrop = onDrop;
    this.client = this.connect();
    this.open();
    if (before?.way === undefined) this.takeOver();
    else this.retire = setTimeout(() => this.takeOver(), RENEW_MS_MAX).unref();
  }

  private connect(): ManagerClient {
    const client = new ManagerClient(this.address, this.options.credentials(), KEEPALIVE_MS);
    client.connect();
    return client;
  }

  send(messages: readonly Message[]): void {
    let batch: Message[] = [];
    let bytes = 0;
    for (const message of messages) {
      if (message.kind === 'snapshot') {
        this.install(message);
        continue;
      }
      const size = message.entries.reduce((sum, entry) => sum + entry.data.length + MESSAGE_OVERHEAD, MESSAGE_OVERHEAD);
      if (bytes + size > BATCH_BYTES_MAX && batch.length > 0) {
        this.write(batch, bytes);
        batch = [];
        bytes = 0;
      }
      batch.push(message);
      bytes += size;
    }
    if (batch.length > 0) this.write(batch, bytes);
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.again);
    clearTimeout(this.retire);
    this.link?.close();
    this.link = undefined;
    this.client.close();
    this.before?.close();
  }

  /** What stands goes on, and no link is made any more: one made later than the successor's would count as the newest. */
  private supersede(): void {
    this.superseded = true;
    clearTimeout(this.again);
    if (this.link?.ready === true) return;
    this.link?.close();
    this.link = undefined;
  }

  /** The link that messages go by as it is. */
  private get way(): Link | undefined {
    return this.heard ? this.link : this.before?.way ?? this.link;
  }

  /** The other end counts the own link as the newest: what becomes of the one before tells nothing any more. */
  private takeOver(): void {
    if (this.heard) return;
    this.heard = true;
    clearTimeout(this.retire);
    if (this.before === undefined) return;
    this.retire = setTimeout(() => {
      this.before?.close();
      this.before = undefined;
    }, RETIRE_MS).unref();
  }

  private write(messages: readonly Message[], bytes: number): void {
    const link = this.heard ? this.open() : this.before?.way ?? this.open();
    if (link !== undefined && link.waitingBytes + bytes <= QUEUE_BYTES_MAX) {
      link.send(messages);
      return;
    }
    if (link !== undefined) this.onDrop();
    this.options.onUnreachable(this.member);
  }

  /** Undefined shortly after a link broke. */
  private open(): Link | undefined {
    if (this.link !== undefined) return this.link;
    if (this.closed || this.superseded || performance.now() < this.notBeforeMs) return undefined;
    const link = new Link(this.address, this.options.credentials(), this.options.self, {
      ready: () => this.stands(), answered: () => this.takeOver(), ended: () => this.ended(link),
    });
    this.link = link;
    return link;
  }

  private stands(): void {
    if (!this.broken) return;
    this.broken = false;
    const { client } = this;
    this.client = this.connect();
    client.close();
  }

  private ended(link: Link): void {
    if (this.link !== link) return;
    this.link = undefined;
    this.broken = true;
    this.notBeforeMs = performance.now() + RECONNECT_MS;
    clearTimeout(this.again);
    if (this.closed) return;
    if (!this.superseded) this.again = setTimeout(() => this.open(), RECONNECT_IDLE_MS).unref();
    if (this.heard || this.before?.way === undefined) this.options.onUnreachable(this.member);
  }

  private install(message: Message): void {
    if (this.installing) return;
    this.installing = true;
    this.sendSnapshot(message).then((ok) => {
      this.installing = false;
      this.options.onSnapshotSent(this.member, ok && !this.closed);
    }, this.options.onBug);
  }

  private async sendSnapshot(message: Message): Promise<boolean> {
    const data = await this.options.readSnapshot();
    if (this.closed) return false;
    return new Promise((resolve) => {
      const stream = this.client.clientStream(ManagerGroup.method.install, (error) => resolve(error === null));
      stream.on('error', () => resolve(false));
      const next = (at: number): void => {
        if (at >= data.length && at > 0) {
          stream.end();
          return;
        }
        const chunk: SnapshotChunk = create(SnapshotChunkSchema, { data: data.subarray(at, at + CHUNK_BYTES) });
        if (at === 0) chunk.message = encodeMessage(message);
        stream.write(chunk, (error: unknown) => {
          if (error instanceof Error) resolve(false);
          else next(at + CHUNK_BYTES);
        });
      };
      next(0);
    });
  }
}
