// Runs tests: `node scripts/test.mjs [what...]`, where each `what` is a folder of test/ (unit, conformance, system, ...),
// `native`, or a file. Without arguments: everything but test/long. Needs a build (npm test makes it).
// node's test runner gets an explicit list of files, because folders and globs differ between Node 20, 22 and 24.
// System tests share the machine's namespaces and ports, and simulations use every core, so their files run one at a time; the
// others run side by side.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { run } from 'node:test';
import { upToDate } from './build.mjs';

const root = path.resolve(import.meta.dirname, '..');
const testRoot = path.join(root, 'test');
const LAST = 'system';
const NOT_BY_DEFAULT = ['long'];
const ONE_BY_ONE = ['sim', 'system', 'long'];
const FILE_TIMEOUT_MS = { sim: 900_000, system: 360_000, long: 3_600_000, other: 120_000 };
const NATIVE_TIMEOUT_MS = 600_000;
const SLOW_MS = 2000;
const OUTPUT_KEPT = 4000;
const REASON_LINES = 6;
const ENDING = '.test.ts';

function testFilesBelow(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) return testFilesBelow(full);
    return entry.name.endsWith(ENDING) ? [full] : [];
  }).sort();
}

/** Files by group; test/*.test.ts themselves count as unit tests. */
function groups() {
  const found = new Map();
  for (const file of testFilesBelow(testRoot)) {
    const [first, ...rest] = path.relative(testRoot, file).split(path.sep);
    const group = rest.length === 0 ? 'unit' : first;
    found.set(group, [...found.get(group) ?? [], file]);
  }
  return found;
}

/** What to run, in order: [group, files]; the group `native` has no files. */
function plan(wanted) {
  const all = groups();
  const names = [...all.keys(), 'native'].sort((a, b) => Number(a === LAST) - Number(b === LAST) || Number(b === 'unit') - Number(a === 'unit'));
  if (wanted.length === 0) return names.filter((name) => !NOT_BY_DEFAULT.includes(name)).map((name) => [name, all.get(name) ?? []]);
  return wanted.map((what) => {
    if (names.includes(what)) return [what, all.get(what) ?? []];
    const file = path.resolve(what);
    if (!file.endsWith(ENDING) || !existsSync(file)) fail(`no tests called ${what}: there are ${names.join(', ')}, or name a ${ENDING} file`);
    const [first, ...rest] = path.relative(testRoot, file).split(path.sep);
    return [rest.length === 0 ? 'unit' : first, [file]];
  });
}

function fail(message) {
  console.error(`test: ${message}`);
  process.exit(1);
}

const total = { passed: 0, failed: 0, skipped: 0 };
const failures = [];

/** A reporter: a line for each file, and for each slow, skipped or failed test; each failure with the start of its reason, in full at the end. */
function report(stream, group, shown) {
  let lines = [];
  let counts = { passed: 0, failed: 0 };
  const parents = [];
  const stderrOf = new Map();
  const leafFailure = (error) => !['subtestsFailed', 'parentAlreadyFinished'].includes(error?.failureType);
  const count = (data, kind) => {
    parents.length = data.nesting;
    const isFile = data.nesting === 0 && path.isAbsolute(data.name);
    const container = data.details?.type === 'suite' || isFile;
    const own = isFile ? shown(data.name) : data.name;
    const name = parents.length === 0 ? own : `${parents.join(' > ')} > ${own}`;
    if (data.skip !== undefined && data.skip !== false) {
      const reason = data.skip === true ? 'no reason given' : data.skip;
      lines.push(`  - ${name}  # skipped: ${reason}`);
      // A skip is a checked claim about this machine; anything else hides a test.
      if (String(reason).startsWith('unsupported')) {
        total.skipped += 1;
      } else {
        counts.failed += 1;
        total.failed += 1;
        failures.push({ name: `${shown(data.file ?? '')}: ${name}`, error: `skipped without a reason "unsupported: ..." (${reason})` });
      }
    } else if (kind === 'fail') {
      const { error } = data.details;
      if (!leafFailure(error)) return;
      counts.failed += 1;
      total.failed += 1;
      lines.push(`  x ${name}`, `      ${text(error).split('\n').slice(0, REASON_LINES).join('\n      ')}`);
      const file = isFile ? data.name : data.file;
      // A file that fails as a whole told why on its standard error.
      failures.push({ name: isFile ? name : `${shown(file ?? '')}: ${name}`, error, output: isFile ? stderrOf.get(file) : undefined });
    } else if (!container) {
      counts.passed += 1;
      total.passed += 1;
      if (data.details.duration_ms >= SLOW_MS) lines.push(`  + ${name}  (${(data.details.duration_ms / 1000).toFixed(1)} s)`);
    }
  };
  stream.on('test:start', (data) => {
    parents.length = data.nesting;
    parents[data.nesting] = data.name;
  });
  stream.on('test:pass', (data) => count(data, 'pass'));
  stream.on('test:fail', (data) => count(data, 'fail'));
  // What a simulation tells of itself, its speed above all.
  stream.on('test:diagnostic', ({ message, nesting }) => group.startsWith('test/sim/') && nesting > 0 && lines.push(`      ${message}`));
  stream.on('test:stderr', ({ file, message }) => {
    stderrOf.set(file, ((stderrOf.get(file) ?? '') + message).slice(-OUTPUT_KEPT));
    if (process.env.SKEIN_TEST_OUTPUT) process.stderr.write(message);
  });
  stream.on('test:stdout', ({ message }) => process.env.SKEIN_TEST_OUTPUT && process.stdout.write(message));
  return () => {
    const { passed, failed } = counts;
    console.log(`${failed > 0 ? 'FAILED' : 'ok'}  ${group}: ${passed} passed${failed > 0 ? `, ${failed} failed` : ''}`);
    for (const line of lines) console.log(line);
    lines = [];
    counts = { passed: 0, failed: 0 };
  };
}

