// The control bench beside a Docker Swarm with all that is measured of it: elections and endpoint changes take it too long
// for the quick form. Its figures are there and of the size that is documented, and nothing stays behind.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { leftOut, missingTools, type ControlReport } from '../../bench/control.js';
import { interrupted, remains } from '../system/bench-run.js';
import { command, SKEIN } from '../system/fixture.js';

const ARGS = ['bench', 'control', '--json', '--rounds', '1', '--slice', '100ms', '--failovers', '1', '--agents', '3',
  '--docker-rounds', '1'];
/** No sooner can it elect: ten ticks of a second. */
const ELECTION_MIN_MS = 5000;
/** Between that its DNS forgets a task and that it ends it. */
const CONVERGE_MS = 2000;

describe('bench control beside Docker', { timeout: 900_000 }, () => {
  const reason = missingTools(true) ?? leftOut({ peer: true, docker: true })['docker'];
  const skip = reason === undefined ? false : `unsupported: ${reason}`;

  test('its leader is killed and handed over, and an endpoint leaves it', { skip }, async () => {
    const before = await remains();
    const { code, stdout, stderr } = await command(process.execPath, [SKEIN, ...ARGS], { timeoutMs: 400_000 });
    assert.equal(code, 0, stderr);
    const report = JSON.parse(stdout) as ControlReport;
    assert.deepEqual(report.unsupported, {});
    const median = (name: string, group: string): number => report.metrics[name]?.groups[group]?.median ?? NaN;
    console.error(JSON.stringify({ metrics: report.metrics, targets: report.targets, load: report.load }));
    assert.ok(median('gap_kill', 'docker') > ELECTION_MIN_MS, `${median('gap_kill', 'docker')} ms`);
    assert.ok(median('gap_handover', 'docker') > 0);
    for (const name of ['gap_kill', 'gap_handover']) assert.deepEqual(Object.keys(report.metrics[name]?.ratios ?? {}), ['etcd', 'docker']);
    assert.deepEqual(Object.keys(report.metrics['endpoint_3']?.ratios ?? {}), ['docker']);
    assert.ok(median('endpoint_3', 'docker') > 0);
    assert.ok(median('told_3', 'docker') > CONVERGE_MS, `${median('told_3', 'docker')} ms`);
    assert.deepEqual(report.metrics['told_3']?.ratios, {});
    assert.ok(report.targets.some(({ what, value }) => what.includes('to Docker') && value !== null));
    assert.deepEqual(await remains(), before);
  });

  test('interrupted while containers run, and while it has no leader, it leaves nothing', { skip }, async () => {
    for (const afterMs of [1000, 6000]) await interrupted(ARGS, 'SIGTERM', 'docker: endpoint changes', afterMs);
    await interrupted(ARGS, 'SIGINT', 'docker: the leader gets a SIGKILL', 3000);
  });
});
