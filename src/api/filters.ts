// The `filters` query parameter: {"key":{"value":true}}, or {"key":["value"]} from old clients. An unknown key is
// refused, as Docker does; matching rules (prefix, exact, label) are named by method.

import { failure } from './errors.js';

const MAX_FILTER_BYTES = 256 * 1024;
const UNIT_MS: Readonly<Record<string, number>> = { ns: 1e-6, us: 1e-3, 'µs': 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** No moment is longer to write. */
const TIME_MAX = 64;

export class Filters {
  private readonly fields: ReadonlyMap<string, readonly string[]>;

  private constructor(fields: ReadonlyMap<string, readonly string[]>) {
    this.fields = fields;
  }

  static parse(text: string | null, allowed: readonly string[]): Filters {
    const fields = new Map<string, readonly string[]>();
    if (text === null || text === '') return new Filters(fields);
    if (text.length > MAX_FILTER_BYTES) throw failure('invalid_argument', 'invalid filter: too long');
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch {
      throw failure('invalid_argument', 'invalid filter: not JSON');
    }
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
      throw failure('invalid_argument', 'invalid filter: not an object');
    }
    for (const [key, value] of Object.entries(parsed)) {
      if (!allowed.includes(key)) throw failure('invalid_argument', `invalid filter '${key}'`);
      fields.set(key, valuesOf(key, value));
    }
    return new Filters(fields);
  }

  get(key: string): readonly string[] {
    return this.fields.get(key) ?? [];
  }

  has(key: string): boolean {
    return this.get(key).length > 0;
  }

  exact(key: string, actual: string): boolean {
    return !this.has(key) || this.get(key).includes(actual);
  }

  ignoringCase(key: string, actual: string): boolean {
    return !this.has(key) || this.get(key).some((value) => value.toLowerCase() === actual.toLowerCase());
  }

  prefix(key: string, actual: string): boolean {
    return !this.has(key) || this.get(key).some((value) => actual.startsWith(value));
  }

  contains(key: string, actual: string): boolean {
    return !this.has(key) || this.get(key).some((value) => actual.includes(value));
  }

  /** Every label named must be there: `key` or `key=value`. */
  labels(key: string, labels: Readonly<Record<string, string>>): boolean {
    return this.get(key).every((wanted) => {
      const at = wanted.indexOf('=');
      const name = at < 0 ? wanted : wanted.slice(0, at);
      if (!Object.hasOwn(labels, name)) return false;
      return at < 0 || labels[name] === wanted.slice(at + 1);
    });
  }

  /** Refuses values that no object can have: an empty list would hide the user's mistake. */
  oneOf(key: string, words: readonly string[], refusal: (value: string) => string): void {
    const unknown = this.get(key).find((value) => !words.includes(value.toLowerCase()));
    if (unknown !== undefined) throw failure('invalid_argument', refusal(unknown));
  }

  /** A moment: Unix seconds, a Go duration before now, or a date; undefined when absent. */
  time(key: string, nowMs: number): number | undefined {
    const [value, another] = this.get(key);
    if (value === undefined) return undefined;
    if (another !== undefined) throw failure('invalid_argument', `more than one ${key} filter specified`);
    if (value.length > TIME_MAX) throw failure('invalid_argument', `${key} filter: at most ${TIME_MAX} characters`);
    if (/^[0-9]+(\.[0-9]+)?$/.test(value)) return Number(value) * 1000;
    const parts = [...value.matchAll(/([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)/g)];
    if (parts.length > 0 && parts.map(([part]) => part).join('') === value) {
      return nowMs - parts.reduce((sum, [, count, unit]) => sum + Number(count) * (UNIT_MS[unit ?? ''] ?? 0), 0);
    }
    const date = /^\d{4}-\d{2}-\d{2}/.test(value) ? Date.parse(value) : NaN;
    if (Number.isNaN(date)) throw failure('invalid_argument', `failed to parse value as time or duration: "${value}"`);
    return date;
  }

  /** A true/false filter; undefined when absent. */
  flag(key: string): boolean | undefined {
    const [value] = this.get(key);
    if (value === undefined) return undefined;
    if (['1', 'true', 't', 'True', 'TRUE', 'T'].includes(value)) return true;
    if (['0', 'false', 'f', 'False', 'FALSE', 'F'].includes(value)) return false;
    throw failure('invalid_argument', `invalid filter '${key}=[${value}]'`);
  }
}

function valuesOf(key: string, value: unknown): readonly string[] {
  if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value as string[];
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return Object.entries(value).filter(([, on]) => on !== false).map(([name]) => name);
  }
  throw failure('invalid_argument', `invalid filter '${key}'`);
}
