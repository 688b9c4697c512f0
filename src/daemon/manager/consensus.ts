// Consensus: the shell around RaftNode and RaftLog. propose() resolves once the command is on disk, committed and
// applied. One loop persists, then applies, then advances; proposals made meanwhile share the next sync.

import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { assert } from '../../lib/assert.js';
import { fail, type Result } from '../../lib/result.js';
import { Signal } from '../../lib/signal.js';
import { timestampMs } from '../../lib/time.js';
import { RaftNode } from '../../core/raft/raft.js';
import { COMMAND_BYTES_MAX } from '../../core/store/batches.js';
import type { Applied } from '../../core/store/store.js';
import { Store } from '../../core/store/store.js';
import type { StoreEvent } from '../../core/store/view.js';
import { RaftLog } from '../../io/raftlog/raftlog.js';
import { CommandSchema, SnapshotFileSchema, StoreStateSchema, type Command } from '../../model/proto/skein_pb.js';

/** Proposals waiting for their commit; more are refused at once. */
const WAITING_MAX = 10_000;
const SNAPSHOT_INTERVAL_DEFAULT = 10_000n;

export type EventListener = (events: readonly StoreEvent[], nowMs: number) => void;

export class Consensus {
  readonly store: Store;
  readonly raftId: bigint;
  /** Of an unfinished last write, cut off when the log was opened: nobody was told that it had been done. */
  readonly tornBytes: number;
  private readonly raft: RaftNode;
  private readonly log: RaftLog;
  private readonly wake = new Signal();
  private readonly waiters = new Map<string, (result: Result<Applied>) => void>();
  private readonly listeners = new Set<EventListener>();
  private snapshotIndex: bigint;
  private stopped = false;
  private loop: Promise<void> | undefined;

  private constructor(raft: RaftNode, log: RaftLog, store: Store, snapshotIndex: bigint, tornBytes: number) {
    this.tornBytes = tornBytes;
    this.raft = raft;
    this.raftId = raft.id;
    this.log = log;
    this.store = store;
    this.snapshotIndex = snapshotIndex;
  }

  /** Opens the log; what was committed is applied once the loop runs. `onCrash` gets what ends the loop. */
  static async open(directory: string, dek: Uint8Array, raftId: bigint): Promise<Consensus> {
    const log = new RaftLog(directory, dek);
    const loaded = await log.load();
    const store = new Store();
    if (loaded.snapshot !== undefined) store.restore(fromBinary(StoreStateSchema, loaded.snapshot.data));
    const raft = new RaftNode({
      id: raftId,
      hardState: loaded.hardState,
      confState: { voters: [raftId] },
      snapshotIndex: loaded.snapshot?.index ?? 0n,
      snapshotTerm: loaded.snapshot?.term ?? 0n,
      entries: loaded.entries,
    });
    return new Consensus(raft, log, store, loaded.snapshot?.index ?? 0n, loaded.tornBytes);
  }

  /** Runs until close(); rejects when the disk fails. Resolves `ready` after everything on disk was applied. */
  start(onCrash: (error: unknown) => void): Promise<void> {
    this.raft.tick();
    const target = this.raft.status.last;
    const applied = new Promise<void>((resolve) => {
      const check = (): void => {
        if (this.raft.status.commit >= target && !this.raft.hasReady()) resolve();
        else setImmediate(check);
      };
      check();
    });
    this.loop = this.run();
    this.loop.catch(onCrash);
    return applied;
  }

  get status(): { readonly term: bigint; readonly commit: bigint; readonly leader: boolean } {
    return { term: this.raft.status.term, commit: this.raft.status.commit, leader: this.raft.leader };
  }

  onEvents(listener: EventListener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  propose(command: Command): Promise<Result<Applied>> {
    const data = toBinary(CommandSchema, command);
    if (data.length > COMMAND_BYTES_MAX) {
      return Promise.resolve(fail('invalid_argument', `raft: raft message is too large and can't be sent (${data.length} bytes)`));
    }
    if (this.stopped) return Promise.resolve(fail('unavailable', 'this manager is stopping'));
    if (this.waiters.size >= WAITING_MAX) {
      return Promise.resolve(fail('resource_exhausted', 'too many changes are waiting to be committed: try again'));
    }
    return new Promise((resolve) => {
      this.waiters.set(command.id, resolve);
      this.raft.propose(data);
      this.wake.raise();
    });
  }

  async close(): Promise<void> {
    this.stopped = true;
    this.wake.raise();
    await this.loop;
    await this.log.close();
    for (const resolve of this.waiters.values()) resolve(fail('unavailable', 'this manager is stopping'));
    this.waiters.clear();
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      if (!this.raft.hasReady()) {
        await this.wake.wait();
        continue;
      }
      const ready = this.raft.ready();
      if (ready.mustSync) await this.log.append(ready.hardState, ready.entries);
      for (const entry of ready.committed) this.apply(entry.index, entry.data);
      this.raft.advance();
      await this.maybeSnapshot();
    }
  }

  private apply(index: bigint, data: Uint8Array): void {
    if (data.length === 0) return;
    const command = fromBinary(CommandSchema, data);
    const result = this.store.apply(index, command);
    if (result.ok && result.value.events.length > 0) {
      const nowMs = timestampMs(command.time);
      for (const listener of this.listeners) listener(result.value.events, nowMs);
    }
    const resolve = this.waiters.get(command.id);
    if (resolve !== undefined) {
      this.waiters.delete(command.id);
      resolve(result);
    }
  }

  private async maybeSnapshot(): Promise<void> {
    const configured = this.store.cluster()?.spec?.raft?.snapshotInterval ?? 0n;
    const interval = configured > 0n ? configured : SNAPSHOT_INTERVAL_DEFAULT;
    const index = this.store.index;
    if (index - this.snapshotIndex < interval) return;
    const { term, commit } = this.raft.status;
    assert(index <= commit, 'a snapshot of what is committed');
    await this.log.saveSnapshot(
      create(SnapshotFileSchema, { index, term, voters: [this.raftId], data: toBinary(StoreStateSchema, this.store.snapshot()) }),
      { term, vote: this.raftId, commit: index },
    );
    this.snapshotIndex = index;
  }
}
