// Codec: a generated message to and from its bytes as the library's toBinary and fromBinary do it, byte for byte, but with
// what is to be done for a field found once for each type instead of once for each value: commands pass here several times
// on every manager. Fields that no message of ours has (maps, groups, fixed and zigzag numbers, proto2) make a type refuse
// at its first use; a test compares the two.

import { isUtf8 } from 'node:buffer';
import { ScalarType, type DescField, type DescMessage, type MessageShape } from '@bufbuild/protobuf';
import { BinaryReader } from '@bufbuild/protobuf/wire';
import { assert } from '../../lib/assert.js';

type Values = Record<string, unknown>;
type Write = (writer: Writer, message: Values) => void;
type Read = (reader: BinaryReader, message: Values, wireType: number) => void;

interface Codec {
  readonly writes: Write[];
  readonly reads: Map<number, Read>;
  readonly make: () => Values;
}

interface Unknown {
  readonly no: number;
  readonly wireType: number;
  readonly data: Uint8Array;
}

const LENGTH_DELIMITED = 2;
const FIRST_BYTES = 1024;
const NUMBER_BYTES_MAX = 10;
/** Up to this many characters, going over them here takes less time than asking V8's UTF-8. */
const SHORT = 32;
const codecs = new WeakMap<DescMessage, Codec>();

export function encode<D extends DescMessage>(schema: D, message: MessageShape<D>): Uint8Array {
  const writer = new Writer();
  writeMessage(writer, codecOf(schema), message as unknown as Values);
  return writer.taken();
}

/** Throws where the library throws, and for what goes on behind the end of the message that it is in. */
export function decode<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> {
  return readMessage(new BinaryReader(bytes), codecOf(schema), bytes.length) as unknown as MessageShape<D>;
}

function codecOf(schema: DescMessage): Codec {
  const known = codecs.get(schema);
  if (known !== undefined) return known;
  const codec: Codec = { writes: [], reads: new Map(), make: maker(schema) };
  const fields = [...schema.fields].sort((a, b) => a.number - b.number);
  codec.writes.push(...fields.map(writeOf));
  // Not by number in one array: numbers of ours begin at 1000.
  for (const field of fields) codec.reads.set(field.number, readOf(field));
  codecs.set(schema, codec);
  return codec;
}

function maker(schema: DescMessage): () => Values {
  const plain: Values = { $typeName: schema.typeName };
  const lists: string[] = [];
  const oneofs: string[] = [];
  for (const member of schema.members) {
    const { localName } = member;
    if (member.kind === 'oneof') {
      plain[localName] = undefined;
      oneofs.push(localName);
    } else if (member.fieldKind === 'list') {
      plain[localName] = undefined;
      lists.push(localName);
    } else if (member.fieldKind !== 'message' && member.oneof === undefined && !explicit(member)) {
      plain[localName] = zeroOf(member);
    }
  }
  return () => {
    const made = { ...plain };
    for (const name of lists) made[name] = [];
    for (const name of oneofs) made[name] = { case: undefined };
    return made;
  };
}

/** Told apart from its zero: `optional`. */
function explicit(field: DescField): boolean {
  return field.proto.proto3Optional;
}

function zeroOf(field: DescField): unknown {
  if (field.fieldKind === 'enum') return 0;
  assert(field.fieldKind === 'scalar', `${field.parent.typeName}.${field.name} is a ${field.fieldKind}`);
  switch (field.scalar) {
    case ScalarType.STRING: return '';
    case ScalarType.BOOL: return false;
    case ScalarType.BYTES: return new Uint8Array(0);
    case ScalarType.INT64: case ScalarType.UINT64: return 0n;
    case ScalarType.INT32: case ScalarType.UINT32: case ScalarType.DOUBLE: case ScalarType.FLOAT: return 0;
    default: throw new Error(`${field.parent.typeName}.${field.name} is of a kind that is not handled`);
  }
}

function writeMessage(writer: Writer, { writes }: Codec, message: Values): void {
  for (const write of writes) write(writer, message);
  for (const { no, wireType, data } of (message['$unknown'] as Unknown[] | undefined) ?? []) {
    writer.uint32(no << 3 | wireType);
    writer.raw(data);
  }
}

/** Of what is not zero; a field of a oneof, or one told apart from its zero, has to be set only. */
function writeOf(field: DescField): Write {
  const { localName, oneof } = field;
  if (field.fieldKind === 'list') return writeList(field);
  const write = writeValue(field);
  if (oneof !== undefined && !explicit(field)) {
    const group = oneof.localName;
    return (writer, message) => {
      const chosen = message[group] as { case: string | undefined; value: unknown };
      if (chosen.case === localName) write(writer, chosen.value);
    };
  }
  const always = explicit(field) || field.fieldKind === 'message';
  return (writer, message) => {
    const value = message[localName];
    if (value === undefined || (!always && isZero(value))) return;
    write(writer, value);
  };
}

