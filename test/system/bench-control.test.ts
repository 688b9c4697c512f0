// The control bench in its quick form: its figures are there and positive, and nothing stays behind. Never its timing.

import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import os from 'node:os';
import { test } from 'node:test';
import type { ControlReport } from '../../bench/control.js';
import { command, SKEIN } from './fixture.js';

const QUICK = ['bench', 'control', '--json', '--rounds', '1', '--slice', '100ms', '--failovers', '1'];

test('bench control: every figure is there and positive, and everything is removed', { timeout: 180_000 }, async () => {
  const left = async (): Promise<string[]> => (await readdir(os.tmpdir())).filter((name) => name.startsWith('skein-bench-'));
  const before = await left();
  const { stdout } = await command(process.execPath, [SKEIN, ...QUICK], { timeoutMs: 150_000 });
  const report = JSON.parse(stdout) as ControlReport;
  assert.equal(report.bench, 'control');
  assert.ok(report.unsupported === null || report.unsupported.startsWith('unsupported: '));
  const groups = report.unsupported === null ? ['etcd', 'skein'] : ['skein'];
  for (const name of ['writes_1', 'writes_64', 'writes_512', 'p50_1', 'p50_64', 'p50_512', 'gap_kill', 'gap_handover', 'endpoint', 'cpu_512']) {
    const metric = report.metrics[name];
    assert.ok(metric !== undefined, name);
    assert.deepEqual(Object.keys(metric.groups).sort(), name === 'endpoint' ? ['skein'] : groups, name);
    assert.equal(metric.ratio === null, name === 'endpoint' || groups.length === 1, name);
    for (const { median, lowerQuartile, worst } of Object.values(metric.groups)) {
      // The clock of CPU time counts in 10 ms: a slice may be shorter than what it can tell.
      for (const value of [median, lowerQuartile, worst]) assert.ok(Number.isFinite(value) && value >= (name.startsWith('cpu') ? 0 : 1e-9), name);
    }
  }
  assert.ok((report.memoryMiB['skein_manager'] ?? 0) > 0 && (report.memoryMiB['skein_worker'] ?? 0) > 0);
  assert.equal(report.nodes, 4);
  assert.equal(report.targets.length, 6);
  for (const target of report.targets) assert.equal(typeof target.met, 'boolean');
  assert.deepEqual(await left(), before);
});
