// The simulator of the whole swarm finds deliberate bugs, each within a few seeds: `npm test -- test/long/swarm-teeth.test.ts` by hand, it takes minutes.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { SWARM_MUTANTS, SWARM_SHELL_MUTANTS, mutantStages } from '../sim/swarm-mutants.js';
import { simulateSwarm, type Core, type SwarmBug } from '../sim/swarm.js';

const SEEDS_MAX = 60;
const MINUTES = 1;

function caught(core: Core | undefined, bugs: readonly SwarmBug[]): { seed: number; error: Error } | undefined {
  for (let seed = 1; seed <= SEEDS_MAX; seed++) {
    try {
      simulateSwarm({ seed, minutes: MINUTES, bugs, ...(core === undefined ? {} : { core }) });
    } catch (error) {
      assert.match((error as Error).name, /^(Violation|AssertionError)$/, 'found for another reason');
      return { seed, error: error as Error };
    }
  }
  return undefined;
}

describe('the simulator of the swarm finds', () => {
  for (const name of Object.keys(SWARM_MUTANTS)) {
    it(name, async (t) => {
      const found = caught(await mutantStages(name), []);
      assert.ok(found !== undefined, `not within ${SEEDS_MAX} seeds`);
      t.diagnostic(`seed ${found.seed}: ${found.error.message}`);
    });
  }
  for (const [bug, description] of Object.entries(SWARM_SHELL_MUTANTS)) {
    it(description, (t) => {
      const found = caught(undefined, [bug as SwarmBug]);
      assert.ok(found !== undefined, `not within ${SEEDS_MAX} seeds`);
      t.diagnostic(`seed ${found.seed}: ${found.error.message}`);
    });
  }
});
