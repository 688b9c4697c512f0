// The faults suite with tasks as containers of a real Docker Engine (Debian's docker.io).

import { faultSuite } from '../system/faults-suite.js';

faultSuite('tsfault2', 'docker');
