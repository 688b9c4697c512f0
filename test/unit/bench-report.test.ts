// The report of the control bench: which ratios it takes, and what it says of a peer that is left out.

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { makeReport, table, type Measured } from '../../bench/controlreport.js';

const MEASURED: Measured = {
  rounds: 3, sliceMs: 300, failovers: 2, dockerRounds: 1, unsupported: {}, peerVersions: { etcd: '3.4', docker: '20.10' },
  memoryMiB: { skein_manager: 100 }, nodes: { endpoint_3: 3 }, before: [0, 0, 0],
  samples: new Map([
    ['p50_1', new Map([['skein', [1000, 1000, 2000]], ['etcd', [2000, 1000, 1000]]])],
    ['gap_kill', new Map([['skein', [100, 200]], ['etcd', [1000, 1000]], ['docker', [10_000]]])],
    ['endpoint_3', new Map([['skein', [4, 5, 6]], ['docker', [1000, 1200]]])],
    ['told_3', new Map([['docker', [3000, 3200]]])],
  ]),
};

it('ratios are of each round, and of each endpoint change to the median of Docker', async () => {
  const { metrics, targets } = await makeReport(MEASURED);
  assert.deepEqual(metrics['p50_1']?.ratios, { etcd: { median: 1, lowerQuartile: 1.5, worst: 2 } });
  assert.deepEqual(metrics['gap_kill']?.ratios, {
    etcd: { median: 0.15, lowerQuartile: 0.175, worst: 0.2 },
    docker: { median: 0.01, lowerQuartile: 0.01, worst: 0.01 },
  });
  assert.deepEqual(metrics['endpoint_3']?.ratios, { docker: { median: 0.0045455, lowerQuartile: 0.005, worst: 0.0054545 } });
  assert.deepEqual(metrics['told_3']?.ratios, {});
  const target = targets.find(({ what }) => what.includes('ratio to Docker'));
  assert.deepEqual([target?.limit, target?.value, target?.met], [0.03, 0.005, true]);
});

it('without Docker there is no target for it, and the table says why', async () => {
  const samples: Measured['samples'] = new Map([...MEASURED.samples].map(([name, groups]) =>
    [name, new Map([...groups].filter(([group]) => group !== 'docker'))]));
  const report = await makeReport({ ...MEASURED, samples, unsupported: { docker: 'missing: dockerd' } });
  assert.ok(!report.targets.some(({ what }) => what.includes('Docker')));
  assert.ok(table(report).split('\n').includes('docker: missing: dockerd'));
  assert.match(table(await makeReport(MEASURED)), /^endpoint_3 +ms +5\.000 +- +1100 +- +- +- +0\.004546 +0\.005000 +0\.005455$/m);
});
