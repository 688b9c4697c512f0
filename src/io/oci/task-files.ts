// A task's directory and the record of it that outlives the agent. Everything adopt() needs is in here.
//   meta.json  this record            bundle/config.json  what the runtime runs    merged/ upper/ work/  overlay
//   log        k8s-file lines         exits/<cid>         written by conmon        exit.json  how it ended
//   etc/       hosts, hostname, resolv.conf               secrets/  tmpfs          oci.log    the runtime's errors

import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { ExitState } from '../../platform/executor.js';
import { writeFileAtomic } from './files.js';
import type { HealthCheck } from './health.js';

export interface TaskProcess {
  readonly pid: number;
  readonly start: string;
  readonly boot: string;
  readonly startedAtMs: number;
  readonly started: boolean;
}

export interface TaskRecord {
  readonly version: 1;
  readonly taskId: string;
  readonly containerId: string;
  readonly name: string;
  readonly image: string;
  readonly imageId: string;
  readonly command: string;
  readonly createdMs: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly stopSignal: number;
  readonly stopGraceMs: number;
  readonly tty: boolean;
  readonly logs: boolean;
  readonly maxLogBytes: number;
  readonly health: HealthCheck | undefined;
  readonly anonymousVolumes: readonly string[];
  /** Set once created; `started` once told to run. start and boot tell a recycled pid from the task's. */
  readonly process: TaskProcess | undefined;
}

export class TaskFiles {
  readonly directory: string;
  constructor(stateDir: string, taskId: string) {
    this.directory = path.join(stateDir, 'tasks', taskId);
  }
  at(...names: string[]): string {
    return path.join(this.directory, ...names);
  }
  get bundle(): string { return this.at('bundle'); }
  get merged(): string { return this.at('merged'); }
  get log(): string { return this.at('log'); }
  get exits(): string { return this.at('exits'); }

  readRecord(): TaskRecord | undefined {
    const record = readJson<TaskRecord>(this.at('meta.json'));
    return record?.version === 1 ? record : undefined;
  }
  writeRecord(record: TaskRecord): Promise<void> {
    return writeFileAtomic(this.at('meta.json'), JSON.stringify(record));
  }
  readExit(): ExitState | undefined {
    const exit = readJson<ExitState>(this.at('exit.json'));
    return typeof exit?.exitCode === 'number' ? exit : undefined;
  }
  writeExit(exit: ExitState): Promise<void> {
    return writeFileAtomic(this.at('exit.json'), JSON.stringify(exit));
  }
}

// Synchronous because Executor.controller() and Controller.state() are. A damaged file counts as none: the task is then
// lost, made again or removed, and the node goes on.
function readJson<T>(file: string): T | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as T;
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
