// Consensus: the shell around RaftNode, RaftLog and the way to the other managers. One loop persists, then sends, then
// applies, then advances; what comes in meanwhile shares the next turn.

import { randomBytes } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { decodeConfChange } from '../../core/raft/confchange.js';
import { StaleLog } from '../../core/raft/log.js';
import { RaftNode } from '../../core/raft/raft.js';
import type { ConfChange, Entry, HardState, Message, RaftStatus, Ready, Snapshot } from '../../core/raft/types.js';
import { COMMAND_BYTES_MAX } from '../../core/store/batches.js';
import { replaceState } from '../../core/store/replace.js';
import { Store, type Applied } from '../../core/store/store.js';
import type { StoreEvent } from '../../core/store/view.js';
import type { LoadedLog, RaftLog } from '../../io/raftlog/raftlog.js';
import { RaftPeers } from '../../io/raftpeers/peers.js';
import type { ManagerClient } from '../../io/grpc/client.js';
import { decode, encode } from '../../io/protobuf/codec.js';
import { assert } from '../../lib/assert.js';
import type { Result } from '../../lib/result.js';
import { Signal } from '../../lib/signal.js';
import { timestampMs } from '../../lib/time.js';
import { CommandSchema, SnapshotFileSchema, StoreStateSchema, type Command, type SnapshotFile } from '../../model/proto/skein_pb.js';
import type { RaftMember } from '../../model/proto/swarmkit_pb.js';
import type { ConsensusOptions } from './consensusoptions.js';
import { Members, memberContext } from './members.js';
import { TICK_MS, openLog, startOf } from './raftstart.js';
import { Reads } from './reads.js';
import { Proposals } from './proposals.js';

const SNAPSHOT_INTERVAL_DEFAULT = 10_000n;
/** SwarmKit's LogEntriesForSlowFollowers. */
const ENTRIES_KEPT_DEFAULT = 500n;
const BARRIER_TIMEOUT_MS = 5000;
/** Turns of the loop that a change of the data key waits for a quiet one. */
const REKEY_TURNS = 100;

export type EventListener = (events: readonly StoreEvent[], nowMs: number) => void;

export class Consensus {
  readonly store: Store;
  readonly raftId: bigint;
  readonly members: Members;
  /** Of an unfinished last write, cut off when the log was opened: nobody was told that it had been done. */
  readonly tornBytes: number;
  private readonly options: ConsensusOptions;
  private readonly raft: RaftNode;
  private readonly log: RaftLog;
  private readonly peers: RaftPeers;
  private readonly wake = new Signal();
  private readonly proposals: Proposals;
  private readonly reads: Reads;
  private readonly listeners = new Set<EventListener>();
  private readonly leadershipListeners = new Set<(leading: boolean) => void>();
  private readonly startCommit: bigint;
  private hard: HardState;
  private applied: { index: bigint; term: bigint };
  private snapshotIndex: bigint;
  private stopped = false;
  /** Nothing is said to the group any more. */
  private stale = false;
  private leaderSeenMs = performance.now();
  private ticker: NodeJS.Timeout | undefined;
  private rekeying: { readonly dek: Uint8Array; readonly done: (oldKeyNeeded: boolean) => void; turns: number } | undefined;
  /** The log alone does not tell a newcomer who is in the group. */
  private snapshotWanted = false;
  private loop: Promise<void> | undefined;

