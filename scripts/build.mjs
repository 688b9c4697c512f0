// Builds everything that is built: TypeScript into dist/, the native data plane into build/.
// tsc is skipped while no source changed since the last good build (dist/.built holds their fingerprint); make compares
// times itself. `node scripts/build.mjs [ts|native]` builds one half. Also used by setup.mjs and test.mjs.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(import.meta.dirname, '..');
const dist = path.join(root, 'dist');
const stamp = path.join(dist, '.built');
const SOURCE_FOLDERS = ['src', 'test', 'bench'];
const GENERATED = 'src/model/proto';

export class BuildError extends Error {
  name = 'BuildError';
}

function filesBelow(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

function sources() {
  const below = SOURCE_FOLDERS.flatMap((folder) => filesBelow(path.join(root, folder))).filter((file) => /\.(ts|js|json)$/.test(file));
  return [...below, ...['tsconfig.json', 'package-lock.json'].map((name) => path.join(root, name))];
}

function fingerprint() {
  const hash = createHash('sha256').update(process.version);
  for (const file of sources()) {
    const { mtimeMs, size } = statSync(file);
    hash.update(`${path.relative(root, file)} ${mtimeMs} ${size}\n`);
  }
  return hash.digest('hex');
}

/** dist/ was made from the sources as they are now. */
export function upToDate() {
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === fingerprint();
}

function run(file, args) {
  const { status, error } = spawnSync(file, args, { stdio: 'inherit', cwd: root });
  if (error !== undefined) throw new BuildError(`${path.basename(file)} could not be started: ${error.message}`);
  if (status !== 0) throw new BuildError(`\`${path.basename(file)} ${args.join(' ')}\` failed (${status})`);
}

function buildTypeScript(log) {
  if (upToDate()) return;
  const startedMs = Date.now();
  const made = fingerprint();
  rmSync(stamp, { force: true });
  run(path.join(root, 'node_modules/.bin/tsc'), ['-p', 'tsconfig.json']);
  // Generated protobuf code is JavaScript with declarations: tsc does not copy it.
  mkdirSync(path.join(dist, GENERATED), { recursive: true });
  cpSync(path.join(root, GENERATED), path.join(dist, GENERATED), { recursive: true });
  removeOrphans();
  writeFileSync(stamp, made);
  log(`TypeScript: built in ${((Date.now() - startedMs) / 1000).toFixed(1)} s`);
}

/** Output of a source that is gone would still be found by imports. */
function removeOrphans() {
  for (const file of SOURCE_FOLDERS.flatMap((folder) => filesBelow(path.join(dist, folder)))) {
    const source = path.join(root, path.relative(dist, file)).replace(/\.js(\.map)?$/, '');
    if (!['.ts', '.js', ''].some((ending) => existsSync(source + ending))) rmSync(file);
  }
}

export function build({ only, log }) {
  if (only !== 'native') buildTypeScript(log);
  if (only !== 'ts' && existsSync(path.join(root, 'native/Makefile'))) {
    const startedMs = Date.now();
    run('make', ['-C', 'native', '--no-print-directory', '-s', '-j2']);
    if (Date.now() - startedMs > 1000) log(`native: built in ${((Date.now() - startedMs) / 1000).toFixed(1)} s`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    build({ only: process.argv[2], log: (line) => console.log(line) });
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    console.error(error.message);
    process.exit(1);
  }
}
