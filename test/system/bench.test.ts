// The overlay bench in its quick form: its shape and sanity, and that nothing stays behind. Never its timing.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import type { MetricReport, OverlayReport } from '../../bench/overlay.js';
import { labNames } from '../../src/lab/teardown.js';
import { command, SKEIN } from './fixture.js';

const QUICK = ['bench', 'overlay', '--json', '--rounds', '1', '--slice', '200ms'];

async function assertGone(pid: number): Promise<void> {
  const { stdout } = await command('ip', ['netns', 'list']);
  assert.ok(!stdout.includes(`skein-bench${pid}-`), stdout);
  assert.ok(!(await labNames()).includes(`bench${pid}`));
}

async function bench(args: readonly string[], stopAtRound: boolean): Promise<{ pid: number; code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [SKEIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk) => { output.stdout += String(chunk); });
  child.stderr.on('data', (chunk) => {
    output.stderr += String(chunk);
    if (stopAtRound && output.stderr.includes('round 1 of')) child.kill('SIGINT');
  });
  const [code] = await once(child, 'close') as [number | null];
  return { pid: child.pid ?? 0, code, ...output };
}

test('bench overlay: every figure is there and positive, and everything is removed', { timeout: 180_000 }, async () => {
  const { pid, code, stdout, stderr } = await bench(QUICK, false);
  assert.equal(code, 0, stderr);
  const report = JSON.parse(stdout) as OverlayReport;
  assert.equal(report.bench, 'overlay');
  assert.equal(report.rounds, 1);
  assert.equal(report.sliceMs, 200);
  assert.match(report.versions['kernel'] ?? '', /^Linux /);
  for (const name of ['stream', 'rr_p50', 'crr_p50', 'udp64_delivered', 'udp64_loss', 'stream_cpu', 'rr_cpu', 'crr_cpu', 'udp_cpu', 'rr_cpu_machine']) {
    const metric = report.metrics[name] as MetricReport;
    assert.ok(metric, name);
    assert.deepEqual(Object.keys(metric.paths).sort(), ['skein', 'veth', 'vxlan'], name);
    assert.deepEqual(Object.keys(metric.ratios).sort(), name === 'udp64_loss' ? [] : ['veth', 'vxlan'], name);
    for (const summary of [...Object.values(metric.paths), ...Object.values(metric.ratios)]) {
      // The machine's clock counts in 10 ms: a slice may be shorter than what it can tell.
      const least = name === 'udp64_loss' || name.endsWith('_machine') ? 0 : Number.MIN_VALUE;
      for (const value of [summary.median, summary.lowerQuartile, summary.worst]) assert.ok(Number.isFinite(value) && value >= least, `${name}: ${JSON.stringify(metric)}`);
    }
  }
  assert.equal(report.targets.length, 2);
  for (const target of report.targets) assert.equal(typeof target.met, 'boolean');
  await assertGone(pid);
});

test('bench overlay: SIGINT in the middle of a run removes everything', { timeout: 180_000 }, async () => {
  const { pid, code, stdout } = await bench(['bench', 'overlay', '--rounds', '50'], true);
  assert.equal(code, 130);
  assert.equal(stdout, '');
  await assertGone(pid);
});
