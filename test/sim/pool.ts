// Jobs of the simulator on all cores, a process each: what a job answers depends on nothing but itself. A process that ends or
// does not answer is told with the seed it had, and another one takes its place.

import { fork, type ChildProcess } from 'node:child_process';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import type { Answer, Job } from './jobs.js';

/** Garbage of a run is gone with it: large young generations are cheaper than many collections. */
const CHILD_OPTIONS = ['--max-semi-space-size=64', '--enable-source-maps'];
/** One is worked on, one waits in the pipe. */
const AHEAD = 2;
const ANSWER_MS = 120_000;

export interface PoolOptions {
  readonly processes?: number;
  readonly answerMs?: number;
  /** In the order of the jobs, as soon as all before have answered. */
  readonly onAnswer?: (answer: Answer, job: Job) => void;
  /** For the pool's own test. */
  readonly childFile?: string;
}

/** Answers in the order of the jobs. */
export function runJobs(jobs: readonly Job[], options: PoolOptions = {}): Promise<readonly Answer[]> {
  return new Promise((resolve) => new Pool(jobs, options, resolve).fill());
}

class Pool {
  private readonly jobs: readonly Job[];
  private readonly options: PoolOptions;
  private readonly done: (answers: readonly Answer[]) => void;
  private readonly answers: Answer[] = [];
  private readonly waiting: number[];
  private answered = 0;
  private told = 0;
  private children = 0;

  constructor(jobs: readonly Job[], options: PoolOptions, done: (answers: readonly Answer[]) => void) {
    this.jobs = jobs;
    this.options = options;
    this.done = done;
    this.waiting = jobs.map((_, position) => position).reverse();
  }

  fill(): void {
    if (this.jobs.length === 0) this.done([]);
    while (this.waiting.length > 0 && this.children < (this.options.processes ?? availableParallelism())) this.begin();
  }

  private begin(): void {
    this.children += 1;
    const child = fork(this.options.childFile ?? path.join(import.meta.dirname, 'child.js'), {
      execArgv: CHILD_OPTIONS, stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    const inHand: number[] = [];
    let timer: NodeJS.Timeout | undefined;
    let silent = false;
    const more = (): void => {
      clearTimeout(timer);
      while (inHand.length < AHEAD && this.waiting.length > 0) inHand.push(this.give(child));
      if (inHand.length === 0) child.disconnect();
      else timer = setTimeout(() => { silent = true; child.kill('SIGKILL'); }, this.options.answerMs ?? ANSWER_MS);
    };
    child.on('message', (answer) => {
      this.take(inHand.shift() as number, answer as Answer);
      more();
    });
    child.on('exit', (code, signal) => {
      clearTimeout(timer);
      this.children -= 1;
      const [lost, ...rest] = inHand;
      if (lost !== undefined) this.take(lost, this.crashed(lost, silent ? 'it did not answer' : `its process ended with ${signal ?? code}`));
      for (const position of rest.reverse()) this.waiting.push(position);
      if (this.answered < this.jobs.length) this.fill();
      else if (this.children === 0) this.done(this.answers);
    });
    // What cannot be sent is seen by the process's end.
    child.on('error', () => undefined);
    more();
  }

  private give(child: ChildProcess): number {
    const position = this.waiting.pop() as number;
    child.send(this.jobs[position] as Job);
    return position;
  }

  private crashed(position: number, message: string): Answer {
    return { kind: 'crashed', seed: (this.jobs[position] as Job).seed, message };
  }

  private take(position: number, answer: Answer): void {
    this.answers[position] = answer;
    this.answered += 1;
    for (let next = this.answers[this.told]; next !== undefined; next = this.answers[++this.told]) {
      this.options.onAnswer?.(next, this.jobs[this.told] as Job);
    }
  }
}
