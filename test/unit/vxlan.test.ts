// core/vxlan: the header, and the differential test against native/packet: random frames through oracle_tool (built with
// the sanitizers) and through the reference. SKEIN_SEED makes another run.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { before, describe, it } from 'node:test';
import { fromBackend, pickBackend, rewrite, toBackend, type Backend } from '../../src/core/vxlan/balance.js';
import {
  checksumsRight, decodeVxlan, encodeVxlan, parseFrame, put16, put32, sum16, word16, type Frame,
} from '../../src/core/vxlan/frame.js';
import { seeded, type Random } from '../support/random.js';

const root = path.resolve(import.meta.dirname, '../../..');
const SEED = Number(process.env['SKEIN_SEED'] ?? 4789);
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** A right frame of TCP, UDP or ICMP, sometimes a fragment, with options or padding. */
function makeFrame(random: Random): Buffer {
  const protocol = random.pick([1, 6, 17, 17, 6, 47]);
  const header = 20 + (random.chance(0.2) ? 4 * random.below(11) : 0);
  const transport = protocol === 6 ? 20 + (random.chance(0.3) ? 4 * random.below(11) : 0) : 8;
  const total = header + transport + random.below(100);
  const frame = random.bytes(14 + total + (random.chance(0.2) ? random.below(20) : 0));
  put16(frame, 12, 0x0800);
  frame[14] = 0x40 | (header / 4);
  put16(frame, 16, total);
  put16(frame, 20, random.chance(0.2) ? random.pick([0x2000, 0x2001, 0x0005]) : random.pick([0, 0x4000]));
  frame[23] = protocol;
  put16(frame, 24, 0);
  put16(frame, 24, 0xffff - sum16(frame.subarray(14, 14 + header)));
  const at = 14 + header;
  const segment = frame.subarray(at, 14 + total);
  if (protocol === 6) segment[12] = (transport / 4) << 4;
  if (protocol === 17) put16(segment, 4, segment.length);
  const field = { 1: 2, 6: 16, 17: 6 }[protocol];
  if (field !== undefined) {
    put16(segment, field, 0);
    const pseudo = protocol === 1 ? 0 : sum16(frame.subarray(26, 34)) + protocol + segment.length;
    const sum = 0xffff - sum16(segment, pseudo);
    if (protocol !== 17 || random.chance(0.8)) put16(segment, field, sum === 0 && protocol === 17 ? 0xffff : sum);
  }
  return frame;
}

function damage(random: Random, frame: Buffer): Buffer {
  const copy = Buffer.from(frame.subarray(0, random.chance(0.3) ? random.below(frame.length + 1) : frame.length));
  if (copy.length > 0) for (let n = random.below(3); n > 0; n--) copy[random.below(Math.min(copy.length, 60))] = random.below(256);
  return copy;
}

function tell(frame: ReturnType<typeof parseFrame>): string {
  if (typeof frame === 'string') return frame;
  return [frame.size, frame.etherType, frame.network, frame.transport, frame.payload, frame.protocol, Number(frame.fragment),
    Number(frame.firstFragment), frame.source, frame.destination, frame.sourcePort, frame.destinationPort].join(' ');
}

function parsed(bytes: Uint8Array): Frame {
  const frame = parseFrame(bytes);
  return typeof frame === 'string' ? assert.fail(frame) : frame;
}

describe('core/vxlan', () => {
  it('header: flags, VNI, reserved bits', () => {
    assert.equal(hex(encodeVxlan(0x123456, Uint8Array.of(1, 2))), '08000000123456000102');
    assert.deepEqual(decodeVxlan(Buffer.from('ff112233abcdef4401', 'hex')), { vni: 0xabcdef, frame: Buffer.from([1]) });
    assert.equal(decodeVxlan(Buffer.from('f700000012345600', 'hex')), undefined);
    assert.equal(decodeVxlan(Buffer.from('08000000123456', 'hex')), undefined);
  });

  it('a rewritten packet is right, and rewriting the reply gives the client its own', () => {
    const random = seeded(SEED);
    for (let i = 0; i < 2000; i++) {
      const bytes = makeFrame(random);
      const frame = parsed(bytes);
      if (frame.fragment) continue;
      assert.ok(checksumsRight(bytes, frame));
      const backend = random.below(2 ** 32);
      const sent = toBackend(bytes, frame, backend);
      assert.equal(parsed(sent).destination, backend);
      assert.ok(checksumsRight(sent, parsed(sent)));
      const reply = rewrite(sent, parsed(sent), { ...frame, source: backend, destination: frame.source });
      const back = fromBackend(reply, parsed(reply), frame.destination);
      assert.equal(parsed(back).source, frame.destination);
      assert.ok(checksumsRight(back, parsed(back)));
    }
  });
});

