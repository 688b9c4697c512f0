// Running programs for the lab: exact arguments, no shell, errors with the program's own words.

import { execFile } from 'node:child_process';

export class CommandFailed extends Error {
  readonly exitCode: number;
  constructor(command: string, exitCode: number, stderr: string) {
    super(`${command} failed (exit ${exitCode}): ${stderr.trim()}`);
    this.name = 'CommandFailed';
    this.exitCode = exitCode;
  }
}

export function run(command: string, args: readonly string[], options: { readonly timeoutMs?: number; readonly input?: string } = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(command, [...args], { timeout: options.timeoutMs ?? 30_000, maxBuffer: 64 * 1024 * 1024, encoding: 'utf8' }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else reject(new CommandFailed(`${command} ${args.join(' ')}`, typeof error.code === 'number' ? error.code : -1, stderr || error.message));
    });
    if (options.input !== undefined) child.stdin?.end(options.input);
  });
}

export function ip(...args: string[]): Promise<string> {
  return run('ip', args);
}

export function inNamespace(netns: string, command: string, args: readonly string[], timeoutMs = 30_000): Promise<string> {
  return run('nsenter', [`--net=/run/netns/${netns}`, command, ...args], { timeoutMs });
}
