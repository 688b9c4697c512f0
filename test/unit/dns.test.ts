// core/dns: the scenarios of test/data/dns, and that hostile bytes neither throw nor leave the bounds.
//
// A scenario has rows (network VNI NAME [internal], name VNI NAME ADDRESS..., ptr VNI ADDRESS NAME, many VNI NAME COUNT,
// long VNI ADDRESS CHARACTERS), askers (asker VNI... [upstream=WHAT]), and questions with what is expected: "? NAME TYPE
// [tcp] [edns=BYTES] [class=N] [opcode=N] [extra] [cut=BYTES]", "raw HEX", or "label SIZE-OR-HEX..."; then "= ...".

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { answer, type DnsAsker } from '../../src/core/dns/answer.js';
import { dnsView } from '../../src/core/dns/view.js';
import { encodeName, labelsOf, readMessage, readName } from '../../src/core/dns/wire.js';
import { RowSchema, type Row } from '../../src/model/proto/skein_pb.js';
import { describeAnswer, makeQuery, TYPES } from '../support/dns.js';

const folder = path.resolve(import.meta.dirname, '../../../test/data/dns');

function makeRow(kind: 'network' | 'name' | 'pointer', value: object): Row {
  return create(RowSchema, { key: 'unused', row: { case: kind, value } } as Parameters<typeof create<typeof RowSchema>>[1]);
}

/** A name of that many characters in labels of up to 63. */
function longName(characters: number): string {
  const labels: string[] = [];
  for (let left = characters; left > 0; left -= 64) labels.push('x'.repeat(Math.min(left, 63)));
  return labels.join('.');
}

function readRow(words: readonly string[]): Row | undefined {
  const [kind, vni, first = '', ...rest] = words;
  const common = { vni: Number(vni) };
  switch (kind) {
    case 'network': return makeRow('network', { ...common, name: first, internal: rest[0] === 'internal' });
    case 'name': return makeRow('name', { ...common, name: first, addresses: rest });
    case 'ptr': return makeRow('pointer', { ...common, address: first, name: rest[0] ?? '' });
    case 'long': return makeRow('pointer', { ...common, address: first, name: longName(Number(rest[0])) });
    case 'many': {
      const addresses = Array.from({ length: Number(rest[0]) }, (_, i) => `10.9.${i >> 8}.${i & 255}`);
      return makeRow('name', { ...common, name: first, addresses });
    }
    default: return undefined;
  }
}

function readQuery(kind: string, words: readonly string[]): { query: Buffer; tcp: boolean } {
  if (kind === 'raw') return { query: Buffer.from(words.join(''), 'hex'), tcp: false };
  if (kind === 'label') {
    const name = words.map((word) => (/^\d\d?$/.test(word) ? 'y'.repeat(Number(word)) : Buffer.from(word, 'hex').toString('latin1')));
    return { query: makeQuery({ name }), tcp: false };
  }
  const [name = '', type = '', ...rest] = words;
  const option = (key: string) => rest.find((word) => word.startsWith(`${key}=`))?.slice(key.length + 1);
  const edns = option('edns');
  // Two records: one whose name is a pointer, one with data.
  const extra = { bytes: Buffer.from('c00c00100001000000000000' + '0161000010000100000000000401020304', 'hex'), count: 2 };
  const query = makeQuery({
    name, type: TYPES[type] ?? assert.fail(`type ${type}`), class: Number(option('class') ?? 1), opcode: Number(option('opcode') ?? 0),
    ...(edns === undefined ? {} : { edns: Number(edns) }), ...(rest.includes('extra') ? { extra } : {}),
  });
  return { query: query.subarray(0, query.length - Number(option('cut') ?? 0)), tcp: rest.includes('tcp') };
}

function say(result: ReturnType<typeof answer>): string {
  if (!('bytes' in result)) return result.kind;
  assert.ok(readMessage(result.bytes) !== undefined, 'our own codec reads it');
  return `${result.kind} ${describeAnswer(result.bytes)}`.replace(/x{20,}[x.]*/, 'long');
}

function counted(): () => number {
  let count = 0;
  return () => {
    count += 1;
    return (count * 0.37) % 1;
  };
}

describe('dns scenarios', () => {
  for (const file of readdirSync(folder).sort()) {
    it(file, () => {
      const rows: Row[] = [];
      let asker: DnsAsker = { vnis: [], upstream: 'agent' };
      let query: { query: Buffer; tcp: boolean } | undefined;
      const rng = counted();
      let asked = 0;
      for (const [index, line] of readFileSync(path.join(folder, file), 'utf8').split('\n').entries()) {
        const [kind = '', ...words] = line.trim().split(/\s+/);
        if (kind === '' || kind.startsWith('#')) continue;
        const where = `${file}:${index + 1}`;
        if (kind === 'asker') {
          const upstream = words.find((word) => word.startsWith('upstream='))?.slice(9) ?? 'agent';
          asker = { vnis: words.filter((word) => /^\d+$/.test(word)).map(Number), upstream: upstream as DnsAsker['upstream'] };
        } else if (kind === '=') {
          assert.ok(query !== undefined, where);
          assert.equal(say(answer(dnsView(rows), asker, query.query, { tcp: query.tcp, rng })), words.join(' '), where);
          asked += 1;
        } else if (kind === '?' || kind === 'raw' || kind === 'label') {
          query = readQuery(kind, words);
        } else {
          rows.push(readRow([kind, ...words]) ?? assert.fail(`${where}: ${kind}`));
        }
      }
      assert.ok(asked > 0, file);
    });
  }
});

