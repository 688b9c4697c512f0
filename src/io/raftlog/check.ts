// Reads the files of a raft log without changing any: what a copy of them holds. RaftLog.load is for the manager that
// goes on with them; it cuts off an unfinished last write and opens a segment.

import type { LogRecord } from '../../model/proto/skein_pb.js';
import { readSegmentAt, readSnapshot } from './files.js';
import { RaftLogDamaged, replay, type LoadedLog } from './replay.js';
import { SEGMENT_MAGIC } from './segment.js';
import { SNAPSHOT_MAGIC, TAG_BYTES } from './seal.js';

/** By name, in the log's directory. */
export type LogFiles = ReadonlyMap<string, Buffer>;

export const LOG_FILE = /^[0-9a-f]{16}\.(log|snap)$/;

function named(files: LogFiles, ending: string): string[] {
  return [...files.keys()].filter((name) => name.endsWith(ending)).sort();
}

/** What a start would find: opens everything that it would. Throws RaftLogDamaged. */
export function readLog(files: LogFiles, deks: readonly Uint8Array[]): LoadedLog {
  const newest = named(files, '.snap').at(-1);
  const snapshot = newest === undefined ? undefined : readSnapshot(newest, files.get(newest) as Buffer, deks).file;
  const records: LogRecord[] = [];
  let tag: Buffer = Buffer.alloc(TAG_BYTES);
  let tornBytes = 0;
  const segments = named(files, '.log');
  for (const [position, name] of segments.entries()) {
    const place = { first: position === 0, last: position === segments.length - 1, tag };
    const segment = readSegmentAt(name, files.get(name) as Buffer, deks, place);
    ({ tag, tornBytes } = segment);
    records.push(...segment.records);
  }
  return { snapshot, ...replay(records, snapshot), tornBytes };
}

export function lastIndexOf({ entries, snapshot }: LoadedLog): bigint {
  return entries.at(-1)?.index ?? snapshot?.index ?? 0n;
}

/** Without a key: that the files are of the kind their names say. */
export function checkSealedLog(files: LogFiles): void {
  const segments = named(files, '.log');
  for (const name of [...segments, ...named(files, '.snap')]) {
    const magic = name.endsWith('.log') ? SEGMENT_MAGIC : SNAPSHOT_MAGIC;
    const bytes = files.get(name) as Buffer;
    // The newest segment may have been made a moment ago.
    const begun = name !== segments.at(-1) || bytes.length > 0;
    if (begun && !bytes.subarray(0, magic.length).equals(magic)) throw new RaftLogDamaged(name, 'it is no file of a raft log');
  }
}
