// Raft messages on the wire: core/raft's Message to and from skein.v1.RaftMessage. A message that is none (an unknown
// kind, no sender) is undefined: it came from outside.

import { create } from '@bufbuild/protobuf';
import type { Entry, Message, MessageKind } from '../../core/raft/types.js';
import {
  EntryKind as WireEntryKind, EntrySchema, RaftMessageSchema, RaftMessage_Kind as Kind, type Entry as WireEntry, type RaftMessage,
} from '../../model/proto/skein_pb.js';

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
const NAMES: ReadonlyMap<Kind, MessageKind> = new Map(Object.entries(KINDS).map(([name, kind]) => [kind, name as MessageKind]));

/** The snapshot itself travels apart: see SnapshotChunk. */
export function toWire(message: Message): RaftMessage {
  const { to, from, term, index, logTerm, commit, reject, rejectHint, transfer, context } = message;
  return create(RaftMessageSchema, {
    kind: KINDS[message.kind], to, from, term, index, logTerm, commit, reject, rejectHint, transfer, context,
    entries: message.entries.map(entryToWire),
  });
}

export function fromWire(wire: RaftMessage): Message | undefined {
  const kind = NAMES.get(wire.kind);
  if (kind === undefined || wire.from === 0n || wire.to === 0n) return undefined;
  const { to, from, term, index, logTerm, commit, reject, rejectHint, transfer, context } = wire;
  return {
    kind, to, from, term, index, logTerm, commit, reject, rejectHint, transfer, context, snapshot: undefined,
    entries: wire.entries.map(entryFromWire),
  };
}

function entryToWire({ index, term, kind, data }: Entry): WireEntry {
  return create(EntrySchema, { index, term, kind: kind === 'normal' ? WireEntryKind.NORMAL : WireEntryKind.CONF_CHANGE, data });
}

function entryFromWire({ index, term, kind, data }: WireEntry): Entry {
  return { index, term, kind: kind === WireEntryKind.NORMAL ? 'normal' : 'confChange', data };
}
