// Configuration changes, one member at a time (thesis, 4.1): their code in an entry, what they do to a configuration, and
// the configurations a log goes through. A member counts by the last configuration in its log, committed or not, and goes
// back to the one before if that entry is replaced: changes that took effect only when applied would let a member that is
// two changes behind elect itself by a majority that does not meet the present one.

import { assert } from '../../lib/assert.js';
import type { ConfChange, ConfChangeKind, ConfState, Entry } from './types.js';

/** By their number in the code; append only. */
const KINDS: readonly ConfChangeKind[] = ['addNode', 'addLearner', 'removeNode', 'updateNode'];
const HEADER_BYTES = 9;

/** Kind (1 byte), member (8 bytes, big-endian), context. */
export function encodeConfChange(change: ConfChange): Uint8Array {
  const data = new Uint8Array(HEADER_BYTES + change.context.length);
  const view = new DataView(data.buffer);
  view.setUint8(0, KINDS.indexOf(change.kind));
  view.setBigUint64(1, change.member);
  data.set(change.context, HEADER_BYTES);
  return data;
}

/** Undefined for what is no conf change. */
export function decodeConfChange(data: Uint8Array): ConfChange | undefined {
  const kind = KINDS[data[0] ?? KINDS.length];
  if (kind === undefined || data.length < HEADER_BYTES) return undefined;
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  return { kind, member: view.getBigUint64(1), context: data.slice(HEADER_BYTES) };
}

/** Undefined if the change may not be: nobody would be left to vote. */
export function confAfter(conf: ConfState, change: ConfChange): ConfState | undefined {
  const { kind, member } = change;
  if (member === 0n) return undefined;
  if (kind === 'updateNode') return conf;
  const voters = without(conf.voters, member);
  const learners = without(conf.learners, member);
  if (kind === 'addNode') voters.push(member);
  if (kind === 'addLearner') learners.push(member);
  if (voters.length === 0) return undefined;
  return { voters: voters.sort(ascending), learners: learners.sort(ascending) };
}

export function members(conf: ConfState): readonly bigint[] {
  return [...conf.voters, ...conf.learners];
}

export function ascending(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function without(list: readonly bigint[], member: bigint): bigint[] {
  return list.filter((other) => other !== member);
}

interface Since {
  readonly index: bigint;
  readonly conf: ConfState;
}

/** The configurations of the log, from the newest snapshot to the last entry. */
export class Membership {
  /** Ascending, never empty. */
  private history: Since[];

  constructor(index: bigint, conf: ConfState) {
    this.history = [{ index, conf }];
  }

  /** Who counts now. */
  get current(): ConfState {
    return (this.history.at(-1) as Since).conf;
  }

  /** The index it came with. */
  get currentIndex(): bigint {
    return (this.history.at(-1) as Since).index;
  }

  /** As of an entry. */
  at(index: bigint): ConfState {
    const since = this.history.findLast((one) => one.index <= index);
    assert(since !== undefined, `the configuration at ${index} was compacted`);
    return since.conf;
  }

  /** Entries were added to the log, and replaced all from the first of them on. */
  append(entries: readonly Entry[]): void {
    const from = entries[0]?.index;
    if (from === undefined) return;
    if (this.currentIndex >= from) this.history = this.history.filter((one) => one.index < from);
    for (const entry of entries) {
      if (entry.kind !== 'confChange') continue;
      const change = decodeConfChange(entry.data);
      const conf = change === undefined ? undefined : confAfter(this.current, change);
      // What may not be has no effect, on every member alike.
      this.history.push({ index: entry.index, conf: conf ?? this.current });
    }
  }

  /** A snapshot was taken at `index`. */
  compact(index: bigint, conf: ConfState): void {
    this.history = [{ index, conf }, ...this.history.filter((one) => one.index > index)];
  }

  /** A snapshot took the place of the whole log: what came after its index was of another history. */
  restore(index: bigint, conf: ConfState): void {
    this.history = [{ index, conf }];
  }
}
