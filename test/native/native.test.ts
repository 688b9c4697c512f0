// Builds and runs the C tests (ASan, UBSan): unit tests and a few seconds of fuzzing.

import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';

test('native unit tests and fuzzers', { timeout: 300_000 }, () => {
  execFileSync('make', ['-s', '-C', path.resolve(import.meta.dirname, '../../../native'), 'test'], { stdio: ['ignore', 'inherit', 'inherit'] });
});
