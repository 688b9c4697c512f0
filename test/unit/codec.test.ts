// Bytes made and read by hand against the protobuf library: messages with random fields, commands of every object, and what
// is cut off or unknown.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ScalarType, create, fromBinary, toBinary, type DescField, type DescMessage, type Message as Generated } from '@bufbuild/protobuf';
import type { Entry, Message, MessageKind } from '../../src/core/raft/types.js';
import { decode, encode } from '../../src/io/protobuf/codec.js';
import { encodeRecords, type RecordOut } from '../../src/io/raftlog/records.js';
import { FrameReader } from '../../src/io/raftpeers/frames.js';
import {
  LENGTH_BYTES, PING, WireError, decodeBatch, decodeMessage, decodeSender, encodeFrame, encodeMessage, encodeSender,
} from '../../src/io/raftpeers/messages.js';
import { Prng } from '../../src/lib/prng.js';
import { EntryKind, LogBatchSchema, RaftBatchSchema, CommandSchema, StoreStateSchema, file_skein } from '../../src/model/proto/skein_pb.js';
import { file_swarmkit } from '../../src/model/proto/swarmkit_pb.js';

const ROUNDS = 400;
const TEXTS = ['', 'a', 'näme', 'x'.repeat(31), 'y'.repeat(32), 'z'.repeat(33), 'ü'.repeat(50), 'long '.repeat(60), '\u{1f40b}'];
const INTS = [0, 1, -1, 127, 128, 16383, 16384, 2 ** 31 - 1, -(2 ** 31)];
const BIGS = [0n, 1n, 127n, 128n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 53n + 1n, 2n ** 63n - 1n];

function pick<T>(random: Prng, from: readonly T[]): T {
  return from[random.below(from.length)] as T;
}

function bytes(random: Prng): Uint8Array {
  return Uint8Array.from({ length: pick(random, [0, 1, 5, 127, 128, 300]) }, () => random.below(256));
}

function scalar(random: Prng, type: ScalarType): unknown {
  switch (type) {
    case ScalarType.STRING: return pick(random, TEXTS);
    case ScalarType.BOOL: return random.below(2) === 1;
    case ScalarType.BYTES: return bytes(random);
    case ScalarType.UINT32: return pick(random, [0, 1, 300, 2 ** 32 - 1]);
    case ScalarType.UINT64: return pick(random, [...BIGS, 2n ** 64n - 1n]);
    case ScalarType.INT64: return pick(random, [...BIGS, -1n, -(2n ** 63n)]);
    case ScalarType.DOUBLE: case ScalarType.FLOAT: return pick(random, [0, 0.5, -1024]);
    default: return pick(random, INTS);
  }
}

function value(random: Prng, field: DescField, depth: number): unknown {
  if (field.message === undefined) return scalar(random, field.scalar ?? ScalarType.INT32);
  const made = fill(random, field.message, depth - 1);
  const bare = field.fieldKind === 'message' && field.oneof === undefined && /^google\.protobuf\.\w+Value$/.test(field.message.typeName);
  return bare ? (made as unknown as { value: unknown }).value : made;
}

/** A message of the type in which each field is there or not. */
function fill(random: Prng, schema: DescMessage, depth: number): Generated {
  const made = create(schema) as Generated & Record<string, unknown>;
  for (const member of schema.members) {
    if (random.below(3) === 0 || depth <= 0) continue;
    if (member.kind === 'oneof') {
      const field = pick(random, member.fields);
      made[member.localName] = { case: field.localName, value: value(random, field, depth) };
    } else if (member.fieldKind === 'list') {
      made[member.localName] = Array.from({ length: random.below(4) }, () => value(random, member, depth));
    } else {
      made[member.localName] = value(random, member, depth);
    }
  }
  return made;
}

/** All types that a call or a command can carry; rarer ones fewer times. */
const TYPES: readonly (readonly [DescMessage, number])[] = [
  [CommandSchema, ROUNDS], [StoreStateSchema, ROUNDS],
  ...[file_swarmkit, file_skein].flatMap(({ messages }) => messages.map((type) => [type, 20] as const)),
];

