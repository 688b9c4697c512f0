// OCI runtime config of a task: what Docker would give it. Pure but for looking at the mounted root file system.

import { AppFailure, appError } from '../../lib/result.js';
import type { ContainerSpec, Task } from '../../model/proto/swarmkit_pb.js';
import type { TaskEnvironment } from '../../platform/executor.js';
import { existsSync } from 'node:fs';
import { capabilitySet } from './capabilities.js';
import { seccompProfile } from './seccomp.js';
import { type ImageProcess, processArgs, processEnv, rlimits } from './spec-process.js';
import type { OciMount } from './spec-mounts.js';
import { resolveUser } from './user.js';

const maskedPaths = ['/proc/asound', '/proc/acpi', '/proc/interrupts', '/proc/kcore', '/proc/keys', '/proc/latency_stats', '/proc/timer_list',
  '/proc/timer_stats', '/proc/sched_debug', '/proc/scsi', '/sys/firmware', '/sys/devices/virtual/powercap'];
const readonlyPaths = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];
// As Docker: unprivileged processes may bind low ports and ping, for the network namespace is theirs.
const defaultSysctls = { 'net.ipv4.ip_unprivileged_port_start': '0', 'net.ipv4.ping_group_range': '0 2147483647' };
const initPath = '/sbin/docker-init';
const minMemoryBytes = 6 * 1024 * 1024;

export interface SpecInput {
  readonly task: Task;
  readonly spec: ContainerSpec;
  readonly environment: TaskEnvironment;
  readonly image: ImageProcess;
  readonly root: string;
  readonly mounts: readonly OciMount[];
  readonly cgroupsPath: string;
  /** Host paths that a task on the pseudo image `host` must not see. */
  readonly hiddenPaths: readonly string[];
}

export async function ociConfig(input: SpecInput): Promise<Record<string, unknown>> {
  const { spec, environment, image } = input;
  const tty = spec.tty;
  const user = await resolveUser(input.root, spec.user === '' ? image.user : spec.user, spec.groups);
  const capabilities = capabilitySet(spec.capabilityAdd, spec.capabilityDrop);
  const isRoot = user.uid === 0;
  const args = processArgs(image, spec.command, spec.args);
  const cwd = spec.dir !== '' ? spec.dir : image.workingDir;
  if (cwd !== '' && !cwd.startsWith('/')) throw new AppFailure(appError('invalid_argument', `the working directory '${cwd}' is invalid, it needs to be an absolute path`));
  const init = spec.init === true ? findInit() : undefined;
  const effective = isRoot ? capabilities : capabilities.filter((name) => spec.capabilityAdd.length > 0 && addedByName(spec, name));
  return {
    ociVersion: '1.0.2',
    hostname: environment.hostname,
    root: { path: input.root, readonly: spec.readOnly },
    process: {
      terminal: tty,
      user: { uid: user.uid, gid: user.gid, additionalGids: user.additionalGids },
      args: init === undefined ? args : [initPath, '--', ...args],
      env: processEnv(image, environment, tty, user.home),
      cwd: cwd === '' ? '/' : cwd,
      capabilities: { bounding: capabilities, effective, permitted: effective, inheritable: [], ambient: isRoot ? [] : effective },
      rlimits: rlimits(spec),
      noNewPrivileges: spec.privileges?.noNewPrivileges ?? false,
      oomScoreAdj: Number(spec.oomScoreAdj),
    },
    mounts: init === undefined ? input.mounts : [...input.mounts, { destination: initPath, type: 'bind', source: init, options: ['bind', 'ro'] }],
    linux: {
      cgroupsPath: input.cgroupsPath,
      namespaces: [
        { type: 'pid' }, { type: 'ipc' }, { type: 'uts' }, { type: 'mount' }, { type: 'cgroup' },
        ...(environment.netns === '' ? [{ type: 'network' }] : [{ type: 'network', path: environment.netns }]),
      ],
      resources: resources(input.task, spec),
      sysctl: { ...defaultSysctls, ...Object.fromEntries(spec.sysctls.map(({ key, value }) => [key, value])) },
      maskedPaths: [...maskedPaths, ...input.hiddenPaths],
      readonlyPaths,
      ...seccomp(spec, capabilities),
    },
  };
}

/** Unprivileged users get only what was added by name, as ambient capabilities. */
function addedByName(spec: ContainerSpec, name: string): boolean {
  return spec.capabilityAdd.some((added) => `CAP_${added.toUpperCase().replace(/^CAP_/, '')}` === name);
}

function seccomp(spec: ContainerSpec, capabilities: readonly string[]): Record<string, unknown> {
  const options = spec.privileges?.seccomp;
  if (options?.mode === 1) return {};
  if (options?.mode === 2) return { seccomp: JSON.parse(Buffer.from(options.profile).toString('utf8')) as unknown };
  return { seccomp: seccompProfile(capabilities) };
}

function resources(task: Task, spec: ContainerSpec): Record<string, unknown> {
  const limits = task.spec?.resources?.limits;
  const reservations = task.spec?.resources?.reservations;
  const result: Record<string, unknown> = { devices: deviceRules() };
  const memoryBytes = Number(limits?.memoryBytes ?? 0n);
  if (memoryBytes > 0) {
    if (memoryBytes < minMemoryBytes) throw new AppFailure(appError('invalid_argument', 'Minimum memory limit allowed is 6MB'));
    const swapBytes = task.spec?.resources?.swapBytes;
    // Docker's default allows as much swap as memory; the field holds their sum.
    const swap = swapBytes === undefined ? memoryBytes * 2 : Number(swapBytes) < 0 ? -1 : memoryBytes + Number(swapBytes);
    const reservation = Number(reservations?.memoryBytes ?? 0n);
    result['memory'] = {
      limit: memoryBytes,
      ...(swapLimitSupported() ? { swap } : {}),
      ...(reservation > 0 ? { reservation } : {}),
      ...(task.spec?.resources?.memorySwappiness === undefined ? {} : { swappiness: Number(task.spec.resources.memorySwappiness) }),
    };
  }
  const nanoCpus = Number(limits?.nanoCpus ?? 0n);
  if (nanoCpus > 0) result['cpu'] = { period: 100_000, quota: Math.max(1000, Math.round(nanoCpus / 10_000)) };
  if (spec.pidsLimit > 0n) result['pids'] = { limit: Number(spec.pidsLimit) };
  return result;
}

/** cgroup v1 kernels without swap accounting lack this file, and a swap limit would be refused. */
function swapLimitSupported(): boolean {
  return existsSync('/sys/fs/cgroup/cgroup.controllers') || existsSync('/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes');
}

function deviceRules(): unknown[] {
  const allowed = [['c', 1, 3], ['c', 1, 5], ['c', 1, 7], ['c', 1, 8], ['c', 1, 9], ['c', 5, 0], ['c', 5, 1], ['c', 5, 2], ['c', 136, undefined]] as const;
  return [
    { allow: false, access: 'rwm' },
    { allow: true, type: 'c', access: 'm' },
    { allow: true, type: 'b', access: 'm' },
    ...allowed.map(([type, major, minor]) => ({ allow: true, type, major, ...(minor === undefined ? {} : { minor }), access: 'rwm' })),
  ];
}

function findInit(): string {
  const found = ['/usr/bin/docker-init', '/usr/libexec/docker/docker-init', '/usr/bin/tini-static', '/usr/bin/tini', '/sbin/tini'].find((file) => existsSync(file));
  if (found === undefined) throw new AppFailure(appError('failed_precondition', 'init requested, but docker-init is not installed: exec: "docker-init": executable file not found in $PATH'));
  return found;
}
