// Table: objects of one kind by id, listed in id order. Invariant: `ids` is sorted and holds exactly the map's keys.

import { assert } from '../../lib/assert.js';

export class Table<T extends { readonly id: string }> {
  private readonly objects = new Map<string, T>();
  private readonly ids: string[] = [];
  private cached: readonly T[] | undefined;

  get(id: string): T | undefined {
    return this.objects.get(id);
  }

  get size(): number {
    return this.ids.length;
  }

  put(object: T): void {
    if (!this.objects.has(object.id)) this.ids.splice(this.position(object.id), 0, object.id);
    this.objects.set(object.id, object);
    this.cached = undefined;
  }

  remove(id: string): void {
    assert(this.objects.delete(id), `removal of an unknown object ${id}`);
    this.ids.splice(this.position(id), 1);
    this.cached = undefined;
  }

  list(): readonly T[] {
    this.cached ??= this.ids.map((id) => this.objects.get(id) as T);
    return this.cached;
  }

  /** Index of the first id that is not smaller. */
  private position(id: string): number {
    let low = 0;
    let high = this.ids.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.ids[middle] as string) < id) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
