// A group of Raft members in memory: each with its disk, and a network that delivers in order when told to. Nothing
// happens by itself, so a test says exactly what happens when. Randomness: the members' own draws, seeded by their ids.

import { Prng } from '../../src/lib/prng.js';
import { StaleLog } from '../../src/core/raft/log.js';
import { RaftNode } from '../../src/core/raft/raft.js';
import type { ConfState, Entry, HardState, Message, RaftStart, ReadState, Ready, Snapshot } from '../../src/core/raft/types.js';

export const LIMITS = {
  electionTicks: 10, heartbeatTicks: 1, appendBytesMax: 1024, inflightMax: 4, uncommittedBytesMax: 64 * 1024,
} as const;

/** What a process finds again when it starts. */
export interface Disk {
  hardState: HardState;
  snapshot: Snapshot;
  entries: Entry[];
}

export function emptyDisk(voters: readonly bigint[], learners: readonly bigint[] = []): Disk {
  return {
    hardState: { term: 0n, vote: 0n, commit: 0n },
    snapshot: { index: 0n, term: 0n, confState: { voters, learners }, data: new Uint8Array(0) },
    entries: [],
  };
}

export function startFrom(id: bigint, disk: Disk, overrides: Partial<RaftStart> = {}): RaftStart {
  return {
    id, hardState: disk.hardState, confState: disk.snapshot.confState, snapshotIndex: disk.snapshot.index,
    snapshotTerm: disk.snapshot.term, entries: disk.entries, seed: id, ...LIMITS, ...overrides,
  };
}

export function persist(disk: Disk, ready: Ready): void {
  if (ready.snapshot !== undefined) {
    disk.snapshot = ready.snapshot;
    disk.entries = [];
  }
  const first = ready.entries[0];
  if (first !== undefined) {
    disk.entries = [...disk.entries.filter((entry) => entry.index < first.index), ...ready.entries];
  }
  if (ready.hardState !== undefined) disk.hardState = ready.hardState;
}

/** A member and what its shell did. */
export class Member {
  readonly id: bigint;
  readonly disk: Disk;
  raft: RaftNode;
  up = true;
  /** It found that its log cannot be of its group: its shell heard of it, and lets it hear nothing more. */
  stale = false;
  /** Committed data in order, as text; a snapshot's data is this list. */
  applied: string[] = [];
  reads: ReadState[] = [];
  readonly overrides: Partial<RaftStart>;

  constructor(id: bigint, disk: Disk, overrides: Partial<RaftStart> = {}) {
    this.id = id;
    this.disk = disk;
    this.overrides = overrides;
    this.raft = new RaftNode(startFrom(id, disk, overrides));
  }

  restart(): void {
    this.raft = new RaftNode(startFrom(this.id, this.disk, this.overrides));
    this.applied = appliedOf(this.disk.snapshot);
    this.up = true;
  }

  /** Does one Ready; returns the messages to send. */
  work(): readonly Message[] {
    const ready = this.raft.ready();
    persist(this.disk, ready);
    if (ready.snapshot !== undefined) this.applied = appliedOf(ready.snapshot);
    for (const entry of ready.committed) {
      if (entry.kind === 'confChange') this.raft.applyConfChange(entry);
      else if (entry.data.length > 0) this.applied.push(Buffer.from(entry.data).toString());
    }
    this.reads.push(...ready.readStates);
    this.raft.advance();
    return [...ready.early, ...ready.messages];
  }

  /** Takes a snapshot of what is applied and drops the entries before `keepFrom`. */
  compact(keepFrom?: bigint): void {
    const { applied: index, confState } = this.raft.status;
    const term = this.disk.entries.find((entry) => entry.index === index)?.term ?? this.disk.snapshot.term;
    this.disk.snapshot = { index, term, confState, data: Buffer.from(JSON.stringify(this.applied)) };
    this.disk.entries = this.disk.entries.filter((entry) => entry.index > index);
    this.raft.compact({ index, term, confState }, keepFrom ?? index + 1n);
  }