function isZero(value: unknown): boolean {
  return value === 0 || value === 0n || value === '' || value === false || (value instanceof Uint8Array && value.length === 0);
}

function writeList(field: DescField & { fieldKind: 'list' }): Write {
  const { localName, number } = field;
  assert(field.listKind !== 'message' || !field.delimitedEncoding, 'no groups');
  if (field.packed) {
    const write = scalarWriter(field.listKind === 'enum' ? ScalarType.INT32 : field.scalar as ScalarType, field);
    return (writer, message) => {
      const list = message[localName] as unknown[];
      if (list.length === 0) return;
      writer.uint32(number << 3 | LENGTH_DELIMITED);
      const from = writer.begin();
      for (const value of list) write(writer, value);
      writer.end(from);
    };
  }
  const write = writeValue(field);
  return (writer, message) => {
    for (const value of message[localName] as unknown[]) write(writer, value);
  };
}

/** With its tag. */
function writeValue(field: DescField): (writer: Writer, value: unknown) => void {
  if (field.message !== undefined) {
    const { message, number } = field;
    assert(field.fieldKind !== 'map', 'no maps');
    const tag = number << 3 | LENGTH_DELIMITED;
    const wrapper = isWrapper(field);
    let codec: Codec | undefined;
    return (writer, value) => {
      codec ??= codecOf(message);
      writer.uint32(tag);
      const from = writer.begin();
      writeMessage(writer, codec, (wrapper ? { value } : value) as Values);
      writer.end(from);
    };
  }
  const type = field.scalar ?? ScalarType.INT32;
  const tag = field.number << 3 | wireTypeOf(type);
  const write = scalarWriter(type, field);
  return (writer, value) => {
    writer.uint32(tag);
    write(writer, value);
  };
}

function wireTypeOf(type: ScalarType): number {
  if (type === ScalarType.STRING || type === ScalarType.BYTES) return LENGTH_DELIMITED;
  return type === ScalarType.DOUBLE ? 1 : type === ScalarType.FLOAT ? 5 : 0;
}

function scalarWriter(type: ScalarType, field: DescField): (writer: Writer, value: unknown) => void {
  switch (type) {
    case ScalarType.STRING: return (writer, value) => writer.string(value as string);
    case ScalarType.BYTES: return (writer, value) => writer.bytes(value as Uint8Array);
    case ScalarType.BOOL: return (writer, value) => writer.uint32(value === true ? 1 : 0);
    case ScalarType.UINT32: return (writer, value) => writer.uint32(value as number);
    case ScalarType.INT32: return (writer, value) => writer.int32(value as number);
    case ScalarType.UINT64: case ScalarType.INT64: return (writer, value) => writer.int64(value as bigint);
    case ScalarType.DOUBLE: return (writer, value) => writer.double(value as number);
    case ScalarType.FLOAT: return (writer, value) => writer.float(value as number);
    default: throw new Error(`${field.parent.typeName}.${field.name} is of a kind that is not handled`);
  }
}

/** What the library shows as the bare value. */
function isWrapper({ fieldKind, message, oneof }: DescField): boolean {
  return fieldKind === 'message' && oneof === undefined && /^google\.protobuf\.\w+Value$/.test(message.typeName)
    && message.typeName !== 'google.protobuf.Value' && message.typeName !== 'google.protobuf.ListValue';
}

function readMessage(reader: BinaryReader, { reads, make }: Codec, length: number, into: Values = make()): Values {
  const end = reader.pos + length;
  while (reader.pos < end) {
    const [no, wireType] = reader.tag();
    const read = reads.get(no);
    if (read !== undefined) {
      read(reader, into, wireType);
      continue;
    }
    ((into['$unknown'] ??= []) as Unknown[]).push({ no, wireType, data: reader.skip(wireType, no) });
  }
  if (reader.pos !== end) throw new Error('a message ends inside a field');
  return into;
}

function readOf(field: DescField): Read {
  const { localName, oneof } = field;
  const read = readValue(field);
  if (field.fieldKind === 'list') {
    const type = field.scalar ?? ScalarType.INT32;
    const packable = field.listKind !== 'message' && type !== ScalarType.STRING && type !== ScalarType.BYTES;
    return (reader, message, wireType) => {
      const list = message[localName] as unknown[];
      if (!packable || wireType !== LENGTH_DELIMITED) {
        list.push(read(reader, undefined));
        return;
      }
      const length = reader.uint32();
      for (const end = reader.pos + length; reader.pos < end;) list.push(read(reader, undefined));
    };
  }
  if (oneof !== undefined && !explicit(field)) {
    const group = oneof.localName;
    return (reader, message) => {
      const chosen = message[group] as { case: string | undefined; value?: unknown };
      message[group] = { case: localName, value: read(reader, chosen.case === localName ? chosen.value : undefined) };
    };
  }
  return (reader, message) => {
    message[localName] = read(reader, message[localName]);
  };
}

