// Spooling: byte streams into temporary files, decompressed by what their first bytes say (gzip, zstd, or plain).
// Nothing is held in memory; the only bound is the disk's.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { Transform, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { AppFailure, appError } from '../../lib/result.js';

export interface Spooled {
  /** sha256 of the bytes written, "sha256:...". */
  readonly digest: string;
  readonly sizeBytes: number;
}

export async function spool(source: AsyncIterable<Uint8Array>, file: string): Promise<Spooled> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const meter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      sizeBytes += chunk.length;
      done(null, chunk);
    },
  });
  await pipeline(source, meter, createWriteStream(file, { mode: 0o600 }));
  return { digest: `sha256:${hash.digest('hex')}`, sizeBytes };
}

/** Writes the uncompressed form of `compressed` to `file`. */
export async function decompress(compressed: string, file: string): Promise<Spooled> {
  const handle = await open(compressed, 'r');
  const magic = Buffer.alloc(4);
  try {
    await handle.read(magic, 0, 4, 0);
  } finally {
    await handle.close();
  }
  const input = createReadStream(compressed);
  if (magic[0] === 0x1f && magic[1] === 0x8b) return spool(gunzip(input), file);
  if (magic.readUInt32LE(0) === 0xfd2fb528) return spool(zstd(input), file);
  if (magic.toString('latin1', 0, 3) === 'BZh' || magic.readUInt32BE(0) === 0xfd377a58) {
    throw new AppFailure(appError('unimplemented', 'bzip2 and xz compressed archives are not supported'));
  }
  return spool(input, file);
}

function gunzip(input: Readable): Readable {
  const output = createGunzip();
  input.on('error', (error) => output.destroy(error));
  return input.pipe(output);
}

async function* zstd(input: Readable): AsyncGenerator<Uint8Array> {
  const child = spawn('zstd', ['-dc', '--no-progress'], { stdio: ['pipe', 'pipe', 'ignore'] });
  const ended = new Promise<number>((resolve, reject) => {
    child.on('error', () => reject(new AppFailure(appError('unimplemented', 'zstd compressed archives need the zstd program'))));
    child.on('close', (code) => resolve(code ?? -1));
  });
  // EPIPE on stdin only repeats what the exit status says.
  child.stdin.on('error', () => input.destroy());
  input.pipe(child.stdin);
  const failure = ended.then((code) => {
    if (code !== 0) throw new AppFailure(appError('invalid_argument', 'archive/tar: invalid zstd data'));
  });
  failure.catch(() => undefined);
  yield* child.stdout as AsyncIterable<Uint8Array>;
  await failure;
}
