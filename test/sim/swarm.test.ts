// The whole swarm under faults, seed by seed: nothing that swarm-checker.ts holds is violated, and what is wanted comes about.
// More seeds, longer runs: `npm run sim -- --seed 1 --seeds 2000`.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { SWARM_MARKS } from './swarm-checker.js';
import { simulateSwarm } from './swarm.js';

const SEEDS = 20;
const MINUTES = 0.5;

describe('simulated swarm', () => {
  it(`${SEEDS} seeds hold, and everything that can go wrong did`, (t) => {
    const startedMs = performance.now();
    const seen = new Map<string, number>();
    let simulatedMs = 0;
    for (let seed = 1; seed <= SEEDS; seed++) {
      const { marks, simulatedMs: ms } = run(seed, MINUTES);
      simulatedMs += ms;
      for (const [mark, count] of marks) seen.set(mark, (seen.get(mark) ?? 0) + count);
    }
    t.diagnostic(`${(simulatedMs / (performance.now() - startedMs)).toFixed(0)} times as fast as time`);
    assert.deepEqual(SWARM_MARKS.filter((mark) => !seen.has(mark)), [], 'never happened');
  });

  it('the same seed is the same run, another seed another one', () => {
    const [first, again, other] = [run(7, 0.2), run(7, 0.2), run(8, 0.2)];
    assert.deepEqual(again, first);
    assert.notEqual(other.hash, first.hash);
  });
});

function run(seed: number, minutes: number): ReturnType<typeof simulateSwarm> {
  try {
    return simulateSwarm({ seed, minutes });
  } catch (error) {
    throw new Error(`npm run sim -- --seed ${seed} --minutes ${minutes} --trace`, { cause: error });
  }
}
