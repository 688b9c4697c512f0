// What a node keeps of its swarm beside the raft log: identity, certificates, known managers. Small files, each
// written aside, synced and renamed, so that a crash leaves the old or the new one. None of it can be made again from
// elsewhere: a damaged file is an error that names it.

import { readFile, rm } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { AtomicFiles } from '../io/atomicfile.js';
import { bundle, checkIssued, isKeyOf } from '../io/x509/certificates.js';
import { AppFailure } from '../lib/result.js';

const DATA_KEY_BYTES = 32;
const NODE_FILE = 'certificates/swarm-node.pem';
const ROOT_FILE = 'certificates/swarm-root-ca.crt';

export interface SwarmState {
  readonly nodeId: string;
  readonly clusterId: string;
  readonly role: 'manager' | 'worker';
  /** Decimal text; empty for workers. */
  readonly raftId: string;
  readonly listenAddr: string;
  readonly advertiseAddr: string;
  readonly dataPathAddr: string;
  readonly vxlanPort: number;
  readonly managers: readonly { readonly nodeId: string; readonly addr: string }[];
}

export interface NodeCertificates {
  readonly rootCa: string;
  readonly certificate: string;
  readonly key: string;
}

export class SwarmFiles {
  readonly directory: string;
  private readonly files = new AtomicFiles();

  constructor(stateDir: string) {
    this.directory = path.join(stateDir, 'swarm');
  }

  get raftDir(): string {
    return path.join(this.directory, 'raft');
  }

  get workerDir(): string {
    return path.join(this.directory, 'worker');
  }

  /** Undefined outside a swarm. */
  async load(): Promise<SwarmState | undefined> {
    const file = path.join(this.directory, 'state.json');
    const text = await readFile(file, 'utf8').catch(missing);
    if (text === undefined) return undefined;
    return parseState(text) ?? damaged(`error while loading the swarm state in ${file}: it is damaged`);
  }

  async save(state: SwarmState): Promise<void> {
    await this.write('state.json', JSON.stringify(state, undefined, 2), 0o600);
  }

  /** A pair that matches; whether it is still valid is certificateProblem(). */
  async loadCertificates(): Promise<NodeCertificates> {
    const read = (name: string): Promise<string> => {
      const file = path.join(this.directory, name);
      return readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error;
        return damaged(`error while loading TLS certificate in ${file}: it is missing`);
      });
    };
    const rootCa = await read(ROOT_FILE);
    const node = await read(NODE_FILE);
    const keyAt = node.search(/-----BEGIN [A-Z ]*PRIVATE KEY-----/);
    const certificate = keyAt < 0 ? '' : node.slice(0, keyAt);
    const key = keyAt < 0 ? '' : node.slice(keyAt);
    if (!isKeyOf(key, certificate)) {
      return damaged(`error while loading TLS certificate in ${path.join(this.directory, NODE_FILE)}: `
        + 'it holds no certificate with its private key');
    }
    return { rootCa, certificate, key };
  }

  /** Undefined, or why these are worth nothing now, in Docker's words. */
  certificateProblem({ certificate, rootCa }: NodeCertificates, nowMs: number): string | undefined {
    const checked = checkIssued(certificate, rootCa, nowMs);
    if (checked.ok) return undefined;
    const expired = Date.parse(bundle(certificate)[0]?.validTo ?? '') < nowMs;
    return `error while loading TLS certificate in ${path.join(this.directory, NODE_FILE)}: ${checked.error.message}`
      + (expired ? '. Swarm certificates have expired. To replace them, leave the swarm and join again.' : '');
  }

  /** Certificate and key are one file: a kill between two would leave a pair that does not match. */
  async saveCertificates(certificates: NodeCertificates): Promise<void> {
    await this.write(ROOT_FILE, certificates.rootCa, 0o644);
    await this.write(NODE_FILE, `${certificates.certificate}${certificates.key}`, 0o600);
  }

  /** The key that seals the raft log; made on first use. */
  async dataKey(): Promise<Uint8Array> {
    const file = path.join(this.directory, 'raft-dek');
    const known = await readFile(file).catch(missing);
    if (known !== undefined) {
      return known.length === DATA_KEY_BYTES ? known
        : damaged(`the key of the raft log, ${file}, is damaged: it has ${known.length} bytes and must have ${DATA_KEY_BYTES}`);
    }
    const key = randomBytes(DATA_KEY_BYTES);
    await this.write('raft-dek', key, 0o600);
    return key;
  }

  /** The state first: what a kill leaves behind belongs to no swarm. */
  async clear(): Promise<void> {
    await this.files.remove(path.join(this.directory, 'state.json'));
    await rm(this.directory, { recursive: true, force: true });
  }

  private async write(name: string, content: string | Uint8Array, mode: number): Promise<void> {
    await this.files.write(path.join(this.directory, name), content, { mode, sync: true });
  }
}

function missing(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT') return undefined;
  throw error;
}

function damaged(message: string): never {
  throw new AppFailure({
    code: 'failed_precondition', message: `${message}. Restore it and start the agent again, or leave the swarm and join again.`,
  });
}

function parseState(text: string): SwarmState | undefined {
  let value: Partial<SwarmState> | null;
  try {
    value = JSON.parse(text) as Partial<SwarmState> | null;
  } catch {
    return undefined; // Cut short, or zeros.
  }
  const texts = [value?.nodeId, value?.clusterId, value?.raftId, value?.listenAddr, value?.advertiseAddr, value?.dataPathAddr];
  const whole = texts.every((field) => typeof field === 'string') && (value?.role === 'manager' || value?.role === 'worker')
    && typeof value.vxlanPort === 'number' && Array.isArray(value.managers);
  return whole ? value as SwarmState : undefined;
}
