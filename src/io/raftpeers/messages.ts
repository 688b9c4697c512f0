// Raft messages on the wire: core/raft's Message to and from skein.v1.RaftBatch, in frames: four bytes of length, big
// endian, then a batch. A frame of length zero asks "are you there?", and is the answer. A message that is none (an unknown
// kind, no sender) is left out: it came from outside. Written by hand (lib/wire.ts); a test compares with the library.

import type { Entry, Message, MessageKind } from '../../core/raft/types.js';
import { WireError, WireReader, WireWriter, sizeOfBytesField, sizeOfNumber, sizeOfUint64Field } from '../../lib/wire.js';
import { EntryKind as WireEntryKind, RaftMessage_Kind as Kind } from '../../model/proto/skein_pb.js';

export { WireError };

/** What a link of messages is told from gRPC by, in the TLS handshake. */
export const RAFT_PROTOCOL = 'skein-raft';
export const LENGTH_BYTES = 4;
/** A batch is 2 MiB, or one message of more. */
export const FRAME_BYTES_MAX = 16 * 1024 * 1024;
export const PING = Buffer.alloc(LENGTH_BYTES);

const KINDS: Readonly<Record<MessageKind, Kind>> = {
  append: Kind.APPEND,
  appendResponse: Kind.APPEND_RESPONSE,
  heartbeat: Kind.HEARTBEAT,
  heartbeatResponse: Kind.HEARTBEAT_RESPONSE,
  snapshot: Kind.SNAPSHOT,
  preVote: Kind.PRE_VOTE,
  preVoteResponse: Kind.PRE_VOTE_RESPONSE,
  vote: Kind.VOTE,
  voteResponse: Kind.VOTE_RESPONSE,
  timeoutNow: Kind.TIMEOUT_NOW,
  readIndex: Kind.READ_INDEX,
  readIndexResponse: Kind.READ_INDEX_RESPONSE,
};
const NAMES: readonly (MessageKind | undefined)[] = Object.values(KINDS).reduce<(MessageKind | undefined)[]>((names, kind) => {
  names[kind] = (Object.keys(KINDS) as MessageKind[]).find((name) => KINDS[name] === kind);
  return names;
}, []);

// Fields of the messages, as in proto/skein.proto.
const BATCH = { messages: 1, sender: 2 } as const;
const SENDER = { raftId: 1, addr: 2 } as const;
const MESSAGE = {
  kind: 1, to: 2, from: 3, term: 4, index: 5, logTerm: 6, entries: 7, commit: 8, reject: 9, rejectHint: 10, transfer: 11, context: 12,
} as const;
const ENTRY = { index: 1, term: 2, kind: 3, data: 4 } as const;

export function sizeOfEntry({ index, term, kind, data }: Entry): number {
  return sizeOfUint64Field(index) + sizeOfUint64Field(term) + (kind === 'normal' ? 0 : 2) + (data.length === 0 ? 0 : sizeOfBytesField(data.length));
}

export function writeEntry(writer: WireWriter, { index, term, kind, data }: Entry): void {
  writer.uint64Field(ENTRY.index, index);
  writer.uint64Field(ENTRY.term, term);
  writer.numberField(ENTRY.kind, kind === 'normal' ? WireEntryKind.NORMAL : WireEntryKind.CONF_CHANGE);
  if (data.length === 0) return;
  writer.lengthField(ENTRY.data, data.length);
  writer.raw(data);
}

function sizeOfMessage(message: Message, entrySizes: number[]): number {
  const { to, from, term, index, logTerm, entries, commit, reject, rejectHint, transfer, context } = message;
  let size = (KINDS[message.kind] === 0 ? 0 : 2) + (reject ? 2 : 0) + (transfer ? 2 : 0);
  for (const value of [to, from, term, index, logTerm, commit, rejectHint, context]) size += sizeOfUint64Field(value);
  for (const entry of entries) {
    const bytes = sizeOfEntry(entry);
    entrySizes.push(bytes);
    size += sizeOfBytesField(bytes);
  }
  return size;
}

function writeMessage(writer: WireWriter, message: Message, entrySizes: readonly number[], first: number): void {
  writer.numberField(MESSAGE.kind, KINDS[message.kind]);
  writer.uint64Field(MESSAGE.to, message.to);
  writer.uint64Field(MESSAGE.from, message.from);
  writer.uint64Field(MESSAGE.term, message.term);
  writer.uint64Field(MESSAGE.index, message.index);
  writer.uint64Field(MESSAGE.logTerm, message.logTerm);
  for (const [position, entry] of message.entries.entries()) {
    writer.lengthField(MESSAGE.entries, entrySizes[first + position] as number);
    writeEntry(writer, entry);
  }
  writer.uint64Field(MESSAGE.commit, message.commit);
  writer.numberField(MESSAGE.reject, message.reject ? 1 : 0);
  writer.uint64Field(MESSAGE.rejectHint, message.rejectHint);
  writer.numberField(MESSAGE.transfer, message.transfer ? 1 : 0);
  writer.uint64Field(MESSAGE.context, message.context);
}

