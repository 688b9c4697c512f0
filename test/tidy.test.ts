// Style as a test: import directions, what the core may not do, sizes, leftovers. Text only, no compiler. The sizes are
// ratchets: the lists below name what is over the rule today, each with a reason, and may only get shorter.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';

const root = path.resolve(import.meta.dirname, '../..');

/** Which layers each layer may import, besides itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  lib: [],
  model: ['lib'],
  core: ['model', 'lib'],
  platform: ['core', 'model', 'lib'],
  io: ['platform', 'core', 'model', 'lib'],
  api: ['platform', 'core', 'model', 'lib'],
  daemon: ['api', 'io', 'platform', 'core', 'model', 'lib'],
  lab: ['daemon', 'api', 'io', 'platform', 'core', 'model', 'lib'],
  cli: ['lab', 'daemon', 'api', 'io', 'platform', 'core', 'model', 'lib'],
};
/** Siblings in core meet through these only. */
const CORE_SHARED = ['store'];
/** Packages the core may use: its codec. */
const CORE_PACKAGES = ['@bufbuild/protobuf', '@bufbuild/protobuf/wkt'];

const LINE_MAX = 140;
/** Lines over LINE_MAX that may be there, by folder; a folder that is not named has none. */
const LONG_LINES: Readonly<Record<string, number>> = {
  'src/api': 5, 'src/cli': 20, 'src/daemon': 60, 'src/io': 95, 'src/lab': 15, 'src/platform': 1, native: 30, test: 210, scripts: 6, bench: 16,
};
const LINE_WALL = 240;
const FILE_MAX = 400;
const LONG_FILES: Readonly<Record<string, string>> = {
  'native/packet/program.c': 'the packet program: one decision path, read from top to bottom',
};
const FUNCTION_MAX = 70;
const LONG_FUNCTIONS: Readonly<Record<string, string>> = {
  'src/io/datapath/encode.ts encodeBody': 'one switch over the row kinds, a struct each',
};

/** What the core may not use, and what to use instead. */
const BANNED_IN_CORE: readonly (readonly [RegExp, string])[] = [
  [/\bnew Date\b|\bDate\.|\bperformance\b/, 'the time comes with the input (nowMs)'],
  [/\bMath\.random\b|\bcrypto\b/, 'randomness comes with the input (newId, randomBytes)'],
  [/\basync\b|\bawait\b|\bPromise\b/, 'the core computes; daemon waits'],
  [/\bset(Timeout|Interval|Immediate)\b|\bqueueMicrotask\b/, 'return when to come again (wakeMs)'],
  [/\bprocess\b|\bglobalThis\b|\bfetch\b|\bBuffer\b/, 'the core knows no platform'],
  [/\bconsole\b/, 'return it, and let daemon log'],
  [/\blocaleCompare\b|\btoLocale\w*\b|\bIntl\b/, 'compareText: the same order on every machine'],
  [/^(export )?(let|var)\b/m, 'no state at module level'],
  [/\bcatch\b/, 'expected failures are results; a bug ends the process'],
];

interface File {
  readonly name: string;
  readonly text: string;
  readonly lines: readonly string[];
}

const SOURCE = /\.(ts|mjs|c|h)$/;
const GENERATED = /^src\/model\/proto\//;
// Tracked files and new ones alike, so that a test run before a commit sees what the commit will hold.
const names = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { cwd: root, encoding: 'utf8' }).split('\n')
  .filter((name) => name !== '' && existsSync(path.join(root, name)));
const files: readonly File[] = names.filter((name) => SOURCE.test(name) && !GENERATED.test(name)).map((name) => {
  const text = readFileSync(path.join(root, name), 'utf8');
  return { name, text, lines: text.split('\n') };
});
const typescript = files.filter((file) => file.name.endsWith('.ts'));
const source = typescript.filter((file) => file.name.startsWith('src/'));

/** Without comments and the insides of strings, line numbers kept. */
function code(text: string): string {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ' '))
    .replace(/(^|\s)\/\/.*$/gm, '')
    .replace(/'(?:[^'\\\n]|\\.)*'/g, "''")
    .replace(/"(?:[^"\\\n]|\\.)*"/g, '""');
}

