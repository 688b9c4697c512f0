// Hashes by content, each object's once: what a run compares are tens of thousands of states, most of whose parts did not
// change. Two objects of equal content have equal hashes whichever way they came about (decoded, cloned, made by hand).
// 53 bits, not for secrets. One Hasher for each run: it holds every object it saw, which must not change afterwards.

const LOW = 2 ** 32;

/** Of two 32-bit halves, the 53 bits that a number holds exactly. */
function pack(high: number, low: number): number {
  return (high & 0x1fffff) * LOW + (low >>> 0);
}

/** Exclusive or of two hashes: of members in no order. */
export function combine(a: number, b: number): number {
  return pack(Math.floor(a / LOW) ^ Math.floor(b / LOW), (a >>> 0) ^ (b >>> 0));
}

/** The running hash of a sequence (cyrb53's mixing, by bryc). */
class Mixer {
  private h1: number;
  private h2: number;

  constructor(seed: number) {
    this.h1 = 0xdeadbeef ^ seed;
    this.h2 = 0x41c6ce57 ^ seed;
  }

  word(value: number): void {
    this.h1 = Math.imul(this.h1 ^ value, 2654435761);
    this.h2 = Math.imul(this.h2 ^ value, 1597334677);
  }

  number(value: number): void {
    if (Number.isInteger(value)) {
      this.word(value | 0);
      this.word(Math.floor(value / LOW) | 0);
    } else {
      this.text(String(value));
    }
  }

  text(value: string): void {
    this.word(value.length);
    for (let i = 0; i < value.length; i++) this.word(value.charCodeAt(i));
  }

  bytes(value: Uint8Array): void {
    this.word(value.length);
    for (let i = 0; i < value.length; i++) this.word(value[i] as number);
  }

  get result(): number {
    return finish(this.h1, this.h2);
  }
}

export function hashText(value: string, seed = 0): number {
  const mixer = new Mixer(seed);
  mixer.text(value);
  return mixer.result;
}

export function hashPair(a: number, b: number): number {
  // As a Mixer would, without one: this runs for every field.
  const a2 = (a / LOW) | 0;
  const b2 = (b / LOW) | 0;
  const h1 = Math.imul(Math.imul(Math.imul(Math.imul(0xdeadbeef ^ a, 2654435761) ^ a2, 2654435761) ^ b, 2654435761) ^ b2, 2654435761);
  const h2 = Math.imul(Math.imul(Math.imul(Math.imul(0x41c6ce57 ^ a, 1597334677) ^ a2, 1597334677) ^ b, 1597334677) ^ b2, 1597334677);
  return finish(h1, h2);
}

function finish(h1: number, h2: number): number {
  const high = Math.imul(h1 ^ (h1 >>> 16), 2246822507) ^ Math.imul(h2 ^ (h2 >>> 13), 3266489909);
  const low = Math.imul(h2 ^ (h2 >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909);
  return pack(low, high);
}

export class Hasher {
  private readonly known = new Map<object, number>();
  private readonly texts = new Map<string, number>();
  private readonly origins = new Map<object, object>();
  private readonly ofOrigin = new Map<object, number>();

  /** `copy` begins as one of `origin`: where its fields are still the same, so are their hashes. */
  copied(copy: object, origin: object): void {
    this.origins.set(copy, origin);
  }

  /** Of any value made of fields, lists, bytes, texts and numbers. A field that is undefined is none. */
  of(value: unknown): number {
    if (typeof value === 'object' && value !== null) {
      let hash = this.known.get(value);
      if (hash === undefined) this.known.set(value, hash = this.compute(value));
      return hash;
    }
    if (typeof value === 'string') {
      let hash = this.texts.get(value);
      if (hash === undefined) this.texts.set(value, hash = hashText(value, 1));
      return hash;
    }
    const mixer = new Mixer(1);
    if (typeof value === 'bigint') mixer.number(Number(BigInt.asIntN(64, value)));
    else if (typeof value === 'number') mixer.number(value);
    else mixer.text(String(value));
    return mixer.result;
  }

  private compute(value: object): number {
    if (value instanceof Uint8Array) {
      const mixer = new Mixer(2);
      mixer.bytes(value);
      return mixer.result;
    }
    const mixer = new Mixer(Array.isArray(value) ? 3 : 4);
    if (Array.isArray(value)) {
      for (const item of value) mixer.number(this.of(item));
      return mixer.result;
    }
    mixer.number(this.fields(value as Fields));
    return mixer.result;
  }

  /** In no order: fields come in that of their arrival. */
  private fields(value: Fields): number {
    const origin = this.origins.get(value) as Fields | undefined;
    if (origin !== undefined) return this.changedFields(value, origin);
    let fields = 0;
    for (const key in value) if (value[key] !== undefined) fields = combine(fields, this.field(key, value[key]));
    return fields;
  }

  private changedFields(value: Fields, origin: Fields): number {
    let fields = this.ofOrigin.get(origin);
    if (fields === undefined) this.ofOrigin.set(origin, fields = this.fields(origin));
    for (const key in value) if (value[key] !== origin[key]) fields = combine(fields, this.change(key, origin[key], value[key]));
    for (const key in origin) if (!(key in value)) fields = combine(fields, this.change(key, origin[key], undefined));
    return fields;
  }

  private change(key: string, from: unknown, to: unknown): number {
    return combine(from === undefined ? 0 : this.field(key, from), to === undefined ? 0 : this.field(key, to));
  }

  private field(key: string, value: unknown): number {
    return hashPair(keyHash(key), this.of(value));
  }
}

type Fields = Readonly<Record<string, unknown>>;

const keyHashes = new Map<string, number>();

function keyHash(key: string): number {
  let hash = keyHashes.get(key);
  if (hash === undefined) keyHashes.set(key, hash = hashText(key, 5));
  return hash;
}
