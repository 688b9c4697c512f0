// The control bench in its quick form: its figures are there and positive, and nothing stays behind. Never its timing.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { leftOut, missingTools, type ControlReport } from '../../bench/control.js';
import { interrupted, remains } from './bench-run.js';
import { command, SKEIN } from './fixture.js';

const PEER = missingTools(true) === undefined;
const DOCKER = PEER && !('docker' in leftOut({ peer: true, docker: true }));
// Without the ends of Docker's leader, which take half a minute each: test/long/bench-control.test.ts has them.
const QUICK = ['bench', 'control', '--json', '--rounds', '1', '--slice', '100ms', '--failovers', '1', '--agents', '3,6',
  '--docker-rounds', '0', ...(PEER ? [] : ['--no-peer'])];
const OURS_ONLY = ['endpoint_3', 'endpoint_6', 'schedule'];
const API = ['api_writes_1', 'api_p50_1', 'api_writes_64', 'api_p50_64', 'api_cpu_64', 'api_writes_512', 'api_p50_512'];

test('bench control: every figure is there and positive, and everything is removed', { timeout: 240_000 }, async () => {
  const before = await remains();
  const { stdout } = await command(process.execPath, [SKEIN, ...QUICK], { timeoutMs: 220_000 });
  const report = JSON.parse(stdout) as ControlReport;
  assert.equal(report.bench, 'control');
  const peers = [...(PEER ? ['etcd'] : []), ...(DOCKER ? ['docker'] : [])];
  assert.deepEqual(Object.keys(report.unsupported).sort(), ['docker', 'etcd'].filter((peer) => !peers.includes(peer)));
  assert.deepEqual(Object.keys(report.versions).filter((name) => name in report.unsupported), []);
  const both = ['writes_1', 'writes_64', 'writes_512', 'p50_1', 'p50_64', 'p50_512', 'gap_kill', 'gap_handover', 'cpu_512'];
  for (const name of [...both, ...API, ...OURS_ONLY]) {
    const metric = report.metrics[name];
    assert.ok(metric !== undefined, name);
    const beside = peers.filter((peer) => peer === 'etcd' ? both.includes(name) : API.includes(name));
    assert.deepEqual(Object.keys(metric.groups).sort(), [...beside, 'skein'], name);
    assert.deepEqual(Object.keys(metric.ratios), beside, name);
    for (const { median, lowerQuartile, worst } of Object.values(metric.groups)) {
      // The clock of CPU time counts in 10 ms: a slice may be shorter than what it can tell.
      const least = name.includes('cpu') ? 0 : 1e-9;
      for (const value of [median, lowerQuartile, worst]) assert.ok(Number.isFinite(value) && value >= least, name);
    }
  }
  const idle = { skein: ['manager', 'worker'], etcd: ['member'], docker: ['manager', 'worker'] };
  const memory = Object.entries(idle).filter(([group]) => group === 'skein' || peers.includes(group))
    .flatMap(([group, roles]) => roles.map((role) => `${group}_${role}`));
  assert.deepEqual(Object.keys(report.memoryMiB), memory);
  for (const mib of Object.values(report.memoryMiB)) assert.ok(mib > 0);
  assert.deepEqual(report.nodes, { endpoint_3: 3, endpoint_6: 6 });
  assert.equal(report.targets.length, 8);
  for (const target of report.targets) assert.equal(typeof target.met, 'boolean');
  assert.deepEqual(await remains(), before);
});

test('bench control: interrupted at any moment, it ends soon and leaves nothing', { timeout: 180_000 }, async () => {
  await interrupted(QUICK, 'SIGINT', 'starting skein', 1500);
  // The last peer: those before it run then.
  await interrupted(QUICK, 'SIGTERM', DOCKER ? 'starting docker' : PEER ? 'starting etcd' : 'warming up', 1000);
});

test('bench control: says which tools are missing, and of which packages they come', () => {
  const all = /^bench: missing: setpriv, unshare, ip, etcd, gcc \(apt-get install util-linux iproute2 etcd-server gcc\)$/;
  assert.match(missingTools(true, '/nowhere') ?? '', all);
  assert.match(missingTools(false, '/nowhere') ?? '', /^bench: missing: setpriv, unshare, ip \(apt-get install util-linux iproute2\)$/);
});

test('bench control: a machine without Docker leaves out Docker alone, and says why', () => {
  const both = { peer: true, docker: true };
  assert.match(leftOut(both, '/nowhere')['docker'] ?? '', /^missing: dockerd, .* \(apt-get install docker\.io /);
  assert.deepEqual(Object.keys(leftOut(both, '/nowhere')), ['docker']);
  assert.deepEqual(Object.keys(leftOut({ peer: true, docker: false })), ['docker']);
  assert.deepEqual(Object.keys(leftOut({ peer: false, docker: true })).sort(), ['docker', 'etcd']);
});
