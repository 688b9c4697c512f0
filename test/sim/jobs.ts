// What a process of the simulator is asked for and answers: a seed, or a deliberate bug with the seeds it may take to be found.

import { CORE_MUTANTS, LOG_MUTANTS, mutantCore, mutantReadLog } from './mutants.js';
import { simulate } from './simulation.js';
import { SWARM_MUTANTS, mutantStages } from './swarm-mutants.js';
import { simulateSwarm, type SwarmBug } from './swarm.js';
import type { ShellBug } from './world.js';

export interface Job {
  readonly kind: 'raft' | 'swarm';
  readonly seed: number;
  readonly minutes: number;
  readonly checked?: boolean;
  /** The name of one, or a switch of the shell. */
  readonly bug?: string;
  /** From `seed` on; the first one with a violation ends the job. */
  readonly seeds?: number;
}

export interface Run {
  readonly seed: number;
  readonly hash: string;
  readonly simulatedMs: number;
  readonly events: number;
  readonly messages: number;
  readonly entries: number;
  readonly terms: number;
  readonly operations: number;
  readonly faults: number;
  readonly marks: readonly (readonly [string, number])[];
}

export type Answer =
  | { readonly kind: 'held'; readonly run: Run }
  | { readonly kind: 'violated'; readonly seed: number; readonly name: string; readonly message: string }
  /** The process ended, or never answered. */
  | { readonly kind: 'crashed'; readonly seed: number; readonly message: string };

/** `alive` is called after every seed, in a turn of its own. */
export async function perform(job: Job, alive: () => void): Promise<Answer> {
  const one = await simulation(job);
  let run: Run | undefined;
  for (let seed = job.seed; seed < job.seed + (job.seeds ?? 1); seed++) {
    try {
      run = one(seed);
    } catch (error) {
      const { name, message } = error as Error;
      return { kind: 'violated', seed, name, message };
    }
    alive();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return { kind: 'held', run: run as Run };
}

/** Exported for those who want the stack of what was thrown. */
export async function simulation({ kind, minutes, checked = false, bug }: Job): Promise<(seed: number) => Run> {
  if (kind === 'raft') {
    const raftClass = bug !== undefined && bug in CORE_MUTANTS ? { raftClass: await mutantCore(bug) } : {};
    const readLog = bug !== undefined && bug in LOG_MUTANTS ? { readLog: await mutantReadLog(bug) } : {};
    const bugs = bug === undefined || bug in CORE_MUTANTS || bug in LOG_MUTANTS ? [] : [bug as ShellBug];
    return (seed) => plain(simulate({ seed, minutes, checked, bugs, ...raftClass, ...readLog }));
  }
  const core = bug !== undefined && bug in SWARM_MUTANTS ? { core: await mutantStages(bug) } : {};
  const bugs = bug === undefined || bug in SWARM_MUTANTS ? [] : [bug as SwarmBug];
  return (seed) => plain(simulateSwarm({ seed, minutes, checked, bugs, ...core }));
}

/** As it can be sent between processes. */
function plain(outcome: ReturnType<typeof simulate> | ReturnType<typeof simulateSwarm>): Run {
  return { ...outcome, entries: Number(outcome.entries), marks: [...outcome.marks] };
}