describe('the codec', () => {
  for (const [schema, rounds] of TYPES) {
    it(`makes the bytes of ${schema.typeName} that the library makes, and reads them as the library does`, () => {
      const random = new Prng(7n);
      for (let round = 0; round < rounds; round++) {
        const message = fill(random, schema, 9) as Parameters<typeof encode<typeof schema>>[1];
        const expected = toBinary(schema as typeof CommandSchema, message as never);
        const made = encode(schema, message);
        assert.deepEqual(Buffer.from(made), Buffer.from(expected), `round ${round}`);
        const read = decode(schema as typeof CommandSchema, expected);
        assert.deepEqual(read, fromBinary(schema as typeof CommandSchema, expected), `round ${round}`);
      }
    });
  }

  it('keeps what it does not know, and refuses what is cut off', () => {
    const random = new Prng(8n);
    for (let round = 0; round < 50; round++) {
      const command = fill(random, CommandSchema, 6) as Parameters<typeof encode<typeof CommandSchema>>[1];
      const whole = Buffer.concat([encode(CommandSchema, command), Buffer.from([0xfa, 0x07, 2, 1, 2, 0xf8, 0x07, 0x85, 1])]);
      const read = decode(CommandSchema, whole);
      assert.deepEqual(read, fromBinary(CommandSchema, whole));
      assert.deepEqual(Buffer.from(encode(CommandSchema, read)), whole);
      // Within the last field of the two.
      assert.throws(() => decode(CommandSchema, whole.subarray(0, -1)));
      const inField = Buffer.concat([Buffer.from([0x0a, 200, 1]), whole.subarray(0, 100)]);
      assert.throws(() => decode(CommandSchema, inField));
    }
  });

  it('takes from anybody what the library takes, and refuses what it refuses: messages with bytes that were changed', () => {
    const random = new Prng(9n);
    // The one thing we refuse and the library takes: what is within a message goes on behind its end.
    const overrun = 'a message ends inside a field';
    const outcome = (read: () => unknown): { value: unknown } | 'refused' | 'overrun' => {
      try {
        return { value: read() };
      } catch (error) {
        return (error as Error).message === overrun ? 'overrun' : 'refused';
      }
    };
    const seen = { refused: 0, taken: 0, overrun: 0 };
    for (const [schema] of TYPES) {
      for (let round = 0; round < 60; round++) {
        const damaged = Buffer.from(toBinary(schema, fill(random, schema, 6) as never));
        if (damaged.length === 0) continue;
        for (let i = 0; i < 1 + random.below(3); i++) {
          damaged[random.below(damaged.length)] = random.chance(0.5) ? random.below(256) : random.below(16);
        }
        const bytes = random.chance(0.3) ? damaged.subarray(0, random.below(damaged.length)) : damaged;
        const expected = outcome(() => fromBinary(schema, bytes));
        const made = outcome(() => decode(schema, bytes));
        if (made !== 'overrun') assert.deepEqual(made, expected, `${schema.typeName} ${bytes.toString('hex')}`);
        seen[typeof made === 'string' ? made : 'taken'] += 1;
      }
    }
    assert.ok(seen.refused > 1_000 && seen.taken > 1_000 && seen.overrun < 500, JSON.stringify(seen));
  });

  it('merges a message that comes twice', () => {
    const half = (seconds: bigint, nanos: number): Uint8Array =>
      toBinary(CommandSchema, create(CommandSchema, { time: { seconds, nanos } }));
    const twice = Buffer.concat([half(5n, 0), half(0n, 7)]);
    assert.deepEqual(decode(CommandSchema, twice), fromBinary(CommandSchema, twice));
    assert.deepEqual(decode(CommandSchema, twice).time?.seconds, 5n);
  });
});

const KINDS: readonly MessageKind[] = [
  'append', 'appendResponse', 'heartbeat', 'heartbeatResponse', 'preVote', 'preVoteResponse', 'vote', 'voteResponse', 'timeoutNow',
  'readIndex', 'readIndexResponse',
];

function entry(random: Prng): Entry {
  return { index: pick(random, BIGS), term: pick(random, BIGS), kind: pick(random, ['normal', 'confChange']), data: bytes(random) };
}

function message(random: Prng): Message {
  const big = (): bigint => pick(random, BIGS);
  return {
    kind: pick(random, KINDS), to: random.uint63() | 1n, from: random.uint63() | 1n, term: big(), index: big(), logTerm: big(),
    entries: Array.from({ length: random.below(4) }, () => entry(random)), commit: big(), reject: random.below(2) === 1,
    rejectHint: big(), transfer: random.below(2) === 1, context: random.uint63(), snapshot: undefined,
  };
}

