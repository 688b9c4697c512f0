// A process that simulates what pool.ts asks for, one job after the other: answers come in the order of the jobs.

import { perform, type Job } from './jobs.js';

let last = Promise.resolve();
process.on('message', (job: Job) => {
  last = last.then(async () => {
    process.send?.(await perform(job, () => process.send?.('alive')));
  });
});
process.on('disconnect', () => process.exit(0));
