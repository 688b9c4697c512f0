// The raft log on disk: what was acknowledged is found again, and damage is refused, never
// skipped. Only an unfinished last write may be cut off.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { cpSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { Entry, HardState } from '../../src/core/raft/types.js';
import { RaftLog, RaftLogDamaged, type LoadedLog } from '../../src/io/raftlog/raftlog.js';
import { SnapshotFileSchema } from '../../src/model/proto/skein_pb.js';

const root = mkdtempSync(path.join(tmpdir(), 'skein-raftlog-'));
after(() => rmSync(root, { recursive: true, force: true }));
const KEY = new Uint8Array(32).fill(7);
let directories = 0;

function directory(): string {
  return path.join(root, `log${++directories}`);
}

function entry(index: number, text = `entry ${index}`, term = 1): Entry {
  return { index: BigInt(index), term: BigInt(term), kind: 'normal', data: Buffer.from(text) };
}

function hard(commit: number, term = 1): HardState {
  return { term: BigInt(term), vote: 1n, commit: BigInt(commit) };
}

async function load(at: string, key = KEY): Promise<LoadedLog> {
  const log = new RaftLog(at, key);
  try {
    return await log.load();
  } finally {
    await log.close();
  }
}

/** One process life: opens, appends the batches one by one, closes. */
async function life(at: string, batches: readonly (readonly Entry[])[]): Promise<void> {
  const log = new RaftLog(at, KEY);
  await log.load();
  for (const batch of batches) await log.append(hard(Number(batch.at(-1)?.index ?? 0n)), batch);
  await log.close();
}

function texts(loaded: LoadedLog): string[] {
  return loaded.entries.map((e) => Buffer.from(e.data).toString());
}

/** The pages of a segment: header, note of what was synced, batches. */
const NOTE = 4096;
const BATCHES = 8192;

/** As after a power loss before the note reached the disk. */
function forgetSynced(file: string): void {
  const bytes = readFileSync(file);
  Buffer.alloc(BATCHES - NOTE).copy(bytes, NOTE);
  writeFileSync(file, bytes);
}

function range(from: number, to: number, step = 1): number[] {
  return Array.from({ length: Math.ceil((to - from) / step) }, (_, i) => from + i * step);
}

const segments = (at: string): string[] => readdirSync(at).filter((file) => file.endsWith('.log')).sort().map((file) =>
  path.join(at, file));

