// Opens the executor that a test names, in the test's process or in a child's.

import { DockerExecutor } from '../../src/io/docker/executor.js';
import { OciExecutor } from '../../src/io/oci/executor.js';
import type { Executor } from '../../src/platform/executor.js';

export type OpenOptions =
  | { readonly kind: 'oci'; readonly stateDir: string }
  | { readonly kind: 'docker'; readonly stateDir: string; readonly socketPath: string; readonly netnsDirectory: string };

export function openExecutor(options: OpenOptions): Executor {
  return options.kind === 'oci' ? new OciExecutor(options) : new DockerExecutor(options);
}
