// The raft log on a disk without room: what was acknowledged is there once there is room again, however much of a write
// went through, and however often a start was tried meanwhile.

import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { Entry, HardState } from '../../src/core/raft/types.js';
import { RaftLog } from '../../src/io/raftlog/raftlog.js';
import { SnapshotFileSchema } from '../../src/model/proto/skein_pb.js';

const KEY = new Uint8Array(32).fill(7);
const root = mkdtempSync(path.join(tmpdir(), 'skein-raftlog-full-'));
const probe = await open(root, 'r');
type Write = (bytes: Buffer, offset: number, length: number, position: number) => Promise<{ bytesWritten: number }>;
const prototype = Object.getPrototypeOf(probe) as { write: Write };
const write = prototype.write;
await probe.close();

afterEach(() => { prototype.write = write; });
after(() => rmSync(root, { recursive: true, force: true }));

/** From now on only so many bytes can be written; undefined: as many as one likes. */
function room(bytes: number | undefined): void {
  prototype.write = write;
  if (bytes === undefined) return;
  let left = bytes;
  prototype.write = async function (this: unknown, buffer, offset, length, position) {
    const part = Math.min(length, left);
    if (part === 0) throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    left -= part;
    return write.call(this as never, buffer, offset, part, position);
  };
}

const entry = (index: number): Entry => ({ index: BigInt(index), term: 1n, kind: 'normal',
  data: Buffer.from(`entry ${index}`.repeat(20)) });
const hard = (commit: number): HardState => ({ term: 1n, vote: 1n, commit: BigInt(commit) });
const full = { code: 'ENOSPC' };

async function entriesOf(directory: string): Promise<string[]> {
  const log = new RaftLog(directory, KEY);
  const { entries } = await log.load();
  await log.close();
  return entries.map(({ index }) => index.toString());
}

describe('a raft log without room', () => {
  it('has all that was acknowledged, whatever part of the last write went through', async () => {
    for (const [number, bytes] of [0, 1, 10, 100, 300, 450, 500, 1000, 5000].entries()) {
      const directory = path.join(root, `append${number}`);
      const log = new RaftLog(directory, KEY);
      await log.load();
      await log.append(hard(1), [entry(1), entry(2)]);
      room(bytes);
      const written = await log.append(hard(2), [entry(3), entry(4)]).then(() => true, (error: unknown) => {
        assert.equal((error as { code: string }).code, 'ENOSPC');
        return false;
      });
      // The process ends; what starts it again finds no room either.
      for (const left of [0, 5, 60]) {
        room(left);
        await assert.rejects(new RaftLog(directory, KEY).load(), full);
      }
      room(undefined);
      const found = await entriesOf(directory);
      assert.deepEqual(found.slice(0, 2), ['1', '2'], `${bytes} bytes of room`);
      if (written) assert.deepEqual(found, ['1', '2', '3', '4']);
      assert.deepEqual(await entriesOf(directory), found);
    }
  });

  it('has all that was acknowledged after a snapshot that found no room, and gives the room of that back', async () => {
    for (const [number, bytes] of [0, 40, 500, 20_000, 20_500].entries()) {
      const directory = path.join(root, `snapshot${number}`);
      const log = new RaftLog(directory, KEY);
      await log.load();
      await log.append(hard(2), [entry(1), entry(2)]);
      room(bytes);
      const snapshot = create(SnapshotFileSchema, { index: 2n, term: 1n, voters: [1n], data: new Uint8Array(20_000) });
      await log.saveSnapshot(snapshot, hard(2)).catch((error: unknown) => assert.equal((error as { code: string }).code, 'ENOSPC'));
      room(0);
      await assert.rejects(new RaftLog(directory, KEY).load(), full);
      assert.deepEqual(readdirSync(directory).filter((file) => file.endsWith('.tmp')), []);
      room(undefined);
      const again = new RaftLog(directory, KEY);
      const loaded = await again.load();
      assert.equal((loaded.snapshot?.index ?? 0n) + BigInt(loaded.entries.length) >= 2n, true, `${bytes} bytes of room`);
      await again.append(hard(2), [entry(3)]);
      await again.close();
    }
  });
});