  private constructor(options: ConsensusOptions, { log, loaded }: { log: RaftLog; loaded: LoadedLog }) {
    const { snapshot, hardState, tornBytes } = loaded;
    const { raftId, advertiseAddr: addr } = options;
    this.options = options;
    this.log = log;
    this.raftId = raftId;
    this.tornBytes = tornBytes;
    this.hard = hardState;
    this.store = new Store();
    if (snapshot !== undefined) this.store.restore(decode(StoreStateSchema, snapshot.data));
    this.snapshotIndex = snapshot?.index ?? 0n;
    this.applied = { index: this.snapshotIndex, term: snapshot?.term ?? 0n };
    this.startCommit = hardState.commit;
    this.members = new Members(snapshot?.members.length ? snapshot.members : options.seeds);
    this.raft = new RaftNode(startOf(raftId, options.founder, loaded));
    this.proposals = new Proposals({
      here: (data) => this.proposeFor(data), inTerm: () => this.ledTerm === undefined || this.ledTerm === this.raft.term,
      leaderClient: () => this.leaderClient(),
      leading: () => this.leading,
      leaderlessMs: () => this.leaderlessMs,
      onLeadership: (listener) => this.onLeadership(listener),
    });
    this.reads = new Reads((context) => {
      this.raft.readIndex(context);
      this.wake.raise();
    }, BARRIER_TIMEOUT_MS, BigInt(randomBytes(6).readUIntBE(0, 6)));
    this.peers = new RaftPeers({
      self: { raftId, addr },
      credentials: options.credentials,
      // Of now: after an older one on disk only more entries would have to follow.
      readSnapshot: async () => toBinary(SnapshotFileSchema, this.snapshotFile()),
      onUnreachable: (member) => this.raft.reportUnreachable(member),
      onSnapshotSent: (member, ok) => {
        this.raft.reportSnapshot(member, ok);
        this.wake.raise();
      },
      onBug: options.onCrash,
    });
  }

  /** RaftLogDamaged when the log cannot be gone on with. */
  static async open(options: ConsensusOptions): Promise<Consensus> {
    return new Consensus(options, await openLog(options));
  }

  /** Runs until close(). Resolves once what is known to be committed was applied; as the only voter by its log, all on disk. */
  start(): Promise<void> {
    const { last } = this.raft.status;
    if (this.alone) this.raft.campaign();
    this.setPeers();
    this.ticker = setInterval(() => {
      this.raft.tick();
      if (this.raft.status.leader !== 0n) this.leaderSeenMs = performance.now();
      this.wake.raise();
    }, TICK_MS);
    this.loop = this.run();
    this.loop.catch(this.options.onCrash);
    return new Promise((resolve) => {
      const check = (): void => {
        // Asked anew: a leader may have told of more members meanwhile.
        if (this.stopped || this.applied.index >= (this.alone ? last : this.startCommit)) resolve();
        else setTimeout(check, 1);
      };
      check();
    });
  }

  private get alone(): boolean {
    const { voters } = this.raft.status.activeConfState;
    return voters.length === 1 && voters[0] === this.raftId;
  }

  get status(): RaftStatus {
    return this.raft.status;
  }

  get leading(): boolean {
    return this.raft.leader;
  }

  /** For how long this manager has known no leader. */
  get leaderlessMs(): number {
    return this.raft.status.leader === 0n ? performance.now() - this.leaderSeenMs : 0;
  }

  /** The leader as far as this manager knows; undefined while there is none. */
  leader(): RaftMember | undefined {
    return this.members.get(this.raft.status.leader);
  }

  /** To the manager that leads, when that is another one. */
  leaderClient(): ManagerClient | undefined {
    const { leader } = this.raft.status;
    return leader === 0n || leader === this.raftId ? undefined : this.peers.client(leader);
  }

