// Mounts on the host side of a task: its overlay root and the tmpfs that holds its secrets.
// mount(8) is used because Node has no mount(2); layers are given relative to their directory so that many fit in
// the one page the kernel allows for options.

import { readFileSync } from 'node:fs';
import { AppFailure, appError } from '../../lib/result.js';
import { mustRun } from './run.js';

// The new mount API cuts option values at 256 bytes; ask libmount for mount(2).
const environment = { ...process.env, LIBMOUNT_FORCE_MOUNT2: 'always' };
const maxOptionBytes = 4095;

export interface OverlayMount {
  /** Topmost first, relative to layersDirectory or absolute. */
  readonly layers: readonly string[];
  readonly layersDirectory: string;
  readonly upper: string;
  readonly work: string;
  readonly target: string;
}

export async function mountOverlay(mount: OverlayMount): Promise<void> {
  const options = `lowerdir=${mount.layers.join(':')},upperdir=${mount.upper},workdir=${mount.work}`;
  if (Buffer.byteLength(options) > maxOptionBytes) {
    throw new AppFailure(appError('resource_exhausted', `image has too many layers for one overlay mount: ${mount.layers.length}`));
  }
  await mustRun('mount', ['-t', 'overlay', 'overlay', '-o', options, mount.target], { cwd: mount.layersDirectory, env: environment });
}

export async function mountTmpfs(target: string, options: string): Promise<void> {
  await mustRun('mount', ['-t', 'tmpfs', 'tmpfs', '-o', options, target], { env: environment });
}

/** Mount points at or below a directory, innermost first. */
export function mountsBelow(directory: string): string[] {
  const text = readFileSync('/proc/self/mountinfo', 'utf8');
  const points = text.split('\n').flatMap((line) => {
    const point = line.split(' ')[4];
    return point === undefined ? [] : [point.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)))];
  });
  return points.filter((point) => point === directory || point.startsWith(`${directory}/`)).reverse();
}

/** Detaches all mounts at or below a directory; nothing to do is fine. Lazy: a health check may still look in. */
export async function unmountBelow(directory: string): Promise<void> {
  for (const point of mountsBelow(directory)) await mustRun('umount', ['-l', point]);
}
