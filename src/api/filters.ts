// The `filters` query parameter: {"key":{"value":true}}, or {"key":["value"]} from old clients. An unknown key is
// refused, as Docker does; matching rules (prefix, exact, label) are named by method.

import { failure } from './errors.js';

const MAX_FILTER_BYTES = 256 * 1024;

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
