// Small state files: written aside and renamed, so that a crash leaves the old content or the new. Writes of one file
// are done in the order they were asked for; what waits behind a newer write of the same file is skipped.

import { mkdir, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';

export interface WriteOptions {
  readonly mode: number;
  /** On disk before the write resolves. Without it the content survives the process, not the machine. */
  readonly sync: boolean;
}

export class AtomicFiles {
  private readonly chains = new Map<string, Promise<void>>();
  private readonly newest = new Map<string, object>();

  write(file: string, content: string | Uint8Array, options: WriteOptions): Promise<void> {
    const ticket = {};
    this.newest.set(file, ticket);
    return this.enqueue(file, async () => {
      if (this.newest.get(file) !== ticket) return;
      await writeAside(file, content, options);
    });
  }

  remove(file: string): Promise<void> {
    this.newest.set(file, {});
    return this.enqueue(file, () => rm(file, { force: true }));
  }

  private enqueue(file: string, work: () => Promise<void>): Promise<void> {
    const done = (this.chains.get(file) ?? Promise.resolve()).then(work);
    const settled = done.catch(() => undefined); // The writer that asked for it gets the error.
    this.chains.set(file, settled);
    void settled.then(() => {
      if (this.chains.get(file) !== settled) return;
      this.chains.delete(file);
      this.newest.delete(file);
    });
    return done;
  }
}

async function writeAside(file: string, content: string | Uint8Array, options: WriteOptions): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
  const temporary = `${file}.tmp`;
  const handle = await open(temporary, 'w', options.mode);
  try {
    await handle.writeFile(content);
    if (options.sync) await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, file);
  if (!options.sync) return;
  const directory = await open(path.dirname(file), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
