// A deliberate bug: a change of the built text of the core, of a piece of code that must be there exactly once. The core itself
// knows nothing of it, and no build for use has it.

import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

export interface Mutant {
  /** Below the folder, without its ending. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

/** The modules of src/core, or of the folder `of` seen from it, as they are with one of the bugs; `files` as Mutant's. */
export async function mutated(of: string, mutants: Readonly<Record<string, Mutant>>, name: string, files: readonly string[])
  : Promise<readonly object[]> {
  const { file, from, to } = mutants[name] as Mutant;
  const built = path.resolve(import.meta.dirname, '../../src/core', of);
  // Beside the real one, so that its imports lead to the same places; several processes do it at once.
  const folder = `${built}-mutant-${process.pid}-${Object.keys(mutants).indexOf(name)}`;
  const text = readFileSync(path.join(built, `${file}.js`), 'utf8');
  if (text.split(from).length !== 2) throw new Error(`mutant "${name}": ${file} does not have its code exactly once: ${from}`);
  rmSync(folder, { recursive: true, force: true });
  cpSync(built, folder, { recursive: true });
  writeFileSync(path.join(folder, `${file}.js`), text.replace(from, () => to));
  const modules: object[] = [];
  for (const one of files) modules.push(await import(pathToFileURL(path.join(folder, `${one}.js`)).href) as object);
  rmSync(folder, { recursive: true, force: true });
  return modules;
}
