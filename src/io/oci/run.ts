// run: starts a helper program (mount, runc, tar) and waits for it, with bounds on time and output.
// A program that fails is an expected failure: its own words become the AppFailure's message.

import { spawn } from 'node:child_process';
import { AppFailure, appError } from '../../lib/result.js';

const maxOutputBytes = 1024 * 1024;

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly timeoutMs?: number;
  /** File descriptor or nothing for stdin. */
  readonly stdin?: number;
}

export interface RunResult {
  readonly code: number;
  readonly signal: NodeJS.Signals | undefined;
  readonly stdout: string;
  readonly stderr: string;
  readonly timedOut: boolean;
}

export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: [options.stdin ?? 'ignore', 'pipe', 'pipe'],
    });
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
      // A grandchild may hold the pipes: do not wait for their end.
      child.stdout?.destroy();
      child.stderr?.destroy();
    }, options.timeoutMs ?? 60_000);
    const output = [collect(child.stdout), collect(child.stderr)] as const;
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(new AppFailure(appError('unavailable', `cannot run ${command}: ${error.message}`)));
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const [stdout, stderr] = output.map((read) => read()) as [string, string];
      resolve({ code: code ?? -1, signal: signal ?? undefined, stdout, stderr, timedOut });
    });
  });
}

function collect(stream: NodeJS.ReadableStream | null): () => string {
  const chunks: Buffer[] = [];
  let size = 0;
  stream?.on('data', (chunk: Buffer) => {
    if (size < maxOutputBytes) chunks.push(chunk);
    size += chunk.length;
  });
  return () => Buffer.concat(chunks).toString('utf8');
}

/** Like run, but throws AppFailure unless the program exits with 0. */
export async function mustRun(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const result = await run(command, args, options);
  if (result.code === 0) return result;
  const words = result.timedOut ? 'timed out' : result.stderr.trim() || `exit status ${result.code}`;
  throw new AppFailure(appError('internal', `${command} ${args[0] ?? ''}: ${words.slice(0, 4096)}`));
}
