// The mounts of a task: Docker's standard ones, its three files in /etc, the spec's binds, volumes and tmpfs, secrets
// and configs. Prepares host-side sources (volume directories, secret files) as it goes.

import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { AppFailure, appError } from '../../lib/result.js';
import { type ContainerSpec, type FileTarget, type Mount, Mount_BindOptions_Propagation, Mount_Type } from '../../model/proto/swarmkit_pb.js';
import type { TaskEnvironment } from '../../platform/executor.js';
import { ensureDirectory, exists, isMissing, scopedPath } from './files.js';
import { mountTmpfs } from './mounts.js';
import { mustRun } from './run.js';
import type { TaskFiles } from './task-files.js';

export interface OciMount {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

const volumeName = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;
const maxSecretBytes = 64 * 1024 * 1024;

export function standardMounts(files: TaskFiles, isHost: boolean): OciMount[] {
  const tmpfs = (destination: string, ...options: string[]): OciMount => ({ destination, type: 'tmpfs', source: 'tmpfs', options });
  const etc = (name: string): OciMount => ({ destination: `/etc/${name}`, type: 'bind', source: files.at('etc', name), options: ['rbind', 'rprivate'] });
  return [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    tmpfs('/dev', 'nosuid', 'strictatime', 'mode=755', 'size=65536k'),
    { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'] },
    { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
    { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: ['ro', 'nosuid', 'noexec', 'nodev'] },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
    tmpfs('/dev/shm', 'nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'),
    // The machine's own root: none of its run-time state shows.
    ...(isHost ? [tmpfs('/run', 'nosuid', 'nodev', 'mode=755'), tmpfs('/tmp', 'nosuid', 'nodev', 'mode=1777'), tmpfs('/root', 'nosuid', 'nodev', 'mode=700')] : []),
    etc('resolv.conf'), etc('hostname'), etc('hosts'),
  ];
}

export interface SpecMounts {
  readonly mounts: readonly OciMount[];
  readonly anonymousVolumes: readonly string[];
}

export async function specMounts(stateDir: string, files: TaskFiles, spec: ContainerSpec, imageVolumes: readonly string[]): Promise<SpecMounts> {
  const mounts: OciMount[] = [];
  const anonymousVolumes: string[] = [];
  const targets = new Set<string>();
  for (const mount of spec.mounts) {
    checkTarget(mount);
    const target = path.posix.normalize(mount.target);
    if (targets.has(target)) throw new AppFailure(appError('invalid_argument', `Duplicate mount point: ${target}`));
    targets.add(target);
    mounts.push(await specMount(stateDir, files, mount, anonymousVolumes));
  }
  for (const target of imageVolumes) {
    if (targets.has(path.posix.normalize(target))) continue;
    mounts.push(await volumeMount(stateDir, files, { name: '', target, readonly: false, nocopy: false }, anonymousVolumes));
  }
  // Parents before children, as Docker sorts them.
  mounts.sort((a, b) => a.destination.split('/').length - b.destination.split('/').length);
  return { mounts, anonymousVolumes };
}

const typeNames: Readonly<Record<number, string>> = { 0: 'bind', 1: 'volume', 2: 'tmpfs', 3: 'npipe', 4: 'cluster' };

function invalidMount(mount: Mount, why: string): AppFailure {
  return new AppFailure(appError('invalid_argument', `invalid mount config for type "${typeNames[mount.type] ?? mount.type}": ${why}`));
}

function checkTarget(mount: Mount): void {
  if (mount.target === '') throw invalidMount(mount, 'field Target must not be empty');
  if (!mount.target.startsWith('/')) throw invalidMount(mount, `invalid mount path: '${mount.target}' mount path must be absolute`);
  if (path.posix.normalize(mount.target).replace(/\/$/, '') === '') throw invalidMount(mount, "invalid specification: destination can't be '/'");
}

async function specMount(stateDir: string, files: TaskFiles, mount: Mount, anonymous: string[]): Promise<OciMount> {
  switch (mount.type) {
    case Mount_Type.BIND:
      return bindMount(mount);
    case Mount_Type.VOLUME: {
      const driver = mount.volumeOptions?.driverConfig?.name ?? '';
      if (driver !== '' && driver !== 'local') throw new AppFailure(appError('not_found', `error looking up volume plugin ${driver}: plugin "${driver}" not found`));
      if ((mount.volumeOptions?.driverConfig?.options.length ?? 0) > 0) throw invalidMount(mount, 'options of the local volume driver are not supported');
      const { target, readonly } = mount;
      return volumeMount(stateDir, files, { name: mount.source, target, readonly, nocopy: mount.volumeOptions?.nocopy ?? false }, anonymous);
    }
    case Mount_Type.TMPFS: {
      const options = ['nosuid', 'nodev', 'noexec'];
      const size = mount.tmpfsOptions?.sizeBytes ?? 0n;
      const mode = mount.tmpfsOptions?.mode ?? 0;
      if (size > 0n) options.push(`size=${size}`);
      options.push(`mode=${(mode === 0 ? 0o1777 : mode).toString(8)}`);
      if (mount.readonly) options.push('ro');
      return { destination: mount.target, type: 'tmpfs', source: 'tmpfs', options };
    }
    default:
      throw invalidMount(mount, 'mount type unknown');
  }
}

async function bindMount(mount: Mount): Promise<OciMount> {
  if (mount.source === '') throw invalidMount(mount, 'field Source must not be empty');
  if (!mount.source.startsWith('/')) throw invalidMount(mount, `invalid mount path: '${mount.source}' mount path must be absolute`);
  if (!(await exists(mount.source))) {
    if (mount.bindOptions?.createmountpoint !== true) throw invalidMount(mount, `bind source path does not exist: ${mount.source}`);
    await mkdir(mount.source, { recursive: true, mode: 0o755 });
  }
  const propagation = Mount_BindOptions_Propagation[mount.bindOptions?.propagation ?? 0] ?? 'RPRIVATE';
  const options = [mount.bindOptions?.nonrecursive === true ? 'bind' : 'rbind', propagation.toLowerCase()];
  if (mount.readonly) options.push('ro');
  return { destination: mount.target, type: 'bind', source: mount.source, options };
}

interface VolumeUse {
  readonly name: string;
  readonly target: string;
  readonly readonly: boolean;
  readonly nocopy: boolean;
}

async function volumeMount(stateDir: string, files: TaskFiles, use: VolumeUse, anonymous: string[]): Promise<OciMount> {
  const name = use.name === '' ? randomBytes(32).toString('hex') : use.name;
  if (use.name === '') anonymous.push(name);
  if (!volumeName.test(name)) {
    throw new AppFailure(appError('invalid_argument',
      `create ${name}: "${name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`));
  }
  const data = path.join(stateDir, 'volumes', name, '_data');
  await ensureDirectory(path.dirname(path.dirname(data)), 0o711);
  await ensureDirectory(data, 0o755);
  if (!use.nocopy) await copyUp(await scopedPath(files.merged, use.target), data);
  return { destination: use.target, type: 'bind', source: data, options: ['rbind', 'rprivate', ...(use.readonly ? ['ro'] : [])] };
}

/** An empty volume starts with what the image has at its mount point, owner and mode included. */
async function copyUp(from: string, data: string): Promise<void> {
  const source = await stat(from).catch((error: unknown) => {
    if (isMissing(error)) return undefined;
    throw error;
  });
  if (source === undefined || !source.isDirectory() || (await readdir(data)).length > 0) return;
  await mustRun('cp', ['-a', '--reflink=auto', `${from}/.`, data], { timeoutMs: 600_000 });
}

/** Secrets and configs live in a tmpfs of their own, never on disk, each bound read-only to its target. */
export async function secretMounts(files: TaskFiles, spec: ContainerSpec, environment: TaskEnvironment): Promise<OciMount[]> {
  const wanted: { target: FileTarget; fallback: string; data: Uint8Array }[] = [];
  for (const secret of spec.secrets) {
    const data = environment.secrets.get(secret.secretId);
    if (data === undefined) throw new AppFailure(appError('not_found', `secret reference ${secret.secretId} is missing`));
    if (secret.target.case !== 'file') throw new AppFailure(appError('invalid_argument', 'secret target type is not a file target'));
    wanted.push({ target: secret.target.value, fallback: '/run/secrets', data });
  }
  for (const config of spec.configs) {
    const data = environment.configs.get(config.configId);
    if (data === undefined) throw new AppFailure(appError('not_found', `config reference ${config.configId} is missing`));
    if (config.target.case === 'file') wanted.push({ target: config.target.value, fallback: '/', data });
  }
  if (wanted.length === 0) return [];
  const total = wanted.reduce((sum, item) => sum + item.data.byteLength, 0);
  if (total > maxSecretBytes) throw new AppFailure(appError('resource_exhausted', 'secrets and configs of the task are too large'));
  const directory = files.at('secrets');
  await ensureDirectory(directory);
  await mountTmpfs(directory, `nodev,nosuid,noexec,mode=0700,size=${total + (wanted.length + 8) * 8192}`);
  const mounts: OciMount[] = [];
  for (const [position, { target, fallback, data }] of wanted.entries()) {
    const source = path.join(directory, String(position));
    await writeFile(source, data, { mode: 0 });
    await chown(source, fileId(target.uid), fileId(target.gid));
    await chmod(source, target.mode === 0 ? 0o444 : target.mode & 0o7777);
    const destination = target.name.startsWith('/') ? target.name : path.posix.join(fallback, target.name);
    mounts.push({ destination, type: 'bind', source, options: ['bind', 'rprivate', 'ro'] });
  }
  return mounts;
}

function fileId(text: string): number {
  if (text === '') return 0;
  if (!/^[0-9]{1,10}$/.test(text)) throw new AppFailure(appError('invalid_argument', `invalid uid or gid of a secret: ${text}`));
  return Number(text);
}
