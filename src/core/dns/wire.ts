// DNS wire format (RFC 1035, EDNS0 of RFC 6891): questions, whole messages, names. Every read is bounded by the message;
// bad bytes are undefined, never a throw. A label is a string of bytes (one character each, ASCII letters lower-cased),
// so a label may hold a dot; a name is a list of labels.

export const HEADER_BYTES = 12;
export const UDP_BYTES_MIN = 512;
export const MESSAGE_BYTES_MAX = 65_535;
const NAME_BYTES_MAX = 255;
const LABEL_BYTES_MAX = 63;

export const Type = { a: 1, ptr: 12, opt: 41, any: 255 } as const;
export const Class = { in: 1, any: 255 } as const;
export const Code = { noError: 0, servFail: 2, nxDomain: 3, refused: 5 } as const;

export interface Question {
  readonly labels: readonly string[];
  readonly type: number;
  readonly class: number;
  /** Where the question ends. */
  readonly end: number;
}

export interface Resource {
  readonly labels: readonly string[];
  readonly type: number;
  readonly class: number;
  readonly ttl: number;
  /** Where its data lies in the message. */
  readonly start: number;
  readonly end: number;
}

export interface Message {
  readonly id: number;
  readonly flags: number;
  readonly question: Question;
  readonly answers: readonly Resource[];
  readonly authorities: readonly Resource[];
  readonly additionals: readonly Resource[];
}

export function read16(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) * 256 + (bytes[at + 1] ?? 0);
}

export function read32(bytes: Uint8Array, at: number): number {
  return read16(bytes, at) * 65_536 + read16(bytes, at + 2);
}

function lower(byte: number): number {
  return byte >= 0x41 && byte <= 0x5a ? byte + 32 : byte;
}

interface NameRead {
  readonly labels: readonly string[];
  readonly end: number;
}

/** A name that may end in a pointer. A pointer must lead to before the piece it ends, so there are no loops. */
export function readName(bytes: Uint8Array, start: number, pointers: boolean): NameRead | undefined {
  const labels: string[] = [];
  let at = start;
  let piece = start;
  let end: number | undefined;
  let length = 1;
  for (;;) {
    const size = bytes[at];
    if (size === undefined) return undefined;
    if (size === 0) return { labels, end: end ?? at + 1 };
    if (size >= 0xc0) {
      if (!pointers || at + 2 > bytes.length) return undefined;
      end ??= at + 2;
      at = read16(bytes, at) % 0x4000;
      if (at >= piece) return undefined;
      piece = at;
      continue;
    }
    length += size + 1;
    if (size > LABEL_BYTES_MAX || length > NAME_BYTES_MAX || at + 1 + size > bytes.length) return undefined;
    labels.push(String.fromCharCode(...bytes.subarray(at + 1, at + 1 + size).map(lower)));
    at += 1 + size;
  }
}

/** The one question of a query. Names in questions have nothing to point to. */
export function readQuestion(query: Uint8Array): Question | undefined {
  if (query.length < HEADER_BYTES || read16(query, 4) !== 1) return undefined;
  const name = readName(query, HEADER_BYTES, false);
  if (name === undefined || name.end + 4 > query.length) return undefined;
  return { labels: name.labels, type: read16(query, name.end), class: read16(query, name.end + 2), end: name.end + 4 };
}

/** Where a name ends, without looking at where a pointer leads. */
function skipName(bytes: Uint8Array, start: number): number | undefined {
  let at = start;
  for (;;) {
    const size = bytes[at];
    if (size === undefined) return undefined;
    if (size === 0) return at + 1;
    if (size >= 0xc0) return at + 2;
    if (size > LABEL_BYTES_MAX) return undefined;
    at += size + 1;
  }
}

/** Bytes the asker takes over UDP, by the first OPT record among the additional ones; undefined without EDNS. */
export function ednsSize(query: Uint8Array, question: Question): number | undefined {
  const before = read16(query, 6) + read16(query, 8);
  const count = before + read16(query, 10);
  let at = question.end;
  for (let i = 0; i < count; i++) {
    const end = skipName(query, at);
    if (end === undefined || end + 10 > query.length) return undefined;
    const next = end + 10 + read16(query, end + 8);
    if (next > query.length) return undefined;
    if (i >= before && query[at] === 0 && read16(query, end) === Type.opt) return read16(query, end + 2);
    at = next;
  }
  return undefined;
}

function readResources(bytes: Uint8Array, start: number, count: number): { list: Resource[]; end: number } | undefined {
  const list: Resource[] = [];
  let at = start;
  for (let i = 0; i < count; i++) {
    const name = readName(bytes, at, true);
    if (name === undefined || name.end + 10 > bytes.length) return undefined;
    const data = name.end + 10;
    const end = data + read16(bytes, name.end + 8);
    if (end > bytes.length) return undefined;
    list.push({
      labels: name.labels, type: read16(bytes, name.end), class: read16(bytes, name.end + 2), ttl: read32(bytes, name.end + 4),
      start: data, end,
    });
    at = end;
  }
  return { list, end: at };
}

/** A whole message of one question, with nothing behind it. */
export function readMessage(bytes: Uint8Array): Message | undefined {
  const question = readQuestion(bytes);
  if (question === undefined) return undefined;
  const answers = readResources(bytes, question.end, read16(bytes, 6));
  const authorities = answers && readResources(bytes, answers.end, read16(bytes, 8));
  const additionals = authorities && readResources(bytes, authorities.end, read16(bytes, 10));
  if (additionals === undefined || additionals.end !== bytes.length) return undefined;
  return {
    id: read16(bytes, 0), flags: read16(bytes, 2), question, answers: answers?.list ?? [], authorities: authorities?.list ?? [],
    additionals: additionals.list,
  };
}

/** UTF-8 bytes of a text. */
function utf8(text: string): number[] {
  return [...text].flatMap((character) => {
    const point = character.codePointAt(0) ?? 0;
    if (point < 0x80) return [point];
    if (point < 0x800) return [0xc0 + (point >> 6), 0x80 + (point & 63)];
    if (point < 0x10000) return [0xe0 + (point >> 12), 0x80 + ((point >> 6) & 63), 0x80 + (point & 63)];
    return [0xf0 + (point >> 18), 0x80 + ((point >> 12) & 63), 0x80 + ((point >> 6) & 63), 0x80 + (point & 63)];
  });
}

/** "web.front" on the wire, case kept; undefined for text that is no name. */
export function encodeName(text: string): Uint8Array | undefined {
  const labels = text.split('.').map(utf8);
  if (labels.some((label) => label.length === 0 || label.length > LABEL_BYTES_MAX)) return undefined;
  const bytes = Uint8Array.from([...labels.flatMap((label) => [label.length, ...label]), 0]);
  return bytes.length > NAME_BYTES_MAX ? undefined : bytes;
}

/** Labels of a text as they compare with those of a question; undefined for text that is no name. */
export function labelsOf(text: string): readonly string[] | undefined {
  const bytes = encodeName(text);
  return bytes === undefined ? undefined : readName(bytes, 0, false)?.labels;
}
