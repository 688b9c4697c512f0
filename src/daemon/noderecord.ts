// NodeRecord: what a node remembers of its swarm, in memory as on disk: its state and its certificates, and whether it can
// take up its part with them. Changes are written one after the other.

import type { Logger } from 'pino';
import type { OwnLock } from '../core/ca/unlock.js';
import type { Credentials } from '../io/grpc/client.js';
import type { ServerIdentity } from '../io/grpc/server.js';
import { isIssuedFor, type NodeCertRole } from '../io/x509/certificates.js';
import { AppFailure, type Result } from '../lib/result.js';
import { settleRestored } from './restored.js';
import { SwarmFiles, SwarmLocked, unfitProblem, type NodeCertificates, type SwarmState } from './swarmstate.js';
import { judgeRoot } from './trust.js';

/** Where the node is reached now, if that is not what it was. */
export type FollowAddress = (state: SwarmState) => Result<Pick<SwarmState, 'advertiseAddr' | 'dataPathAddr'>> | undefined;

export class NodeRecord {
  readonly files: SwarmFiles;
  state: SwarmState | undefined;
  certificates: NodeCertificates | undefined;
  /** Why this node's part in its swarm was not taken up at the start; it can only be left. */
  refused: string | undefined;
  /** The node's keys wait for the swarm's unlock key; nothing of its part in the swarm runs, but its tasks do. */
  locked = false;
  private readonly logger: Logger;
  private readonly onBug: (error: unknown) => void;
  /** The root last refused: told once. */
  private refusedRoot = '';
  /** The state or certificate file being written. */
  private saving: Promise<void> = Promise.resolve();

  constructor(stateDir: string, logger: Logger, onBug: (error: unknown) => void) {
    this.files = new SwarmFiles(stateDir);
    this.logger = logger;
    this.onBug = onBug;
  }

  get inSwarm(): boolean {
    return this.state !== undefined || this.refused !== undefined;
  }

  /** As a Docker Engine: what is wrong with the files is told by the API of an agent that runs, and its tasks go on. */
  async load(follow: FollowAddress): Promise<void> {
    try {
      this.state = await this.files.load();
      if (this.state === undefined) return;
      // Before the certificates, which may be locked: the state never is.
      await this.followAddress(this.state, follow);
      this.certificates = await this.files.loadCertificates();
      this.refused = this.files.certificateProblem(this.certificates, Date.now());
      if (this.refused === undefined) await this.settle();
    } catch (error) {
      if (error instanceof SwarmLocked) {
        this.locked = true;
        this.logger.warn('the keys of this manager are locked: its part in the swarm waits for "docker swarm unlock"');
        return;
      }
      if (!(error instanceof AppFailure)) throw error;
      this.refused = error.message;
    }
    if (this.refused !== undefined) this.logger.error({ error: this.refused }, 'swarm component could not be started');
  }

  /** Started with another address than it had: that one counts from now on. */
  private async followAddress(state: SwarmState, follow: FollowAddress): Promise<void> {
    const addresses = follow(state);
    if (addresses === undefined) return;
    if (!addresses.ok) throw new AppFailure(addresses.error);
    if (addresses.value.advertiseAddr === state.advertiseAddr) return;
    this.logger.warn({ from: state.advertiseAddr, to: addresses.value.advertiseAddr }, 'this node has another address than before');
    await this.save({ ...state, ...addresses.value });
  }

  /** The certificates, opened with the unlock key. SwarmLocked when it is another. */
  async unlock(unlockKey: Uint8Array): Promise<void> {
    this.certificates = await this.files.loadCertificates(unlockKey);
    this.refused = this.files.certificateProblem(this.certificates, Date.now());
    if (this.refused !== undefined) return;
    this.locked = false;
    await this.settle();
  }

  /** As what it goes on, or that it must not: of a manager that was restored, its log tells. */
  private async settle(): Promise<void> {
    if (this.state === undefined) return;
    const next = await settleRestored(this.files, this.state);
    if (next !== this.state) await this.save(next);
    this.refused = unfitProblem(next);
  }

  /** In memory at once; on disk when it resolves. */
  save(next: SwarmState): Promise<void> {
    this.state = next;
    const done = this.saving.then(() => this.files.save(next));
    this.saving = done.catch(this.onBug);
    return done;
  }

  /** Nothing is being written any more. */
  async saved(): Promise<void> {
    await this.saving;
  }

  /** The first ones, before the state. Sealed from the first file on, where the swarm locks its managers. */
  async keep(certificates: NodeCertificates, lock: OwnLock | undefined): Promise<void> {
    this.certificates = certificates;
    await this.files.saveCertificates(certificates, lock);
  }

  /**
   * A new certificate, or a new trust root: kept, sealed as `lock` says if that is given, and used from then on. False when the
   * node left its swarm meanwhile.
   */
  async adopt(change: Partial<NodeCertificates>, lock?: OwnLock): Promise<boolean> {
    this.saving = this.saving.then(async () => {
      if (this.state === undefined) return;
      const next = { ...this.certificates as NodeCertificates, ...change };
      await this.files.saveCertificates(next, lock);
      this.certificates = next;
    });
    await this.saving;
    return this.state !== undefined;
  }

  forget(): void {
    this.state = undefined;
    this.refused = undefined;
    this.locked = false;
    this.certificates = undefined;
  }

  credentials(): Credentials {
    // None while they are locked.
    const { rootCa, key, certificate } = this.certificates ?? {};
    return { rootCa, key, certificate, serverName: 'swarm-manager' };
  }

  serverIdentity(): ServerIdentity {
    const { key, certificate, rootCa } = this.certificates as NodeCertificates;
    return { key, certificate, rootCa };
  }

  /** Of its certificate. */
  hasRole(role: NodeCertRole): boolean {
    return isIssuedFor(this.certificates?.certificate ?? '', role);
  }

  /** A manager with a place in the group, whose keys follow the swarm's unlock key from there. */
  get isMember(): boolean {
    return this.hasRole('swarm-manager') && (this.state?.raftId ?? '') !== '';
  }

  /** What is wrong with its certificate now; empty if nothing is. */
  get certificateProblem(): string {
    return this.certificates === undefined ? '' : this.files.certificateProblem(this.certificates, Date.now()) ?? '';
  }

  /** Whether a trust root that the manager offers is to be adopted. */
  acceptsRoot(offered: string): boolean {
    const verdict = judgeRoot(this.certificates as NodeCertificates, offered, Date.now());
    if (verdict === 'known') return false;
    if (verdict === 'accepted') {
      this.logger.info('the swarm has a new root certificate: this node trusts it from now on');
      return true;
    }
    if (this.refusedRoot !== offered) {
      this.refusedRoot = offered;
      this.logger.warn({ reason: verdict.refused },
        'a root certificate offered by the manager is not taken: this node\'s own certificate is not good under it');
    }
    return false;
  }
}
