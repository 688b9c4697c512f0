// Builds, then runs the simulator: `npm run sim -- --seed N [--seeds COUNT] [--minutes M] [--raft] [--trace]`. See test/sim/main.ts.
import { spawnSync } from 'node:child_process';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const run = (file, args) => {
  const { status } = spawnSync(process.execPath, ['--enable-source-maps', path.join(root, file), ...args], { stdio: 'inherit', cwd: root });
  if (status !== 0) process.exit(status ?? 1);
};
run('scripts/build.mjs', ['ts']);
run('dist/test/sim/main.js', process.argv.slice(2));
