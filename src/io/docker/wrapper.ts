// The OCI runtime wrapper for a Docker Engine: an Engine with `--network none` makes an empty network namespace only
// when a container starts, too late for us. The wrapper, called in runc's place, puts the path of a namespace that is
// complete into config.json on `create`, then becomes runc. The path is read from a file named by the container id.

import { chmod, mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { AppFailure, appError } from '../../lib/result.js';
import { isMissing, writeFileAtomic } from '../oci/files.js';

export const defaultRuntimeName = 'skein';
export const defaultNetnsDirectory = '/run/skein-docker/netns';
export const defaultWrapperFile = '/usr/local/lib/skein/docker-runtime';

const safePath = /^[A-Za-z0-9/_.-]+$/;

export function checkNetnsPath(netns: string): void {
  if (!netns.startsWith('/') || !safePath.test(netns)) throw new AppFailure(appError('invalid_argument', `unsuitable network namespace path: ${netns}`));
}

/** A POSIX shell script; needs sed, grep, cat, mv. */
export function wrapperScript(netnsDirectory: string, runc: string): string {
  if (!safePath.test(netnsDirectory) || !safePath.test(runc)) throw new AppFailure(appError('invalid_argument', 'unsuitable path for the runtime wrapper'));
  return `#!/bin/sh
# Skein's OCI runtime wrapper: joins a container to the network namespace prepared for it, then runs runc.
# Written by skein; changes are lost.
set -eu
directory=${netnsDirectory}
runc=${runc}
create= bundle=. previous= last=
for argument in "$@"; do
  case $argument in
    create) create=1 ;;
    --bundle=*) bundle=\${argument#--bundle=} ;;
  esac
  case $previous in --bundle|-b) bundle=$argument ;; esac
  previous=$argument
  last=$argument
done
if [ -n "$create" ]; then
  if ! [ -f "$directory/$last" ]; then
    echo "skein: no network namespace was prepared for container $last" >&2
    exit 1
  fi
  netns=$(cat "$directory/$last")
  case $netns in
    /*) ;;
    *) echo "skein: no path in $directory/$last" >&2; exit 1 ;;
  esac
  case $netns in
    *[!A-Za-z0-9/_.-]*) echo "skein: unsuitable path in $directory/$last" >&2; exit 1 ;;
  esac
  config=$bundle/config.json
  # Inside a JSON string the quotes would be escaped: only the namespace entry itself can match.
  sed 's|{"type":"network"}|{"type":"network","path":"'"$netns"'"}|' "$config" > "$config.skein"
  if ! grep -q '{"type":"network","path":"'"$netns"'"}' "$config.skein"; then
    echo "skein: no network namespace entry in $config" >&2
    exit 1
  fi
  mv "$config.skein" "$config"
fi
exec "$runc" "$@"
`;
}

export interface InstallOptions {
  readonly wrapperFile?: string;
  readonly netnsDirectory?: string;
  readonly runc?: string;
  readonly runtimeName?: string;
  /** The Engine's configuration to register the runtime in; undefined leaves that to the caller. */
  readonly daemonJson?: string | undefined;
  /** Pid file of the Engine to reload; undefined reloads none. */
  readonly daemonPidFile?: string | undefined;
}

/** Writes the wrapper, registers it in the Engine's `runtimes` and reloads the Engine. Idempotent. */
export async function installDockerRuntime(options: InstallOptions = {}): Promise<{ readonly changed: boolean; readonly wrapperFile: string }> {
  const wrapperFile = options.wrapperFile ?? defaultWrapperFile;
  const netnsDirectory = options.netnsDirectory ?? defaultNetnsDirectory;
  await mkdir(path.dirname(wrapperFile), { recursive: true, mode: 0o755 });
  await mkdir(netnsDirectory, { recursive: true, mode: 0o700 });
  await writeFileAtomic(wrapperFile, wrapperScript(netnsDirectory, options.runc ?? 'runc'), 0o755);
  await chmod(wrapperFile, 0o755);
  const changed = options.daemonJson === undefined ? false : await register(options.daemonJson, options.runtimeName ?? defaultRuntimeName, wrapperFile);
  if (changed && options.daemonPidFile !== undefined) await reload(options.daemonPidFile);
  return { changed, wrapperFile };
}

async function register(daemonJson: string, name: string, wrapperFile: string): Promise<boolean> {
  const text = await readFile(daemonJson, 'utf8').catch((error: unknown) => {
    if (isMissing(error)) return '';
    throw error;
  });
  let config: { runtimes?: Record<string, { path?: string }> };
  try {
    config = text.trim() === '' ? {} : (JSON.parse(text) as typeof config);
  } catch (error) {
    throw new AppFailure(appError('failed_precondition', `${daemonJson} is not JSON, so it was left alone: ${(error as Error).message}`));
  }
  if (config.runtimes?.[name]?.path === wrapperFile) return false;
  await mkdir(path.dirname(daemonJson), { recursive: true });
  const next = { ...config, runtimes: { ...config.runtimes, [name]: { path: wrapperFile } } };
  await writeFileAtomic(daemonJson, `${JSON.stringify(next, undefined, 2)}\n`, 0o644);
  return true;
}

async function reload(pidFile: string): Promise<void> {
  const text = await readFile(pidFile, 'utf8').catch((error: unknown) => {
    if (isMissing(error)) return undefined;
    throw error;
  });
  if (text === undefined) return; // Not running: it reads its configuration when it starts.
  const pid = Number(text);
  const command = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
  if (command.trim() === 'dockerd') process.kill(pid, 'SIGHUP');
}
