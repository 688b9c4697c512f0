// ManagerPart: a node's half as a manager, while it has one: started, stopped, taken up and laid down as the node's role
// changes, one change after the other.

import type { Logger } from 'pino';
import { expectedFailure } from '../lib/result.js';
import { NodeRole, type Node } from '../model/proto/swarmkit_pb.js';
import { ManagerHost, type Place } from './manager/host.js';
import type { Manager } from './manager/manager.js';
import { NO_LEADER } from './manager/proposals.js';
import type { NodeRecord } from './noderecord.js';
import { unfitProblem, type SwarmState } from './swarmstate.js';

/** A promoted node that is not taken in by then waits for the next start or renewal. */
const ROLE_TIMEOUT_MS = 3_600_000;

export interface ManagerPartOptions {
  readonly record: NodeRecord;
  /** Its key may be known to others: another certificate is asked for. */
  readonly onKeyExposed: () => void;
  /** Resolves once the node's part in the swarm, as its files tell of it, is taken up. */
  readonly takenUp: () => Promise<void>;
  /** It takes no part any more; the worker's half has to end with it. */
  readonly onUnfit: () => Promise<void>;
  readonly logger: Logger;
  readonly onBug: (error: unknown) => void;
}

export class ManagerPart {
  private host: ManagerHost | undefined;
  private changing: Promise<void> = Promise.resolve();
  /** The host that asks whether its group still has it. */
  private asking: ManagerHost | undefined;
  /** What the swarm last said of this node. */
  private lastTold: Node | undefined;
  /** With the agent, on leaving, or while its group is begun anew: nothing is begun any more. */
  private closed = false;
  /** No group is joined any more. */
  private ending = false;
  private readonly options: ManagerPartOptions;

  constructor(options: ManagerPartOptions) {
    this.options = options;
  }

  /** Undefined also while it is still joining its group. */
  get manager(): Manager | undefined {
    return this.host?.manager;
  }

  /** Without a leader no session can stand: that is said, not in which way the last try failed. */
  sessionError(lastTry: string): string {
    return this.manager?.leaderless === true ? NO_LEADER : lastTry;
  }

  async start(state: SwarmState, timeoutMs: number): Promise<Manager> {
    const { record, onKeyExposed, logger, onBug } = this.options;
    this.closed = false;
    const host: ManagerHost = this.host = new ManagerHost({
      files: record.files,
      state: () => record.state ?? state,
      saveState: (next) => record.save(next),
      identity: () => record.serverIdentity(),
      credentials: () => record.credentials(),
      wanted: () => record.hasRole('swarm-manager'),
      onKeyExposed,
      onStale: (reason) => this.change(() => this.becomeUnfit(host, reason)),
      logger,
      onBug,
    });
    return host.start(timeoutMs);
  }

  /** Its files stay. */
  async close(): Promise<void> {
    this.closed = true;
    await this.host?.close();
  }

  /** Closed, and none any more until start(); no change of it is under way. */
  async end(): Promise<void> {
    // It may be waiting for a group that does not answer.
    this.ending = true;
    if (this.host?.starting === true) await this.host.close();
    await this.changing;
    this.closed = true;
    this.ending = false;
    await this.drop();
  }

  /** After end(), where no other start() follows: by the certificate, which may have changed meanwhile. */
  resume(): void {
    this.closed = false;
    this.matchRole();
  }

  private async drop(): Promise<void> {
    const { host } = this;
    this.host = undefined;
    await host?.close();
  }

  /** Out of its group for good. */
  async leave(): Promise<void> {
    this.closed = true;
    await this.host?.leave();
    await this.changing;
  }

  /** Of the swarm that was left. */
  forget(): void {
    this.host = undefined;
    this.lastTold = undefined;
    this.closed = false;
  }

  /** The node's certificate or its trust root changed. */
  follow(): void {
    this.host?.setIdentity();
    this.matchRole();
  }

  /** Its certificate says what the node is. Its state may say otherwise: an agent that ended between the two. */
  matchRole(): void {
    // In the background: the group may take its time. By what the certificate says then.
    this.change(() => (this.options.record.hasRole('swarm-manager') ? this.becomeManager() : this.becomeWorker()));
  }

