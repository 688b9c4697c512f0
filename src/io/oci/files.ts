// Files: small state written by rename and fsync, JSON read with a bound, paths resolved inside a root that may be
// hostile (symlinks in an image must not lead out of it), and teardown that gathers every error.

import { lstat, mkdir, open, readFile, readlink, rename, stat } from 'node:fs/promises';
import path from 'node:path';
import { AppFailure, appError } from '../../lib/result.js';

export const maxJsonBytes = 4 * 1024 * 1024;

export async function writeFileAtomic(file: string, data: string | Uint8Array, mode = 0o600): Promise<void> {
  const temporary = `${file}.tmp-${process.pid}-${Math.random().toString(36).slice(2)}`;
  const handle = await open(temporary, 'w', mode);
  try {
    await handle.writeFile(data);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, file);
  await syncDirectory(path.dirname(file));
}

export async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The file's text, or undefined if there is none. */
export async function readText(file: string, maxBytes = maxJsonBytes): Promise<string | undefined> {
  try {
    const { size } = await stat(file);
    if (size > maxBytes) throw new AppFailure(appError('resource_exhausted', `${file} is larger than ${maxBytes} bytes`));
    return await readFile(file, 'utf8');
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

export async function exists(file: string): Promise<boolean> {
  return lstat(file).then(() => true, (error: unknown) => {
    if (isMissing(error)) return false;
    throw error;
  });
}

export function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

/**
 * The real path of `inner` seen from inside `root`: symlinks are followed as if root were "/", and components that
 * do not exist are kept. Only for trees nobody changes meanwhile (a task that has not started).
 */
export async function scopedPath(root: string, inner: string): Promise<string> {
  const todo = inner.split('/');
  const done: string[] = [];
  let links = 0;
  while (todo.length > 0) {
    const part = todo.shift();
    if (part === undefined || part === '' || part === '.') continue;
    if (part === '..') {
      done.pop();
      continue;
    }
    const here = path.join(root, ...done, part);
    const target = await readlink(here).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'EINVAL' || isMissing(error)) return undefined;
      throw error;
    });
    if (target === undefined) {
      done.push(part);
      continue;
    }
    links++;
    if (links > 255) throw new AppFailure(appError('invalid_argument', `${inner}: too many levels of symbolic links`));
    if (target.startsWith('/')) done.length = 0;
    todo.unshift(...target.split('/'));
  }
  return path.join(root, ...done);
}

/** Runs every step even if some fail, then throws what failed. */
export async function gather(what: string, steps: readonly (() => Promise<unknown>)[]): Promise<void> {
  const errors: unknown[] = [];
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length === 1) throw errors[0];
  if (errors.length > 1) throw new AggregateError(errors, `${what}: ${errors.map((error) => (error as Error).message).join('; ')}`);
}

export async function ensureDirectory(directory: string, mode = 0o700): Promise<void> {
  await mkdir(directory, { recursive: true, mode });
}
