// Log files of conmon (k8s-file): `<RFC 3339 time> <stdout|stderr> <F|P> <text>` a line, P for a part without its
// newline. Read with one 64 KiB buffer whatever the size. conmon bounds the file by starting a new one in its place:
// a follower finishes the old file and goes on with the new.

import { open, stat, type FileHandle } from 'node:fs/promises';
import type { LogOptions, LogRecord } from '../../platform/executor.js';
import { isMissing } from './files.js';

const blockBytes = 64 * 1024;
const maxLineBytes = 256 * 1024;
const pollMs = 100;

export async function* readLogFile(file: string, options: LogOptions, ended: () => boolean): AsyncGenerator<LogRecord> {
  if (!options.stdout && !options.stderr) return;
  let handle = await openOrWait(file, options, ended);
  if (handle === undefined) return;
  try {
    let position = options.tail === undefined ? 0 : await tailPosition(handle, options);
    let rest = Buffer.alloc(0);
    const block = Buffer.alloc(blockBytes);
    while (!options.signal.aborted) {
      const wasEnded = ended();
      const { bytesRead } = await handle.read(block, 0, blockBytes, position);
      if (bytesRead > 0) {
        position += bytesRead;
        rest = Buffer.concat([rest, block.subarray(0, bytesRead)]);
        let from = 0;
        for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10, from)) {
          const record = parseLine(rest.subarray(from, end));
          from = end + 1;
          if (record === undefined || !wanted(record, options)) continue;
          if (options.signal.aborted) return;
          yield record;
        }
        rest = Buffer.from(rest.subarray(from, Math.min(rest.length, from + maxLineBytes)));
        continue;
      }
      const next: FileHandle | undefined = await replaced(file, handle);
      if (next !== undefined) {
        await handle.close();
        handle = next;
        position = 0;
        rest = Buffer.alloc(0);
        continue;
      }
      if (!options.follow || wasEnded) return;
      await pause(options.signal);
    }
  } finally {
    await handle.close();
  }
}

async function openOrWait(file: string, options: LogOptions, ended: () => boolean): Promise<FileHandle | undefined> {
  for (;;) {
    const wasEnded = ended();
    try {
      return await open(file, 'r');
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
    if (!options.follow || wasEnded || options.signal.aborted) return undefined;
    await pause(options.signal);
  }
}

async function replaced(file: string, handle: FileHandle): Promise<FileHandle | undefined> {
  const [present, own] = await Promise.all([
    stat(file).catch((error: unknown) => {
      if (isMissing(error)) return undefined;
      throw error;
    }),
    handle.stat(),
  ]);
  return present === undefined || present.ino === own.ino ? undefined : open(file, 'r');
}

function pause(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, pollMs);
    signal.addEventListener('abort', done);
    if (signal.aborted) done();
  });
}

function wanted(record: LogRecord, options: LogOptions): boolean {
  return (record.stream === 'stdout' ? options.stdout : options.stderr) && (options.sinceNs === undefined || record.timestampNs >= options.sinceNs);
}

/** Where the last `tail` wanted lines begin; read backwards in blocks. A part counts with the line it belongs to. */
async function tailPosition(handle: FileHandle, options: LogOptions): Promise<number> {
  const size = (await handle.stat()).size;
  const tail = options.tail ?? 0;
  if (tail <= 0) return size;
  let count = 0;
  let start = size;
  let position = size;
  let carry = Buffer.alloc(0);
  while (position > 0) {
    const length = Math.min(blockBytes, position);
    const block = Buffer.alloc(length);
    await handle.read(block, 0, length, position - length);
    position -= length;
    const text = Buffer.concat([block, carry]);
    let end = text.length;
    while (end > 0) {
      const newline = end >= 2 ? text.lastIndexOf(10, end - 2) : -1;
      // The first line of the block may begin before it: carried on, unless the file begins here.
      if (newline < 0 && position > 0) break;
      const line = text.subarray(newline + 1, end);
      const header = parseLine(line.at(-1) === 10 ? line.subarray(0, -1) : line);
      if (header !== undefined && wanted(header, options)) {
        // Parts before a full line belong to it; a last part without an end counts too.
        if (header.data.at(-1) === 10 || count === 0) count++;
        if (count > tail) return start;
        start = position + newline + 1;
      }
      end = newline + 1;
    }
    carry = Buffer.from(text.subarray(0, Math.min(end, maxLineBytes)));
  }
  return start;
}

/** Undefined for a line that is not of this format. */
export function parseLine(line: Buffer): LogRecord | undefined {
  const first = line.indexOf(32);
  const second = line.indexOf(32, first + 1);
  const third = line.indexOf(32, second + 1);
  if (first < 0 || second < 0 || third < 0) return undefined;
  const timestampNs = parseTime(line.toString('latin1', 0, first));
  const stream = line.toString('latin1', first + 1, second);
  const tag = line.toString('latin1', second + 1, third);
  if (timestampNs === undefined || (stream !== 'stdout' && stream !== 'stderr')) return undefined;
  const text = line.subarray(third + 1);
  return { stream, timestampNs, data: tag === 'P' ? Buffer.from(text) : Buffer.concat([text, Buffer.from('\n')]) };
}

export function parseTime(text: string): bigint | undefined {
  const match = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\d*(Z|[+-]\d\d:\d\d)$/.exec(text);
  if (match === null) return undefined;
  const ms = Date.parse(`${match[1]}${match[3]}`);
  if (Number.isNaN(ms)) return undefined;
  return BigInt(ms) * 1_000_000n + BigInt((match[2] ?? '').padEnd(9, '0'));
}
