// The arithmetic of the Raft core against slow and obvious versions of it: majorities, the log, its configurations,
// ConfChange's code.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Membership, confAfter, decodeConfChange, encodeConfChange } from '../../src/core/raft/confchange.js';
import { EntryLog, StaleLog } from '../../src/core/raft/log.js';
import { quorumIndex, voteResult } from '../../src/core/raft/quorum.js';
import type { ConfChange, ConfState, Entry } from '../../src/core/raft/types.js';

const votersOf = (count: number): bigint[] => Array.from({ length: count }, (_, i) => BigInt(i + 1));

/** Every set of voters that is more than half of them. */
function majorities(voters: readonly bigint[]): bigint[][] {
  const sets = Array.from({ length: 2 ** voters.length }, (_, bits) => voters.filter((_member, i) => (bits >> i) % 2 === 1));
  return sets.filter((set) => set.length * 2 > voters.length);
}

describe('majorities', () => {
  it('an index is reached if all of some majority reached it, and no higher one is', () => {
    fc.assert(fc.property(fc.array(fc.bigInt(0n, 6n), { minLength: 1, maxLength: 7 }), (reached) => {
      const voters = votersOf(reached.length);
      const of = (member: bigint): bigint => reached[Number(member) - 1] as bigint;
      const all = majorities(voters).map((set) => set.map(of).reduce((a, b) => (a < b ? a : b)));
      assert.equal(quorumIndex(voters, of), all.reduce((a, b) => (a > b ? a : b)));
    }));
  });

  it('a vote is won if some majority said yes, lost if none can any more; strangers do not count', () => {
    fc.assert(fc.property(fc.array(fc.constantFrom(true, false, undefined), { minLength: 1, maxLength: 7 }), fc.boolean(),
      (answers, stranger) => {
      const voters = votersOf(answers.length);
      const of = (member: bigint): boolean | undefined => answers[Number(member) - 1];
      const votes = new Map<bigint, boolean>([[99n, stranger], [98n, stranger]]);
      for (const member of voters) if (of(member) !== undefined) votes.set(member, of(member) as boolean);
      const won = majorities(voters).some((set) => set.every((member) => of(member) === true));
      const open = majorities(voters).some((set) => set.every((member) => of(member) !== false));
      assert.equal(voteResult(voters, votes), won ? 'won' : open ? 'pending' : 'lost');
    }));
  });

  it('nobody decides nothing', () => {
    assert.equal(quorumIndex([], () => 5n), 0n);
    assert.equal(voteResult([], new Map([[1n, true]])), 'pending');
  });
});

/** Terms of a log as they may come: from 1 on, never falling. */
const terms = (maxLength: number): fc.Arbitrary<number[]> =>
  fc.array(fc.integer({ min: 0, max: 2 }), { maxLength }).map((steps) => steps.map(((term) => (step: number) => (term += step))(1)));

const entriesOf = (list: readonly number[], from: number): Entry[] =>
  list.map((term, i) => ({ index: BigInt(from + i), term: BigInt(term), kind: 'normal', data: new Uint8Array(term % 3) }));

