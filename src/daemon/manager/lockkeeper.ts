// LockKeeper: keeps a manager's own keys sealed with the swarm's unlock key (autolock), as the cluster object says.
// One file holds them all and is replaced at once, so that after a kill either the old unlock key opens it or the new
// one. When the keys were in the clear before, they count as known: the data key of the raft log is replaced (pending, until
// every file of the log is sealed with it) and the certificate too.

import type { Logger } from 'pino';
import { lockChange } from '../../core/ca/unlock.js';
import { newDataKey, type RaftKeys } from '../../io/keystore/nodefile.js';
import { Signal } from '../../lib/signal.js';
import type { SwarmFiles } from '../swarmstate.js';
import type { Manager } from './manager.js';

/** Until a log whose old key is still needed is asked again. */
const RETRY_MS = 5000;

export interface LockKeeperOptions {
  readonly files: SwarmFiles;
  readonly manager: Manager;
  /** The certificate's key lay in the clear: a new one is wanted. */
  readonly onKeyExposed: () => void;
  readonly logger: Logger;
}

export class LockKeeper {
  private readonly options: LockKeeperOptions;
  private readonly wake = new Signal();
  private readonly unsubscribe: () => void;
  private retry: NodeJS.Timeout | undefined;
  private stopped = false;
  private loop: Promise<void> | undefined;
  private settling: (() => void)[] = [];

  constructor(options: LockKeeperOptions) {
    this.options = options;
    this.unsubscribe = options.manager.onEvents((events) => {
      if (events.some(({ kind }) => kind === 'cluster')) this.wake.raise();
    });
  }

  start(onBug: (error: unknown) => void): void {
    this.wake.raise();
    this.loop = this.run();
    this.loop.catch(onBug);
  }

  /** Resolves once the keys on disk are sealed as the cluster says now. */
  async settled(): Promise<void> {
    if (this.stopped || this.change() === undefined) return;
    await new Promise<void>((resolve) => this.settling.push(resolve));
  }

  async close(): Promise<void> {
    this.stopped = true;
    this.unsubscribe();
    clearTimeout(this.retry);
    this.wake.raise();
    await this.loop;
  }

  private change(): ReturnType<typeof lockChange> {
    return lockChange(this.options.files.lock, this.options.manager.view().cluster());
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      await this.wake.wait();
      if (!this.stopped) await this.seal();
      for (const done of this.settling.splice(0)) done();
      if (!this.stopped) await this.replaceDataKey();
    }
    for (const done of this.settling.splice(0)) done();
  }

  private async seal(): Promise<void> {
    const { files, logger, onKeyExposed } = this.options;
    const change = this.change();
    if (change === undefined) return;
    await files.relock(change);
    logger.info({ locked: change.unlockKey !== undefined }, 'the keys of this manager are sealed as the swarm\'s unlock key says');
    if (change.replaceKeys) onKeyExposed();
  }

  /** One step of a replacement that is under way; comes again while there is more to do. */
  private async replaceDataKey(): Promise<void> {
    const { files, manager, logger } = this.options;
    const { pending } = await files.raftKeys();
    if (pending === undefined) return;
    const oldKeyNeeded = await manager.consensus.rekey(pending);
    if (this.stopped) return;
    if (oldKeyNeeded) {
      clearTimeout(this.retry);
      this.retry = setTimeout(() => this.wake.raise(), RETRY_MS);
      return;
    }
    await files.changeKeys(({ raft }) => ({ raft: raft === undefined ? undefined : replaced(raft) }));
    logger.info('the raft log is sealed with a new key, and the old key is dropped');
    if ((await files.raftKeys()).pending !== undefined) this.wake.raise();
  }
}

function replaced({ current, pending, again }: RaftKeys): RaftKeys {
  return { current: pending ?? current, pending: again ? newDataKey() : undefined, again: false };
}
