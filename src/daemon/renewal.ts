// Renewal: when a node's certificate is replaced: late in its life, or when a manager asks for it; tried again when it
// fails.

import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import type { OwnLock } from '../core/ca/unlock.js';
import type { Credentials } from '../io/grpc/client.js';
import { bundle, type NodeCertRole } from '../io/x509/certificates.js';
import { ok, type Result } from '../lib/result.js';
import type { NodeCertificates } from './swarmstate.js';
import { fetchUnlockKey } from './unlockkey.js';
import { renewCertificate } from './worker/join.js';

const RETRY_MIN_MS = 1000;
const RETRY_MAX_MS = 60_000;
/** A manager that never has enough gets a certificate this often. */
const ROTATE_INTERVAL_MS = 10_000;
const TIMER_MAX_MS = 2 ** 31 - 1;

export interface RenewalOptions {
  readonly credentials: () => Credentials;
  /** Of the certificate. */
  readonly hasRole: (role: NodeCertRole) => boolean;
  /** Addresses to ask; another one after each failure. */
  readonly managers: () => readonly string[];
  /** It is a manager in its group: of its keys that one takes care. */
  readonly isMember: () => boolean;
  /** Saves the new certificate and has it used. With `lock` it is sealed as that says. */
  readonly onRenewed: (certificates: Omit<NodeCertificates, 'rootCa'>, lock: OwnLock | undefined) => Promise<void>;
  readonly logger: Logger;
  readonly onBug: (error: unknown) => void;
}

interface Renewed extends Omit<NodeCertificates, 'rootCa'> {
  readonly lock: OwnLock | undefined;
}

export class Renewal {
  private readonly options: RenewalOptions;
  private timer: NodeJS.Timeout | undefined;
  private renewing = false;
  /** What the swarm last said that this node is. */
  private toldRole: NodeCertRole | undefined;
  private stopped = false;
  private failures = 0;
  private renewedMs = -Infinity;

  constructor(options: RenewalOptions) {
    this.options = options;
  }

  /** At a random time in 50 to 80 % of the certificate's life. */
  schedule(): void {
    const leaf = bundle(this.options.credentials().certificate ?? '')[0];
    if (leaf === undefined) return;
    const from = Date.parse(leaf.validFrom);
    const life = Date.parse(leaf.validTo) - from;
    const share = 0.5 + 0.3 * (randomBytes(2).readUInt16BE() / 65_536);
    this.in(Math.max(from + life * share - Date.now(), 1000));
  }

  /** The manager marked this node's certificate for rotation, or it has not the role it is to have. */
  rotate(): void {
    if (!this.renewing) this.in(Math.max(this.renewedMs + ROTATE_INTERVAL_MS - performance.now(), 0));
  }

  /** The role that the certificate is to have. */
  told(role: NodeCertRole): void {
    this.toldRole = role;
    this.matchRole();
  }

  private matchRole(): void {
    if (this.toldRole !== undefined && !this.options.hasRole(this.toldRole)) this.rotate();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  private in(ms: number): void {
    clearTimeout(this.timer);
    if (this.stopped) return;
    // A timer holds 24 days; half the life of a certificate may be more.
    this.timer = ms > TIMER_MAX_MS ? setTimeout(() => this.in(ms - TIMER_MAX_MS), TIMER_MAX_MS)
      : setTimeout(() => void this.renew().catch(this.options.onBug), ms);
  }

  private async renew(): Promise<void> {
    if (this.renewing) return;
    this.renewing = true;
    const { managers, logger, onRenewed } = this.options;
    const addresses = managers();
    const renewed = await this.request(addresses[this.failures % Math.max(addresses.length, 1)] ?? '');
    // The node left its swarm meanwhile.
    if (this.stopped) return;
    if (!renewed.ok) {
      logger.warn({ error: renewed.error.message }, 'certificate renewal failed; it is tried again');
      this.in(Math.min(RETRY_MIN_MS * 2 ** this.failures, RETRY_MAX_MS));
      this.failures += 1;
      this.renewing = false;
      return;
    }
    this.failures = 0;
    this.renewedMs = performance.now();
    const { key, certificate, lock } = renewed.value;
    await onRenewed({ key, certificate }, lock);
    this.renewing = false;
    this.schedule();
    // It may have been issued before the role that was told meanwhile.
    this.matchRole();
  }

  /** With a certificate that makes a manager of the node: how its key is to be sealed, from the first time it is written. */
  private async request(address: string): Promise<Result<Renewed>> {
    const from = this.options.credentials();
    const renewed = await renewCertificate(address, from);
    if (!renewed.ok) return renewed;
    const { key, certificate, role } = renewed.value;
    const lock = role !== 'swarm-manager' || this.options.isMember() ? ok(undefined)
      : await fetchUnlockKey(address, { ...from, key, certificate });
    return lock.ok ? ok({ key, certificate, lock: lock.value }) : lock;
  }
}
