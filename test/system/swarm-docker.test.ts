// The swarm suite with tasks as containers of a real Docker Engine (Debian's docker.io).

import { swarmSuite } from './swarm-suite.js';

swarmSuite('tsdocker', 'docker');
