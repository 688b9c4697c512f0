// The simulator finds deliberate bugs, each within a few seeds: else a run without a violation would tell little. The bugs are in
// mutants.ts (Raft, and the shell around it) and swarm-mutants.ts (the control plane); no build for use has any of them.

import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import type { Answer, Job } from './jobs.js';
import { CORE_MUTANTS, LOG_MUTANTS, SHELL_MUTANTS } from './mutants.js';
import { runJobs } from './pool.js';
import { SWARM_MUTANTS, SWARM_SHELL_MUTANTS } from './swarm-mutants.js';

/** Today the most patient one needs 615 (of the group) or 13. A seed of the group takes a twentieth of a second, one of the swarm a fifth. */
const SEEDS_MAX = { raft: 2000, swarm: 1000 };

function findsAll(what: string, kind: Job['kind'], minutes: number, bugs: ReadonlyMap<string, string>): void {
  describe(what, () => {
    const found = new Map<string, Answer>();
    before(async () => {
      const jobs = [...bugs.keys()].map((bug): Job => ({ kind, seed: 1, seeds: SEEDS_MAX[kind], minutes, bug }));
      await runJobs(jobs, { onAnswer: (answer, job) => found.set(job.bug ?? '', answer) });
    });
    for (const [bug, description] of bugs) {
      it(description, () => {
        const answer = found.get(bug);
        assert.ok(answer?.kind === 'violated', `${answer?.kind} in ${SEEDS_MAX[kind]} seeds: ${answer?.kind === 'crashed' ? answer.message : ''}`);
        assert.match(answer.name, /^(Violation|AssertionError|StaleLog|Error)$/, `found for another reason: ${answer.message}`);
      });
    }
  });
}

const named = (mutants: object): (readonly [string, string])[] => Object.keys(mutants).map((name) => [name, name]);

findsAll('the simulator of a group finds', 'raft', 0.5, new Map([...named(CORE_MUTANTS), ...named(LOG_MUTANTS), ...Object.entries(SHELL_MUTANTS)]));
findsAll('the simulator of the swarm finds', 'swarm', 1, new Map([...named(SWARM_MUTANTS), ...Object.entries(SWARM_SHELL_MUTANTS)]));
