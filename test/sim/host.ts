// A process of the simulation: one member's RaftNode and Store, and the shell between them, the disk and the network. It
// does what daemon/manager/consensus does, on simulated time. `bugs` are deliberate ones, for the simulator's own test.

import { encode } from '../../src/io/protobuf/codec.js';
import { decodeConfChange } from '../../src/core/raft/confchange.js';
import type { RaftNode } from '../../src/core/raft/raft.js';
import type { ConfState, Entry, Message, Ready } from '../../src/core/raft/types.js';
import type { Store } from '../../src/core/store/store.js';
import { StoreStateSchema } from '../../src/model/proto/skein_pb.js';
import { SimDisk } from './disk.js';
import { StateHash } from './statehash.js';
import type { Acknowledge, Mark, World } from './world.js';

interface PendingRead {
  readonly answer: (store: Store) => void;
  /** Once the leader has confirmed it. */
  index: bigint | undefined;
}

export const EPOCH_MS = 1_700_000_000_000;
const TICK_MS = 40;
/** The hash of the state is carried on from command to command; so often it is computed from all the store holds. */
const WHOLE_STATE_INTERVAL = 8n;
const LIMITS = { electionTicks: 6, heartbeatTicks: 1, inflightMax: 4 } as const;
const UNCOMMITTED_BYTES_MAX = 4_000;

export class Host {
  readonly id: bigint;
  readonly disk: SimDisk;
  up = false;
  /** Its log is damaged. */
  refused = false;
  /** Of the clock: 1 is right. */
  pace = 1;
  /** Of the time of day: 0 is right. */
  skewMs = 0;
  raft!: RaftNode;
  store!: Store;
  applied = 0n;
  private readonly world: World;
  private hash!: StateHash;
  /** Counts lives: what was planned in an earlier one does not happen. */
  private life = 0;
  private busy = false;
  private term = 0n;
  private leader = 0n;
  /** Of a leader, as of its last Ready. */
  private commit = 0n;
  private conf: ConfState | undefined;
  private waiters = new Map<string, Acknowledge>();
  private reads = new Map<bigint, PendingRead>();
  private nextRead = 1n;
  private snapshotEvery = 20;
  private wasLeading = false;
  /** What it was told to lead last. */
  ledTerm = 0n;

  constructor(world: World, id: bigint, begins: boolean) {
    this.world = world;
    this.id = id;
    this.disk = new SimDisk({ voters: begins ? [id] : [], learners: [] });
    this.start();
  }

  /** As a manager does whose log is damaged: it says so, and takes no part in its group. */
  start(): void {
    const { random, raftClass, bugs } = this.world;
    const read = this.disk.load(this.world.readLog);
    if (read === 'refused') {
      if (!this.refused) this.mark('damage refused');
      this.refused = true;
      return;
    }
    if (read === 'cut') this.mark('write cut off');
    const { snapshot, entries } = this.disk;
    let { hardState } = this.disk;
    if (bugs.has('forget-vote')) hardState = { ...hardState, vote: 0n };
    if (bugs.has('forget-hard-state')) hardState = { term: entries.at(-1)?.term ?? snapshot.term, vote: 0n, commit: 0n };
    this.life += 1;
    this.up = true;
    this.busy = false;
    this.term = hardState.term;
    this.leader = 0n;
    this.waiters = new Map();
    this.reads = new Map();
    // Shells count from the start again: answers to an earlier life must not be taken for this one's.
    this.nextRead = 1n;
    const { scale, snapshotScale } = this.world;
    this.snapshotEvery = random.between(10, 40) * snapshotScale;
    this.wasLeading = false;
    this.restore();
    this.raft = new raftClass({
      id: this.id, hardState, confState: snapshot.confState, snapshotIndex: snapshot.index, snapshotTerm: snapshot.term,
      entries: [...entries], seed: random.uint63(),
      appendBytesMax: random.pick([1, 400, 4_000]) * scale, uncommittedBytesMax: UNCOMMITTED_BYTES_MAX * scale, ...LIMITS,
    });
    this.later(random.between(1, TICK_MS), () => this.tick());
    if (this.life > 1) this.mark('restart');
  }

  /** The time of day as this machine has it. */
  nowMs(): number {
    return EPOCH_MS + Math.floor(this.world.clock.nowMs) + this.skewMs;
  }

  mark(mark: Mark): void {
    const { marks } = this.world;
    marks.set(mark, (marks.get(mark) ?? 0) + 1);
  }

  crash(): void {
    this.up = false;
    this.life += 1;
    if (this.world.bugs.has('no-sync')) this.disk.entries = this.disk.entries.slice(0, -2);
    if (this.disk.crash(this.world.random)) this.mark('write torn');
    this.world.hooks?.crashed(this);
  }

  step(message: Message): void {
    if (!this.up) return;
    this.raft.step(message);
    this.work();
  }

