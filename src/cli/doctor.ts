// `skein doctor`: what this machine offers, what will be used, and why. Exit status 1 when a node cannot run here.

import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { AGENT_DEFAULTS } from '../daemon/options.js';
import { DatapathClient } from '../io/datapath/client.js';
import { DockerExecutor } from '../io/docker/executor.js';
import { probeOci } from '../io/oci/probe.js';

interface Finding {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

export async function doctor(options: { json: boolean; runtime: 'auto' | 'oci' | 'docker'; dockerSocket: string }): Promise<number> {
  const scratch = await mkdtemp(path.join(os.tmpdir(), 'skein-doctor-'));
  try {
    const dataPlane = await new DatapathClient({ binary: AGENT_DEFAULTS.datapathBinary, runDir: scratch }).probe();
    const oci = await probeOci(scratch);
    const docker = await new DockerExecutor({ stateDir: scratch, socketPath: options.dockerSocket }).probe();
    const wantsDocker = options.runtime === 'docker';
    const runtime = wantsDocker
      ? { name: 'docker', ok: docker.ok, reason: docker.reason }
      : { name: oci.runtime === undefined ? 'oci' : `oci (${oci.runtime})`, ok: oci.runtime !== undefined, reason: oci.reason };
    const findings: Finding[] = [...dataPlane.findings, ...oci.findings, { name: 'docker', ok: docker.ok, detail: docker.reason }];
    const usable = dataPlane.supported && runtime.ok;
    if (options.json) {
      console.log(JSON.stringify({ usable, engine: { name: dataPlane.engine, ok: dataPlane.supported }, runtime, findings }, undefined, 2));
    } else {
      for (const { name, ok, detail } of findings) console.log(`${ok ? 'yes' : 'no '}  ${name.padEnd(18)} ${detail}`);
      console.log(`\nengine:  ${dataPlane.engine}${dataPlane.supported ? '' : ' (cannot run here: see above)'}`);
      console.log(`runtime: ${runtime.name}: ${runtime.reason}`);
      console.log(usable ? 'This machine can be a node.' : 'This machine cannot be a node yet: mend what is marked "no" above.');
    }
    return usable ? 0 : 1;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}