describe('EntryLog', () => {
  it('takes what a leader sends as a plain array does', () => {
    fc.assert(fc.property(terms(12), terms(12), fc.nat(12), fc.nat(12), fc.nat(12), fc.nat(12), (own, leaders, prev, count,
      commit, stable) => {
      const log = new EntryLog({ index: 0n, term: 0n }, entriesOf(own, 1), 0n);
      // What is committed is in the leader's log as well: whatever else would break the election.
      const common = own.findIndex((term, i) => leaders[i] !== term);
      log.commitTo(BigInt(Math.min(commit, common === -1 ? own.length : common)));
      const at = Math.min(prev, leaders.length);
      const sent = leaders.slice(at, at + count);
      const done = log.maybeAppend({ index: BigInt(at), term: BigInt(at === 0 ? 0 : leaders[at - 1] as number) }, entriesOf(sent, at + 1));

      const meets = at === 0 || own[at - 1] === leaders[at - 1];
      const conflict = sent.findIndex((term, i) => own[at + i] !== term);
      const expected = !meets || conflict === -1 ? own : [...own.slice(0, at + conflict), ...sent.slice(conflict)];
      const now = log.last === 0n ? [] : log.slice(1n, log.last, Infinity);
      assert.deepEqual(now, entriesOf(expected, 1));
      assert.equal(done?.lastNew, meets ? BigInt(at + sent.length) : undefined);
      // On disk is the part that was not replaced.
      assert.equal(log.stable, BigInt(meets && conflict !== -1 ? Math.min(own.length, at + conflict) : own.length));
      assert.deepEqual(log.unstable(), entriesOf(expected, 1).slice(Number(log.stable)));
      log.stableTo(BigInt(stable), BigInt(expected[stable - 1] ?? 999));
      assert.equal(log.stable >= BigInt(stable), stable <= expected.length);
    }));
  });

  it('knows what a leader has in place of what is committed here, and takes the rest as if it had not been compacted', () => {
    const numbers = fc.record({ prev: fc.nat(12), count: fc.nat(12), commit: fc.nat(12), keep: fc.nat(12) });
    fc.assert(fc.property(terms(12), terms(12), numbers, (own, leaders, { prev, count, commit, keep }) => {
      const [whole, log] = [0, 1].map(() => new EntryLog({ index: 0n, term: 0n }, entriesOf(own, 1), 0n)) as [EntryLog, EntryLog];
      log.commitTo(BigInt(Math.min(commit, own.length)));
      log.appliedTo(log.committed);
      log.compact(BigInt(Math.min(keep, Number(log.committed))) + 1n);
      const [committed, base] = [Number(log.committed), Number(log.first) - 1];
      const at = Math.min(prev, leaders.length);
      const sent = entriesOf(leaders.slice(at, at + count), at + 1);
      const before = { index: BigInt(at), term: BigInt(at === 0 ? 0 : leaders[at - 1] as number) };

      const termAt = (list: readonly number[], index: number): number | undefined => (index === 0 ? 0 : list[index - 1]);
      const indexes = [before, ...sent].map(({ index }) => Number(index));
      const compared = indexes.filter((index) => index >= base && index <= committed);
      const differs = compared.some((index) => termAt(own, index) !== termAt(leaders, index));
      const last = indexes.at(-1) as number;
      const above = last < base && (termAt(leaders, last) as number) > (termAt(own, base) as number);
      if (differs || above) {
        assert.throws(() => log.maybeAppend(before, sent), StaleLog);
        assert.deepEqual([log.last, log.lastTerm], [whole.last, whole.lastTerm]);
        return;
      }
      const done = log.maybeAppend(before, sent);
      if (indexes[0] as number < base) {
        assert.equal(done?.lastNew, BigInt(last));
        const kept = own.slice(base);
        const sentRest = leaders.slice(base, Math.max(last, base));
        const conflict = sentRest.findIndex((term, i) => kept[i] !== term);
        const expected = conflict === -1 ? kept : [...kept.slice(0, conflict), ...sentRest.slice(conflict)];
        assert.deepEqual(log.last < log.first ? [] : log.slice(log.first, log.last, Infinity), entriesOf(expected, base + 1));
        return;
      }
      assert.deepEqual(done, whole.maybeAppend(before, sent));
      assert.deepEqual([log.last, log.lastTerm], [whole.last, whole.lastTerm]);
    }), { numRuns: 500 });
  });

  it('finds the first entry that differs', () => {
    fc.assert(fc.property(terms(10), terms(10), fc.nat(10), (own, other, from) => {
      const log = new EntryLog({ index: 0n, term: 0n }, entriesOf(own, 1), 0n);
      const at = other.findIndex((term, i) => i >= from && own[i] !== term);
      assert.equal(log.findConflict(entriesOf(other, 1).slice(from)), at === -1 ? undefined : BigInt(at + 1));
    }));
  });

  it('hints at the last entry of a term that is not newer, also after compaction', () => {
    fc.assert(fc.property(terms(12), fc.nat(12), fc.integer({ min: 0, max: 14 }), fc.nat(12), (own, index, term, compacted) => {
      const log = new EntryLog({ index: 0n, term: 0n }, entriesOf(own, 1), BigInt(own.length));
      log.appliedTo(BigInt(own.length));
      const base = Math.min(compacted, own.length);
      log.compact(BigInt(base + 1));
      const at = Math.min(index, own.length);
      let expected = at;
      while (expected > base && (own[expected - 1] as number) > term) expected -= 1;
      const known = expected >= base;
      const ownTerm = !known ? 0 : expected === 0 ? 0 : own[expected - 1];
      assert.deepEqual(log.findConflictByTerm(BigInt(at), BigInt(term)), { index: BigInt(expected), term: BigInt(ownTerm as number) });
    }));
  });

  it('hands out slices within the bytes, at least one entry, and nothing that was compacted', () => {
    fc.assert(fc.property(terms(12).filter((list) => list.length > 0), fc.nat(11), fc.nat(8), (own, start, bytesMax) => {
      const log = new EntryLog({ index: 0n, term: 0n }, entriesOf(own, 1), 0n);
      const from = Math.min(start, own.length - 1) + 1;
      const got = log.slice(BigInt(from), log.last, bytesMax);
      const all = entriesOf(own, 1).slice(from - 1);
      let count = 1;
      const bytes = (n: number): number => all.slice(0, n).reduce((sum, entry) => sum + entry.data.length, 0);
      while (count < all.length && bytes(count + 1) <= bytesMax) count += 1;
      assert.deepEqual(got, all.slice(0, count));
    }));
  });
});