  /** False if it does not lead or cannot take it; else the answer comes when it is applied, or never. */
  submit(command: { readonly id: string; readonly data: Uint8Array }, acknowledge: Acknowledge): boolean {
    if (!this.up || !this.raft.propose(command.data).ok) return false;
    this.waiters.set(command.id, acknowledge);
    if (this.world.bugs.has('acknowledge-before-commit')) acknowledge(true);
    this.work();
    return true;
  }

  /** Told once, when the command is applied here, whoever proposed it. */
  await(commandId: string, acknowledge: Acknowledge): void {
    this.waiters.set(commandId, acknowledge);
  }

  forget(commandId: string): void {
    this.waiters.delete(commandId);
  }

  /** Of the leader that this member was told to be, and in that term only. */
  offerInTerm(data: Uint8Array): boolean {
    return this.wasLeading && this.raft.term === this.ledTerm && this.offer(data);
  }

  /** Into the own log; false when it does not lead or cannot take it. */
  offer(data: Uint8Array): boolean {
    if (!this.up || !this.raft.propose(data).ok) return false;
    this.work();
    return true;
  }

  /** `answer` gets the store when it may be read, or never. */
  read(answer: (store: Store) => void): boolean {
    const context = this.nextRead++;
    if (!this.up || !this.raft.readIndex(context)) return false;
    this.reads.set(context, { answer, index: undefined });
    this.later(5_000, () => this.reads.delete(context));
    this.work();
    return true;
  }

  /** One Ready after the other; a write that must be durable takes its time, and the world goes on meanwhile. */
  work(): void {
    while (this.up && !this.busy && this.raft.hasReady()) {
      const ready = this.raft.ready();
      ready.early.forEach((message) => this.send(message));
      this.observe(ready);
      if (!ready.mustSync) {
        if (ready.hardState !== undefined) this.disk.note(ready.hardState);
        this.finish(ready);
        continue;
      }
      this.busy = true;
      if ((ready.entries[0]?.index ?? this.disk.last + 1n) <= this.disk.last) this.mark('entries replaced');
      this.disk.begin(ready);
      if (this.world.bugs.has('send-before-persist')) ready.messages.forEach((message) => this.send(message));
      this.later(this.world.random.between(1, this.disk.writeMsMax), () => {
        this.disk.end();
        this.world.checker.persisted(this.id, ready.entries, this.disk);
        this.busy = false;
        this.finish(ready);
        this.work();
      });
    }
  }

  private observe(ready: Ready): void {
    const { checker, hosts } = this.world;
    if (ready.hardState !== undefined) this.term = ready.hardState.term;
    if (ready.softState !== undefined) this.leader = ready.softState.leader;
    if (this.leader !== 0n && this.leader !== this.id) checker.follows(this.term, this.leader, this.id);
    if (!this.raft.leader) return;
    checker.leads(this.term, this.id);
    const { activeConfState, confState, commit } = this.raft.status;
    checker.mayLead(this.id, this.term, [confState, activeConfState], this.disk.term(commit));
    const confs = [activeConfState, this.conf ?? activeConfState];
    this.conf = activeConfState;
    if (ready.softState?.role === 'leader') this.commit = commit;
    else if (commit > this.commit) checker.commits(this.id, this.term, commit, this.disk, confs, (member) => hosts.get(member)?.disk);
    this.commit = commit;
    if (ready.softState?.role === 'leader') this.world.trace?.(`${this.id} leads in term ${this.term}`);
  }

  private finish(ready: Ready): void {
    if (!ready.mustSync || !this.world.bugs.has('send-before-persist')) ready.messages.forEach((message) => this.send(message));
    if (ready.snapshot !== undefined) {
      this.restore();
      this.mark('snapshot installed');
    }
    if (ready.softState?.role === 'leader') this.mark('leader elected');
    if (ready.softState?.role === 'leader') this.world.checker.elected(this.term, this.id, this.disk);
    for (const entry of ready.committed) this.apply(entry);
    for (const { context, index } of ready.readStates) {
      const read = this.reads.get(context);
      if (read === undefined) continue;
      read.index = index;
      this.mark(this.raft.leader ? 'read by the leader' : 'read by a follower');
    }
    this.answerReads();
    this.raft.advance();
    if (ready.softState !== undefined) this.tellLeadership(ready.softState.role === 'leader');
    if (this.applied - this.disk.snapshot.index >= BigInt(this.snapshotEvery)) this.takeSnapshot();
  }

  /** By what the Ready said, as the daemon does. */
  private tellLeadership(leading: boolean): void {
    if (leading === this.wasLeading) return;
    this.wasLeading = leading;
    this.ledTerm = this.term;
    this.world.hooks?.leadership(this, leading);
  }