describe('native/packet and core/vxlan', () => {
  const run = (lines: readonly string[]): string[] => {
    const input = `${lines.join('\n')}\n`;
    const output = execFileSync(path.join(root, 'build/native-test/oracle_tool'), { input, encoding: 'utf8', maxBuffer: 1 << 26 });
    return output.trimEnd().split('\n').map((line) => line.trim());
  };
  const compare = (lines: readonly string[], expected: readonly string[]): void => {
    const actual = run(lines);
    for (const [i, line] of lines.entries()) assert.equal(actual[i], expected[i], `seed ${SEED}: ${line}`);
  };
  before(() => void execFileSync('make', ['-C', path.join(root, 'native'), '-s', 'oracle'], { stdio: 'pipe' }));

  it('parse the same frames, and refuse the same for the same reason', () => {
    const random = seeded(SEED);
    const frames = Array.from({ length: 4000 }, () => (random.chance(0.4) ? makeFrame(random) : damage(random, makeFrame(random))));
    compare(frames.map((frame) => `parse ${hex(frame)}`), frames.map((frame) => tell(parseFrame(frame))));
  });

  it('rewrite to the same bytes, also where the checksum was wrong', () => {
    const random = seeded(SEED + 1);
    const lines: string[] = [];
    const expected: string[] = [];
    for (let i = 0; i < 4000; i++) {
      const bytes = makeFrame(random);
      const wrong = random.chance(0.3) ? random.pick([24, 40, 50]) : 0;
      if (wrong > 0 && wrong + 2 <= bytes.length) put16(bytes, wrong, random.pick([0, 0xffff, random.below(65_536)]));
      const frame = parseFrame(bytes);
      if (typeof frame === 'string') continue;
      const same = random.chance(0.1);
      const to = same ? frame : {
        source: random.below(2 ** 32), destination: random.below(2 ** 32),
        sourcePort: random.below(65_536), destinationPort: random.below(65_536),
      };
      const words = [to.source, to.destination, to.sourcePort, to.destinationPort].map((n) => n.toString(16));
      lines.push(`nat ${words.join(' ')} ${hex(bytes)}`);
      expected.push(hex(rewrite(bytes, frame, to)));
    }
    compare(lines, expected);
  });

  it('VXLAN headers and the order of backends', () => {
    const random = seeded(SEED + 2);
    const vnis = Array.from({ length: 200 }, () => random.below(2 ** 24));
    compare(vnis.map((vni) => `vxlan ${vni}`), vnis.map((vni) => hex(encodeVxlan(vni, new Uint8Array(0)))));
    const headers = Array.from({ length: 500 }, () => random.bytes(random.below(12)));
    compare(headers.map((h) => `unvxlan ${hex(h)}`), headers.map((h) => String(decodeVxlan(h)?.vni ?? 'none')));
    const sets = Array.from({ length: 300 }, () => Array.from({ length: 1 + random.below(8) }, (_, i): Backend => (
      { address: i, weight: random.below(5), draining: random.chance(0.3) })));
    const picks = (set: readonly Backend[]): string => {
      let turn = 0;
      return Array.from({ length: 40 }, () => {
        const picked = pickBackend(set, turn);
        turn = picked?.turn ?? turn;
        return picked?.backend.address ?? -1;
      }).join(' ');
    };
    compare(sets.map((set) => `lb ${set.length} ${set.map((b) => `${b.weight} ${Number(b.draining)}`).join(' ')} 40`), sets.map(picks));
  });

  it('words are read in network order', () => {
    const bytes = new Uint8Array(6);
    put32(bytes, 1, 0x80010203);
    assert.equal(word16(bytes, 1), 0x8001);
  });
});
