// The faults suite with tasks under conmon and runc or crun.

import { faultSuite } from './faults-suite.js';

faultSuite('tsfault1', 'oci');
