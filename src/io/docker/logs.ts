// Logs as the Engine streams them: frames of an 8-byte header (stream, length) and "<time> <text>"; a task with a
// terminal has no frames, only lines.

import type { Readable } from 'node:stream';
import { AppFailure, appError } from '../../lib/result.js';
import type { LogRecord } from '../../platform/executor.js';
import { parseTime } from '../oci/logs.js';

const headerBytes = 8;
const maxFrameBytes = 4 * 1024 * 1024;

export async function* readFrames(source: Readable, tty: boolean): AsyncGenerator<LogRecord> {
  let rest = Buffer.alloc(0);
  for await (const chunk of source) {
    rest = Buffer.concat([rest, chunk as Buffer]);
    for (;;) {
      const cut = tty ? cutLine(rest) : cutFrame(rest);
      if (cut === undefined) break;
      rest = rest.subarray(cut.bytes);
      const record = parseRecord(cut.stream, cut.text);
      if (record !== undefined) yield record;
    }
    if (rest.length > maxFrameBytes + headerBytes) throw new AppFailure(appError('resource_exhausted', 'log frame of the Docker Engine is too large'));
  }
  const last = tty && rest.length > 0 ? parseRecord('stdout', rest) : undefined;
  if (last !== undefined) yield last;
}

interface Cut {
  readonly stream: 'stdout' | 'stderr';
  readonly text: Buffer;
  readonly bytes: number;
}

function cutFrame(buffer: Buffer): Cut | undefined {
  if (buffer.length < headerBytes) return undefined;
  const length = buffer.readUInt32BE(4);
  if (length > maxFrameBytes) throw new AppFailure(appError('resource_exhausted', 'log frame of the Docker Engine is too large'));
  if (buffer.length < headerBytes + length) return undefined;
  return { stream: buffer[0] === 2 ? 'stderr' : 'stdout', text: buffer.subarray(headerBytes, headerBytes + length), bytes: headerBytes + length };
}

function cutLine(buffer: Buffer): Cut | undefined {
  const newline = buffer.indexOf(10);
  return newline < 0 ? undefined : { stream: 'stdout', text: buffer.subarray(0, newline + 1), bytes: newline + 1 };
}

function parseRecord(stream: 'stdout' | 'stderr', text: Buffer): LogRecord | undefined {
  const space = text.indexOf(32);
  const timestampNs = space < 0 ? undefined : parseTime(text.toString('latin1', 0, space));
  return timestampNs === undefined ? undefined : { stream, timestampNs, data: Buffer.from(text.subarray(space + 1)) };
}
