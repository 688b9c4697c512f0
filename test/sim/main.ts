// `npm run sim -- --seed N [--seeds COUNT] [--minutes M] [--raft] [--trace] [--checked] [--processes P]`: simulates the whole
// swarm, or with --raft only the group and its registers, on all cores; one line a seed. A failure prints its seed and what was
// violated, and ends with 1. --trace tells what happens; --checked freezes what replicas share.

import { parseArgs } from 'node:util';
import { type Answer, type Job } from './jobs.js';
import { runJobs } from './pool.js';
import { simulate } from './simulation.js';
import { simulateSwarm } from './swarm.js';
import { speedOf } from './speed.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '1' },
    minutes: { type: 'string', default: '1' },
    processes: { type: 'string' },
    trace: { type: 'boolean', default: false },
    checked: { type: 'boolean', default: false },
    raft: { type: 'boolean', default: false },
  },
});
const first = Number(values.seed);
const minutes = Number(values.minutes);
const jobs = Array.from({ length: Number(values.seeds) }, (_, i): Job =>
  ({ kind: values.raft ? 'raft' : 'swarm', seed: first + i, minutes, checked: values.checked }));

function tell(answer: Answer): void {
  if (answer.kind !== 'held') {
    console.log(`seed ${answer.seed}: FAILED: ${answer.message}`);
    return;
  }
  const { seed, hash, events, messages, entries, terms, operations, faults } = answer.run;
  console.log(`seed ${seed}: ${hash}  ${entries} entries, ${terms} terms, ${operations} operations, ${faults} faults, `
    + `${messages} messages, ${events} events`);
}

if (values.trace) {
  for (const { seed } of jobs) {
    const trace = (text: string): void => console.log(text);
    (values.raft ? simulate : simulateSwarm)({ seed, minutes, checked: values.checked, trace });
  }
} else {
  const startedMs = performance.now();
  const processes = values.processes === undefined ? {} : { processes: Number(values.processes) };
  const answers = await runJobs(jobs, { onAnswer: tell, ...processes });
  console.log(speedOf(answers, performance.now() - startedMs));
  process.exitCode = answers.some(({ kind }) => kind !== 'held') ? 1 : 0;
}