  get confState(): ConfState {
    return this.raft.status.confState;
  }
}

function appliedOf(snapshot: Snapshot): string[] {
  return snapshot.data.length === 0 ? [] : JSON.parse(Buffer.from(snapshot.data).toString()) as string[];
}

const ROUNDS_MAX = 10_000;

export class Group {
  readonly members = new Map<bigint, Member>();
  /** On their way. */
  queue: Message[] = [];
  /** Every message sent, for tests that look at them. */
  sent: Message[] = [];
  /** 'from>to' that loses everything. */
  readonly cut = new Set<string>();
  readonly random = new Prng(1n);
  /** Logs may be put back by hand: elsewhere a member that finds its own stale is a bug. */
  mayBeStale = false;

  constructor(ids: readonly bigint[], overrides: Partial<RaftStart> = {}) {
    for (const id of ids) this.members.set(id, new Member(id, emptyDisk(ids), overrides));
  }

  get(id: bigint): Member {
    const member = this.members.get(id);
    if (member === undefined) throw new Error(`no member ${id}`);
    return member;
  }

  /** A process that waits to be added. */
  join(id: bigint, overrides: Partial<RaftStart> = {}): Member {
    const member = new Member(id, emptyDisk([]), overrides);
    this.members.set(id, member);
    return member;
  }

  isolate(id: bigint): void {
    for (const other of this.members.keys()) if (other !== id) this.disconnect(id, other);
  }

  disconnect(a: bigint, b: bigint): void {
    this.cut.add(`${a}>${b}`).add(`${b}>${a}`);
  }

  heal(): void {
    this.cut.clear();
  }

  crash(id: bigint): void {
    this.get(id).up = false;
    this.queue = this.queue.filter((message) => message.from !== id);
  }

  /** All Readies there are, none of the messages. */
  work(): boolean {
    let any = false;
    for (const member of this.members.values()) {
      if (!member.up || member.stale) continue;
      for (let round = 0; member.raft.hasReady(); round++) {
        if (round > ROUNDS_MAX) throw new Error(`member ${member.id} is never done`);
        any = true;
        const messages = member.work();
        this.queue.push(...messages);
        this.sent.push(...messages);
      }
    }
    return any;
  }

  deliver(message: Message): void {
    const to = this.members.get(message.to);
    const lost = to?.up !== true || to.stale || this.cut.has(`${message.from}>${message.to}`);
    if (message.kind === 'snapshot') {
      const from = this.get(message.from);
      if (!lost) this.step(to, { ...message, snapshot: from.disk.snapshot });
      if (from.up) from.raft.reportSnapshot(message.to, !lost);
    } else if (!lost) {
      this.step(to, message);
    }
  }

  private step(to: Member, message: Message): void {
    try {
      to.raft.step(message);
    } catch (error) {
      if (!(error instanceof StaleLog) || !this.mayBeStale) throw error;
      to.stale = true;
    }
  }

  /** Until nobody has anything to do. */
  settle(): void {
    for (let round = 0; this.work() || this.queue.length > 0; round++) {
      if (round > ROUNDS_MAX) throw new Error('never settles');
      for (const message of this.queue.splice(0)) this.deliver(message);
    }
  }

  /** Time for these members, and everything that follows from it. */
  tick(count = 1, ids: readonly bigint[] = [...this.members.keys()]): void {
    for (let i = 0; i < count; i++) {
      for (const id of ids) if (this.get(id).up) this.get(id).raft.tick();
      this.settle();
    }
  }

  elect(id: bigint): void {
    this.get(id).raft.campaign();
    this.settle();
  }

  propose(id: bigint, text: string): void {
    const proposed = this.get(id).raft.propose(Buffer.from(text));
    if (!proposed.ok) throw new Error(`refused: ${proposed.refusal}`);
  }

  leaders(): bigint[] {
    return [...this.members.values()].filter((member) => member.up && member.raft.leader).map((member) => member.id);
  }
}
