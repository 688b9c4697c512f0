// The swarm suite with tasks as containers of a real Docker Engine (Debian's docker.io).

import { swarmSuite } from '../system/swarm-suite.js';

swarmSuite('tsdocker', 'docker');
