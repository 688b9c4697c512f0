// Preparing a task: image, overlay root, files, mounts, config.json, and the record that makes it count.

import { randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { AppFailure, appError } from '../../lib/result.js';
import type { ContainerSpec, Task } from '../../model/proto/swarmkit_pb.js';
import type { ImageSummary, TaskEnvironment } from '../../platform/executor.js';
import type { LocalImageStore } from '../images/store.js';
import { parseReference } from '../../model/image-reference.js';
import { writeEtcFiles } from './etc-files.js';
import { ensureDirectory, scopedPath } from './files.js';
import { durationMs, healthCheck } from './health.js';
import { mountOverlay } from './mounts.js';
import { parseSignal } from './signals.js';
import { ociConfig } from './spec.js';
import { secretMounts, specMounts, standardMounts } from './spec-mounts.js';
import { imageProcess, processArgs } from './spec-process.js';
import type { TaskFiles, TaskRecord } from './task-files.js';

const defaultStopGraceMs = 10_000;
export const defaultMaxLogBytes = 64 * 1024 * 1024;

export function containerSpec(task: Task): ContainerSpec {
  const runtime = task.spec?.runtime;
  if (runtime?.case !== 'container') throw new AppFailure(appError('unimplemented', 'task is not a container'));
  return runtime.value;
}

/** Docker shows the tag that was meant. */
export function noSuchImage(reference: string): AppFailure {
  const parsed = parseReference(reference);
  const shown = parsed === undefined || parsed.digest !== undefined || parsed.tag === undefined ? reference : `${parsed.name}:${parsed.tag}`;
  return new AppFailure(appError('not_found', `No such image: ${shown}`));
}

export interface PrepareContext {
  readonly stateDir: string;
  readonly images: LocalImageStore;
  readonly files: TaskFiles;
  readonly cgroupsPath: string;
  /** What tasks on the machine's own root must not see. */
  readonly hiddenPaths: readonly string[];
}

export async function prepareTask(context: PrepareContext, task: Task, environment: TaskEnvironment): Promise<TaskRecord> {
  const { stateDir, files } = context;
  const spec = containerSpec(task);
  const image = await context.images.inspect(spec.image);
  if (image === undefined) throw noSuchImage(spec.image);
  const process = imageProcess(image.config);
  const health = healthCheck(spec, image.config);
  const stopSignal = parseSignal(spec.stopSignal || process.stopSignal || 'SIGTERM');
  const logs = logOptions(task);
  const isHost = await mountRoot(context, image);
  await writeEtcFiles(files, environment);
  const own = await specMounts(stateDir, files, spec, process.volumes);
  const secrets = await secretMounts(files, spec, environment);
  const config = await ociConfig({
    task, spec, environment, image: process, root: files.merged,
    mounts: [...standardMounts(files, isHost), ...own.mounts, ...secrets],
    cgroupsPath: context.cgroupsPath,
    hiddenPaths: isHost ? context.hiddenPaths : [],
  });
  const cwd = (config['process'] as { cwd: string }).cwd;
  await mkdir(await scopedPath(files.merged, cwd), { recursive: true });
  await ensureDirectory(files.bundle);
  // JSON has no 64-bit integers; inside a string the quotes would be escaped, so only the field can match.
  const json = JSON.stringify(config).replace(/"(soft|hard)":18446744073709552000/g, '"$1":18446744073709551615');
  await writeFile(files.at('bundle', 'config.json'), json, { mode: 0o600 });
  return {
    version: 1, taskId: task.id, containerId: randomBytes(32).toString('hex'), name: environment.name,
    image: spec.image, imageId: image.id, command: processArgs(process, spec.command, spec.args).join(' '),
    createdMs: Date.now(), labels: environment.labels, stopSignal,
    stopGraceMs: spec.stopGracePeriod === undefined ? defaultStopGraceMs : durationMs(spec.stopGracePeriod),
    tty: spec.tty, ...logs, health, anonymousVolumes: own.anonymousVolumes, process: undefined,
  };
}

async function mountRoot(context: PrepareContext, image: ImageSummary): Promise<boolean> {
  const { files } = context;
  const root = await context.images.root(image.id);
  for (const name of ['upper', 'work', 'merged']) await ensureDirectory(files.at(name), 0o755);
  await mountOverlay({ layers: root.layers, layersDirectory: root.layersDirectory, upper: files.at('upper'), work: files.at('work'), target: files.merged });
  return root.isHost;
}

function logOptions(task: Task): { logs: boolean; maxLogBytes: number } {
  const driver = task.logDriver ?? task.spec?.logDriver;
  const name = driver?.name ?? '';
  if (name === 'none') return { logs: false, maxLogBytes: defaultMaxLogBytes };
  if (name !== '' && name !== 'json-file' && name !== 'local') {
    throw new AppFailure(appError('invalid_argument', `error looking up logging plugin ${name}: plugin "${name}" not found`));
  }
  const size = driver?.options.find(({ key }) => key === 'max-size')?.value;
  const match = /^(\d+)([kmg]?)b?$/i.exec(size ?? '');
  if (size !== undefined && match === null) throw new AppFailure(appError('invalid_argument', `invalid value for max-size: ${size}`));
  const units: Readonly<Record<string, number>> = { '': 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3 };
  const bytes = match === null ? defaultMaxLogBytes : Number(match[1]) * (units[(match[2] ?? '').toLowerCase()] ?? 1);
  // conmon's own floor: a buffer of its.
  return { logs: true, maxLogBytes: Math.max(bytes, 64 * 1024) };
}
