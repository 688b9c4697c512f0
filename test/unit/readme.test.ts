// The README names only what exists: npm scripts, subcommands and options of `skein`, files and folders.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';

const root = path.resolve(import.meta.dirname, '../../..');
const read = (name: string): string => readFileSync(path.join(root, name), 'utf8');
const readme = read('README.md');
const cli = read('src/cli/cli.ts');
const scripts = (JSON.parse(read('package.json')) as { scripts: Record<string, string> }).scripts;

describe('README', () => {
  it('names npm scripts that package.json has', () => {
    const named = [...readme.matchAll(/npm (?:run (?:-s )?)?([a-z][a-z:]*)/g)].map((match) => match[1] as string).filter((name) =>
      name !== 'packages');
    assert.ok(named.includes('demo') && named.includes('test'));
    for (const name of named) assert.ok(scripts[name] !== undefined, `npm run ${name}`);
  });

  it('every script of package.json that runs a file runs one that is there', () => {
    for (const [name, command] of Object.entries(scripts)) {
      for (const [, file] of command.matchAll(/node (\S+)/g)) assert.ok(existsSync(path.join(root, file as string)), `${name}: ${file}`);
      const verb = /scripts\/skein\.mjs (\w+)/.exec(command)?.[1];
      if (verb !== undefined && verb !== 'bench') assert.ok(cli.includes(`command('${verb}')`), `${name}: skein ${verb}`);
    }
  });

  it('names skein subcommands and options that the CLI has', () => {
    const lines = [...readme.matchAll(/npm run -s skein -- ([^`\n]+)/g)].map((match) => match[1] as string);
    assert.ok(lines.length >= 5);
    for (const line of lines) {
      const own = line.split(' -- ')[0] as string;
      for (const verb of own.split(' ').slice(0, own.startsWith('lab ') ? 2 : 1)) assert.ok(cli.includes(`command('${verb}')`),
        `skein ${verb}`);
      for (const [option] of own.matchAll(/--[a-z-]+/g)) assert.ok(option === '--help'
        || cli.includes(`'${option}`), `skein ${own}: ${option}`);
    }
  });

  it('names files and folders that exist', () => {
    for (const [, file] of readme.matchAll(/\]\(([^)]+)\)/g)) assert.ok(existsSync(path.join(root, file as string)), file);
    for (const [, file] of readme.matchAll(/node (scripts\/\S+|test\/\S+)/g)) assert.ok(existsSync(path.join(root, file as string)), file);
    for (const folder of ['src/lib', 'src/model', 'src/core', 'src/platform', 'src/io', 'src/api', 'src/daemon', 'src/cli',
      'src/lab', 'native', 'test']) {
      assert.ok(existsSync(path.join(root, folder)), folder);
    }
  });

  it('the licence is the one package.json names', () => {
    assert.match(read('LICENSE'), /Apache License\s+Version 2\.0/);
    assert.equal((JSON.parse(read('package.json')) as { license: string }).license, 'Apache-2.0');
  });
});
