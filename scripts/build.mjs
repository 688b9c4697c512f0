// Builds everything that is built: TypeScript into dist/, the native data plane into build/.
// Skips what is already up to date (tsc is incremental, make compares times).
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync } from 'node:fs';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const run = (file, args) => execFileSync(file, args, { stdio: 'inherit', cwd: root });

const only = process.argv[2];
if (only !== 'native') {
  run(path.join(root, 'node_modules/.bin/tsc'), ['-p', 'tsconfig.json']);
  // Generated protobuf code is JavaScript with declarations: tsc does not copy it.
  mkdirSync(path.join(root, 'dist/src/model/proto'), { recursive: true });
  cpSync(path.join(root, 'src/model/proto'), path.join(root, 'dist/src/model/proto'), { recursive: true });
}
if (only !== 'ts' && existsSync(path.join(root, 'native/Makefile'))) {
  run('make', ['-C', 'native', '--no-print-directory', '-s', '-j2']);
}
