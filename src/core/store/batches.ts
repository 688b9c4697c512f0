// Batches: actions in portions that fit into one command. A stage may touch two hundred tasks, each with a large spec;
// a command that is too large is refused whole, and would be again at every next try.

import { toBinary } from '@bufbuild/protobuf';
import { StoreActionSchema, type StoreAction } from '../../model/proto/swarmkit_pb.js';

/** SwarmKit's bound on one transaction, in bytes of the encoded command. */
export const COMMAND_BYTES_MAX = 1.5 * 1024 * 1024;
/** Tag and length before each action. */
const ACTION_OVERHEAD = 6;
/** The command's own fields: id and time. */
const COMMAND_OVERHEAD = 128;

/** A tag and a length, and the longest number. */
const FIELD_OVERHEAD = 10;
const NUMBER_BYTES_MAX = 10;
const UTF8_BYTES_MAX = 3;

/** No message, or list of messages, is longer when it is encoded. */
function bytesAtMost(value: unknown): number {
  if (typeof value === 'string') return UTF8_BYTES_MAX * value.length;
  if (typeof value !== 'object' || value === null) return NUMBER_BYTES_MAX;
  if (value instanceof Uint8Array) return value.length;
  let bytes = 0;
  if (Array.isArray(value)) for (const one of value) bytes += FIELD_OVERHEAD + bytesAtMost(one);
  else for (const key in value) bytes += FIELD_OVERHEAD + bytesAtMost((value as Record<string, unknown>)[key]);
  return bytes;
}

export interface Oversized {
  readonly action: StoreAction;
  readonly bytes: number;
}

export interface Batches {
  /** In the order of the actions; each is one command. */
  readonly batches: readonly (readonly StoreAction[])[];
  /** Actions that fit into no command, left out. Bounds on specs and reports keep these from being made. */
  readonly oversized: readonly Oversized[];
}

export function inBatches(actions: readonly StoreAction[], bytesMax: number = COMMAND_BYTES_MAX): Batches {
  // Nearly always: what a pass decides is small, and to encode it only to learn its size takes longer than to decide it.
  if (actions.length > 0 && bytesAtMost(actions) <= bytesMax - COMMAND_OVERHEAD) return { batches: [actions], oversized: [] };
  const batches: StoreAction[][] = [];
  const oversized: Oversized[] = [];
  let left = 0;
  for (const action of actions) {
    const bytes = toBinary(StoreActionSchema, action).length + ACTION_OVERHEAD;
    if (bytes > bytesMax - COMMAND_OVERHEAD) {
      oversized.push({ action, bytes });
      continue;
    }
    let batch = batches.at(-1);
    if (batch === undefined || bytes > left) {
      batches.push(batch = []);
      left = bytesMax - COMMAND_OVERHEAD;
    }
    batch.push(action);
    left -= bytes;
  }
  return { batches, oversized };
}
