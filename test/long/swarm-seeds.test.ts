// Seeds of the simulated swarm that no run has seen before: a new first one each time, told so that it can be repeated.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { it } from 'node:test';
import type { Job } from '../sim/jobs.js';
import { runJobs } from '../sim/pool.js';
import { speedOf } from '../sim/speed.js';

const SEEDS = 500;
const MINUTES = 2;

it(`${SEEDS} seeds of the simulated swarm that are new`, async (t) => {
  const first = Number(process.env.SKEIN_SIM_SEED ?? randomInt(1_000_000, 2 ** 40));
  t.diagnostic(`first seed ${first} (SKEIN_SIM_SEED repeats it)`);
  const startedMs = performance.now();
  const jobs = Array.from({ length: SEEDS }, (_, i): Job => ({ kind: 'swarm', seed: first + i, minutes: MINUTES }));
  const answers = await runJobs(jobs);
  t.diagnostic(speedOf(answers, performance.now() - startedMs));
  assert.deepEqual(answers.flatMap((answer) => (answer.kind === 'held' ? [] : [
    `${answer.message}: npm run sim -- --seed ${answer.seed} --minutes ${MINUTES} --trace`,
  ])), []);
});