describe('RaftLog', () => {
  it('finds again what was appended, over several lives', async () => {
    const at = directory();
    await life(at, [[entry(1), entry(2)], [entry(3)]]);
    await life(at, [[entry(4)]]);
    const loaded = await load(at);
    assert.deepEqual(texts(loaded), ['entry 1', 'entry 2', 'entry 3', 'entry 4']);
    assert.deepEqual(loaded.hardState, hard(4));
    assert.equal(loaded.tornBytes, 0);
  });

  it('a later entry replaces the one at its index and everything after', async () => {
    const at = directory();
    await life(at, [[entry(1), entry(2), entry(3)], [entry(2, 'newer', 2)]]);
    assert.deepEqual(texts(await load(at)), ['entry 1', 'newer']);
  });

  it('keeps nothing readable on disk', async () => {
    const at = directory();
    await life(at, [[entry(1, 'a very secret text')]]);
    for (const file of segments(at)) assert.equal(readFileSync(file).includes('secret'), false);
  });

  it('cut at any byte of the last write it comes back with a clean prefix, and takes appends', async () => {
    const at = directory();
    await life(at, [[entry(1)], [entry(2)], [entry(3)]]);
    const file = segments(at).at(-1) as string;
    forgetSynced(file);
    const whole = readFileSync(file);
    const all = ['entry 1', 'entry 2', 'entry 3'];
    let before = 0;
    for (const size of [...Array(64).keys(), ...range(BATCHES, whole.length + 1)]) {
      const copy = directory();
      cpSync(at, copy, { recursive: true });
      truncateSync(path.join(copy, path.basename(file)), size);
      const loaded = await load(copy);
      const found = texts(loaded);
      assert.deepEqual(found, all.slice(0, found.length), `cut to ${size}`);
      assert.ok(found.length >= before, `cut to ${size} lost more than a shorter cut`);
      before = found.length;
      if (size % 7 === 0 && size < BATCHES + 300) {
        await life(copy, [[entry(found.length + 1, 'after')]]);
        assert.deepEqual(texts(await load(copy)), [...all.slice(0, found.length), 'after']);
      }
    }
    assert.equal(before, 3);
  });

  it('zeros after the last record are an unfinished write; a segment of zeros never began', async () => {
    const at = directory();
    await life(at, [[entry(1)]]);
    const file = segments(at).at(-1) as string;
    writeFileSync(file, Buffer.concat([readFileSync(file), Buffer.alloc(300)]));
    const loaded = await load(at);
    assert.deepEqual([texts(loaded), loaded.tornBytes], [['entry 1'], 300]);
    writeFileSync(segments(at).at(-1) as string, Buffer.alloc(4096));
    assert.deepEqual(texts(await load(at)), ['entry 1']);
  });

  it('any flipped byte is refused: nothing acknowledged is dropped silently', async () => {
    const at = directory();
    await life(at, [[entry(1)], [entry(2)]]);
    const file = segments(at).at(-1) as string;
    const whole = readFileSync(file);
    // A refused log is left as it is, so one directory serves all. The padding of the two pages in wider steps.
    const fields = [...range(0, 128), ...range(128, NOTE, 61), ...range(NOTE, NOTE + 64), ...range(NOTE + 64, BATCHES, 61),
      ...range(BATCHES, whole.length)];
    for (const offset of fields) {
      for (const mask of [0x01, 0x80]) {
        const bytes = Buffer.from(whole);
        bytes[offset] = (bytes[offset] as number) ^ mask;
        writeFileSync(file, bytes);
        await assert.rejects(load(at), RaftLogDamaged, `byte ${offset}`);
      }
    }
    writeFileSync(file, whole);
    assert.deepEqual(texts(await load(at)), ['entry 1', 'entry 2']);
  });

  it('the loss of the end is refused when the log knows that it had been synced', async () => {
    const at = directory();
    await life(at, [[entry(1)], [entry(2)]]);
    const file = segments(at).at(-1) as string;
    const whole = readFileSync(file);
    for (let size = BATCHES; size < whole.length; size++) {
      writeFileSync(file, whole.subarray(0, size));
      await assert.rejects(load(at), RaftLogDamaged, `cut to ${size}`);
    }
  });

  describe('after a power loss in the middle of a write of several pages', () => {
    const PAGE = 4096;
    const large = (index: number): Entry => ({ ...entry(index), data: randomBytes(5 * PAGE) });

    /** A log of two batches, the bytes of its segment before and after a third one of several pages. */
    async function world(): Promise<{ at: string; file: string; before: Buffer; whole: Buffer }> {
      const at = directory();
      const log = new RaftLog(at, KEY);
      await log.load();
      await log.append(hard(1), [entry(1)]);
      await log.append(hard(2), [entry(2)]);
      const file = segments(at).at(-1) as string;
      const before = readFileSync(file);
      await log.append(hard(2), [large(3), entry(4)]);
      const whole = readFileSync(file);
      await log.close();
      // What the note said while the batch was being written.
      before.copy(whole, NOTE, NOTE, BATCHES);
      return { at, file, before, whole };
    }

    /** The pages of the new batch, of which only those of the mask reached the disk; the others hold `fill`. */
    function torn(before: Buffer, whole: Buffer, mask: number, fill: (size: number) => Buffer): Buffer {
      const bytes = Buffer.from(whole);
      for (let page = Math.floor(before.length / PAGE), bit = 1; page * PAGE < whole.length; page++, bit *= 2) {
        const [from, to] = [Math.max(page * PAGE, before.length), Math.min((page + 1) * PAGE, whole.length)];
        if ((mask & bit) === 0) fill(to - from).copy(bytes, from);
      }
      return bytes;
    }

    it('what was acknowledged before comes back, whichever pages are missing, and the rest is cut off and counted', async () => {
      const { at, file, before, whole } = await world();
      const pages = Math.ceil(whole.length / PAGE) - Math.floor(before.length / PAGE);
      assert.ok(pages >= 6);
      for (let mask = 0; mask < 2 ** pages - 1; mask++) {
        for (const fill of [(size: number) => Buffer.alloc(size), (size: number) => randomBytes(size)]) {
          const copy = directory();
          cpSync(at, copy, { recursive: true });
          writeFileSync(path.join(copy, path.basename(file)), torn(before, whole, mask, fill));
          const loaded = await load(copy);
          assert.deepEqual([texts(loaded), loaded.tornBytes], [['entry 1', 'entry 2'], whole.length - before.length],
            `pages ${mask.toString(2)}`);
          if (mask % 8 !== 0) continue;
          await life(copy, [[entry(3, 'after')]]);
          assert.deepEqual(texts(await load(copy)), ['entry 1', 'entry 2', 'after']);
        }
      }
    });

    it('the same holes are refused where the batch is known to have been synced: by the note, by a later batch, by a later segment', async () => {
      const { at, file, before, whole } = await world();
      const noted = directory();
      const log = new RaftLog(noted, KEY);
      await log.load();
      await log.append(hard(1), [entry(1)]);
      const noteFile = segments(noted).at(-1) as string;
      const start = readFileSync(noteFile).length;
      await log.append(hard(2), [large(2)]);
      const synced = readFileSync(noteFile);
      await log.append(hard(3), [entry(3)]);
      await log.close();
      const followed = readFileSync(noteFile);
      Buffer.alloc(64).copy(followed, NOTE);
      for (let mask = 0; mask < 63; mask++) {
        const holes = torn(synced.subarray(0, start), synced, mask, (size) => Buffer.alloc(size));
        writeFileSync(noteFile, holes);
        await assert.rejects(load(noted), /damaged: .*it was written and synced up to byte/, `noted, pages ${mask.toString(2)}`);
        const behind = Buffer.from(followed);
        holes.copy(behind, start, start);
        writeFileSync(noteFile, behind);
        await assert.rejects(load(noted), /damaged: .*(a later batch stands|something was written) behind it/,
          `followed, pages ${mask.toString(2)}`);
      }
      const next = directory();
      cpSync(at, next, { recursive: true });
      await life(next, [[entry(5)]]);
      const old = path.join(next, path.basename(file));
      writeFileSync(old, torn(before, whole, 0b101, (size) => Buffer.alloc(size)));
      await assert.rejects(load(next), RaftLogDamaged);
    });
  });

  it('refuses swapped records, swapped, missing and foreign segments, and another key', async () => {
    const at = directory();
    await life(at, [[entry(1, 'same size a')], [entry(2, 'same size b')]]);
    await life(at, [[entry(3)]]);
    await life(at, [[entry(4)]]);
    await assert.rejects(load(at, new Uint8Array(32).fill(8)), RaftLogDamaged);
    const tamper = async (change: (copy: string, files: string[]) => void): Promise<void> => {
      const copy = directory();
      cpSync(at, copy, { recursive: true });
      change(copy, segments(copy));
      await assert.rejects(load(copy), RaftLogDamaged);
    };
    await tamper((copy, [first, second]) => {
      renameSync(first as string, path.join(copy, 'x'));
      renameSync(second as string, first as string);
      renameSync(path.join(copy, 'x'), second as string);
    });
    await tamper((_copy, files) => rmSync(files[1] as string));
    await tamper((_copy, files) => rmSync(files[0] as string));
    await tamper((_copy, files) => truncateSync(files[0] as string, readFileSync(files[0] as string).length - 5));
    const other = directory();
    await life(other, [[entry(1)]]);
    await tamper((_copy, files) => writeFileSync(files[1] as string, readFileSync(segments(other)[0] as string)));
    await tamper((_copy, files) => {
      // Two batches: [mark 8, length 4, check 4, data, tag 16] each.
      forgetSynced(files[0] as string);
      const bytes = readFileSync(files[0] as string);
      const size = (offset: number): number => 16 + bytes.readUInt32LE(offset + 8) + 16;
      const middle = BATCHES + size(BATCHES);
      assert.equal(middle + size(middle), bytes.length);
      writeFileSync(files[0] as string, Buffer.concat([bytes.subarray(0, BATCHES), bytes.subarray(middle),
        bytes.subarray(BATCHES, middle)]));
      for (const newer of files.slice(1)) rmSync(newer);
    });
    const lonely = directory();
    cpSync(at, lonely, { recursive: true });
    for (const newer of segments(lonely).slice(1)) rmSync(newer);
    forgetSynced(segments(lonely)[0] as string);
    await assert.rejects(load(lonely, new Uint8Array(32).fill(8)), RaftLogDamaged, 'another key is not an unfinished write');
  });

  it('a snapshot replaces the log before it; damage to it is refused', async () => {
    const at = directory();
    const log = new RaftLog(at, KEY);
    await log.load();
    await log.append(hard(3), [entry(1), entry(2), entry(3)]);
    await log.saveSnapshot(create(SnapshotFileSchema, { index: 2n, term: 1n, voters: [1n], data: Buffer.from('state at 2') }), hard(3));
    await log.append(hard(4), [entry(4)]);
    await log.close();
    const loaded = await load(at);
    assert.equal(Buffer.from(loaded.snapshot?.data ?? []).toString(), 'state at 2');
    assert.deepEqual(texts(loaded), ['entry 3', 'entry 4']);
    const again = new RaftLog(at, KEY);
    await again.load();
    await again.saveSnapshot(create(SnapshotFileSchema, { index: 4n, term: 1n, voters: [1n], data: Buffer.from('state at 4') }), hard(4));
    await again.append(hard(5), [entry(5)]);
    await again.close();
    const later = await load(at);
    assert.deepEqual([texts(later), later.hardState], [['entry 5'], hard(5)]);
    assert.deepEqual(readdirSync(at).filter((file) => file.endsWith('.snap')), ['0000000000000004.snap']);
    const file = path.join(at, '0000000000000004.snap');
    const whole = readFileSync(file);
    for (let offset = 0; offset < whole.length; offset++) {
      const bytes = Buffer.from(whole);
      bytes[offset] = (bytes[offset] as number) ^ 1;
      writeFileSync(file, bytes);
      await assert.rejects(load(at), RaftLogDamaged, `byte ${offset}`);
    }
    writeFileSync(file, whole);
    rmSync(file);
    await assert.rejects(load(at), RaftLogDamaged, 'without its snapshot the log has a hole');
  });

  it('ended between a snapshot that was installed and what was committed behind it, it is at the snapshot', async () => {
    const at = directory();
    const log = new RaftLog(at, KEY);
    await log.load();
    await log.append(hard(1), [entry(1)]);
    await log.installSnapshot(create(SnapshotFileSchema, { index: 5n, term: 1n, voters: [1n], data: Buffer.from('state at 5') }), hard(8));
    await log.close();
    const loaded = await load(at);
    assert.deepEqual([loaded.snapshot?.index, loaded.hardState, texts(loaded)], [5n, hard(5), []]);
  });

  it('without what it knows to be committed it is refused, and so is what the disk cannot read', async () => {
    const at = directory();
    await life(at, [[entry(1)]]);
    const log = new RaftLog(at, KEY);
    await log.load();
    await log.append(hard(2), []);
    await log.close();
    await assert.rejects(load(at), /RaftLogDamaged: .*entries are missing between index 1 and 2, which was committed/);
    // The memory of a process has nothing at 0: to read it is an input/output error.
    for (const file of segments(at)) rmSync(file);
    symlinkSync('/proc/self/mem', path.join(at, '0000000000000001.log'));
    await assert.rejects(load(at), /RaftLogDamaged: .*0000000000000001.log is damaged: the disk cannot read it/);
  });
});
