// Reader: typed access to a request's JSON. Keys match as Go's decoder matches them (exact, else ignoring case); a
// value of the wrong type is the user's error, named with its path. Absent and null read as the zero value.

import { AppFailure } from '../../lib/result.js';
import { durationFromNs, timestampMs } from '../../lib/time.js';
import type { Duration, Timestamp } from '@bufbuild/protobuf/wkt';

export type JsonObject = { readonly [key: string]: unknown };

function bad(path: string, wanted: string): AppFailure {
  return new AppFailure({ code: 'invalid_argument', message: `invalid JSON: ${path} must be ${wanted}` });
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export class Reader {
  private readonly value: JsonObject;
  private readonly path: string;

  constructor(value: unknown, path = 'body') {
    if (!isObject(value)) throw bad(path, 'an object');
    this.value = value;
    this.path = path;
  }

  raw(key: string): unknown {
    if (Object.hasOwn(this.value, key)) return this.value[key] ?? undefined;
    const lower = key.toLowerCase();
    const other = Object.keys(this.value).find((name) => name.toLowerCase() === lower);
    return other === undefined ? undefined : this.value[other] ?? undefined;
  }

  has(key: string): boolean {
    return this.raw(key) !== undefined;
  }

  text(key: string): string {
    const value = this.raw(key) ?? '';
    if (typeof value !== 'string') throw bad(this.at(key), 'a string');
    return value;
  }

  flag(key: string): boolean {
    const value = this.raw(key) ?? false;
    if (typeof value !== 'boolean') throw bad(this.at(key), 'a boolean');
    return value;
  }

  optionalFlag(key: string): boolean | undefined {
    return this.has(key) ? this.flag(key) : undefined;
  }

  float(key: string): number {
    const value = this.raw(key) ?? 0;
    if (typeof value !== 'number' || !Number.isFinite(value)) throw bad(this.at(key), 'a number');
    return value;
  }

  int(key: string): bigint {
    const value = this.float(key);
    if (!Number.isInteger(value) || value < -(2 ** 63) || value >= 2 ** 63) throw bad(this.at(key), 'a 64-bit integer');
    return BigInt(value);
  }

  uint(key: string): bigint {
    const value = this.float(key);
    // 2^64-1 arrives rounded up to 2^64.
    if (!Number.isInteger(value) || value < 0 || value > 2 ** 64) throw bad(this.at(key), 'a non-negative integer');
    return value >= 2 ** 64 ? 2n ** 64n - 1n : BigInt(value);
  }

  uint32(key: string): number {
    const value = this.float(key);
    if (!Number.isInteger(value) || value < 0 || value > 0xffffffff) throw bad(this.at(key), 'a 32-bit integer');
    return value;
  }

  optionalInt(key: string): bigint | undefined {
    return this.has(key) ? this.int(key) : undefined;
  }

  optionalUint(key: string): bigint | undefined {
    return this.has(key) ? this.uint(key) : undefined;
  }

  duration(key: string): Duration | undefined {
    return this.has(key) ? durationFromNs(this.int(key)) : undefined;
  }

  /** Undefined when absent or zero: some durations mean "not set" at zero. */
  nonZeroDuration(key: string): Duration | undefined {
    const ns = this.int(key);
    return ns === 0n ? undefined : durationFromNs(ns);
  }

  texts(key: string): string[] {
    const value = this.raw(key) ?? [];
    if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
      throw bad(this.at(key), 'a list of strings');
    }
    return value as string[];
  }

  object(key: string): Reader | undefined {
    const value = this.raw(key);
    return value === undefined ? undefined : new Reader(value, this.at(key));
  }

  objects(key: string): Reader[] {
    const value = this.raw(key) ?? [];
    if (!Array.isArray(value)) throw bad(this.at(key), 'a list');
    return value.map((item, i) => new Reader(item, `${this.at(key)}[${i}]`));
  }

  record(key: string): Record<string, string> {
    const value = this.raw(key) ?? {};
    if (!isObject(value)) throw bad(this.at(key), 'an object of strings');
    for (const item of Object.values(value)) {
      if (typeof item !== 'string') throw bad(this.at(key), 'an object of strings');
    }
    return { ...(value as Record<string, string>) };
  }

  bytes(key: string): Uint8Array {
    const text = this.text(key);
    if (!/^[A-Za-z0-9+/\-_\s]*={0,2}$/.test(text)) throw bad(this.at(key), 'base64');
    return new Uint8Array(Buffer.from(text, 'base64'));
  }

  private at(key: string): string {
    return `${this.path}.${key}`;
  }
}

/** Picks a value by a JSON word; unknown words are the user's error with `message`. */
export function word<T>(table: Readonly<Record<string, T>>, text: string, message: string): T {
  const found = Object.hasOwn(table, text) ? table[text] : undefined;
  if (found === undefined) throw new AppFailure({ code: 'invalid_argument', message });
  return found;
}

/** The word for a value: the inverse of `word` for tables without doubles. */
export function wordOf<T>(table: Readonly<Record<string, T>>, value: T, fallback: string): string {
  for (const [text, candidate] of Object.entries(table)) if (candidate === value && text !== '') return text;
  return fallback;
}

/** An object without its undefined members, as Go's omitempty leaves them out. */
export function compact(value: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined));
}

/** Undefined for what Go calls empty, so that `compact` drops it. */
export function nonEmpty<T>(value: T): T | undefined {
  if (value === '' || value === 0 || value === false || value === null || value === undefined) return undefined;
  if (Array.isArray(value) && value.length === 0) return undefined;
  if (typeof value === 'object' && !Array.isArray(value) && Object.keys(value as object).length === 0) return undefined;
  return value;
}

export const ZERO_TIME = '0001-01-01T00:00:00Z';

/** RFC 3339 with nanoseconds, as Go prints times. */
export function goTime(timestamp: Timestamp | undefined): string {
  if (timestamp === undefined) return ZERO_TIME;
  const whole = new Date(Number(timestamp.seconds) * 1000).toISOString().slice(0, 19);
  const fraction = String(timestamp.nanos).padStart(9, '0').replace(/0+$/, '');
  return fraction === '' ? `${whole}Z` : `${whole}.${fraction}Z`;
}

export function goTimeOfMs(ms: number | undefined): string {
  return ms === undefined || ms <= 0 ? ZERO_TIME : new Date(ms).toISOString();
}

export { timestampMs };
