// Ending the tasks of a swarm that is left. A task that will not go (a runtime that fails, a mount that is busy, an
// Engine that is away) is tried again for a while and then told of: the node must not stay half in its swarm for it.

import type { Executor } from '../../platform/executor.js';

const TRIES = 3;
const RETRY_MS = 1000;
const TRY_TIMEOUT_MS = 15_000;

/** First in the orderly way, if there is one, then by what the executor finds. Resolves with '' or what is wrong. */
export async function endTasks(executor: Executor, orderly?: () => Promise<void>): Promise<string> {
  let problem = await attempt(orderly ?? (() => removeAll(executor)));
  for (let tries = 0; problem !== '' && tries < TRIES; tries++) {
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    problem = await attempt(() => removeAll(executor));
  }
  return problem;
}

/** Every task gets its chance, whatever the others do. */
async function removeAll(executor: Executor): Promise<void> {
  const problems: string[] = [];
  for (const id of await executor.adopt()) {
    await executor.controller(id).remove().catch((error: unknown) => problems.push(`task ${id}: ${messageOf(error)}`));
  }
  if (problems.length > 0) throw new Error(problems.join('; '));
}

/** Whatever goes wrong is the machine's: executors fail with errors of the system as well as with their own. */
export async function attempt(work: () => Promise<unknown>): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`not done in ${TRY_TIMEOUT_MS / 1000} s`), TRY_TIMEOUT_MS);
  });
  try {
    return await Promise.race([work().then(() => '', messageOf), late]);
  } finally {
    clearTimeout(timer);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
