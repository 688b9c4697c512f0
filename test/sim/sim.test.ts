// The Raft group alone under faults, with registers that clients read and write: deeper in Raft than the whole swarm gets in the
// same time. And what runs simulations: processes that end, or never answer, are told with their seed.

import assert from 'node:assert/strict';
import path from 'node:path';
import { describe, it } from 'node:test';
import type { Job } from './jobs.js';
import { runJobs } from './pool.js';
import { speedOf } from './speed.js';
import { MARKS } from './world.js';

const SEEDS = 100;
const MINUTES = 0.5;

describe('simulated Raft group', () => {
  it(`${SEEDS} seeds hold, and everything that can go wrong did`, async (t) => {
    const startedMs = performance.now();
    const jobs = Array.from({ length: SEEDS }, (_, i): Job => ({ kind: 'raft', seed: i + 1, minutes: MINUTES }));
    const answers = await runJobs(jobs);
    t.diagnostic(speedOf(answers, performance.now() - startedMs));
    const failed = answers.flatMap((answer) => (answer.kind === 'held' ? [] : [
      `seed ${answer.seed}: ${answer.message}: npm run sim -- --raft --seed ${answer.seed} --minutes ${MINUTES} --trace`,
    ]));
    assert.deepEqual(failed, []);
    const seen = new Set(answers.flatMap((answer) => (answer.kind === 'held' ? answer.run.marks.map(([mark]) => mark) : [])));
    assert.deepEqual(MARKS.filter((mark) => !seen.has(mark)), [], 'never happened');
  });

  it('the same seed is the same run, in whatever process and order', async () => {
    const jobs = [7, 8, 9, 10].map((seed): Job => ({ kind: 'raft', seed, minutes: 0.2 }));
    const [forwards, backwards] = await Promise.all([runJobs(jobs, { processes: 1 }), runJobs([...jobs].reverse(), { processes: 2 })]);
    assert.deepEqual([...backwards].reverse(), forwards);
  });
});

describe('a pool of simulations', () => {
  const childFile = path.join(import.meta.dirname, 'bad-child.js');

  it('tells of a process that ends, and of one that never answers, with the seed, and goes on with the others', async () => {
    const jobs = [1, 2, 3, 4, 5, 6].map((seed): Job => ({ kind: 'raft', seed, minutes: 0 }));
    const answers = await runJobs(jobs, { childFile, answerMs: 2_000, processes: 2 });
    assert.deepEqual(answers.map(({ kind }) => kind), ['violated', 'crashed', 'violated', 'violated', 'crashed', 'violated']);
    assert.deepEqual(answers[1], { kind: 'crashed', seed: 2, message: 'its process ended with 3' });
    assert.deepEqual(answers[4], { kind: 'crashed', seed: 5, message: 'it did not answer' });
  });
});
