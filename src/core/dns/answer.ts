// Answers to the DNS questions of tasks, from the rows: the reference the data plane's C answers are compared with.
// A name is looked up in the asker's networks only, in interface order: as it is in all of them, then as
// "<name>.<network>", the longest name first. A known name without the asked type is an empty NOERROR. What the rows do
// not know is forwarded, unless the asker has internal networks only.

import { parseAddress } from '../../lib/cidr.js';
import type { NameRow, PointerRow } from '../../model/proto/skein_pb.js';
import { nameKey, type DnsView } from './view.js';
import {
  Class, Code, ednsSize, encodeName, HEADER_BYTES, MESSAGE_BYTES_MAX, readQuestion, Type, UDP_BYTES_MIN, type Question,
} from './wire.js';

export const TTL_S = 10;
/** Longer questions are not read. */
export const QUERY_BYTES_MAX = 2048;
const EDNS_BYTES_MAX = 4096;
const OPT_BYTES = 11;
const RECORD_BYTES = 12;
/** A pointer to the question's name. */
const QUESTION_NAME = 0xc000 + HEADER_BYTES;
const REVERSE = ['in-addr', 'arpa'];
const Flag = { response: 0x80, opcode: 0x78, truncated: 0x02, recursion: 0x01, recursionAvailable: 0x80 } as const;

/** Who asks: the networks of its sandbox in interface order, and whether what the rows do not know can be forwarded. */
export interface DnsAsker {
  readonly vnis: readonly number[];
  /** none: internal networks only; away: no agent; full: as many questions wait as may. */
  readonly upstream: 'agent' | 'none' | 'away' | 'full';
}

export interface DnsOptions {
  readonly tcp: boolean;
  /** At least 0, below 1. */
  readonly rng: () => number;
}

export type DnsResult =
  | { readonly kind: 'reply' | 'servfail' | 'refused'; readonly bytes: Uint8Array }
  | { readonly kind: 'forward' | 'drop' };

export function answer(view: DnsView, asker: DnsAsker, query: Uint8Array, options: DnsOptions): DnsResult {
  const question = query.length > QUERY_BYTES_MAX ? undefined : readQuestion(query);
  if (question === undefined || (byteAt(query, 2) & Flag.response) !== 0) return { kind: 'drop' };
  const ours = (byteAt(query, 2) & Flag.opcode) === 0 && (question.class === Class.in || question.class === Class.any);
  const address = ours ? reverseAddress(question.labels) : undefined;
  if (address !== undefined) {
    const pointer = findPointer(view, asker, address);
    if (pointer !== undefined) return reply(query, question, options, pointerRecords(question, pointer));
  } else if (ours) {
    const name = findName(view, asker, question.labels);
    if (name !== undefined) return reply(query, question, options, addressRecords(question, name, options.rng));
  }
  if (asker.upstream === 'agent') return { kind: 'forward' };
  return asker.upstream === 'full'
    ? { kind: 'refused', bytes: refuse(query, question, Code.refused) }
    : { kind: 'servfail', bytes: refuse(query, question, Code.servFail) };
}

function byteAt(bytes: Uint8Array, at: number): number {
  return bytes[at] ?? 0;
}

function findName(view: DnsView, asker: DnsAsker, labels: readonly string[]): NameRow | undefined {
  for (const vni of asker.vnis) {
    const row = view.get(vni)?.names.get(nameKey(labels));
    if (row !== undefined) return row;
  }
  for (let size = labels.length - 1; size > 0; size--) {
    const suffix = nameKey(labels.slice(size));
    for (const vni of asker.vnis) {
      const network = view.get(vni);
      if (network?.labels === undefined || nameKey(network.labels) !== suffix) continue;
      const row = network.names.get(nameKey(labels.slice(0, size)));
      if (row !== undefined) return row;
    }
  }
  return undefined;
}

function findPointer(view: DnsView, asker: DnsAsker, address: number): PointerRow | undefined {
  for (const vni of asker.vnis) {
    const row = view.get(vni)?.pointers.get(address);
    if (row !== undefined) return row;
  }
  return undefined;
}

/** 4.3.2.1.in-addr.arpa; other spellings of the numbers are other names. */
function reverseAddress(labels: readonly string[]): number | undefined {
  if (labels.length !== 6 || nameKey(labels.slice(4)) !== nameKey(REVERSE)) return undefined;
  return parseAddress(labels.slice(0, 4).reverse().join('.'));
}

/** From a random address on, so that clients that take the first spread out. */
function addressRecords(question: Question, name: NameRow, rng: () => number): Uint8Array[] {
  if (question.type !== Type.a && question.type !== Type.any) return [];
  const first = Math.floor(rng() * name.addresses.length);
  const turned = [...name.addresses.slice(first), ...name.addresses.slice(0, first)];
  if (rng() < 0.5) turned.reverse();
  return turned.map((text) => record(Type.a, bytes32(parseAddress(text) ?? 0)));
}

function pointerRecords(question: Question, pointer: PointerRow): Uint8Array[] {
  if (question.type !== Type.ptr && question.type !== Type.any) return [];
  const name = encodeName(pointer.name);
  return name === undefined ? [] : [record(Type.ptr, name)];
}

function bytes16(value: number): number[] {
  return [Math.floor(value / 256) % 256, value % 256];
}

function bytes32(value: number): number[] {
  return [...bytes16(Math.floor(value / 65_536)), ...bytes16(value % 65_536)];
}

function record(type: number, data: ArrayLike<number>): Uint8Array {
  const bytes = new Uint8Array(RECORD_BYTES + data.length);
  bytes.set([...bytes16(QUESTION_NAME), ...bytes16(type), ...bytes16(Class.in), ...bytes32(TTL_S), ...bytes16(data.length)]);
  bytes.set(data, RECORD_BYTES);
  return bytes;
}

/** Header and question of a reply. */
function refuse(query: Uint8Array, question: Question, code: number): Uint8Array {
  // Not slice: that of a Buffer shares its memory.
  const bytes = Uint8Array.from(query.subarray(0, question.end));
  bytes.set([
    Flag.response + (byteAt(query, 2) & (Flag.opcode + Flag.recursion)), Flag.recursionAvailable + code,
    ...bytes16(1), ...bytes16(0), ...bytes16(0), ...bytes16(0),
  ], 2);
  return bytes;
}

/** As many records as the asker takes; TC when some do not fit. */
function reply(query: Uint8Array, question: Question, options: DnsOptions, records: readonly Uint8Array[]): DnsResult {
  const asked = ednsSize(query, question);
  const udp = Math.min(Math.max(asked ?? UDP_BYTES_MIN, UDP_BYTES_MIN), EDNS_BYTES_MAX);
  const limit = (options.tcp ? MESSAGE_BYTES_MAX : udp) - (asked === undefined ? 0 : OPT_BYTES);
  const head = refuse(query, question, Code.noError);
  let size = head.length;
  let count = 0;
  for (const one of records) {
    if (size + one.length > limit) break;
    size += one.length;
    count += 1;
  }
  const bytes = new Uint8Array(size + (asked === undefined ? 0 : OPT_BYTES));
  bytes.set(head);
  let at = head.length;
  for (const one of records.slice(0, count)) {
    bytes.set(one, at);
    at += one.length;
  }
  if (count < records.length) bytes[2] = byteAt(bytes, 2) + Flag.truncated;
  bytes.set(bytes16(count), 6);
  if (asked !== undefined) {
    bytes.set([0, ...bytes16(Type.opt), ...bytes16(EDNS_BYTES_MAX)], at);
    bytes.set(bytes16(1), 10);
  }
  return { kind: 'reply', bytes };
}
