// conmon: one small process per task that owns its stdio and log file and writes its exit status to a file, so that
// the agent may come and go. Here: creating a container under it.

import { spawn } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { AppFailure, appError } from '../../lib/result.js';
import { ensureDirectory, exists, readText } from './files.js';
import type { TaskFiles, TaskRecord } from './task-files.js';

const createTimeoutMs = 60_000;
const conmonCgroup = 'skein/conmon';
const maxReportBytes = 64 * 1024;

export interface Runtime {
  readonly name: 'runc' | 'crun';
  readonly path: string;
  /** Where the runtime keeps its own state. */
  readonly root: string;
}

/** Creates the container; resolves with the pid of its init, which waits for the runtime's `start`. */
export async function createUnderConmon(runtime: Runtime, files: TaskFiles, record: TaskRecord): Promise<number> {
  await ensureDirectory(files.exits);
  await rm(files.at('oci.log'), { force: true });
  const args = [
    '--api-version', '1', '-c', record.containerId, '-u', record.containerId, '-n', record.name.slice(0, 200), '-r', runtime.path,
    '-b', files.bundle, '-p', files.at('pid'), '-P', files.at('conmon.pid'), '--exit-dir', files.exits, '--persist-dir', files.at('persist'),
    '-l', record.logs ? `k8s-file:${files.log}` : 'none', '--log-size-max', String(record.maxLogBytes), '--log-level', 'error',
    '--full-attach', '--no-sync-log',
    ...['--root', runtime.root, '--log-format=json', `--log=${files.at('oci.log')}`].flatMap((arg) => ['--runtime-arg', arg]),
    ...(record.tty ? ['-t'] : []),
  ];
  await ensureDirectory(files.at('persist'));
  const report = await runConmon(args, files.bundle);
  const pid = report.data ?? report.pid ?? -1;
  if (pid > 0) {
    await leaveAgentCgroup(Number((await readText(files.at('conmon.pid'))) ?? 0));
    return pid;
  }
  throw new AppFailure(appError('invalid_argument', await runtimeError(files, report.message ?? 'conmon failed')));
}

/**
 * conmon must outlive the agent's service: a service manager that stops a service kills its whole cgroup. cpu and
 * cpuset groups do not matter for that.
 */
async function leaveAgentCgroup(pid: number): Promise<void> {
  if (pid <= 0) return;
  const hierarchies = (await exists('/sys/fs/cgroup/cgroup.controllers')) ? [''] : ['systemd', 'unified', 'memory', 'pids'];
  for (const hierarchy of hierarchies) {
    const root = path.join('/sys/fs/cgroup', hierarchy);
    if (!(await exists(root))) continue;
    await mkdir(path.join(root, conmonCgroup), { recursive: true });
    await writeFile(path.join(root, conmonCgroup, 'cgroup.procs'), String(pid)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ESRCH') throw error; // Ended already, with the task.
    });
  }
}

interface Report {
  readonly data?: number;
  readonly pid?: number;
  readonly message?: string;
}

/** conmon reports one JSON line on the pipe and keeps it open for as long as the task runs, so only a line is read. */
function runConmon(args: readonly string[], cwd: string): Promise<Report> {
  return new Promise((resolve, reject) => {
    const environment = { PATH: process.env['PATH'] ?? '', _OCI_SYNCPIPE: '3' };
    const child = spawn('conmon', args, { cwd, stdio: ['ignore', 'ignore', 'pipe', 'pipe'], detached: true, env: environment });
    const pipe = child.stdio[3] as import('node:net').Socket;
    let text = '';
    let errors = '';
    const finish = (act: () => void): void => {
      clearTimeout(timer);
      pipe.destroy();
      child.stderr?.destroy();
      child.unref();
      act();
    };
    const report = (): void => {
      const line = text.split('\n', 1)[0] ?? '';
      try {
        const parsed = JSON.parse(line) as Report;
        finish(() => resolve(parsed));
      } catch {
        finish(() => reject(new AppFailure(appError('internal', `conmon: ${(errors || line || 'ended without a report').trim().slice(0, 4096)}`))));
      }
    };
    const timer = setTimeout(() => finish(() => reject(new AppFailure(appError('deadline_exceeded', 'conmon did not report in time')))), createTimeoutMs);
    pipe.on('data', (chunk: Buffer) => {
      if (text.length < maxReportBytes) text += chunk.toString('utf8');
      if (text.includes('\n')) report();
    });
    pipe.on('end', report);
    pipe.on('error', report);
    child.stderr?.on('data', (chunk: Buffer) => {
      if (errors.length < maxReportBytes) errors += chunk.toString('utf8');
    });
    child.on('error', (error) => finish(() => reject(new AppFailure(appError('unavailable', `cannot run conmon: ${error.message}`)))));
  });
}

/** The runtime's last error, in the frame that Docker puts around it. */
export async function runtimeError(files: TaskFiles, fallback: string): Promise<string> {
  const lines = ((await readText(files.at('oci.log'))) ?? '').split('\n').filter((line) => line.startsWith('{'));
  let message = fallback.trim();
  for (const line of lines) {
    const entry = JSON.parse(line) as { level?: string; msg?: string };
    if (entry.level === 'error' && entry.msg !== undefined) message = entry.msg;
  }
  return `failed to create task for container: failed to create shim task: OCI runtime create failed: ${message}: unknown`;
}
