// A process that simulates what pool.ts asks for, one job after the other.

import { perform, type Job } from './jobs.js';

process.on('message', (job: Job) => {
  void perform(job).then((answer) => process.send?.(answer));
});
process.on('disconnect', () => process.exit(0));
