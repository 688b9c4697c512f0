// Renewal: when a node's certificate is replaced: late in its life, or when a manager asks for it; tried again when it
// fails.

import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import type { Credentials } from '../io/grpc/client.js';
import { bundle } from '../io/x509/certificates.js';
import type { Role } from './noderecord.js';
import type { NodeCertificates } from './swarmstate.js';
import { renewCertificate } from './worker/join.js';

const RETRY_MIN_MS = 1000;
const RETRY_MAX_MS = 60_000;
/** A manager that never has enough gets a certificate this often. */
const ROTATE_INTERVAL_MS = 10_000;
const TIMER_MAX_MS = 2 ** 31 - 1;

export interface RenewalOptions {
  readonly credentials: () => Credentials;
  /** Of the certificate. */
  readonly hasRole: (role: Role) => boolean;
  /** Addresses to ask; another one after each failure. */
  readonly managers: () => readonly string[];
  /** Saves the new certificate and has it used. */
  readonly onRenewed: (certificates: Omit<NodeCertificates, 'rootCa'>) => Promise<void>;
  readonly logger: Logger;
  readonly onBug: (error: unknown) => void;
}

export class Renewal {
  private readonly options: RenewalOptions;
  private timer: NodeJS.Timeout | undefined;
  private renewing = false;
  /** What the swarm last said that this node is. */
  private toldRole: Role | undefined;
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
  told(role: Role): void {
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
    const { credentials, managers, logger, onRenewed } = this.options;
    const addresses = managers();
    const renewed = await renewCertificate(addresses[this.failures % Math.max(addresses.length, 1)] ?? '', credentials());
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
    const { key, certificate } = renewed.value;
    await onRenewed({ key, certificate });
    this.renewing = false;
    this.schedule();
    // It may have been issued before the role that was told meanwhile.
    this.matchRole();
  }
}
