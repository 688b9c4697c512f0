// Ending what a swarm that is left has on this machine. What will not go (a runtime that fails, a mount that is busy, an
// Engine that is away) is told of: the node must not stay half in its swarm for it.

import { AppFailure, expectedFailure } from '../../lib/result.js';
import type { Executor } from '../../platform/executor.js';

const TRIES = 4;
const RETRY_MS = 1000;
const TIMEOUT_MS = 30_000;

/** Removes whatever the executor finds, when no worker looks after it. Resolves with '' or what is wrong. */
export async function removeTasks(executor: Executor): Promise<string> {
  let problem = '';
  for (let tries = 0; tries < TRIES; tries++) {
    if (tries > 0) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    problem = await attempt(() => removeAll(executor));
    if (problem === '') break;
  }
  return problem;
}

/** Every task gets its chance, whatever the others do. */
async function removeAll(executor: Executor): Promise<void> {
  const ids = await executor.adopt();
  const problems = await Promise.all(ids.map(async (id) => {
    const problem = await attempt(() => executor.controller(id).remove());
    return problem === '' ? [] : [`task ${id}: ${problem}`];
  }));
  const words = problems.flat().join('; ').slice(0, 1000);
  if (words !== '') throw new AppFailure({ code: 'unavailable', message: words });
}

/** Resolves with '' or with an expected failure's words, in bounded time. */
export async function attempt(work: () => Promise<unknown>): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`not done in ${TIMEOUT_MS / 1000} s`), TIMEOUT_MS);
  });
  const done = work().then(() => '', (error: unknown) => {
    const failure = expectedFailure(error);
    if (failure === undefined) throw error;
    return failure.message;
  });
  try {
    return await Promise.race([done, late]);
  } finally {
    clearTimeout(timer);
  }
}