describe('dns bytes', () => {
  const view = dnsView([
    makeRow('network', { vni: 1, name: 'net' }),
    makeRow('name', { vni: 1, name: 'web', addresses: Array.from({ length: 40 }, (_, i) => `10.0.0.${i}`) }),
    makeRow('pointer', { vni: 1, address: '10.0.0.1', name: 'web.1.net' }),
  ]);
  const options = { tcp: false, rng: counted() };

  it('any bytes are answered, forwarded or dropped, and an answer is a whole message that repeats id and question', () => {
    const asker: DnsAsker = { vnis: [1], upstream: 'none' };
    const good = makeQuery({ name: 'web', edns: 600 });
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 600 }),
      fc.uint8Array({ maxLength: 300 }).map((tail) => Uint8Array.from([...good.subarray(0, 12), ...tail])),
      fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 4 }).map((changes) => {
        const copy = Uint8Array.from(good);
        for (const [at, value] of changes) copy[at] = value;
        return copy;
      }),
    );
    fc.assert(fc.property(bytes, (query) => {
      // A Buffer, whose slices share memory.
      const given = Buffer.from(query);
      const result = answer(view, asker, given, options);
      assert.deepEqual(Uint8Array.from(given), Uint8Array.from(query), 'the question is left alone');
      assert.notEqual(result.kind, 'forward');
      if (!('bytes' in result)) return;
      const message = readMessage(result.bytes);
      assert.ok(message !== undefined && result.bytes.length <= 4096);
      assert.deepEqual(result.bytes.slice(0, 2), query.slice(0, 2));
      assert.deepEqual(result.bytes.slice(12, message.question.end), query.slice(12, message.question.end));
      describeAnswer(result.bytes);
    }), { numRuns: 3000, seed: 1 });
  });

  it('all addresses come first equally often, or nearly', () => {
    const first = new Map<string, number>();
    let state = 1;
    const rng = (): number => {
      state = (state * 48_271) % 2_147_483_647;
      return state / 2_147_483_647;
    };
    for (let i = 0; i < 4000; i++) {
      const result = answer(view, { vnis: [1], upstream: 'agent' }, makeQuery({ name: 'web' }), { tcp: true, rng });
      const bytes = 'bytes' in result ? result.bytes : assert.fail(result.kind);
      const message = readMessage(bytes) ?? assert.fail('no message');
      const { start, end } = message.answers[0] ?? assert.fail('no answer');
      const address = bytes.slice(start, end).join('.');
      first.set(address, (first.get(address) ?? 0) + 1);
    }
    assert.equal(first.size, 40);
    for (const [address, count] of first) assert.ok(count > 50 && count < 160, `${address} ${count}`);
  });

  it('names: pointers lead backwards only', () => {
    const read = (hex: string, at: number) => readName(Buffer.from(hex, 'hex'), at, true);
    assert.deepEqual(read('0377454200' + '0161c000', 5), { labels: ['a', 'web'], end: 9 });
    assert.equal(read('c000', 0), undefined);
    assert.equal(read('0161c002', 2), undefined);
    assert.equal(read('c002c000', 2), undefined);
    assert.equal(read('0161c000', 0), undefined, 'into its own piece');
    assert.equal(read('8161', 0), undefined);
    assert.equal(read('c0', 0), undefined);
    // Each pointer may be followed once: a chain of them, each with a label, ends at 255 bytes.
    const place = (i: number) => (i === 0 ? 0 : 1 + (i - 1) * 4).toString(16).padStart(3, '0');
    const chain = ['00', ...Array.from({ length: 200 }, (_, i) => `0161c${place(i)}`)].join('');
    assert.equal(read(chain, 1 + 199 * 4), undefined);
    assert.equal(read(chain, 1 + 99 * 4)?.labels.length, 100);
  });

  it('names of rows: UTF-8, ASCII letters without case, bounds', () => {
    assert.deepEqual(labelsOf('WEB.Bücher')?.map((l) => Buffer.from(l, 'latin1').toString()), ['web', 'bücher']);
    assert.deepEqual(Buffer.from(encodeName('a.😀') ?? []).toString('hex'), '016104f09f988000');
    for (const bad of ['', '.', 'a.', '.a', 'a..b', 'x'.repeat(64), longName(254)]) assert.equal(labelsOf(bad), undefined, bad);
    assert.ok(labelsOf(longName(253)) !== undefined);
  });
});
