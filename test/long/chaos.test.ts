// Ten minutes of faults among three managers, and among five.

import { chaosSuite } from '../system/chaos-suite.js';

const FAULTS_MS = Number(process.env.SKEIN_CHAOS_MINUTES ?? 10) * 60_000;

for (const managers of [3, 5]) chaosSuite({ name: 'tslong', managers, faultsMs: FAULTS_MS, holdMaxMs: 25_000 });
