// The control bench in its quick form: its figures are there and positive, and nothing stays behind. Never its timing.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile, readdir } from 'node:fs/promises';
import os from 'node:os';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { missingTools, type ControlReport } from '../../bench/control.js';
import { command, SKEIN } from './fixture.js';

const PEER = missingTools(true) === undefined;
const QUICK = ['bench', 'control', '--json', '--rounds', '1', '--slice', '100ms', '--failovers', '1', '--agents', '3,6',
  ...(PEER ? [] : ['--no-peer'])];
const OURS_ONLY = ['endpoint_3', 'endpoint_6', 'api_writes_64', 'api_p50_64', 'schedule'];

const left = async (): Promise<string[]> => (await readdir(os.tmpdir())).filter((name) => name.startsWith('skein-bench-'));

test('bench control: every figure is there and positive, and everything is removed', { timeout: 180_000 }, async () => {
  const before = await left();
  const { stdout } = await command(process.execPath, [SKEIN, ...QUICK], { timeoutMs: 150_000 });
  const report = JSON.parse(stdout) as ControlReport;
  assert.equal(report.bench, 'control');
  assert.equal(report.unsupported === null, PEER);
  const groups = PEER ? ['etcd', 'skein'] : ['skein'];
  const both = ['writes_1', 'writes_64', 'writes_512', 'p50_1', 'p50_64', 'p50_512', 'gap_kill', 'gap_handover', 'cpu_512'];
  for (const name of [...both, ...OURS_ONLY]) {
    const metric = report.metrics[name];
    assert.ok(metric !== undefined, name);
    assert.deepEqual(Object.keys(metric.groups).sort(), OURS_ONLY.includes(name) ? ['skein'] : groups, name);
    assert.equal(metric.ratio === null, OURS_ONLY.includes(name) || groups.length === 1, name);
    for (const { median, lowerQuartile, worst } of Object.values(metric.groups)) {
      // The clock of CPU time counts in 10 ms: a slice may be shorter than what it can tell.
      const least = name.startsWith('cpu') ? 0 : 1e-9;
      for (const value of [median, lowerQuartile, worst]) assert.ok(Number.isFinite(value) && value >= least, name);
    }
  }
  assert.ok((report.memoryMiB['skein_manager'] ?? 0) > 0 && (report.memoryMiB['skein_worker'] ?? 0) > 0);
  assert.deepEqual(report.nodes, { endpoint_3: 3, endpoint_6: 6 });
  assert.equal(report.targets.length, 8);
  for (const target of report.targets) assert.equal(typeof target.met, 'boolean');
  assert.deepEqual(await left(), before);
});

test('bench control: interrupted at any moment, it ends soon and leaves nothing', { timeout: 120_000 }, async () => {
  for (const [signal, afterMs] of [['SIGINT', 1500], ['SIGTERM', 6000]] as const) {
    const before = await left();
    const child = spawn(process.execPath, [SKEIN, ...QUICK], { stdio: 'ignore' });
    const ended = once(child, 'exit') as Promise<[number | null]>;
    await sleep(afterMs);
    const processes = await ofRun(child.pid as number);
    assert.ok(processes.length > 0);
    child.kill(signal);
    assert.equal((await ended)[0], 130);
    assert.deepEqual(await left(), before);
    assert.deepEqual(processes.filter((pid) => existsSync(`/proc/${pid}`)), []);
  }
});

/** All that a process has started, and what these have. */
async function ofRun(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  const children = text.trim().split(' ').filter((each) => each !== '').map(Number);
  return [...children, ...(await Promise.all(children.map(ofRun))).flat()];
}

test('bench control: says which tools are missing, and of which packages they come', () => {
  const all = /^bench: missing: setpriv, unshare, ip, etcd, gcc \(apt-get install util-linux iproute2 etcd-server gcc\)$/;
  assert.match(missingTools(true, '/nowhere') ?? '', all);
  assert.match(missingTools(false, '/nowhere') ?? '', /^bench: missing: setpriv, unshare, ip \(apt-get install util-linux iproute2\)$/);
});
