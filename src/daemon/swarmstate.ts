// What a node keeps of its swarm beside the raft log: identity, certificates, known managers. Small files, each
// written aside, synced and renamed, so that a crash leaves the old or the new one.

import { readFile, rm } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { AtomicFiles } from '../io/atomicfile.js';

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

  async load(): Promise<SwarmState | undefined> {
    const text = await readFile(path.join(this.directory, 'state.json'), 'utf8').catch(missing);
    return text === undefined ? undefined : JSON.parse(text) as SwarmState;
  }

  async save(state: SwarmState): Promise<void> {
    await this.write('state.json', JSON.stringify(state, undefined, 2), 0o600);
  }

  async loadCertificates(): Promise<NodeCertificates> {
    const read = (name: string): Promise<string> => readFile(path.join(this.directory, 'certificates', name), 'utf8');
    return { rootCa: await read('swarm-root-ca.crt'), certificate: await read('swarm-node.crt'), key: await read('swarm-node.key') };
  }

  async saveCertificates(certificates: NodeCertificates): Promise<void> {
    await this.write('certificates/swarm-root-ca.crt', certificates.rootCa, 0o644);
    await this.write('certificates/swarm-node.key', certificates.key, 0o600);
    await this.write('certificates/swarm-node.crt', certificates.certificate, 0o644);
  }

  /** The key that seals the raft log; made on first use. */
  async dataKey(): Promise<Uint8Array> {
    const file = path.join(this.directory, 'raft-dek');
    const known = await readFile(file).catch(missing);
    if (known !== undefined) return known;
    const key = randomBytes(32);
    await this.write('raft-dek', key, 0o600);
    return key;
  }

  async clear(): Promise<void> {
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
