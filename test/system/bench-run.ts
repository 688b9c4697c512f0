// A run of the control bench that is interrupted, and what runs leave behind.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { descendantsOf } from '../../bench/processes.js';
import { SKEIN } from './fixture.js';

const CGROUPS = '/sys/fs/cgroup';
/** As a shell tells of SIGINT. */
const INTERRUPTED = 130;
const ENDS_WITHIN_MS = 10_000;

/** State directories and cgroups. */
export async function remains(): Promise<string[]> {
  const folders = [os.tmpdir(), CGROUPS, ...(await readdir(CGROUPS)).map((name) => path.join(CGROUPS, name))];
  const found = await Promise.all(folders.map(async (folder) => {
    const names = await readdir(folder).catch(() => [] as string[]);
    return names.filter((name) => name.startsWith('skein-bench-')).map((name) => path.join(folder, name));
  }));
  return found.flat();
}

/** A signal so long after the bench has said what it does: it ends soon, and nothing is left. */
export async function interrupted(args: readonly string[], signal: 'SIGINT' | 'SIGTERM', doing: string, afterMs: number): Promise<void> {
  const before = await remains();
  const child = spawn(process.execPath, [SKEIN, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(child, 'exit') as Promise<[number | null]>;
  const told: string[] = [];
  const lines = createInterface(child.stderr);
  await Promise.race([ended, new Promise<void>((resolve) => lines.on('line', (line) => {
    told.push(line);
    if (line.endsWith(doing)) resolve();
  }))]);
  assert.equal(child.exitCode, null, `it ended before "${doing}":\n${told.join('\n')}`);
  await sleep(afterMs);
  const processes = await descendantsOf(child.pid as number);
  assert.ok(processes.length > 0);
  const from = performance.now();
  child.kill(signal);
  assert.equal((await ended)[0], INTERRUPTED, told.join('\n'));
  assert.ok(performance.now() - from < ENDS_WITHIN_MS, `${doing}: it took ${performance.now() - from} ms to end`);
  assert.deepEqual(await remains(), before, doing);
  assert.deepEqual(processes.filter((pid) => existsSync(`/proc/${pid}`)), [], doing);
}
