// Reads the files of a raft log without changing any: what a copy of them holds. RaftLog.load is for the manager that
// goes on with them; it cuts off an unfinished last write and opens a segment.

import { fromBinary } from '@bufbuild/protobuf';
import { LogBatchSchema, SnapshotFileSchema, type LogRecord } from '../../model/proto/skein_pb.js';
import { RaftLogDamaged, replay } from './replay.js';
import { SEGMENT_MAGIC, readSegment } from './segment.js';
import { SNAPSHOT_MAGIC, TAG_BYTES, openSnapshot } from './seal.js';

/** By name, in the log's directory. */
export type LogFiles = ReadonlyMap<string, Buffer>;

export const LOG_FILE = /^[0-9a-f]{16}\.(log|snap)$/;

function named(files: LogFiles, ending: string): string[] {
  return [...files.keys()].filter((name) => name.endsWith(ending)).sort();
}

/** Index of the last entry. Opens everything that a start would; throws RaftLogDamaged. */
export function checkLog(files: LogFiles, deks: readonly Uint8Array[]): bigint {
  const newest = named(files, '.snap').at(-1);
  const opened = newest === undefined ? undefined
    : deks.map((dek) => openSnapshot(files.get(newest) as Buffer, dek)).find((plain) => plain !== undefined);
  if (newest !== undefined && opened === undefined) throw new RaftLogDamaged(newest, 'no key opens this snapshot');
  const snapshot = opened === undefined ? undefined : fromBinary(SnapshotFileSchema, opened);
  const records: LogRecord[] = [];
  let tag: Buffer = Buffer.alloc(TAG_BYTES);
  const segments = named(files, '.log');
  for (const [position, name] of segments.entries()) {
    const bytes = files.get(name) as Buffer;
    const read = deks.map((dek) => readSegment(bytes, dek));
    const contents = read.find((one) => !('reason' in one)) ?? read[0];
    if (contents === undefined || 'reason' in contents) {
      throw new RaftLogDamaged(name, contents === undefined ? 'there is no key' : `${contents.reason} at byte ${contents.offset}`);
    }
    const last = position === segments.length - 1;
    if (!last && (contents.tornBytes > 0 || bytes.length === 0)) throw new RaftLogDamaged(name, 'it ends inside a batch');
    if (bytes.length === contents.tornBytes) break;
    if (position > 0 && !contents.previousTag.equals(tag)) throw new RaftLogDamaged(name, 'it does not continue the segment before it');
    tag = contents.lastTag;
    records.push(...contents.batches.flatMap((batch) => fromBinary(LogBatchSchema, batch).records));
  }
  return replay(records, snapshot).entries.at(-1)?.index ?? snapshot?.index ?? 0n;
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
