// `npm run sim -- --seed N [--seeds COUNT] [--minutes M] [--trace] [--raft]`: simulates the whole swarm,
// or with --raft only the group and its registers; one line a seed. A failure prints its seed
// and what was violated, and ends with 1.

import { parseArgs } from 'node:util';
import { simulate } from './simulation.js';
import { simulateSwarm } from './swarm.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '1' },
    minutes: { type: 'string', default: '1' },
    trace: { type: 'boolean', default: false },
    raft: { type: 'boolean', default: false },
  },
});
const first = Number(values.seed);
const startedMs = performance.now();
let simulatedMs = 0;
let failed = 0;
for (let seed = first; seed < first + Number(values.seeds); seed++) {
  try {
    const one = values.raft ? simulate : simulateSwarm;
    const outcome = one({ seed, minutes: Number(values.minutes), ...(values.trace ? { trace: (text: string) => console.log(text) } : {}) });
    simulatedMs += outcome.simulatedMs;
    const { hash, events, messages, entries, terms, operations } = outcome;
    console.log(`seed ${seed}: ${hash}  ${entries} entries, ${terms} terms, ${operations} operations, ${messages} messages, ${events} events`);
  } catch (error) {
    failed += 1;
    console.log(`seed ${seed}: FAILED: ${values.trace ? (error as Error).stack : (error as Error).message}`);
  }
}
const realMs = performance.now() - startedMs;
console.log(`${(simulatedMs / 60_000).toFixed(1)} simulated minutes in ${(realMs / 1000).toFixed(1)} s: ${(simulatedMs / realMs).toFixed(0)} times as fast; ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
