// A kill at every moment that matters: while some work runs, its folder is copied before each change of a file. What is in
// a copy is what a process that was killed there would have left (the system's cache survives it).

import fs, { open } from 'node:fs/promises';
import { cpSync, rmSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import os from 'node:os';
import path from 'node:path';

const CUTS_MAX = 1000;
const COPY_TRIES = 10;

/** Runs `work`; returns the copies of `folder`, oldest first, below `into`. */
export async function cutting(folder: string, into: string, work: () => Promise<void>): Promise<string[]> {
  const copies: string[] = [];
  const cut = (): void => {
    const copy = path.join(into, String(copies.length).padStart(4, '0'));
    if (copies.length < CUTS_MAX) copyOf(folder, copy);
    copies.push(copy);
  };
  const probe = await open(path.join(os.tmpdir()), 'r');
  const handles = Object.getPrototypeOf(probe) as Record<string, unknown>;
  await probe.close();
  const restore = [
    ...['rename', 'rm', 'open', 'mkdir'].map((name) => wrap(fs as unknown as Record<string, unknown>, name, (args) => {
      const changes = name !== 'open' || /[wa+]/.test(String(args[1] ?? 'r'));
      if (changes && String(args[0]).startsWith(folder)) cut();
    })),
    ...['write', 'writeFile', 'truncate'].map((name) => wrap(handles, name, cut)),
  ];
  syncBuiltinESMExports();
  try {
    await work();
  } finally {
    for (const undo of restore) undo();
    syncBuiltinESMExports();
  }
  return copies;
}

/** Another change may be under way: a file that goes while it is copied is one of a moment later. */
function copyOf(folder: string, copy: string): void {
  for (let tries = 1; ; tries++) {
    try {
      return cpSync(folder, copy, { recursive: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || tries === COPY_TRIES) throw error;
      rmSync(copy, { recursive: true, force: true });
    }
  }
}

function wrap(target: Record<string, unknown>, name: string, before: (args: readonly unknown[]) => void): () => void {
  const original = target[name] as (...args: unknown[]) => unknown;
  target[name] = function wrapped(this: unknown, ...args: unknown[]): unknown {
    before(args);
    return original.apply(this, args);
  };
  return () => {
    target[name] = original;
  };
}