  private apply(entry: Entry): void {
    const { checker } = this.world;
    this.applied = entry.index;
    if (entry.kind === 'confChange') {
      const conf = this.raft.applyConfChange(entry);
      checker.applied(this.id, this.term, entry, '');
      checker.conf(this.id, entry.index, conf);
      this.markConf(entry);
      return;
    }
    if (entry.data.length === 0) {
      checker.applied(this.id, this.term, entry, '');
      return;
    }
    const command = this.world.shared.command(entry.data);
    const result = this.store.apply(entry.index, command);
    checker.applied(this.id, this.term, entry, result.ok ? `${result.value.duplicate}` : result.error.message);
    if (result.ok && result.value.duplicate) this.mark('command repeated');
    if (result.ok && !result.value.duplicate) {
      for (const { kind, object } of result.value.events) {
        if (kind === 'service') checker.effect(command.id, entry.index, object.id, object.spec?.annotations?.labels[0]?.value ?? '');
      }
    }
    this.hash.applied(this.store, result);
    checker.state(this.id, entry.index, this.hash.value(this.store));
    if (entry.index % WHOLE_STATE_INTERVAL === 0n) checker.state(this.id, entry.index, this.stateHash());
    this.world.hooks?.applied(this, entry, command, result);
    const acknowledge = this.waiters.get(command.id);
    this.waiters.delete(command.id);
    acknowledge?.(result.ok, result.ok ? undefined : result.error);
  }

  private markConf(entry: Entry): void {
    const change = decodeConfChange(entry.data);
    if (change?.kind === 'addNode') this.mark('voter added');
    if (change?.kind === 'addLearner') this.mark('learner added');
    if (change?.kind === 'removeNode') this.mark(change.member === this.leader || change.member === this.id ? 'leader removed' : 'member removed');
  }

  private answerReads(): void {
    const early = this.world.bugs.has('read-before-applied');
    for (const [context, { index, answer }] of this.reads) {
      if (index === undefined || (index > this.applied && !early)) continue;
      this.reads.delete(context);
      answer(this.store);
    }
  }

  private takeSnapshot(): void {
    const { random, checker, bugs } = this.world;
    const { applied: index, appliedTerm: term, confState } = this.raft.status;
    checker.state(this.id, index, this.stateHash());
    checker.conf(this.id, index, confState);
    this.mark('snapshot taken');
    if (bugs.has('compact-without-snapshot')) this.disk.dropUpTo(index);
    else this.disk.saveSnapshot({ index, term, confState, data: encode(StoreStateSchema, this.store.snapshot()) });
    const keep = index + 1n - BigInt(random.below(20));
    this.raft.compact({ index, term, confState }, keep > 1n ? keep : 1n);
  }

  /** The state machine from the newest snapshot; the log follows as it is committed. */
  private restore(): void {
    const { index, data, confState } = this.disk.snapshot;
    this.store = new this.world.storeClass();
    this.hash = new StateHash(this.world, this.store);
    this.applied = index;
    if (index > 0n) this.load(index, data, confState);
    this.world.hooks?.restored(this);
  }

  private load(index: bigint, data: Uint8Array, confState: ConfState): void {
    if (!this.world.bugs.has('ignore-snapshot-data')) this.store.restore(this.world.shared.state(data));
    this.hash = new StateHash(this.world, this.store);
    this.world.checker.state(this.id, index, this.stateHash());
    this.world.checker.conf(this.id, index, confState);
  }

  /** Of everything the store holds, anew. */
  stateHash(): number {
    return new StateHash(this.world, this.store).value(this.store);
  }

  private send(message: Message): void {
    const { network, hosts, bugs, checker } = this.world;
    const to = hosts.get(message.to);
    const stillLeads = to?.up === true && to.raft.leader && to.term === message.term;
    checker.promised(message, this.disk, stillLeads ? to.disk : undefined);
    const deliver = (sent: Message): void => hosts.get(message.to)?.step(sent);
    if (message.kind !== 'snapshot') {
      network.send(this.id, message.to, () => deliver(message));
      return;
    }
    const { snapshot } = this.disk;
    const sent = bugs.has('snapshot-without-conf') ? { ...snapshot, confState: { voters: [], learners: [] } } : snapshot;
    const life = this.life;
    const report = (ok: boolean): void => {
      if (this.life !== life) return;
      this.raft.reportSnapshot(message.to, ok);
      this.work();
    };
    network.send(this.id, message.to, () => {
      const arrived = hosts.get(message.to)?.up === true;
      deliver({ ...message, snapshot: sent });
      report(arrived);
    }, () => report(false));
  }

  private tick(): void {
    this.raft.tick();
    this.work();
    this.later(TICK_MS * this.pace, () => this.tick());
  }

  private later(delayMs: number, action: () => void): void {
    const life = this.life;
    this.world.clock.after(delayMs, () => {
      if (this.life === life) action();
    });
  }
}
