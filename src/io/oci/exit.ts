// How a task ended: conmon's exit file, the memory cgroup's OOM count, and the process itself.

import { watch } from 'node:fs';
import { readdir, rmdir, stat } from 'node:fs/promises';
import path from 'node:path';
import type { ExitState } from '../../platform/executor.js';
import { exists, isMissing, readText } from './files.js';
import { sleep } from './health.js';
import { bootId, isAlive, processStart } from './processes.js';
import type { TaskFiles, TaskRecord } from './task-files.js';

const pollMs = 500;
// conmon writes the exit file after it has drained the task's output; give it time once the process is gone.
const lostAfterMs = 5_000;
// A killed process leaves its cgroup only when the kernel has torn it down.
const cgroupBusyMs = 1_000;
const cgroupPollMs = 20;
const cgroupRoot = '/sys/fs/cgroup';

/** Resolves when the task ended; undefined when aborted first. */
export async function waitForExit(files: TaskFiles, record: TaskRecord, cgroupsPath: string, signal: AbortSignal): Promise<ExitState | undefined> {
  const exitFile = path.join(files.exits, record.containerId);
  let goneAtMs: number | undefined;
  while (!signal.aborted) {
    const text = await readText(exitFile);
    if (text !== undefined && text !== '') {
      // conmon does not sync it: a power loss leaves zeros.
      if (!/^-?\d{1,3}$/.test(text.trim())) {
        return { exitCode: -1, finishedAtMs: (await stat(exitFile)).mtimeMs, reason: 'exit status lost: its file is damaged' };
      }
      const exitCode = Number(text.trim());
      const reason = exitCode !== 0 && (await wasOomKilled(files, cgroupsPath)) ? 'OOM killed' : undefined;
      return { exitCode, finishedAtMs: (await stat(exitFile)).mtimeMs, reason };
    }
    const { process } = record;
    if (process === undefined || process.boot !== bootId()) {
      return { exitCode: -1, finishedAtMs: Date.now(), reason: 'the machine was restarted' };
    }
    if (!isAlive(process.pid, process.start)) {
      goneAtMs ??= Date.now();
      const conmonPid = Number((await readText(files.at('conmon.pid'))) ?? 0);
      if (Date.now() - goneAtMs > lostAfterMs && processStart(conmonPid) === undefined) {
        return { exitCode: -1, finishedAtMs: goneAtMs, reason: 'exit status lost: conmon was killed' };
      }
    }
    await changed(files.exits, signal);
  }
  return undefined;
}

/** Resolves when something in the directory changed, or after a while: inotify may be exhausted or miss events. */
function changed(directory: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    let watcher: ReturnType<typeof watch> | undefined;
    const done = (): void => {
      clearTimeout(timer);
      watcher?.close();
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, pollMs);
    signal.addEventListener('abort', done);
    try {
      watcher = watch(directory, done);
      watcher.on('error', done);
    } catch {
      // Out of watches: the timer does.
    }
  });
}

async function wasOomKilled(files: TaskFiles, cgroupsPath: string): Promise<boolean> {
  if ((await exists(files.at('bundle', 'oom'))) || (await exists(files.at('persist', 'oom')))) return true;
  for (const file of [`${cgroupRoot}/memory${cgroupsPath}/memory.oom_control`, `${cgroupRoot}${cgroupsPath}/memory.events`]) {
    const match = /^oom_kill (\d+)$/m.exec((await readText(file)) ?? '');
    if (match !== null && Number(match[1]) > 0) return true;
  }
  return false;
}

/** Removes what the runtime may have left of the task's cgroup, in every hierarchy; a member that ends late is waited for. */
export async function removeCgroups(cgroupsPath: string): Promise<void> {
  const hierarchies = await readdir(cgroupRoot);
  for (const directory of [cgroupRoot, ...hierarchies.map((name) => path.join(cgroupRoot, name))]) {
    await removeCgroup(path.join(directory, cgroupsPath));
  }
}

async function removeCgroup(directory: string): Promise<void> {
  // A task that may write its cgroup can have made some below it.
  const inner = await readdir(directory, { withFileTypes: true }).catch((error: unknown) => {
    if (isMissing(error)) return [];
    throw error;
  });
  for (const entry of inner) if (entry.isDirectory()) await removeCgroup(path.join(directory, entry.name));
  for (let waited = 0; ; waited += cgroupPollMs) {
    try {
      await rmdir(directory);
      return;
    } catch (error) {
      if (isMissing(error)) return;
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || waited >= cgroupBusyMs) throw error;
    }
    await sleep(cgroupPollMs);
  }
}
