// How fast it was, and what it held, in a line.

import type { Answer } from './jobs.js';

export function speedOf(answers: readonly Answer[], realMs: number): string {
  const runs = answers.flatMap((answer) => (answer.kind === 'held' ? [answer.run] : []));
  const sum = (of: (run: (typeof runs)[number]) => number): number => runs.reduce((total, run) => total + of(run), 0);
  const simulatedMs = sum((run) => run.simulatedMs);
  return `${runs.length} seeds, ${(simulatedMs / 60_000).toFixed(0)} simulated minutes in ${(realMs / 1000).toFixed(1)} s: `
    + `${(simulatedMs / realMs).toFixed(0)} times as fast as time; ${sum((run) => run.faults)} faults, ${sum((run) => run.terms)} terms, `
    + `${sum((run) => run.entries)} entries, ${sum((run) => run.operations)} operations; ${answers.length - runs.length} failed`;
}