/** One frame, a RaftBatch in it. The snapshot itself travels apart: see SnapshotChunk. */
export function encodeFrame(messages: readonly Message[]): Buffer {
  const entrySizes: number[] = [];
  const sizes = messages.map((message) => sizeOfMessage(message, entrySizes));
  const length = sizes.reduce((sum, size) => sum + 1 + sizeOfNumber(size) + size, 0);
  const frame = Buffer.allocUnsafe(LENGTH_BYTES + length);
  frame.writeUInt32BE(length);
  const writer = new WireWriter(frame, LENGTH_BYTES);
  let first = 0;
  for (const [position, message] of messages.entries()) {
    writer.lengthField(BATCH.messages, sizes[position] as number);
    writeMessage(writer, message, entrySizes, first);
    first += message.entries.length;
  }
  return frame;
}

/** Whose a link is, and where that manager is reached: what the link begins with. */
export interface Sender {
  readonly raftId: bigint;
  readonly addr: string;
}

export function encodeSender({ raftId, addr }: Sender): Buffer {
  const text = Buffer.from(addr);
  const length = sizeOfUint64Field(raftId) + sizeOfBytesField(text.length);
  const frame = Buffer.allocUnsafe(LENGTH_BYTES + sizeOfBytesField(length));
  frame.writeUInt32BE(sizeOfBytesField(length));
  const writer = new WireWriter(frame, LENGTH_BYTES);
  writer.lengthField(BATCH.sender, length);
  writer.uint64Field(SENDER.raftId, raftId);
  writer.lengthField(SENDER.addr, text.length);
  writer.raw(text);
  return frame;
}

/** Undefined where the batch names none. Throws WireError for what is no RaftBatch. */
export function decodeSender(bytes: Uint8Array): Sender | undefined {
  const reader = new WireReader(bytes);
  while (!reader.done) {
    const tag = reader.number();
    if (tag === (BATCH.sender << 3 | 2)) return readSender(reader.message());
    reader.skip(tag);
  }
  return undefined;
}

function readSender(reader: WireReader): Sender {
  const read = { raftId: 0n, addr: '' };
  while (!reader.done) {
    const tag = reader.number();
    if (tag === SENDER.raftId << 3) read.raftId = reader.uint64();
    else if (tag === (SENDER.addr << 3 | 2)) read.addr = Buffer.from(reader.bytesField()).toString();
    else reader.skip(tag);
  }
  return read;
}

export function encodeMessage(message: Message): Uint8Array {
  const entrySizes: number[] = [];
  const bytes = new Uint8Array(sizeOfMessage(message, entrySizes));
  writeMessage(new WireWriter(bytes), message, entrySizes, 0);
  return bytes;
}

/** Throws WireError for what is no RaftBatch. */
export function decodeBatch(bytes: Uint8Array): Message[] {
  const reader = new WireReader(bytes);
  const messages: Message[] = [];
  while (!reader.done) {
    const tag = reader.number();
    if (tag !== (BATCH.messages << 3 | 2)) {
      reader.skip(tag);
      continue;
    }
    const message = readMessage(reader.message());
    if (message !== undefined) messages.push(message);
  }
  return messages;
}

export function decodeMessage(bytes: Uint8Array): Message | undefined {
  return readMessage(new WireReader(bytes));
}

function readMessage(reader: WireReader): Message | undefined {
  const entries: Entry[] = [];
  const read: { -readonly [F in keyof Message]: Message[F] } = {
    kind: 'append', to: 0n, from: 0n, term: 0n, index: 0n, logTerm: 0n, entries, commit: 0n, reject: false, rejectHint: 0n,
    transfer: false, context: 0n, snapshot: undefined,
  };
  let known = true;
  while (!reader.done) {
    const tag = reader.number();
    switch (tag) {
      case MESSAGE.kind << 3: {
        const kind = NAMES[reader.number()];
        known = kind !== undefined;
        read.kind = kind ?? 'append';
        break;
      }
      case MESSAGE.to << 3: read.to = reader.uint64(); break;
      case MESSAGE.from << 3: read.from = reader.uint64(); break;
      case MESSAGE.term << 3: read.term = reader.uint64(); break;
      case MESSAGE.index << 3: read.index = reader.uint64(); break;
      case MESSAGE.logTerm << 3: read.logTerm = reader.uint64(); break;
      case MESSAGE.entries << 3 | 2: entries.push(readEntry(reader.message())); break;
      case MESSAGE.commit << 3: read.commit = reader.uint64(); break;
      case MESSAGE.reject << 3: read.reject = reader.uint64() !== 0n; break;
      case MESSAGE.rejectHint << 3: read.rejectHint = reader.uint64(); break;
      case MESSAGE.transfer << 3: read.transfer = reader.uint64() !== 0n; break;
      case MESSAGE.context << 3: read.context = reader.uint64(); break;
      default: reader.skip(tag);
    }
  }
  return known && read.from !== 0n && read.to !== 0n ? read : undefined;
}

const NOTHING = new Uint8Array(0);

export function readEntry(reader: WireReader): Entry {
  let index = 0n;
  let term = 0n;
  let kind = 0;
  let data: Uint8Array = NOTHING;
  while (!reader.done) {
    const tag = reader.number();
    switch (tag) {
      case ENTRY.index << 3: index = reader.uint64(); break;
      case ENTRY.term << 3: term = reader.uint64(); break;
      case ENTRY.kind << 3: kind = reader.number(); break;
      case ENTRY.data << 3 | 2: data = reader.bytesField(); break;
      default: reader.skip(tag);
    }
  }
  return { index, term, kind: kind === WireEntryKind.NORMAL ? 'normal' : 'confChange', data };
}
