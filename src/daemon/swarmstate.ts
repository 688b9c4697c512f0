// What a node keeps of its swarm beside the raft log: identity, certificates, known managers. Small files, each
// written aside, synced and renamed, so that a crash leaves the old or the new one. None of it can be made again from
// elsewhere: a damaged file is an error that names it. The keys of a locked manager are sealed: io/keystore/nodefile.ts.

import { readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import type { OwnLock } from '../core/ca/unlock.js';
import { AtomicFiles } from '../io/atomicfile.js';
import { DATA_KEY_BYTES, decodeNodeFile, encodeNodeFile, newDataKey, type NodeKeys, type RaftKeys } from '../io/keystore/nodefile.js';
import { bundle, checkIssued, isIssuedFor, isKeyOf } from '../io/x509/certificates.js';
import { AppFailure } from '../lib/result.js';
import { relocked } from './relock.js';

export const STATE_FILE = 'state.json';
export const NODE_FILE = 'certificates/swarm-node.pem';
export const ROOT_FILE = 'certificates/swarm-root-ca.crt';
/** Where the key of the raft log was kept before there was a lock. */
export const OLD_DATA_KEY_FILE = 'raft-dek';
const NO_KEYS: NodeKeys = { key: '', raft: undefined, unlockKey: undefined, unlockVersion: 0n, exposed: false };

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
  /** A manager that did not begin the group: its log tells who is in it. */
  readonly joined?: boolean;
  /** A manager whose log has held the state of the swarm: without it, it is not the member it was. */
  readonly begun?: boolean;
  /** Of a manager that joined: the members there were, until its log tells. */
  readonly group?: readonly { readonly raftId: string; readonly nodeId: string; readonly addr: string }[];
  /** Of a manager that must not go on as the member it was: why. Until it goes on alone. */
  readonly unfit?: string;
  /**
   * Of a manager restored as the only one of its group, until it has gone on: when its backup was made, and its raft id from
   * then on. Those who joined after the backup do not take it for the member it was.
   */
  readonly restored?: { readonly madeAt: string; readonly raftId: string };
}

/** What to do about it; undefined while there is nothing. */
export function unfitProblem({ unfit }: SwarmState): string | undefined {
  return unfit === undefined ? undefined : `this manager takes no part in its swarm: ${unfit}. If most of the other managers run, `
    + 'demote and remove it there, leave here ("docker swarm leave --force") and join again; if they are lost, go on without them '
    + '("docker swarm init --force-new-cluster").';
}

export interface NodeCertificates {
  readonly rootCa: string;
  readonly certificate: string;
  readonly key: string;
}

/** The node's keys are sealed, and not with the key that was given. */
export class SwarmLocked extends Error {}

export class SwarmFiles {
  readonly directory: string;
  private readonly files = new AtomicFiles();
  /** What the node file holds beside the certificate; undefined until it was read or written. */
  private keys: NodeKeys | undefined;
  private certificate = '';
  /** The node file is written by one at a time, each on what the one before wrote. */
  private writing: Promise<void> = Promise.resolve();

  constructor(stateDir: string) {
    this.directory = path.join(stateDir, 'swarm');
  }

  get raftDir(): string {
    return path.join(this.directory, 'raft');
  }

  /** Of a node that is no member any more, or not yet. */
  dropLog(): Promise<void> {
    return rm(this.raftDir, { recursive: true, force: true });
  }

  get workerDir(): string {
    return path.join(this.directory, 'worker');
  }

  /** Undefined outside a swarm. */
  async load(): Promise<SwarmState | undefined> {
    const file = path.join(this.directory, STATE_FILE);
    const text = await readFile(file, 'utf8').catch(missing);
    if (text === undefined) return undefined;
    return parseState(text) ?? damaged(`error while loading the swarm state in ${file}: it is damaged`);
  }

  async save(state: SwarmState): Promise<void> {
    await this.write(STATE_FILE, JSON.stringify(state, undefined, 2), 0o600);
  }

