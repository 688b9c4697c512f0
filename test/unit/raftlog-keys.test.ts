// The data key of the raft log is replaced: new files have the new key, old ones are read with the old key until they are
// gone, and a kill at any change of a file loses nothing.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { Entry, HardState } from '../../src/core/raft/types.js';
import { RaftLog, RaftLogDamaged } from '../../src/io/raftlog/raftlog.js';
import { SnapshotFileSchema, type SnapshotFile } from '../../src/model/proto/skein_pb.js';
import { cutting } from '../support/cuts.js';

const root = mkdtempSync(path.join(tmpdir(), 'skein-raftlog-keys-'));
after(() => rmSync(root, { recursive: true, force: true }));
let directories = 0;
const directory = (): string => path.join(root, `log${++directories}`);

const [ONE, TWO, THREE] = [1, 2, 3].map((fill) => new Uint8Array(32).fill(fill)) as [Uint8Array, Uint8Array, Uint8Array];
const HARD: HardState = { term: 1n, vote: 1n, commit: 0n };

function entry(index: number): Entry {
  return { index: BigInt(index), term: 1n, kind: 'normal', data: Buffer.from(`entry ${index}`) };
}

function snapshot(index: number): SnapshotFile {
  return create(SnapshotFileSchema, { index: BigInt(index), term: 1n, voters: [1n], data: Buffer.from(`state ${index}`) });
}

async function opened(at: string, dek: Uint8Array, pending?: Uint8Array): Promise<{ log: RaftLog; last: number }> {
  const log = new RaftLog(at, dek, pending);
  const loaded = await log.load();
  if (loaded.snapshot !== undefined) assert.equal(Buffer.from(loaded.snapshot.data).toString(), `state ${loaded.snapshot.index}`);
  for (const { index, data } of loaded.entries) assert.equal(Buffer.from(data).toString(), `entry ${index}`);
  return { log, last: Number(loaded.entries.at(-1)?.index ?? loaded.snapshot?.index ?? 0n) };
}

async function fails(at: string, dek: Uint8Array, pending?: Uint8Array): Promise<void> {
  await assert.rejects(opened(at, dek, pending), (error) => error instanceof RaftLogDamaged);
}

describe('the data key of the raft log', () => {
  it('is replaced: what is written after has the new key, what was before is read with the old one while it is there', async () => {
    for (const first of [undefined, snapshot(2)]) {
      const at = directory();
      const { log } = await opened(at, ONE);
      await log.append(HARD, [1, 2, 3].map(entry));
      if (first !== undefined) await log.saveSnapshot(first, HARD);
      assert.equal(log.oldKeyNeeded, false);
      await log.rekey(TWO);
      assert.equal(log.oldKeyNeeded, true);
      await log.append(HARD, [entry(4)]);
      await log.close();
      await fails(at, ONE);
      await fails(at, TWO);
      await fails(at, ONE, THREE);
      const again = await opened(at, ONE, TWO);
      assert.equal(again.last, 4);
      assert.equal(again.log.oldKeyNeeded, true, 'as before the restart');
      await again.log.rekey(TWO);
      await again.log.append(HARD, [entry(5)]);
      await again.log.saveSnapshot(snapshot(2), HARD);
      assert.equal(again.log.oldKeyNeeded, true, 'entries behind the snapshot are in old files');
      await again.log.saveSnapshot(snapshot(5), HARD);
      assert.equal(again.log.oldKeyNeeded, false);
      await again.log.append(HARD, [entry(6)]);
      await again.log.close();
      await fails(at, ONE);
      for (const keys of [[TWO], [ONE, TWO]] as [Uint8Array, Uint8Array?][]) {
        const end = await opened(at, ...keys);
        assert.equal(end.last, 6);
        assert.equal(end.log.oldKeyNeeded, false);
        await end.log.close();
      }
    }
  });

  it('loses nothing at a kill between any two changes of a file', async () => {
    const at = directory();
    const { log } = await opened(at, ONE);
    await log.append(HARD, [1, 2].map(entry));
    await log.saveSnapshot(snapshot(1), HARD);
    await log.append(HARD, [3, 4].map(entry));
    const copies = await cutting(at, directory(), async () => {
      await log.rekey(TWO);
      await log.saveSnapshot(snapshot(4), HARD);
    });
    assert.equal(log.oldKeyNeeded, false);
    await log.close();
    assert.ok(copies.length >= 8, `${copies.length} moments`);
    for (const copy of copies) {
      const found = await opened(copy, ONE, TWO);
      assert.equal(found.last, 4, copy);
      // The replacement goes on where it was, and ends.
      await found.log.rekey(TWO);
      await found.log.append(HARD, [entry(5)]);
      if (found.log.oldKeyNeeded) await found.log.saveSnapshot(snapshot(5), HARD);
      assert.equal(found.log.oldKeyNeeded, false, copy);
      await found.log.close();
      const end = await opened(copy, TWO);
      assert.equal(end.last, 5, copy);
      await end.log.close();
    }
  });

  it('may be replaced again and again', async () => {
    const at = directory();
    let { log } = await opened(at, ONE);
    let key: Uint8Array = ONE;
    for (let i = 1; i <= 5; i++) {
      await log.append(HARD, [entry(i)]);
      const next = randomBytes(32);
      await log.rekey(next);
      await log.saveSnapshot(snapshot(i), HARD);
      assert.equal(log.oldKeyNeeded, false);
      if (i % 2 === 0) {
        await log.close();
        ({ log } = await opened(at, key, next));
        assert.equal(log.oldKeyNeeded, false);
      }
      key = next;
    }
    await log.close();
    const end = await opened(at, key);
    assert.equal(end.last, 5);
    await end.log.close();
  });
});
