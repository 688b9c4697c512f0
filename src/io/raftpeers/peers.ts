// RaftPeers: the way out to the other managers: one gRPC stream to each, made anew when it breaks. Messages may be lost
// (Raft asks again), never reordered within a stream, and wait in a bounded queue. Snapshots go in a call of their own,
// one at a time to each manager, so that heartbeats never wait behind one.

import { create } from '@bufbuild/protobuf';
import type { ClientWritableStream } from '@grpc/grpc-js';
import type { Message } from '../../core/raft/types.js';
import {
  ManagerGroup, RaftBatchSchema, SnapshotChunkSchema, type RaftBatch, type RaftMessage, type SnapshotChunk,
} from '../../model/proto/skein_pb.js';
import { ManagerClient, type Credentials } from '../grpc/client.js';
import { toWire } from './messages.js';

/** A batch of messages; managers take 4 MiB. */
const BATCH_BYTES_MAX = 2 * 1024 * 1024;
const MESSAGE_OVERHEAD = 128;
/** Bytes that a slow manager may have waiting; beyond, messages to it are dropped, and counted. */
const QUEUE_BYTES_MAX = 32 * 1024 * 1024;
const CHUNK_BYTES = 1024 * 1024;
const RECONNECT_MS = 100;
const RETIRE_MS = 1000;
/**
 * A connection that is not made by then is begun anew: in a partition TCP tries again after 1, 3 and 7 seconds, and would
 * find out that long after the end of it.
 */
const CONNECT_MS = 1000;
/** After a partition TCP alone would go on waiting for up to two minutes. */
const KEEPALIVE_MS = 2000;

export interface RaftPeersOptions {
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
  /** Nothing is sent to these any more. */
  private readonly retired = new Set<Peer>();
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
      if (!this.peers.has(member) && !this.closed) this.peers.set(member, new Peer(member, address, this.options, () =>
        { this.dropped += 1; }));
    }
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
   * New certificates: for new connections. The old ones end when the new ones stand: an end alone is taken for the end of
   * this manager, and a leader would be voted out.
   */
  reconnect(): void {
    const old = [...this.peers.values()];
    for (const { member, address } of old) {
      this.peers.set(member, new Peer(member, address, this.options, () => { this.dropped += 1; }));
    }
    for (const peer of old) this.retired.add(peer);
    setTimeout(() => {
      for (const peer of old) {
        peer.close();
        this.retired.delete(peer);
      }
    }, RETIRE_MS).unref();
  }

  close(): void {
    this.closed = true;
    for (const peer of [...this.peers.values(), ...this.retired]) peer.close();
    this.peers.clear();
    this.retired.clear();
  }
}

class Peer {
  readonly address: string;
  client: ManagerClient;
  readonly member: bigint;
  private readonly options: RaftPeersOptions;
  private readonly onDrop: () => void;
  private stream: ClientWritableStream<RaftBatch> | undefined;
  private waitingBytes = 0;
  private notBeforeMs = 0;
  /** When a connection last stood, or was begun. */
  private readyMs = 0;
  private installing = false;
  private closed = false;

  constructor(member: bigint, address: string, options: RaftPeersOptions, onDrop: () => void) {
    this.member = member;
    this.address = address;
    this.options = options;
    this.onDrop = onDrop;
    this.client = this.connect();
  }

  private connect(): ManagerClient {
    this.readyMs = performance.now();
    return new ManagerClient(this.address, this.options.credentials(), KEEPALIVE_MS);
  }

  private connectAnew(): void {
    const { stream, client } = this;
    this.stream = undefined;
    this.client = this.connect();
    stream?.cancel();
    client.close();
    this.options.onUnreachable(this.member);
  }

  send(messages: readonly Message[]): void {
    let batch: RaftMessage[] = [];
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
      batch.push(toWire(message));
      bytes += size;
    }
    if (batch.length > 0) this.write(batch, bytes);
  }

  close(): void {
    this.closed = true;
    this.stream?.cancel();
    this.stream = undefined;
    this.client.close();
  }

  private write(messages: RaftMessage[], bytes: number): void {
    if (this.waitingBytes + bytes > QUEUE_BYTES_MAX) {
      this.onDrop();
      this.options.onUnreachable(this.member);
      return;
    }
    const stream = this.open();
    if (stream === undefined) {
      this.options.onUnreachable(this.member);
      return;
    }
    this.waitingBytes += bytes;
    stream.write(create(RaftBatchSchema, { messages }), () => {
      // What a stream that broke still had waiting was forgotten with it.
      if (stream === this.stream) this.waitingBytes -= bytes;
    });
  }

  /** Undefined shortly after a stream broke. */
  private open(): ClientWritableStream<RaftBatch> | undefined {
    const nowMs = performance.now();
    if (this.client.ready) this.readyMs = nowMs;
    else if (!this.closed && nowMs - this.readyMs > CONNECT_MS) this.connectAnew();
    if (this.stream !== undefined) return this.stream;
    if (this.closed || performance.now() < this.notBeforeMs) return undefined;
    const stream = this.client.clientStream(ManagerGroup.method.exchange, () => this.ended(stream));
    stream.on('error', () => this.ended(stream));
    this.waitingBytes = 0;
    this.stream = stream;
    return stream;
  }

  private ended(stream: ClientWritableStream<RaftBatch>): void {
    if (this.stream !== stream) return;
    this.stream = undefined;
    this.notBeforeMs = performance.now() + RECONNECT_MS;
    if (!this.closed) this.options.onUnreachable(this.member);
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
        if (at === 0) chunk.message = toWire(message);
        stream.write(chunk, (error: unknown) => {
          if (error instanceof Error) resolve(false);
          else next(at + CHUNK_BYTES);
        });
      };
      next(0);
    });
  }
}
