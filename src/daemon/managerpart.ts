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
  /** With the agent, or on leaving: nothing is begun any more. */
  private closed = false;
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
    this.host = new ManagerHost({
      files: record.files,
      state: () => record.state ?? state,
      saveState: (next) => record.save(next),
      identity: () => record.serverIdentity(),
      credentials: () => record.credentials(),
      onKeyExposed,
      onStale: (reason) => this.change(() => this.becomeUnfit(reason)),
      logger,
      onBug,
    });
    return this.host.start(timeoutMs);
  }

  /** Its files stay. */
  async close(): Promise<void> {
    this.closed = true;
    await this.host?.close();
  }

  /** Closed, and none any more. */
  async end(): Promise<void> {
    await this.host?.close();
    this.host = undefined;
  }

  /** Out of its group for good. */
  async leave(): Promise<void> {
    this.closed = true;
    await this.host?.leave();
  }

  forget(): void {
    this.host = undefined;
  }

  /** The node's certificate or its trust root changed. */
  follow(): void {
    this.host?.setIdentity();
    const isManager = this.options.record.hasRole('swarm-manager');
    if (isManager && this.host === undefined) this.takeUp();
    if (!isManager && this.host !== undefined) this.change(() => this.becomeWorker());
  }

  /**
   * What the swarm says of this node. One that was demoted and promoted again before it had a worker's certificate never ceased to
   * be a manager, but is in no group: it asks for its place anew.
   */
  told(node: Node | undefined): void {
    const { host, options: { record, onBug } } = this;
    const raftId = record.state?.raftId ?? '';
    if (host === undefined || raftId === '' || this.asking === host || !record.hasRole('swarm-manager')) return;
    if (node?.role !== NodeRole.MANAGER || node.spec?.desiredRole !== NodeRole.MANAGER) return;
    if (node.managerStatus?.raftId === BigInt(raftId)) return;
    this.asking = host;
    host.newPlace().then((place) => {
      // What is said meanwhile of the new place is no reason to ask again.
      if (place === undefined) this.asking = undefined;
      else this.change(() => this.rejoin(host, place));
    }).catch(onBug);
  }

  /** In the background: the group may take its time. */
  takeUp(): void {
    this.change(() => this.becomeManager());
  }

  private change(work: () => Promise<void>): void {
    this.changing = this.changing.then(work).catch((error: unknown) => {
      const failure = expectedFailure(error);
      if (failure === undefined) this.options.onBug(error);
      else this.options.logger.error({ error: failure.message }, 'the role of this node could not be changed');
    });
  }

  /** This node has a manager's certificate and no part in the group. */
  private async becomeManager(): Promise<void> {
    const { record, record: { state }, logger } = this.options;
    if (state === undefined || this.host !== undefined || state.unfit !== undefined) return;
    const next: SwarmState = { ...state, role: 'manager', raftId: '' };
    await record.save(next);
    try {
      await this.start(next, ROLE_TIMEOUT_MS);
      logger.info('this node is a manager now');
    } catch (error) {
      await this.end();
      throw error;
    }
  }

  /** The log goes before the id under which it was written: an id that nobody counts any more can forget what it told. */
  private async rejoin(host: ManagerHost, place: Place): Promise<void> {
    const { record, logger } = this.options;
    const over = (): boolean => this.closed || this.host !== host;
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
      await this.end();
      throw error;
    }
    logger.warn('this manager had been taken out of its group: it has a new place in it');
  }

  /** This node was demoted: it is out of the group already. */
  private async becomeWorker(): Promise<void> {
    const { host, options: { record, record: { state }, logger } } = this;
    if (state === undefined || host === undefined) return;
    await record.save({ ...state, role: 'worker', raftId: '', managers: state.managers.filter(({ nodeId }) => nodeId !== state.nodeId) });
    this.host = undefined;
    await host.discard();
    await record.files.dropManagerKeys();
    logger.info('this node is no manager any more');
  }

  /**
   * This manager's log cannot be part of its group: kept, so that it does not vote by it after the next start either. Its
   * tasks go on, and it can be left or go on alone.
   */
  private async becomeUnfit(reason: string): Promise<void> {
    // The leader's word may come in the middle of that.
    await this.options.takenUp();
    const { host, options: { record, record: { state }, logger, onUnfit } } = this;
    if (state === undefined || host === undefined) return;
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
