// Records of the log as bytes: a skein.v1.LogBatch, by hand (lib/wire.ts) because every write passes here. They are read
// by the general library, once, at a start.

import type { Entry, HardState } from '../../core/raft/types.js';
import { WireWriter, sizeOfBytesField, sizeOfUint64Field } from '../../lib/wire.js';
import { sizeOfEntry, writeEntry } from '../raftpeers/messages.js';

// Fields of the messages, as in proto/skein.proto.
const BATCH = { records: 1 } as const;
const RECORD = { hardState: 1, entry: 2, reset: 3 } as const;
const HARD_STATE = { term: 1, vote: 2, commit: 3 } as const;
const MARK = { index: 1, term: 2 } as const;

export type RecordOut =
  | { readonly kind: 'entry'; readonly entry: Entry }
  | { readonly kind: 'hardState'; readonly hardState: HardState }
  | { readonly kind: 'reset'; readonly index: bigint; readonly term: bigint };

export function encodeRecords(records: readonly RecordOut[]): Uint8Array {
  const sizes = records.map(sizeOf);
  const bytes = Buffer.allocUnsafe(sizes.reduce((sum, size) => sum + sizeOfBytesField(sizeOfBytesField(size)), 0));
  const writer = new WireWriter(bytes);
  for (const [position, record] of records.entries()) {
    const size = sizes[position] as number;
    writer.lengthField(BATCH.records, sizeOfBytesField(size));
    writer.lengthField(RECORD[record.kind], size);
    write(writer, record);
  }
  return bytes;
}

function sizeOf(record: RecordOut): number {
  switch (record.kind) {
    case 'entry': return sizeOfEntry(record.entry);
    case 'hardState': return sizeOfUint64Field(record.hardState.term) + sizeOfUint64Field(record.hardState.vote)
      + sizeOfUint64Field(record.hardState.commit);
    case 'reset': return sizeOfUint64Field(record.index) + sizeOfUint64Field(record.term);
  }
}

function write(writer: WireWriter, record: RecordOut): void {
  if (record.kind === 'entry') {
    writeEntry(writer, record.entry);
  } else if (record.kind === 'hardState') {
    writer.uint64Field(HARD_STATE.term, record.hardState.term);
    writer.uint64Field(HARD_STATE.vote, record.hardState.vote);
    writer.uint64Field(HARD_STATE.commit, record.hardState.commit);
  } else {
    writer.uint64Field(MARK.index, record.index);
    writer.uint64Field(MARK.term, record.term);
  }
}