/** Imported modules: ['relative path in the repository' or package name, line]. */
function imports(file: File): string[] {
  return [...file.text.matchAll(/^(?:import|export)\b[^;]*?\bfrom '([^']+)'|^import '([^']+)'|\bimport\('([^']+)'\)/gm)].map((match) => {
    const target = match[1] ?? match[2] ?? match[3] ?? '';
    return target.startsWith('.') ? path.join(path.dirname(file.name), target) : target;
  });
}

const layerOf = (name: string): string => name.split('/')[1] ?? '';

function none(problems: readonly string[], rule: string): void {
  assert.equal(problems.length, 0, `${rule}:\n  ${problems.join('\n  ')}`);
}

describe('imports', () => {
  it('go down only', () => {
    const problems = source.filter((file) => file.name !== 'src/main.ts').flatMap((file) => {
      const from = layerOf(file.name);
      const allowed = MAY_IMPORT[from];
      if (allowed === undefined) return [`${file.name}: a folder without a place in the layers`];
      return imports(file).filter((target) => target.startsWith('src/') || target.startsWith('test/'))
        .filter((target) => layerOf(target) !== from && !(target.startsWith('src/') && allowed.includes(layerOf(target))))
        .map((target) => `${file.name} imports ${target}`);
    });
    none(problems, 'cli -> lab -> daemon -> api, io -> platform -> core -> model -> lib');
  });

  it('core folders meet only in store and model', () => {
    const problems = source.filter((file) => layerOf(file.name) === 'core').flatMap((file) => {
      const own = file.name.split('/')[2] ?? '';
      return imports(file).filter((target) => target.startsWith('src/core/')).filter((target) => {
        const other = target.split('/')[2] ?? '';
        return other !== own && !(CORE_SHARED.includes(other) && !CORE_SHARED.includes(own));
      }).map((target) => `${file.name} imports ${target}`);
    });
    none(problems, 'move what two core folders share to src/model or src/core/store');
  });

  it('core, model and lib use no node modules and no packages but the codec', () => {
    const problems = source.filter((file) => ['core', 'model', 'lib'].includes(layerOf(file.name))).flatMap((file) =>
      imports(file).filter((target) => !target.startsWith('src/') && !CORE_PACKAGES.includes(target)).map((target) => `${file.name} imports ${target}`));
    none(problems, 'the core runs anywhere');
  });
});

describe('core', () => {
  it('compiles without node and DOM types', () => {
    execFileSync(path.join(root, 'node_modules/.bin/tsc'), ['-p', 'src/core/tsconfig.json'], { cwd: root, encoding: 'utf8', stdio: 'pipe' });
  });

  it('has no clock, randomness, waiting, platform, locale or module state of its own', () => {
    const problems = source.filter((file) => layerOf(file.name) === 'core').flatMap((file) => {
      const text = code(file.text);
      return BANNED_IN_CORE.flatMap(([pattern, instead]) => {
        const found = pattern.exec(text);
        if (found === null) return [];
        return [`${file.name}:${text.slice(0, found.index).split('\n').length}: "${found[0]}": ${instead}`];
      });
    });
    none(problems, 'not in core');
  });
});

describe('sizes', () => {
  it('lines are at most 140 characters, with a ratchet', () => {
    const counts = new Map<string, number>();
    const where: string[] = [];
    for (const { name, lines } of files) {
      const [top = '', second = ''] = name.split('/');
      const folder = top === 'src' ? `${top}/${second}` : top;
      for (const [index, line] of lines.entries()) {
        assert.ok(line.length <= LINE_WALL, `${name}:${index + 1}: ${line.length} characters`);
        if (line.length <= LINE_MAX) continue;
        counts.set(folder, (counts.get(folder) ?? 0) + 1);
        if ((counts.get(folder) ?? 0) > (LONG_LINES[folder] ?? 0)) where.push(`${name}:${index + 1}: ${line.length} characters`);
      }
    }
    none(where, `more lines over ${LINE_MAX} characters than before`);
  });

  it(`files have at most ${FILE_MAX} lines`, () => {
    const long = files.filter((file) => file.lines.length - 1 > FILE_MAX).map((file) => file.name);
    none(long.filter((name) => LONG_FILES[name] === undefined), 'split these, or give a reason in LONG_FILES');
    none(Object.keys(LONG_FILES).filter((name) => !long.includes(name)), 'no longer long: take these out of LONG_FILES');
  });

  it(`functions have at most ${FUNCTION_MAX} lines`, () => {
    const long = files.filter(({ name }) => !name.startsWith('test/') && !name.startsWith('scripts/')).flatMap(longFunctions);
    none(long.filter((name) => LONG_FUNCTIONS[name] === undefined), 'split these, or give a reason in LONG_FUNCTIONS');
    none(Object.keys(LONG_FUNCTIONS).filter((name) => !long.includes(name)), 'no longer long: take these out of LONG_FUNCTIONS');
  });
});

