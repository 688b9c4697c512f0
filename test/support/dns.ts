// DNS questions for tests, made byte by byte so that they may be wrong in every way; and what an answer says, by
// dns-packet, so that the codec of core/dns is not its own judge.

import { decode, RECURSION_DESIRED, type DecodedPacket } from 'dns-packet';

export const TYPES: Readonly<Record<string, number>> = { A: 1, NS: 2, PTR: 12, MX: 15, TXT: 16, AAAA: 28, SRV: 33, HTTPS: 65, ANY: 255 };

export interface QuerySpec {
  readonly id?: number;
  /** Dotted text, or labels that may hold any byte (one character each). */
  readonly name: string | readonly string[];
  readonly type?: number;
  readonly class?: number;
  readonly opcode?: number;
  /** EDNS size: adds an OPT record. */
  readonly edns?: number;
  /** Bytes of other additional records before OPT, and how many records they are. */
  readonly extra?: { readonly bytes: Buffer; readonly count: number };
}

export function makeQuery(spec: QuerySpec): Buffer {
  const labels = typeof spec.name === 'string' ? spec.name.split('.').filter((label) => label !== '') : spec.name;
  const header = Buffer.alloc(12);
  header.writeUInt16BE(spec.id ?? 4711, 0);
  header.writeUInt16BE(((spec.opcode ?? 0) << 11) | RECURSION_DESIRED, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE((spec.edns === undefined ? 0 : 1) + (spec.extra?.count ?? 0), 10);
  const name = labels.flatMap((label) => [Buffer.from([label.length]), Buffer.from(label, 'latin1')]);
  const tail = Buffer.alloc(5);
  tail.writeUInt16BE(spec.type ?? 1, 1);
  tail.writeUInt16BE(spec.class ?? 1, 3);
  const opt = Buffer.alloc(spec.edns === undefined ? 0 : 11);
  if (spec.edns !== undefined) {
    opt.writeUInt16BE(41, 1);
    opt.writeUInt16BE(spec.edns, 3);
  }
  return Buffer.concat([header, ...name, tail, spec.extra?.bytes ?? Buffer.alloc(0), opt]);
}

/** "NOERROR tc 10.0.1.2 10.0.1.3": code, flags that are not the usual ones, sorted answers, edns. */
export function describeAnswer(bytes: Uint8Array): string {
  const packet = decode(Buffer.from(bytes)) as DecodedPacket & { rcode?: string };
  const words = [packet.rcode ?? '?'];
  if (packet.flag_tc === true) words.push('tc');
  if (packet.flag_aa === true) words.push('aa');
  if (packet.flag_ra !== true) words.push('no-ra');
  if (packet.flag_qr !== true) words.push('no-qr');
  const answers = (packet.answers ?? []).map((one) => {
    if (one.type !== 'A' && one.type !== 'PTR') return one.type;
    return one.ttl === 10 && one.class === 'IN' ? String(one.data) : `${String(one.data)}(ttl ${one.ttl} class ${one.class})`;
  });
  words.push(...(answers.length > 20 ? [`${answers.length} answers`] : answers.sort()));
  if ((packet.additionals ?? []).some((one) => one.type === 'OPT')) words.push('edns');
  return words.join(' ');
}
