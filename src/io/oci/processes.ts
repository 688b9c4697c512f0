// Processes named by pid and start time, so that a recycled pid is never mistaken for the task's process.

import { readFileSync } from 'node:fs';

/** Start time in clock ticks since boot, undefined when there is no such process or only its zombie. */
export function processStart(pid: number): string | undefined {
  if (pid <= 0) return undefined;
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The command name may hold spaces and parentheses: fields are counted from the last one.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  if (fields[0] === 'Z' || fields[0] === 'X') return undefined;
  return fields[19];
}

export function isAlive(pid: number, start: string): boolean {
  return processStart(pid) === start;
}

/** Sends a signal if it is still that process; false when it is gone. */
export function signalProcess(pid: number, start: string, signal: NodeJS.Signals | number): boolean {
  if (!isAlive(pid, start)) return false;
  try {
    process.kill(pid, signal);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

let cachedBootId: string | undefined;
export function bootId(): string {
  cachedBootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  return cachedBootId;
}