function built(source) {
  const file = path.join(root, 'dist', path.relative(root, source)).replace(/\.ts$/, '.js');
  if (!existsSync(file)) fail(`${path.relative(root, source)} is not built: run \`npm run build\``);
  return file;
}

const shown = (file) => path.relative(root, file).replace(/^dist\//, '').replace(/\.js$/, '.ts');

async function runFiles(label, sources, options) {
  const startedMs = Date.now();
  const stream = run({ files: sources.map(built), ...options });
  const flush = report(stream, label, shown);
  await new Promise((resolve, reject) => {
    stream.on('error', reject);
    stream.on('end', resolve);
    stream.resume();
  });
  flush();
  return Date.now() - startedMs;
}

async function runGroup(group, sources) {
  const timeout = FILE_TIMEOUT_MS[group] ?? FILE_TIMEOUT_MS.other;
  if (!ONE_BY_ONE.includes(group)) {
    const ms = await runFiles(`${group} (${sources.length} files)`, sources, { concurrency: 3, timeout });
    console.log(`    ${(ms / 1000).toFixed(1)} s`);
    return;
  }
  for (const source of sources) {
    const ms = await runFiles(shown(source), [source], { concurrency: false, timeout });
    console.log(`    ${(ms / 1000).toFixed(1)} s`);
  }
}

function runNative() {
  const { status, signal, stdout, stderr, error } = spawnSync('make', ['-C', path.join(root, 'native'), '--no-print-directory', '-s', 'test'],
    { encoding: 'utf8', timeout: NATIVE_TIMEOUT_MS, maxBuffer: 64 * 1024 * 1024 });
  const begun = [...(stdout ?? '').matchAll(/^== (.*)$/gm)].map((match) => path.basename(match[1]));
  const good = status === 0 ? begun : begun.slice(0, -1);
  total.passed += good.length;
  if (status === 0 && good.length > 0) {
    console.log(`ok  native: ${good.join(', ')}`);
    return;
  }
  total.failed += 1;
  const name = status === 0 ? 'no native test ran' : `native: ${begun.at(-1) ?? 'build'} (${signal ?? status ?? error?.code})`;
  console.log(`FAILED  ${name}`);
  failures.push({ name, error: { stack: `${stdout ?? ''}${stderr ?? ''}`.trimEnd().slice(-8000) } });
}

function text(error) {
  const cause = error?.cause ?? error;
  return typeof cause === 'string' ? cause : cause?.stack ?? cause?.message ?? String(cause);
}

process.env.NODE_OPTIONS = `${process.env.NODE_OPTIONS ?? ''} --enable-source-maps`.trim();
if (!upToDate()) fail('dist/ is older than the sources: run `npm run build`');
const startedMs = Date.now();
for (const [group, sources] of plan(process.argv.slice(2))) {
  if (group === 'native') runNative();
  else await runGroup(group, sources);
}
for (const [position, { name, error, output }] of failures.entries()) {
  console.log(`\n${position + 1}) ${name}\n${[text(error), output ?? ''].join('\n').trimEnd().replace(/^/gm, '   ')}`);
}
console.log(`\ntests took ${((Date.now() - startedMs) / 1000).toFixed(0)} s`);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0);
