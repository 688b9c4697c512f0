// Ten minutes of faults among three managers, and among five.

import { chaosSuite } from '../system/chaos-suite.js';

const FAULTS_MS = Number(process.env.SKEIN_CHAOS_MINUTES ?? 10) * 60_000;

/** One of them alone: SKEIN_CHAOS_MANAGERS. */
const GROUPS = process.env.SKEIN_CHAOS_MANAGERS === undefined ? [3, 5] : [Number(process.env.SKEIN_CHAOS_MANAGERS)];

for (const managers of GROUPS) chaosSuite({ name: 'tslong', managers, faultsMs: FAULTS_MS, holdMaxMs: 25_000 });
