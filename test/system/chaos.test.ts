// A minute of faults among three managers; test/long has ten.

import { chaosSuite } from './chaos-suite.js';

chaosSuite({ name: 'tschaos', managers: 3, faultsMs: 60_000, holdMaxMs: 6000 });