/** A message that comes twice is merged. */
function readValue(field: DescField): (reader: BinaryReader, before: unknown) => unknown {
  if (field.message !== undefined) {
    const { message } = field;
    const wrapper = isWrapper(field);
    let codec: Codec | undefined;
    return (reader, before) => {
      codec ??= codecOf(message);
      const length = reader.uint32();
      if (wrapper) return readMessage(reader, codec, length)['value'];
      return readMessage(reader, codec, length, before as Values | undefined);
    };
  }
  switch (field.scalar ?? ScalarType.INT32) {
    case ScalarType.STRING: return readString;
    case ScalarType.BYTES: return (reader) => reader.bytes();
    case ScalarType.BOOL: return (reader) => reader.bool();
    case ScalarType.UINT32: return (reader) => reader.uint32();
    case ScalarType.INT32: return (reader) => reader.int32();
    case ScalarType.UINT64: return (reader) => reader.uint64();
    case ScalarType.INT64: return (reader) => reader.int64();
    case ScalarType.DOUBLE: return (reader) => reader.double();
    case ScalarType.FLOAT: return (reader) => reader.float();
    default: throw new Error(`${field.parent.typeName}.${field.name} is of a kind that is not handled`);
  }
}

function readString(reader: BinaryReader): string {
  const bytes = reader.bytes();
  if (bytes.length > SHORT) return readUtf8(bytes);
  let text = '';
  for (const byte of bytes) {
    if (byte > 127) return readUtf8(bytes);
    text += String.fromCharCode(byte);
  }
  return text;
}

/** Text is UTF-8 in proto3, and anything else no message. */
function readUtf8(bytes: Uint8Array): string {
  if (!isUtf8(bytes)) throw new Error('a text is not UTF-8');
  return Buffer.prototype.utf8Slice.call(bytes, 0, bytes.length);
}

/** Bytes that grow; the length of a message is put before it once it is known. */
class Writer {
  private buffer = Buffer.allocUnsafe(FIRST_BYTES);
  private at = 0;

  taken(): Uint8Array {
    // A copy: what is kept in the log is no larger than it must be.
    return new Uint8Array(this.buffer.subarray(0, this.at));
  }

  private room(count: number): void {
    if (this.at + count <= this.buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(2 * this.buffer.length, this.at + count));
    this.buffer.copy(larger, 0, 0, this.at);
    this.buffer = larger;
  }

  uint32(value: number): void {
    this.room(NUMBER_BYTES_MAX);
    let rest = value >>> 0;
    while (rest > 127) {
      this.buffer[this.at++] = (rest & 127) | 128;
      rest >>>= 7;
    }
    this.buffer[this.at++] = rest;
  }

  int32(value: number): void {
    assert(Number.isInteger(value) && value >= -(2 ** 31) && value < 2 ** 31, `${value} is no int32`);
    if (value >= 0) this.uint32(value);
    else this.int64(BigInt(value));
  }

  int64(value: bigint): void {
    if (value >= 0n && value <= 0xffffffffn) {
      this.uint32(Number(value));
      return;
    }
    this.room(NUMBER_BYTES_MAX);
    let rest = BigInt.asUintN(64, value);
    while (rest > 127n) {
      this.buffer[this.at++] = Number(rest & 127n) | 128;
      rest >>= 7n;
    }
    this.buffer[this.at++] = Number(rest);
  }

  double(value: number): void {
    this.room(8);
    this.at = this.buffer.writeDoubleLE(value, this.at);
  }

  float(value: number): void {
    this.room(4);
    this.at = this.buffer.writeFloatLE(value, this.at);
  }

  raw(bytes: Uint8Array): void {
    this.room(bytes.length);
    this.buffer.set(bytes, this.at);
    this.at += bytes.length;
  }

  bytes(bytes: Uint8Array): void {
    this.uint32(bytes.length);
    this.raw(bytes);
  }

  string(text: string): void {
    const from = this.begin();
    this.room(3 * text.length);
    if (text.length > SHORT) {
      this.at += this.buffer.write(text, this.at);
    } else {
      for (let i = 0; i < text.length; i++) {
        const code = text.charCodeAt(i);
        if (code > 127) {
          this.at = from + 1 + this.buffer.write(text, from + 1);
          break;
        }
        this.buffer[this.at++] = code;
      }
    }
    this.end(from);
  }

  /** Leaves one byte for the length of what follows. */
  begin(): number {
    this.room(1);
    return this.at++;
  }

  end(from: number): void {
    const length = this.at - from - 1;
    if (length < 128) {
      this.buffer[from] = length;
      return;
    }
    const more = length < 0x4000 ? 1 : length < 0x20_0000 ? 2 : length < 0x1000_0000 ? 3 : 4;
    this.room(more);
    this.buffer.copy(this.buffer, from + 1 + more, from + 1, this.at);
    const { at } = this;
    this.at = from;
    this.uint32(length);
    this.at = at + more;
  }
}