const change: fc.Arbitrary<ConfChange> = fc.record({
  kind: fc.constantFrom('addNode', 'addLearner', 'removeNode', 'updateNode'),
  member: fc.bigInt(1n, 4n),
  context: fc.uint8Array({ maxLength: 20 }),
});

describe('ConfChange', () => {
  it('is the same after coding and decoding, and what is none is not taken for one', () => {
    fc.assert(fc.property(change, fc.bigInt(0n, 2n ** 64n - 1n), (one, member) => {
      assert.deepEqual(decodeConfChange(encodeConfChange({ ...one, member })), { ...one, member });
    }));
    fc.assert(fc.property(fc.uint8Array({ maxLength: 12 }), (bytes) => {
      const decoded = decodeConfChange(bytes);
      if (decoded === undefined) assert.ok(bytes.length < 9 || (bytes[0] as number) > 3);
      else assert.deepEqual(encodeConfChange(decoded), bytes);
    }));
  });

  it('moves one member, keeps a voter, and majorities before and after meet', () => {
    fc.assert(fc.property(fc.array(change, { maxLength: 12 }), (changes) => {
      let conf: ConfState = { voters: [1n], learners: [] };
      for (const one of changes) {
        const next = confAfter(conf, one);
        if (next === undefined) {
          assert.deepEqual(conf.voters, [one.member]);
          continue;
        }
        for (const a of majorities(conf.voters)) for (const b of majorities(next.voters)) assert.ok(a.some((member) => b.includes(member)));
        assert.ok(next.voters.every((member) => !next.learners.includes(member)));
        assert.deepEqual(next.voters.includes(one.member), one.kind === 'addNode' || (one.kind === 'updateNode'
          && conf.voters.includes(one.member)));
        conf = next;
      }
    }));
  });
});

describe('Membership', () => {
  it('is at every index what the entries up to there make of the first one, also after replacement and compaction', () => {
    const entries = fc.array(fc.option(change), { maxLength: 8 });
    fc.assert(fc.property(entries, entries, fc.nat(8), fc.nat(16), (first, second, from, compacted) => {
      const toEntry = (one: ConfChange | null, i: number): Entry => one === null
        ? { index: BigInt(i + 1), term: 1n, kind: 'normal', data: new Uint8Array(0) }
        : { index: BigInt(i + 1), term: 1n, kind: 'confChange', data: encodeConfChange(one) };
      const start: ConfState = { voters: [1n, 2n], learners: [] };
      const at = Math.min(from, first.length);
      const log = [...first.slice(0, second.length === 0 ? first.length : at), ...second];
      const membership = new Membership(0n, start);
      membership.append(first.map(toEntry));
      membership.append(second.map((one, i) => toEntry(one, at + i)));
      const model = (index: number): ConfState =>
        log.slice(0, index).reduce((conf: ConfState, one) => (one === null ? conf : confAfter(conf, one) ?? conf), start);
      const base = Math.min(compacted, log.length);
      membership.compact(BigInt(base), model(base));
      for (let index = base; index <= log.length; index++) assert.deepEqual(membership.at(BigInt(index)), model(index));
      assert.deepEqual(membership.current, model(log.length));
    }));
  });
});
