// What all replicas of a run read of the same bytes is decoded once: commands and snapshots. Each replica gets its own copy of
// what it may change (the objects of a command, which Store.apply stamps); all below is shared and never written again.
// `checked`: it is frozen, so that a write ends the run (test/sim/shared.test.ts).

import { decode } from '../../src/io/protobuf/codec.js';
import { CommandSchema, StoreStateSchema, type Command, type StoreState } from '../../src/model/proto/skein_pb.js';
import type { StoreAction } from '../../src/model/proto/swarmkit_pb.js';
import type { Hasher } from './hashing.js';

export class Shared {
  private readonly hasher: Hasher;
  private readonly checked: boolean;
  private readonly commands = new Map<Uint8Array, Command>();
  private readonly states = new Map<Uint8Array, StoreState>();

  constructor(hasher: Hasher, checked: boolean) {
    this.hasher = hasher;
    this.checked = checked;
  }

  command(data: Uint8Array): Command {
    let shared = this.commands.get(data);
    if (shared === undefined) this.commands.set(data, shared = this.seal(decode(CommandSchema, data)));
    return { ...shared, actions: shared.actions.map((action) => this.own(action)) };
  }

  private own(action: StoreAction): StoreAction {
    const { target } = action;
    if (target.case === undefined) return action;
    const value = { ...target.value };
    // Store.apply writes the index of a drain's beginning.
    if ('drainState' in value && value.drainState !== undefined) value.drainState = { ...value.drainState };
    this.hasher.copied(value, target.value);
    return { ...action, target: { case: target.case, value } as StoreAction['target'] };
  }

  state(data: Uint8Array): StoreState {
    let shared = this.states.get(data);
    if (shared === undefined) this.states.set(data, shared = this.seal(decode(StoreStateSchema, data)));
    return shared;
  }

  /** An object that is in a store now: nobody may write to it any more. */
  stored(object: object): void {
    if (this.checked) freeze(object);
  }

  private seal<T extends object>(value: T): T {
    if (this.checked) freeze(value);
    return value;
  }
}

function freeze(value: unknown): void {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return;
  // Bytes cannot be frozen; nothing that a store holds is written byte by byte.
  if (ArrayBuffer.isView(value)) return;
  Object.freeze(value);
  for (const key in value) freeze((value as Record<string, unknown>)[key]);
}
