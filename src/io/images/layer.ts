// Layers: an uncompressed layer tar is checked entry by entry, then unpacked by GNU tar into an empty directory that
// serves as an overlayfs lower layer. Whiteouts become what overlayfs knows: character devices 0/0 and the
// trusted.overlay.opaque attribute, both written through a second small tar because Node has neither mknod nor setxattr.
// No entry may name a way out of the directory: "..", or a path through a symlink that leaves it.

import { createReadStream, createWriteStream } from 'node:fs';
import { lstat, mkdir, open, realpath, rm } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import tarStream from 'tar-stream';
import { AppFailure, appError } from '../../lib/result.js';
import { isMissing } from '../oci/files.js';
import { mustRun } from '../oci/run.js';

const whiteoutPrefix = '.wh.';
const opaqueMarker = '.wh..wh..opq';
const maxWhiteouts = 1_000_000;
const maxEscapingLinks = 1_000_000;

interface LayerPlan {
  /** Paths of `.wh.` entries, without leading slash. */
  readonly whiteouts: readonly string[];
  readonly contentBytes: number;
}

function hostile(name: string, why: string): AppFailure {
  return new AppFailure(appError('invalid_argument', `invalid tar entry ${JSON.stringify(name.slice(0, 256))}: ${why} (breakout attempt)`));
}

function clean(name: string): string {
  if (name.includes('\0')) throw hostile(name, 'null byte in the name');
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw hostile(name, '".." in the name');
  return parts.join('/');
}

/** Reads every header of the tar and refuses names that could lead outside. */
export async function inspectLayer(tarFile: string): Promise<LayerPlan> {
  const whiteouts: string[] = [];
  const escapingLinks = new Set<string>();
  let contentBytes = 0;
  const extract = tarStream.extract();
  const reading = pipeline(createReadStream(tarFile), extract as unknown as NodeJS.WritableStream);
  reading.catch(() => undefined);
  for await (const entry of extract) {
    const header = entry.header;
    const name = clean(header.name);
    // GNU tar takes a sparse file's name from here.
    clean((header.pax as Readonly<Record<string, string>> | undefined | null)?.['GNU.sparse.name'] ?? '');
    const parts = name.split('/');
    for (let depth = 1; depth < parts.length && escapingLinks.size > 0; depth++) {
      if (escapingLinks.has(parts.slice(0, depth).join('/'))) throw hostile(header.name, 'it lies behind a symbolic link that leads outside');
    }
    if (header.type === 'link') clean(header.linkname ?? '');
    if (header.type === 'symlink') {
      const target = header.linkname ?? '';
      if (target.startsWith('/') || target.split('/').includes('..')) escapingLinks.add(name);
    } else {
      escapingLinks.delete(name);
    }
    if (escapingLinks.size > maxEscapingLinks) throw hostile(header.name, 'too many symbolic links');
    if ((parts.at(-1) ?? '').startsWith(whiteoutPrefix)) whiteouts.push(name);
    if (whiteouts.length > maxWhiteouts) throw hostile(header.name, 'too many whiteouts');
    contentBytes += header.size ?? 0;
    entry.resume();
  }
  await reading;
  return { whiteouts, contentBytes };
}

/** Unpacks a checked layer into `directory`, which must be empty. `scratch` is a file path for the second tar. */
export async function unpackLayer(tarFile: string, directory: string, scratch: string): Promise<number> {
  const plan = await inspectLayer(tarFile).catch((error: unknown) => {
    if (error instanceof AppFailure) throw error;
    throw new AppFailure(appError('invalid_argument', `archive/tar: invalid tar header: ${(error as Error).message}`));
  });
  await extract(tarFile, directory, ['--xattrs-include=security.capability', '--xattrs-include=user.*', '--exclude=.wh.*']);
  if (plan.whiteouts.length === 0) return plan.contentBytes;
  await writeWhiteouts(plan.whiteouts, directory, scratch);
  try {
    await extract(scratch, directory, ['--xattrs-include=trusted.overlay.opaque']);
  } finally {
    await rm(scratch, { force: true });
  }
  return plan.contentBytes;
}

async function extract(tarFile: string, directory: string, options: readonly string[]): Promise<void> {
  const handle = await open(tarFile, 'r');
  try {
    const common = ['-x', '-p', '-C', directory, '--numeric-owner', '--same-owner', '--xattrs', '--warning=none', '--delay-directory-restore'];
    await mustRun('tar', [...common, ...options, '-f', '-'], { stdin: handle.fd, timeoutMs: 3_600_000 });
  } finally {
    await handle.close();
  }
}

async function writeWhiteouts(whiteouts: readonly string[], directory: string, scratch: string): Promise<void> {
  const pack = tarStream.pack();
  const writing = pipeline(pack as unknown as NodeJS.ReadableStream, createWriteStream(scratch, { mode: 0o600 }));
  writing.catch(() => undefined);
  const root = await realpath(directory);
  for (const whiteout of whiteouts) {
    const parent = path.dirname(whiteout);
    const place = path.join(root, parent);
    await mkdir(place, { recursive: true });
    if ((await realpath(place)) !== place) throw hostile(whiteout, 'a whiteout behind a symbolic link');
    const base = path.basename(whiteout);
    if (base === opaqueMarker) {
      const found = await lstat(place);
      pack.entry({
        name: `${parent}/`, type: 'directory', mode: found.mode & 0o7777, uid: found.uid, gid: found.gid, mtime: found.mtime,
        pax: { 'SCHILY.xattr.trusted.overlay.opaque': 'y' },
      });
    } else if (!base.startsWith('.wh..wh.')) {
      const name = path.join(parent, base.slice(whiteoutPrefix.length));
      const hidden = await lstat(path.join(root, name)).then(() => false, isMissing);
      // A file of the same name in the same layer wins over its whiteout.
      if (hidden) pack.entry({ name, type: 'character-device', mode: 0, uid: 0, gid: 0, devmajor: 0, devminor: 0 });
    }
  }
  pack.finalize();
  await writing;
}
