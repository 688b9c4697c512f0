// Table: objects of one kind, found by id and listed in order: by id, or as told. Kept in sorted pieces, so that a change
// costs the same in a large table as in a small one. Invariants: the pieces hold exactly the map's objects, in order; none is
// empty, but for the only one of an empty table.

import { assert } from '../../lib/assert.js';

const PIECE_MAX = 1024;

export class Table<T extends { readonly id: string }> {
  private readonly objects = new Map<string, T>();
  private readonly pieces: T[][] = [[]];
  private readonly before: (a: T, b: T) => boolean;
  private cached: readonly T[] | undefined;

  constructor(before: (a: T, b: T) => boolean = (a, b) => a.id < b.id) {
    this.before = before;
  }

  get(id: string): T | undefined {
    return this.objects.get(id);
  }

  get size(): number {
    return this.objects.size;
  }

  put(object: T): void {
    const old = this.objects.get(object.id);
    if (old !== undefined && (this.before(old, object) || this.before(object, old))) this.remove(object.id);
    const known = this.objects.has(object.id);
    this.objects.set(object.id, object);
    this.cached = undefined;
    const at = this.pieceOf(object);
    const piece = this.pieces[at] as T[];
    const place = this.position(piece, object);
    if (known) piece[place] = object;
    else piece.splice(place, 0, object);
    if (piece.length > PIECE_MAX) this.pieces.splice(at, 1, piece.slice(0, PIECE_MAX >> 1), piece.slice(PIECE_MAX >> 1));
  }

  remove(id: string): void {
    const object = this.objects.get(id);
    assert(object !== undefined, `removal of an unknown object ${id}`);
    this.objects.delete(id);
    this.cached = undefined;
    const at = this.pieceOf(object);
    const piece = this.pieces[at] as T[];
    piece.splice(this.position(piece, object), 1);
    if (piece.length === 0 && this.pieces.length > 1) this.pieces.splice(at, 1);
  }

  list(): readonly T[] {
    this.cached ??= this.pieces.length === 1 ? (this.pieces[0] as T[]).slice() : this.pieces.flat();
    return this.cached;
  }

  /** As list(), for who wants the first few of many; nothing may change meanwhile. */
  * [Symbol.iterator](): IterableIterator<T> {
    for (const piece of this.pieces) yield* piece;
  }

  /** The last piece that does not begin after the object. */
  private pieceOf(object: T): number {
    let low = 0;
    let high = this.pieces.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (this.before(object, (this.pieces[middle] as T[])[0] as T)) high = middle - 1;
      else low = middle;
    }
    return low;
  }

  /** Index of the first object that does not go before this one. */
  private position(piece: readonly T[], object: T): number {
    let low = 0;
    let high = piece.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.before(piece[middle] as T, object)) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
