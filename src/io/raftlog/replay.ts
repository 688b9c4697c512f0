// replay: from the records of a log, oldest first, to the hard state and entries that they leave behind.

import { AppFailure } from '../../lib/result.js';
import type { Entry, HardState } from '../../core/raft/types.js';
import { EntryKind as WireKind, type LogRecord, type SnapshotFile } from '../../model/proto/skein_pb.js';

export class RaftLogDamaged extends AppFailure {
  constructor(file: string, reason: string) {
    super({ code: 'failed_precondition', message: `raft log ${file} is damaged: ${reason}. `
      + 'Restore this manager from a backup, or remove it from the swarm and join it again' });
    this.name = 'RaftLogDamaged';
  }
}

export interface LoadedLog {
  readonly snapshot: SnapshotFile | undefined;
  readonly hardState: HardState;
  /** After the snapshot, contiguous. */
  readonly entries: readonly Entry[];
  /** Bytes of an unfinished last write that were cut off. */
  readonly tornBytes: number;
}

/**
 * Later records win: an entry replaces what was at its index and everything after it. What stands before the last reset
 * counts no more (segments of it may be gone already). Throws RaftLogDamaged.
 */
export function replay(records: readonly LogRecord[], snapshot: SnapshotFile | undefined): { hardState: HardState; entries: Entry[] } {
  const base = snapshot?.index ?? 0n;
  let hardState: HardState = { term: snapshot?.term ?? 0n, vote: 0n, commit: base };
  const entries: Entry[] = [];
  const from = records.findLastIndex(({ record }) => record.case === 'reset');
  let termAtBase = snapshot?.term ?? 0n;
  for (const [position, { record }] of records.entries()) {
    if (record.case === 'hardState') {
      hardState = { term: record.value.term, vote: record.value.vote, commit: record.value.commit };
    } else if (record.case === 'entry' && position > from) {
      const { index, term, data } = record.value;
      if (index === base) termAtBase = term;
      if (index <= base) entries.length = 0;
      if (index <= base) continue;
      const at = Number(index - base - 1n);
      if (at > entries.length) throw new RaftLogDamaged('', `entries are missing before index ${index}`);
      entries.length = at;
      entries.push({ index, term, kind: record.value.kind === WireKind.NORMAL ? 'normal' : 'confChange', data });
    }
  }
  // Cut off between a leader's snapshot and its reset record: the tail belongs to another history than the snapshot.
  if (termAtBase !== (snapshot?.term ?? 0n)) entries.length = 0;
  if (hardState.commit < base) hardState = { ...hardState, commit: base };
  const last = base + BigInt(entries.length);
  if (hardState.commit > last) throw new RaftLogDamaged('', `entries are missing between index ${last} and ${hardState.commit}, which was committed`);
  return { hardState, entries };
}
