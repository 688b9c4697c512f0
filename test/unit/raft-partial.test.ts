// The Raft core where some links are cut for good, in one direction or both: a member that still exchanges messages with a
// majority is enough for a leader, and the leader stays. And how soon a group has a leader again when it is told that the
// old one ended.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Prng } from '../../src/lib/prng.js';
import { Group, Member, emptyDisk } from '../support/raft-env.js';

const idsUpTo = (count: number): bigint[] => Array.from({ length: count }, (_, i) => BigInt(i + 1));

/** A group with random cuts; undefined if nobody exchanges messages with a majority. */
function partlyConnected(seed: number): Group | undefined {
  const random = new Prng(BigInt(seed));
  const ids = idsUpTo(random.pick([3, 5, 7]));
  const group = new Group(ids);
  const cutRate = random.pick([0.1, 0.3, 0.5]);
  for (const a of ids) for (const b of ids) if (a !== b && random.chance(cutRate)) group.cut.add(`${a}>${b}`);
  const exchanges = (a: bigint, b: bigint): boolean => !group.cut.has(`${a}>${b}`) && !group.cut.has(`${b}>${a}`);
  const connected = ids.some((a) => ids.filter((b) => exchanges(a, b)).length * 2 > ids.length);
  return connected ? group : undefined;
}

describe('a partly connected Raft group', () => {
  it('has a leader soon, and keeps it', () => {
    let tried = 0;
    for (let seed = 1; seed <= 150; seed++) {
      const group = partlyConnected(seed);
      if (group === undefined) continue;
      tried += 1;
      group.tick(150);
      const [leader] = group.leaders();
      assert.ok(leader !== undefined, `seed ${seed}: no leader`);
      const { term } = group.get(leader).raft.status;
      group.tick(100);
      assert.ok(group.get(leader).raft.leader, `seed ${seed}: the leader was deposed`);
      assert.equal(group.get(leader).raft.status.term, term);
    }
    assert.ok(tried > 100, `${tried} groups`);
  });
});

describe('a Raft group whose leader ended', () => {
  it('has another one well before the election timeout, if it is told', () => {
    for (let seed = 1; seed <= 50; seed++) {
      const ids = idsUpTo(seed % 2 === 0 ? 3 : 5);
      const group = new Group([]);
      for (const id of ids) {
        group.members.set(id, new Member(id, emptyDisk(ids), { electionTicks: 30, heartbeatTicks: 3, seed: BigInt(seed) * 100n + id }));
      }
      group.elect(1n);
      group.tick(5);
      group.crash(1n);
      for (const member of group.members.values()) if (member.up) member.raft.suspect(1n);
      group.tick(15);
      assert.equal(group.leaders().length, 1, `seed ${seed}`);
    }
  });

  it('has none before it is told or the timeout is over', () => {
    const group = new Group(idsUpTo(3), { electionTicks: 30, heartbeatTicks: 3 });
    group.elect(1n);
    group.tick(5);
    group.crash(1n);
    group.tick(25);
    assert.deepEqual(group.leaders(), []);
    group.tick(80);
    assert.equal(group.leaders().length, 1);
  });
});