const TS_FUNCTION = /^(\s*)(?:export )?(?:async )?function\*? (\w+)|^( {2})(?:(?:private|public|protected|static|override|async|get|set) |\*)*(\w+)(?:<[^>]*>)?\(.*(?:\{|,|\()$/;
const C_FUNCTION = /^[a-zA-Z][^=;]*?(\w+)\(.*\{$/;
const NOT_FUNCTIONS = ['if', 'for', 'while', 'switch', 'return', 'catch'];

/** By layout: a function ends at the first closing brace in its own column. */
function longFunctions({ name, lines }: File): string[] {
  return lines.flatMap((line, start) => {
    const match = (name.endsWith('.ts') ? TS_FUNCTION : C_FUNCTION).exec(line);
    if (match === null) return [];
    const [indent, called] = name.endsWith('.ts') ? [match[1] ?? match[3] ?? '', match[2] ?? match[4] ?? ''] : ['', match[1] ?? ''];
    if (NOT_FUNCTIONS.includes(called)) return [];
    const length = lines.slice(start).findIndex((l) => l === `${indent}}`) + 1;
    return length > FUNCTION_MAX ? [`${name} ${called}`] : [];
  });
}

describe('leftovers', () => {
  it('every source file opens by saying what it is', () => {
    none(files.filter((file) => !/^(\/\/|#!|\/\*)/.test(file.text)).map((file) => file.name), 'first line is no comment');
  });

  it('no markers of unfinished work', () => {
    const marker = new RegExp(`\\b(${['TO', 'FIX', 'XX'].map((half, i) => half + ['DO', 'ME', 'X'][i]).join('|')})\\b`);
    const problems = files.flatMap(({ name, lines }) => lines.flatMap((line, i) => (marker.test(line) ? [`${name}:${i + 1}`] : [])));
    none(problems, 'do it, or write an issue');
  });

  it('no test runs alone, and a test is skipped only for a typed unsupported reason', () => {
    const problems = typescript.filter((file) => file.name.startsWith('test/') && file.name !== 'test/tidy.test.ts').flatMap(({ name, lines, text }) =>
      lines.flatMap((line, i) => {
        if (/\b(it|test|describe|suite)\.only\(|\bonly: true\b|\b(it|test|describe|suite)\.(skip|todo)\(|\btodo: /.test(line)) return [`${name}:${i + 1}`];
        return /\.skip\(|\{[^}]*\bskip\b\s*[,:}]/.test(line) && !text.includes('unsupported: ') ? [`${name}:${i + 1}: skip without a reason "unsupported: ..."`] : [];
      }));
    none(problems, 'a skip is a checked claim');
  });

  it('no secrets and no places of the machine it was written on', () => {
    const patterns: readonly (readonly [RegExp, string])[] = [
      [/-----BEGIN [A-Z ]*PRIVATE KEY-----\s*\n[A-Za-z0-9+/]{40}/, 'a private key'],
      [/\b_auth(Token)?\s*=\s*[^\s\d]|:\/\/[^/\s'"`:$]+:[^@\s'"`$]+@/, 'credentials'],
      [/SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}\b/, 'a join token'],
      [/"resolved":/, 'a registry\'s host in the lock file'],
      [/\/work\/(?!\.)|\/home\/\w+\//, 'a path of one machine'],
    ];
    const problems = names.filter((name) => name !== 'test/tidy.test.ts' && !GENERATED.test(name) && !/\.(png|bin|pkt)$/.test(name)).flatMap((name) => {
      const text = readFileSync(path.join(root, name), 'utf8');
      return patterns.filter(([pattern]) => pattern.test(text)).map(([, what]) => `${name}: ${what}`);
    });
    none(problems, 'take these out');
  });
});
