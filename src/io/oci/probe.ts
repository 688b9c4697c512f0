// probeOci: finds a runtime that really runs a container on this machine, and says why another does not.
// The probe is a whole container over the machine's own root: overlayfs, namespaces, a memory cgroup, seccomp.

import { randomBytes } from 'node:crypto';
import { access, constants, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { gather } from './files.js';
import { removeCgroups } from './exit.js';
import { mountOverlay, unmountBelow } from './mounts.js';
import { run } from './run.js';
import { seccompProfile } from './seccomp.js';

export interface OciProbe {
  readonly runtime: 'runc' | 'crun' | undefined;
  readonly path: string;
  /** Why this one, or why none. */
  readonly reason: string;
  readonly findings: readonly { readonly name: string; readonly ok: boolean; readonly detail: string }[];
}

type Finding = OciProbe['findings'][number];

export async function findProgram(name: string): Promise<string | undefined> {
  for (const directory of [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin', '/usr/bin', '/bin']) {
    if (directory === '') continue;
    const file = path.join(directory, name);
    if (await access(file, constants.X_OK).then(() => true, () => false)) return file;
  }
  return undefined;
}

/** `scratch` must lie on a file system that can hold overlayfs upper layers. */
export async function probeOci(scratch: string, wanted: 'auto' | 'runc' | 'crun' = 'auto'): Promise<OciProbe> {
  const findings: Finding[] = [];
  for (const name of ['conmon', 'tar', 'mount', 'umount']) {
    const file = await findProgram(name);
    findings.push({ name, ok: file !== undefined, detail: file ?? 'not installed' });
  }
  const missing = findings.filter((finding) => !finding.ok);
  if (missing.length > 0) return { runtime: undefined, path: '', reason: `not installed: ${missing.map(({ name }) => name).join(', ')}`, findings };
  // crun is three times faster to start, so it is preferred where it works.
  for (const name of wanted === 'auto' ? (['crun', 'runc'] as const) : [wanted]) {
    const file = await findProgram(name);
    const detail = file === undefined ? 'not installed' : await tryRuntime(file, scratch);
    findings.push({ name, ok: detail === '', detail: detail === '' ? (file ?? '') : detail });
    if (detail === '' && file !== undefined) {
      const refused = findings.find((finding) => finding.name === 'crun' && !finding.ok);
      const reason = refused === undefined ? `${name} ran a test container` : `${name} ran a test container; crun did not: ${refused.detail}`;
      return { runtime: name, path: file, reason, findings };
    }
  }
  const reason = findings.filter((finding) => !finding.ok).map(({ name, detail }) => `${name}: ${detail}`).join('; ');
  return { runtime: undefined, path: '', reason, findings };
}

/** Empty when a container ran, else why it did not. */
async function tryRuntime(file: string, scratch: string): Promise<string> {
  await mkdir(scratch, { recursive: true });
  const directory = await mkdtemp(path.join(scratch, 'probe-'));
  const id = `skein-probe-${randomBytes(8).toString('hex')}`;
  const cgroupsPath = `/skein/${id}`;
  const root = ['--root', path.join(directory, 'state')];
  try {
    for (const name of ['upper', 'work', 'merged', 'bundle']) await mkdir(path.join(directory, name));
    const merged = path.join(directory, 'merged');
    await mountOverlay({ layers: ['/'], layersDirectory: directory, upper: path.join(directory, 'upper'), work: path.join(directory, 'work'), target: merged });
    await writeFile(path.join(directory, 'bundle', 'config.json'), JSON.stringify(probeConfig(merged, cgroupsPath)));
    const result = await run(file, [...root, 'run', '--bundle', path.join(directory, 'bundle'), id], { timeoutMs: 20_000 });
    return result.code === 0 ? '' : (result.stderr.trim().split('\n').at(-1) ?? '') || `exit status ${result.code}`;
  } catch (error) {
    return (error as Error).message;
  } finally {
    await run(file, [...root, 'delete', '--force', id], { timeoutMs: 20_000 });
    await gather('probe', [
      () => unmountBelow(directory),
      () => removeCgroups(cgroupsPath),
      () => rm(directory, { recursive: true, force: true }),
    ]);
  }
}

function probeConfig(root: string, cgroupsPath: string): Record<string, unknown> {
  const capabilities = ['CAP_KILL'];
  return {
    ociVersion: '1.0.2',
    hostname: os.hostname(),
    root: { path: root, readonly: true },
    process: {
      terminal: false, user: { uid: 0, gid: 0 }, args: ['/bin/sh', '-c', 'exit 0'], env: ['PATH=/usr/bin:/bin'], cwd: '/',
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    },
    mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
    linux: {
      cgroupsPath,
      namespaces: ['pid', 'ipc', 'uts', 'mount', 'network', 'cgroup'].map((type) => ({ type })),
      resources: { memory: { limit: 256 * 1024 * 1024 }, pids: { limit: 64 } },
      seccomp: seccompProfile(capabilities),
    },
  };
}
