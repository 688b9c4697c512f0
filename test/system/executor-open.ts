// Opens the executor that a test names, in the test's process or in a child's.

import { OciExecutor } from '../../src/io/oci/executor.js';
import type { Executor } from '../../src/platform/executor.js';

export type OpenOptions = { readonly kind: 'oci'; readonly stateDir: string };

export function openExecutor(options: OpenOptions): Executor {
  return new OciExecutor({ stateDir: options.stateDir });
}
