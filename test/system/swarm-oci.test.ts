// The swarm suite on the embedded runtime.

import { swarmSuite } from './swarm-suite.js';

swarmSuite('tsoci', 'oci');