  /**
   * What the swarm says of this node. One that was demoted and promoted again before it had a worker's certificate never ceased to
   * be a manager, but is in no group: it asks for its place anew.
   */
  told(node: Node | undefined): void {
    const { host } = this;
    this.lastTold = node;
    if (host === undefined || this.asking === host || !this.isMisplaced()) return;
    this.asking = host;
    host.newPlace(() => this.isMisplaced()).then((place) => {
      // What is said meanwhile of the new place is no reason to ask again.
      if (place === undefined) this.asking = undefined;
      else this.change(() => this.rejoin(host, place));
    }).catch(this.options.onBug);
  }

  /** A manager, and to be one; but the group counts another member as it, or none. */
  private isMisplaced(): boolean {
    const { lastTold, options: { record } } = this;
    const raftId = record.state?.raftId ?? '';
    return raftId !== '' && record.hasRole('swarm-manager') && lastTold?.role === NodeRole.MANAGER
      && lastTold.spec?.desiredRole === NodeRole.MANAGER && lastTold.managerStatus?.raftId !== BigInt(raftId);
  }

  private change(work: () => Promise<void>): void {
    this.changing = this.changing.then(work).catch((error: unknown) => {
      const failure = expectedFailure(error);
      if (failure === undefined) this.options.onBug(error);
      else this.options.logger.error({ error: failure.message }, 'the role of this node could not be changed');
    });
  }

  /** This node has a manager's certificate; perhaps no part in the group. */
  private async becomeManager(): Promise<void> {
    const { record, record: { state }, logger } = this.options;
    if (state === undefined || this.host !== undefined || state.unfit !== undefined || this.closed) return;
    const next: SwarmState = { ...state, role: 'manager', raftId: '', begun: false };
    await record.save(next);
    if (this.closed || this.ending) return;
    try {
      await this.start(next, ROLE_TIMEOUT_MS);
      logger.info('this node is a manager now');
    } catch (error) {
      await this.drop();
      throw error;
    }
  }

  /** The log goes before the id under which it was written: an id that nobody counts any more can forget what it told. */
  private async rejoin(host: ManagerHost, place: Place): Promise<void> {
    const { record, logger } = this.options;
    const over = (): boolean => this.closed || this.host !== host;
    if (over() || record.state === undefined) return;
    host.outlived = true;
    // An agent that ends meanwhile has an empty log, and asks again; it neither founds a swarm nor misses what is gone.
    await record.save({ ...record.state, joined: true, begun: false });
    if (over()) return;
    await host.discard();
    const { state } = record;
    if (over() || state === undefined) return;
    const next: SwarmState = { ...state, ...place };
    await record.save(next);
    if (over()) return;
    try {
      await this.start(next, 0);
    } catch (error) {
      await this.drop();
      throw error;
    }
    logger.warn('this manager had been taken out of its group: it has a new place in it');
  }

  /**
   * This node has a worker's certificate. Was it a manager, then it is out of the group already, or was never let in. Also one
   * that was to become a manager and did not is sealed by then.
   */
  private async becomeWorker(): Promise<void> {
    const { host, options: { record, record: { state }, logger } } = this;
    if (state === undefined || this.closed) return;
    if (state.role !== 'manager' && record.files.lock.unlockKey === undefined) return;
    this.host = undefined;
    await (host?.discard() ?? record.files.dropLog());
    await record.files.dropManagerKeys();
    // Last: an agent that ends before does it all again.
    if (record.state === undefined) return;
    const managers = record.state.managers.filter(({ nodeId }) => nodeId !== state.nodeId);
    await record.save({ ...record.state, role: 'worker', raftId: '', begun: false, managers });
    logger.info('this node is no manager any more');
  }

  /**
   * This manager's log cannot be part of its group: kept, so that it does not vote by it after the next start either. Its
   * tasks go on, and it can be left or go on alone.
   */
  private async becomeUnfit(host: ManagerHost, reason: string): Promise<void> {
    // The leader's word may come in the middle of that.
    await this.options.takenUp();
    const { record, record: { state }, logger, onUnfit } = this.options;
    if (state === undefined || this.host !== host) return;
    const unfit = `it does not know what it told the other managers (${reason}): its state was put back, or its disk lost writes`;
    const next = { ...state, unfit };
    await record.save(next);
    record.refused = unfitProblem(next);
    logger.error({ error: record.refused }, 'swarm component could not go on');
    this.host = undefined;
    await onUnfit();
    await host.close();
  }
}
