// The process part of an OCI config by Docker's rules: arguments, environment, working directory, rlimits.

import { AppFailure, appError } from '../../lib/result.js';
import type { ContainerSpec } from '../../model/proto/swarmkit_pb.js';
import type { TaskEnvironment } from '../../platform/executor.js';
import { mergeEnv } from '../images/changes.js';

export interface ImageProcess {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly env: readonly string[];
  readonly user: string;
  readonly workingDir: string;
  readonly stopSignal: string;
  readonly volumes: readonly string[];
}

const strings = (value: unknown): string[] => {
  if (typeof value === 'string') return [value];
  return Array.isArray(value) ? value.map(String) : [];
};

export function imageProcess(config: Readonly<Record<string, unknown>>): ImageProcess {
  return {
    entrypoint: strings(config['Entrypoint']),
    cmd: strings(config['Cmd']),
    env: strings(config['Env']),
    user: String(config['User'] ?? ''),
    workingDir: String(config['WorkingDir'] ?? ''),
    stopSignal: String(config['StopSignal'] ?? ''),
    volumes: Object.keys((config['Volumes'] as object | null | undefined) ?? {}),
  };
}

/** A given command replaces the entrypoint and drops the image's Cmd; given args replace Cmd only. */
export function processArgs(image: ImageProcess, command: readonly string[], args: readonly string[]): string[] {
  const result = command.length > 0
    ? [...command, ...args]
    : [...image.entrypoint, ...(args.length > 0 ? args : image.cmd)];
  if (result.length === 0 || result[0] === '') throw new AppFailure(appError('invalid_argument', 'No command specified'));
  return result;
}

const defaultPath = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export function processEnv(image: ImageProcess, environment: TaskEnvironment, tty: boolean, home: string): string[] {
  const defaults = [defaultPath, `HOSTNAME=${environment.hostname}`];
  if (tty) defaults.push('TERM=xterm');
  const merged = mergeEnv(mergeEnv(defaults, image.env), environment.env);
  return merged.some((item) => item.startsWith('HOME=')) ? merged : [...merged, `HOME=${home}`];
}

export function rlimits(spec: ContainerSpec): Record<string, unknown>[] {
  return spec.ulimits.map((limit) => {
    const value = (number: bigint): number => {
      // -1 means unlimited; JSON numbers above 2^53 would lose digits, runc reads 2^63 and more as unlimited.
      if (number < 0n) return 18446744073709551615;
      return Number(number);
    };
    return { type: `RLIMIT_${limit.name.toUpperCase()}`, soft: value(limit.soft), hard: value(limit.hard) };
  });
}
