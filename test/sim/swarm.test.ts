// The whole swarm under faults: 2,000 seeds on all cores. Nothing that the checkers hold is violated, what is wanted comes about,
// and everything that can go wrong did. Which seeds is fixed, so that a run can be repeated.
// One of them, or others: `npm run sim -- --seed N [--seeds COUNT]`.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Answer, Job } from './jobs.js';
import { runJobs } from './pool.js';
import { speedOf } from './speed.js';
import { SWARM_MARKS } from './swarm-checker.js';
import type { Mark } from './world.js';

const FIRST_SEED = 1;
const SEEDS = 2_000;
/** Of faults, each; `npm run sim` and test/long give more. */
const MINUTES = 0.4;
/** Of the group below; sim.test.ts has them all. */
const GROUP_MARKS: readonly Mark[] = ['write torn', 'write cut off', 'damage refused', 'replaced after damage', 'snapshot installed'];
const SHOWN_MAX = 5;

const jobs = (first: number, count: number, minutes: number): Job[] =>
  Array.from({ length: count }, (_, i) => ({ kind: 'swarm', seed: first + i, minutes }));

function failuresOf(answers: readonly Answer[], minutes: number): string {
  const failed = answers.flatMap((answer) => (answer.kind === 'held' ? [] : [answer]));
  return failed.slice(0, SHOWN_MAX)
    .map(({ seed, message }) => `seed ${seed}: ${message}\n  npm run sim -- --seed ${seed} --minutes ${minutes} --trace`).join('\n')
    + (failed.length > SHOWN_MAX ? `\nand ${failed.length - SHOWN_MAX} more: ${failed.slice(SHOWN_MAX).map(({ seed }) => seed).join(' ')}` : '');
}

describe('simulated swarm', () => {
  it(`${SEEDS} seeds hold, and everything that can go wrong did`, async (t) => {
    const startedMs = performance.now();
    const answers = await runJobs(jobs(FIRST_SEED, SEEDS, MINUTES));
    t.diagnostic(speedOf(answers, performance.now() - startedMs));
    assert.equal(failuresOf(answers, MINUTES), '');
    const seen = new Set(answers.flatMap((answer) => (answer.kind === 'held' ? answer.run.marks.map(([mark]) => mark) : [])));
    assert.deepEqual([...SWARM_MARKS, ...GROUP_MARKS].filter((mark) => !seen.has(mark)), [], 'never happened');
  });

  it('the same seed is the same run, in whatever process and order, and where what replicas share is frozen', async () => {
    const some = jobs(7, 12, 0.3);
    const [forwards, backwards, frozen] = await Promise.all([
      runJobs(some, { processes: 1 }),
      runJobs([...some].reverse(), { processes: 3 }),
      runJobs(some.map((job) => ({ ...job, checked: true })), { processes: 1 }),
    ]);
    assert.deepEqual([...backwards].reverse(), forwards);
    assert.deepEqual(frozen, forwards, 'a replica writes to what others read');
    const hashes = new Set(forwards.map((answer) => (answer.kind === 'held' ? answer.run.hash : answer.message)));
    assert.equal(hashes.size, some.length, 'other seeds, other runs');
  });
});