describe('frames between managers', () => {
  it('hold what the library reads as the same batch, and are read whatever pieces they come in', () => {
    const random = new Prng(9n);
    for (let round = 0; round < 200; round++) {
      const messages = Array.from({ length: 1 + random.below(4) }, () => message(random));
      const frame = encodeFrame(messages);
      const batch = fromBinary(RaftBatchSchema, frame.subarray(LENGTH_BYTES));
      assert.deepEqual(Buffer.from(toBinary(RaftBatchSchema, batch)), frame.subarray(LENGTH_BYTES));
      const told = (of: readonly { to: bigint; from: bigint; context: bigint }[]): bigint[][] =>
        of.map(({ to, from, context }) => [to, from, context]);
      assert.deepEqual(told(batch.messages), told(messages));
      const reader = new FrameReader();
      const sent = Buffer.concat([frame, PING, frame]);
      const frames: Buffer[] = [];
      for (let at = 0; at < sent.length;) {
        const piece = sent.subarray(at, at + 1 + random.below(300));
        frames.push(...reader.push(Buffer.from(piece)));
        at += piece.length;
      }
      assert.deepEqual(frames.map(({ length }) => length), [frame.length - LENGTH_BYTES, 0, frame.length - LENGTH_BYTES]);
      for (const one of [frames[0], frames[2]]) assert.deepEqual(plain(decodeBatch(one as Buffer)), plain(messages));
    }
  });

  it('begin with who sends, as the library writes it', () => {
    for (const sender of [{ raftId: 7n, addr: '10.0.0.1:2377' }, { raftId: 2n ** 63n - 1n, addr: `[${'f'.repeat(200)}::1]:2377` }]) {
      const frame = encodeSender(sender);
      assert.equal(frame.readUInt32BE(), frame.length - LENGTH_BYTES);
      const batch = frame.subarray(LENGTH_BYTES);
      assert.deepEqual(batch, Buffer.from(toBinary(RaftBatchSchema, create(RaftBatchSchema, { sender }))));
      assert.deepEqual(decodeSender(batch), sender);
      assert.deepEqual(decodeBatch(batch), [], 'a manager that knows no senders');
      assert.throws(() => decodeSender(batch.subarray(0, -1)), WireError);
    }
    assert.equal(decodeSender(encodeFrame([message(new Prng(3n))]).subarray(LENGTH_BYTES)), undefined);
  });

  it('that are too long, cut off or of an unknown kind are refused or left out', () => {
    const random = new Prng(10n);
    const length = Buffer.alloc(LENGTH_BYTES);
    length.writeUInt32BE(2 ** 31);
    assert.throws(() => new FrameReader().push(length), WireError);
    const whole = encodeMessage({ ...message(random), entries: [entry(random)] });
    let refused = 0;
    for (let cut = 0; cut < whole.length; cut++) {
      try {
        decodeMessage(whole.subarray(0, cut));
      } catch (error) {
        assert.ok(error instanceof WireError);
        refused += 1;
      }
    }
    assert.ok(refused > 0);
    // Kind 99; nobody's.
    assert.equal(decodeMessage(Buffer.from([0x08, 99, 0x10, 1, 0x18, 1])), undefined);
    assert.equal(decodeMessage(Buffer.from([0x08, 1, 0x10, 1])), undefined);
    assert.throws(() => decodeMessage(Buffer.from([0x0b])), WireError);
    assert.throws(() => decodeMessage(Buffer.alloc(30, 0xff)), WireError);
  });

  it('is what random bytes are not: nothing but WireError comes of them', () => {
    const random = new Prng(11n);
    for (let round = 0; round < 3000; round++) {
      const noise = Uint8Array.from({ length: random.below(40) }, () => random.below(256));
      try {
        decodeBatch(noise);
        decodeSender(noise);
      } catch (error) {
        assert.ok(error instanceof WireError, String(error));
      }
    }
  });
});

/** Buffers and other byte arrays with the same bytes are equal. */
function plain(messages: readonly Message[]): object[] {
  return messages.map((one) => ({ ...one, entries: one.entries.map((each) => ({ ...each, data: Buffer.from(each.data) })) }));
}

describe('records of the log', () => {
  it('are read by the library as they were written', () => {
    const random = new Prng(12n);
    for (let round = 0; round < 200; round++) {
      const records: RecordOut[] = [
        ...Array.from({ length: random.below(5) }, (): RecordOut => ({ kind: 'entry', entry: entry(random) })),
        { kind: 'hardState', hardState: { term: pick(random, BIGS), vote: random.uint63(), commit: pick(random, BIGS) } },
        { kind: 'reset', index: pick(random, BIGS), term: pick(random, BIGS) },
      ];
      const written = encodeRecords(records);
      const batch = fromBinary(LogBatchSchema, written);
      assert.deepEqual(Buffer.from(toBinary(LogBatchSchema, batch)), Buffer.from(written));
      const read = batch.records.map(({ record }): unknown => {
        if (record.case === 'entry') {
          const { index, term, kind, data } = record.value;
          const name = kind === EntryKind.NORMAL ? 'normal' : 'confChange';
          return { kind: 'entry', entry: { index, term, kind: name, data: Buffer.from(data) } };
        }
        if (record.case === 'hardState') {
          const { term, vote, commit } = record.value;
          return { kind: 'hardState', hardState: { term, vote, commit } };
        }
        return { kind: 'reset', index: record.value?.index, term: record.value?.term };
      });
      const asBuffer = (one: Entry): Entry => ({ ...one, data: Buffer.from(one.data) });
      assert.deepEqual(read, records.map((one) => (one.kind === 'entry' ? { ...one, entry: asBuffer(one.entry) } : one)));
    }
  });
});