  onEvents(listener: EventListener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Called with true when this manager begins to lead, with false when it ends. */
  onLeadership(listener: (leading: boolean) => void): () => void {
    this.leadershipListeners.add(listener);
    return () => this.leadershipListeners.delete(listener);
  }

  /** From another manager. */
  step(message: Message): void {
    if (this.stopped || this.stale) return;
    const led = this.raft.leader;
    try {
      this.raft.step(message);
      if (this.raft.leader && !led) this.proposals.leaderChanged(); // Who waits for a leader goes into its first write.
    } catch (error) {
      if (!(error instanceof StaleLog)) throw error;
      this.stale = true;
      clearInterval(this.ticker);
      this.options.onStale(error.message);
    }
    this.wake.raise();
  }

  /** Where a manager is reached, as its link here says; undefined when that ended. */
  located(member: bigint, addr: string | undefined): void {
    this.members.located(member, addr);
    this.setPeers();
  }

  /** The connection from another manager ended. */
  suspect(member: bigint): void {
    if (this.stopped || this.stale) return;
    this.raft.suspect(member);
    this.wake.raise();
  }

  /** True once this replica has everything that was committed when it was called; false without a leader. */
  barrier(): Promise<boolean> {
    return this.stopped ? Promise.resolve(false) : this.reads.barrier();
  }

  /** On any manager; resolves once the command was applied on this replica, or refused there. */
  propose(command: Command): Promise<Result<Applied>> {
    return this.proposals.propose(command);
  }

  /** As long as this manager leads; refused when it does not, or not any more. What was taken may still be applied. */
  proposeAsLeader(command: Command): Promise<Result<Applied>> {
    return this.proposals.proposeAsLeader(command);
  }

  /** Leader only: asks for a change of the group; whether it was made is seen in `status` and `members`. */
  proposeChange(kind: ConfChange['kind'], member: RaftMember): void {
    const context = memberContext(member.raftId, member.nodeId, member.addr);
    const proposed = this.raft.proposeConfChange({ kind, member: member.raftId, context });
    if (!proposed.ok && proposed.refusal === 'snapshotNeeded') this.snapshotWanted = true;
    this.wake.raise();
  }

  /** Leader only: hands over; does not wait for it. */
  transferLeader(member: bigint): void {
    this.raft.transferLeader(member);
    this.wake.raise();
  }

  /** Another manager's proposal; false when this one does not lead. */
  proposeFor(data: Uint8Array): boolean {
    if (this.stopped || data.length > COMMAND_BYTES_MAX) return false;
    const taken = this.raft.propose(data).ok;
    this.wake.raise();
    return taken;
  }

  /** New certificates are used from now on. */
  reconnect(): void {
    this.peers.reconnect();
  }

  /**
   * Seals the log with another data key. Resolves with whether the one before is still needed: what is not committed yet
   * is in no snapshot.
   */
  rekey(dek: Uint8Array): Promise<boolean> {
    if (this.stopped) return Promise.resolve(true);
    return new Promise((resolve) => {
      this.rekeying = { dek, done: resolve, turns: 0 };
      this.wake.raise();
    });
  }

  /** Whoever waits for a command is told that this manager stops: without a quorum it would never come. */
  endProposals(): void {
    this.proposals.close();
  }

  async close(): Promise<void> {
    if (this.stopped) return;
    this.stopped = true;
    clearInterval(this.ticker);
    this.wake.raise();
    await this.loop?.catch(() => undefined); // onCrash has it.
    this.rekeying?.done(true);
    this.peers.close();
    this.reads.close();
    this.proposals.close();
    await this.log.close();
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      await this.maybeChangeKey();
      if (this.snapshotWanted) await this.maybeSnapshot();
      if (!this.raft.hasReady()) {
        await this.wake.wait();
        continue;
      }
      if (this.leading && this.ledTerm === undefined) await turn();
      const ready = this.raft.ready();
      this.peers.send(ready.early);
      await this.persist(ready);
      if (!this.stale) this.peers.send(ready.messages);
      if (ready.snapshot !== undefined) this.restore(ready.snapshot);
      for (const entry of ready.committed) this.apply(entry);
      for (const { context, index } of ready.readStates) this.reads.confirmed(context, index, this.applied.index);
      this.raft.advance();
      this.reads.applied(this.applied.index);
      if (ready.softState !== undefined) {
        this.tellLeadership(ready.softState.role === 'leader' ? this.hard.term : undefined);
        this.proposals.leaderChanged();
        this.reads.again();
      }
      await this.maybeSnapshot();
      // Who was answered just now may have more to say: it shares the next turn, and its appends tell what was committed.
      if (ready.committed.length > 0) await turn();
    }
    this.tellLeadership(undefined);
  }

  /** The term that this manager was told to lead. */
  private ledTerm: bigint | undefined;

