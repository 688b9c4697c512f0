// The hash of a replicated state: of its index, of every object, and of the commands it remembers. Carried on with every
// command, so that replicas are compared at every index; or computed from all there is, which must give the same.

import type { Applied, Store } from '../../src/core/store/store.js';
import { KINDS, type Kind, type StoreObject } from '../../src/core/store/view.js';
import type { Result } from '../../src/lib/result.js';
import type { World } from './world.js';
import { combine, hashPair, hashText } from './hashing.js';

const KIND_HASHES = Object.fromEntries(KINDS.map((kind) => [kind, hashText(kind)])) as Readonly<Record<Kind, number>>;

export class StateHash {
  private readonly world: Pick<World, 'hasher' | 'shared'>;
  /** Of all objects, in no order. */
  private objects = 0;
  /** Of the remembered commands, in their order. */
  private recent = 0;
  private recentCount = 0;
  private newest: string | undefined;

  constructor(world: Pick<World, 'hasher' | 'shared'>, store: Store) {
    this.world = world;
    for (const kind of KINDS) for (const object of store.list(kind)) this.toggle(kind, object);
    this.remember(store, 0);
  }

  applied(store: Store, result: Result<Applied>): void {
    // As many as before, but another one at the end: the oldest was let go.
    if (store.recentCount === this.recentCount && store.newestId !== this.newest) this.remember(store, 0);
    else if (store.recentCount > this.recentCount) this.remember(store, this.recentCount);
    if (!result.ok) return;
    for (const { kind, action, object, old } of result.value.events) {
      if (old !== undefined) this.toggle(kind, old);
      if (action === 'remove') continue;
      this.world.shared.stored(object);
      this.toggle(kind, object);
    }
  }

  private remember(store: Store, from: number): void {
    if (from === 0) this.recent = 0;
    for (const id of store.recentIds(from)) this.recent = hashPair(this.recent, this.world.hasher.of(id));
    this.recentCount = store.recentCount;
    this.newest = store.newestId;
  }

  value(store: Store): number {
    return hashPair(hashPair(Number(store.index), this.objects), this.recent);
  }

  private toggle(kind: Kind, object: StoreObject): void {
    this.objects = combine(this.objects, hashPair(KIND_HASHES[kind], this.world.hasher.of(object)));
  }
}
