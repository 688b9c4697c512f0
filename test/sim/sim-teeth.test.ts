// The simulator finds deliberate bugs, each within a few seeds: else a run without a violation would tell little.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { RaftNode } from '../../src/core/raft/raft.js';
import type { ShellBug } from './host.js';
import { CORE_MUTANTS, SHELL_MUTANTS, mutantCore } from './mutants.js';
import { simulate } from './simulation.js';

/** Today the most patient one needs 12. */
const SEEDS_MAX = 60;
const MINUTES = 0.5;

function caught(raftClass: typeof RaftNode | undefined, bugs: readonly ShellBug[]): number | undefined {
  for (let seed = 1; seed <= SEEDS_MAX; seed++) {
    try {
      simulate({ seed, minutes: MINUTES, bugs, ...(raftClass === undefined ? {} : { raftClass }) });
    } catch (error) {
      assert.match((error as Error).name, /^(Violation|AssertionError|StaleLog|Error)$/, 'found for another reason');
      return seed;
    }
  }
  return undefined;
}

describe('the simulator finds', () => {
  for (const name of Object.keys(CORE_MUTANTS)) {
    it(name, async (t) => {
      const seed = caught(await mutantCore(name), []);
      assert.ok(seed !== undefined, `not within ${SEEDS_MAX} seeds`);
      t.diagnostic(`seed ${seed}`);
    });
  }
  for (const [bug, description] of Object.entries(SHELL_MUTANTS)) {
    it(description, (t) => {
      const seed = caught(undefined, [bug as ShellBug]);
      assert.ok(seed !== undefined, `not within ${SEEDS_MAX} seeds`);
      t.diagnostic(`seed ${seed}`);
    });
  }
});