  /** A pair that matches; whether it is still valid is certificateProblem(). SwarmLocked when it takes another unlock key. */
  async loadCertificates(unlockKey?: Uint8Array): Promise<NodeCertificates> {
    const read = (name: string): Promise<string> => {
      const file = path.join(this.directory, name);
      return readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error;
        return damaged(`error while loading TLS certificate in ${file}: it is missing`);
      });
    };
    const rootCa = await read(ROOT_FILE);
    const node = decodeNodeFile(await read(NODE_FILE), unlockKey);
    if (node === 'locked') throw new SwarmLocked();
    if (node === 'damaged' || !isKeyOf(node.key, node.certificate)) {
      return damaged(`error while loading TLS certificate in ${path.join(this.directory, NODE_FILE)}: `
        + 'it holds no certificate with its private key');
    }
    const { certificate, key } = node;
    this.keys = node;
    this.certificate = certificate;
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

  /** Certificate and keys are one file: a kill between two would leave what does not match. Sealed as `lock` says, if it is given. */
  async saveCertificates({ rootCa, certificate, key }: NodeCertificates, lock?: OwnLock): Promise<void> {
    await this.known();
    await this.write(ROOT_FILE, rootCa, 0o644);
    await this.changeNode((before) => {
      const keys = lock === undefined ? before : relocked(before, lock);
      return { certificate, keys: { ...keys, key, exposed: keys.exposed && keys.key === key } };
    });
  }

  /** The keys that seal the raft log; made on first use. */
  async raftKeys(): Promise<RaftKeys> {
    const { raft } = await this.known();
    const old = path.join(this.directory, OLD_DATA_KEY_FILE);
    if (raft === undefined) {
      const current = await readFile(old).catch(missing) ?? newDataKey();
      if (current.length !== DATA_KEY_BYTES) {
        damaged(`the key of the raft log, ${old}, is damaged: it has ${current.length} bytes and must have ${DATA_KEY_BYTES}`);
      }
      await this.changeKeys(() => ({ raft: { current, pending: undefined, again: false } }));
    }
    await rm(old, { force: true });
    return (this.keys as NodeKeys).raft as RaftKeys;
  }

  /** What the node's keys are sealed with, and since which version of the cluster. */
  get lock(): Pick<NodeKeys, 'unlockKey' | 'unlockVersion' | 'exposed'> {
    return this.keys ?? NO_KEYS;
  }

  /** Sealed as the swarm says. Whether that was news. */
  async relock(lock: OwnLock): Promise<boolean> {
    const keys = await this.known();
    if (relocked(keys, lock) === keys) return false;
    await this.changeKeys((now) => relocked(now, lock));
    return true;
  }

  /**
   * The node is no manager any more: a worker starts without an unlock key, and has no log. One that has a manager's certificate
   * again meanwhile has that sealed already: it stays so.
   */
  async dropManagerKeys(): Promise<void> {
    const open: Partial<NodeKeys> = { unlockKey: undefined, unlockVersion: 0n, exposed: false };
    await this.changeKeys(() => ({ raft: undefined, ...(isIssuedFor(this.certificate, 'swarm-manager') ? {} : open) }));
  }

  /** On disk, as a whole or not at all, when it resolves. */
  async changeKeys(change: (keys: NodeKeys) => Partial<NodeKeys>): Promise<void> {
    await this.known();
    await this.changeNode((keys) => ({ certificate: this.certificate, keys: { ...keys, ...change(keys) } }));
  }

  private changeNode(change: (keys: NodeKeys) => { certificate: string; keys: NodeKeys }): Promise<void> {
    this.writing = this.writing.then(async () => {
      const { certificate, keys } = change(this.keys ?? NO_KEYS);
      await this.write(NODE_FILE, encodeNodeFile({ ...keys, certificate }), 0o600);
      this.keys = keys;
      this.certificate = certificate;
    });
    return this.writing;
  }

  /** Keys of a file that was not loaded yet are not lost when it is written. */
  private async known(): Promise<NodeKeys> {
    if (this.keys === undefined) {
      const text = await readFile(path.join(this.directory, NODE_FILE), 'utf8').catch(missing);
      const node = text === undefined ? 'damaged' : decodeNodeFile(text, undefined);
      if (node === 'locked') throw new SwarmLocked();
      if (node !== 'damaged') this.certificate = node.certificate;
      this.keys ??= node === 'damaged' ? NO_KEYS : node;
    }
    return this.keys;
  }

  /** The state first: what a kill leaves behind belongs to no swarm. */
  async clear(): Promise<void> {
    await this.files.remove(path.join(this.directory, STATE_FILE));
    await rm(this.directory, { recursive: true, force: true });
    this.keys = undefined;
    this.certificate = '';
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

/** Undefined when it is damaged. */
export function parseState(text: string): SwarmState | undefined {
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