  private tellLeadership(term: bigint | undefined): void {
    if (term === this.ledTerm) return;
    this.ledTerm = term;
    this.options.logger.info({ term: Number(this.raft.term) }, term === undefined ? 'this manager does not lead any more' : 'this manager leads');
    for (const listener of this.leadershipListeners) listener(term !== undefined);
  }

  private async persist(ready: Ready): Promise<void> {
    this.hard = ready.hardState ?? this.hard;
    if (ready.snapshot !== undefined) {
      await this.log.installSnapshot(fromBinary(SnapshotFileSchema, ready.snapshot.data), this.hard);
      if (ready.entries.length > 0) await this.log.append(this.hard, ready.entries);
    } else if (ready.mustSync) {
      await this.log.append(ready.hardState, ready.entries);
    }
  }

  private restore({ index, term, data }: Snapshot): void {
    const file = fromBinary(SnapshotFileSchema, data);
    const events = replaceState(this.store, decode(StoreStateSchema, file.data));
    this.members.replace(file.members);
    this.applied = { index, term };
    this.snapshotIndex = index;
    this.proposals.skipped();
    this.setPeers();
    for (const listener of this.listeners) listener(events, Date.now());
  }

  private apply(entry: Entry): void {
    const { index, term, kind, data } = entry;
    this.applied = { index, term };
    if (kind === 'confChange') {
      this.raft.applyConfChange(entry);
      const change = decodeConfChange(data);
      if (change !== undefined) this.members.apply(change);
      this.setPeers();
      return;
    }
    if (data.length === 0) return;
    const command = decode(CommandSchema, data);
    const result = this.store.apply(index, command);
    if (result.ok && result.value.events.length > 0) {
      const nowMs = timestampMs(command.time);
      for (const listener of this.listeners) listener(result.value.events, nowMs);
    }
    this.proposals.applied(command.id, result);
  }

  private setPeers(): void {
    this.peers.setMembers(this.members.addresses(this.raftId));
  }

  private snapshotFile(): SnapshotFile {
    const { confState } = this.raft.status;
    return create(SnapshotFileSchema, {
      ...this.applied, voters: [...confState.voters], learners: [...confState.learners], members: this.members.list(),
      data: encode(StoreStateSchema, this.store.snapshot()),
    });
  }

  /** At a quiet moment if one comes: what is on disk and not applied yet keeps the old key needed. */
  private async maybeChangeKey(): Promise<void> {
    if (this.rekeying === undefined || (this.raft.hasReady() && ++this.rekeying.turns < REKEY_TURNS)) return;
    const { dek, done } = this.rekeying;
    this.rekeying = undefined;
    await this.log.rekey(dek);
    if (this.log.oldKeyNeeded && this.applied.index > 0n) await this.snapshot();
    done(this.log.oldKeyNeeded);
  }

  private async maybeSnapshot(): Promise<void> {
    const interval = this.store.cluster()?.spec?.raft?.snapshotInterval || SNAPSHOT_INTERVAL_DEFAULT;
    const due = this.applied.index - this.snapshotIndex >= interval;
    if (due || (this.snapshotWanted && this.applied.index > this.snapshotIndex)) await this.snapshot();
  }

  /** Of everything applied. */
  private async snapshot(): Promise<void> {
    this.snapshotWanted = false;
    const { index, term } = this.applied;
    const { confState, commit } = this.raft.status;
    assert(index <= commit, 'a snapshot of what is committed');
    const spec = this.store.cluster()?.spec?.raft;
    const hard = { ...this.hard, commit: index > this.hard.commit ? index : this.hard.commit };
    await this.log.saveSnapshot(this.snapshotFile(), hard, Number(spec?.keepOldSnapshots ?? 0n));
    const kept = spec?.logEntriesForSlowFollowers || ENTRIES_KEPT_DEFAULT;
    this.raft.compact({ index, term, confState }, index > kept ? index - kept : 0n);
    this.snapshotIndex = index;
  }
}
