// Roots as users bring them, made by openssl: another tool than the one that has to accept them.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

export interface Pair {
  readonly certificate: string;
  readonly key: string;
}

function inFolder<T>(work: (folder: string) => T): T {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'skein-roots-'));
  try {
    return work(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A self-signed certificate; `key` as `openssl req -newkey` takes it. */
export function opensslRoot(options: {
  key?: readonly string[]; days?: number; extensions?: readonly string[]; digest?: string; existingKey?: string;
} = {}): Pair {
  return inFolder((folder) => {
    const key = path.join(folder, 'key.pem');
    const certificate = path.join(folder, 'cert.pem');
    const extensions = options.extensions ?? ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign,cRLSign'];
    if (options.existingKey !== undefined) writeFileSync(key, options.existingKey);
    const keys = options.existingKey !== undefined ? ['-key', key]
      : ['-newkey', ...(options.key ?? ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256']), '-keyout', key];
    execFileSync('openssl', ['req', '-x509', '-nodes', ...keys, '-out', certificate, '-days', String(options.days ?? 3650),
      '-subj', '/C=XX/O=Example/CN=example root',
      ...(options.digest === undefined ? [] : [`-${options.digest}`]),
      ...extensions.flatMap((text) => ['-addext', text])], { stdio: 'pipe' });
    return { certificate: readFileSync(certificate, 'utf8'), key: readFileSync(key, 'utf8') };
  });
}

/** Whether openssl builds a chain from the bundle's leaf to the root. */
export function opensslVerifies(bundle: string, root: string): boolean {
  return inFolder((folder) => {
    const [leaf = '', ...rest] = bundle.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----\n/g) ?? [];
    const write = (name: string, text: string): string => {
      writeFileSync(path.join(folder, name), text);
      return path.join(folder, name);
    };
    const untrusted = rest.length === 0 ? [] : ['-untrusted', write('rest', rest.join(''))];
    try {
      execFileSync('openssl', ['verify', '-CAfile', write('root', root), ...untrusted, write('leaf', leaf)], { stdio: 'pipe' });
      return true;
    } catch {
      return false;
    }
  });
}
