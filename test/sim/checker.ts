// What must always hold, watched from outside: the safety properties of the paper's figure 3, equal state on all replicas,
// and linearizable registers. Every member reports; the first one to say something about a term, an entry or an index sets
// what the others are held to.

import { createHash } from 'node:crypto';
import type { ConfState, Entry, Message } from '../../src/core/raft/types.js';
import type { SimDisk } from './disk.js';
import type { Hasher } from './hashing.js';

export class Violation extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'Violation';
  }
}

function hold(condition: boolean, message: () => string): void {
  if (!condition) throw new Violation(message());
}

export function digest(...parts: readonly (Uint8Array | string)[]): string {
  const hash = createHash('sha1');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}

const confText = (conf: ConfState): string => `${conf.voters.join(' ')} / ${conf.learners.join(' ')}`;

export class Checker {
  private readonly leaderOf = new Map<bigint, bigint>();
  private readonly votes = new Map<string, bigint>();
  /** `index/term`: what the entry is, and the term before it (log matching follows by induction). */
  private readonly entries = new Map<string, string>();
  /** By index: `term` and content of what was applied first. */
  private readonly committed = new Map<bigint, { readonly term: bigint; readonly content: string; readonly seenIn: bigint }>();
  private readonly states = new Map<bigint, number>();
  private readonly confs = new Map<bigint, string>();
  private newestConf: { readonly index: bigint; readonly conf: ConfState } = { index: 0n, conf: { voters: [], learners: [] } };
  private readonly everMembers = new Set<bigint>();
  /** By command id: where it took effect. */
  private readonly effects = new Map<string, bigint>();
  private readonly values = new Map<string, string>();
  committedMax = 0n;
  private readonly hasher: Hasher;

  constructor(hasher: Hasher) {
    this.hasher = hasher;
  }

  /** Election safety. */
  leads(term: bigint, member: bigint): void {
    const known = this.leaderOf.get(term) ?? member;
    hold(known === member, () => `two leaders of term ${term}: ${known} and ${member}`);
    this.leaderOf.set(term, member);
  }

  /** Leader completeness: what was committed before is in the log of every later leader. */
  elected(term: bigint, member: bigint, disk: SimDisk): void {
    for (let index = disk.snapshot.index + 1n; index <= this.committedMax; index += 1n) {
      const entry = this.committed.get(index);
      // What was seen committed in a newer term may have been committed by a newer leader.
      hold(entry === undefined || entry.seenIn > term || disk.term(index) === entry.term,
        () => `leader ${member} of term ${term} has term ${disk.term(index)} at ${index}, committed is ${entry?.term}`);
    }
  }

  /**
   * A leader is a voter, or its removal is not committed yet: then it is one by what is applied. Another one stands in, until
   * it has committed something.
   */
  mayLead(member: bigint, term: bigint, confs: readonly ConfState[], committedTerm: bigint | undefined): void {
    hold(committedTerm !== term || confs.some(({ voters }) => voters.includes(member)), () => `member ${member} leads in term ${term}, and is no voter`);
  }

  /** A follower follows the leader of its term, nobody else. */
  follows(term: bigint, leader: bigint, member: bigint): void {
    hold(this.leaderOf.get(term) === leader, () => `member ${member} follows ${leader} in term ${term}, led by ${this.leaderOf.get(term)}`);
  }

  /** What a message promises must be on the sender's disk: a vote, given once a term; the entries of a leader that still leads. */
  promised(message: Message, disk: SimDisk, leaderDisk: SimDisk | undefined): void {
    const { kind, from, to, term, index, reject } = message;
    if (reject) return;
    if (kind !== 'voteResponse' && kind !== 'appendResponse') return;
    hold(disk.hardState.term >= term, () => `member ${from} answered in term ${term}, on disk is ${disk.hardState.term}`);
    if (kind === 'voteResponse') {
      const known = this.votes.get(`${from} ${term}`) ?? to;
      hold(known === to, () => `member ${from} voted for ${known} and ${to} in term ${term}`);
      this.votes.set(`${from} ${term}`, to);
    } else if (disk.hardState.term === term) {
      // In a newer term a newer leader may have replaced, in the same write, what this vouched for: as if it had been late.
      const own = disk.term(index);
      const leaders = leaderDisk?.term(index);
      hold(index <= disk.last, () => `member ${from} acknowledged ${index}, its disk ends at ${disk.last}`);
      hold(own === undefined || leaders === undefined || own === leaders,
        () => `member ${from} acknowledged ${index} to the leader of term ${term}: has term ${own}, the leader ${leaders}`);
    }
  }

  /** A leader commits an entry of its own term once it is on the disks of a majority. */
  commits(member: bigint, term: bigint, index: bigint, disk: SimDisk, confs: readonly ConfState[], diskOf: (member: bigint) => SimDisk | undefined): void {
    const own = disk.term(index);
    if (own === undefined) return;
    hold(own === term, () => `leader ${member} of term ${term} committed ${index} of term ${own} by counting`);
    const has = (voter: bigint): boolean => {
      const other = diskOf(voter);
      return other !== undefined && (other.snapshot.index >= index || other.term(index) === own);
    };
    hold(confs.some(({ voters }) => voters.filter(has).length * 2 > voters.length),
      () => `leader ${member} of term ${term} committed ${index}, which no majority has on disk`);
  }

  /** Log matching. */
  persisted(member: bigint, entries: readonly Entry[], disk: SimDisk): void {
    for (const entry of entries) {
      const content = `${disk.term(entry.index - 1n)} ${entry.kind} ${this.hasher.of(entry.data)}`;
      const key = `${entry.index}/${entry.term}`;
      const known = this.entries.get(key) ?? content;
      hold(known === content, () => `member ${member} has another entry ${key}`);
      this.entries.set(key, content);
    }
  }

  /** State machine safety. */
  applied(member: bigint, term: bigint, entry: Entry, result: string): void {
    const content = `${entry.kind} ${result} ${this.hasher.of(entry.data)}`;
    const known = this.committed.get(entry.index) ?? { term: entry.term, content, seenIn: term };
    hold(known.term === entry.term && known.content === content, () => `member ${member} applied another entry, or with another result, at ${entry.index}`);
    this.committed.set(entry.index, known);
    if (entry.index > this.committedMax) this.committedMax = entry.index;
  }

  /** Replicas, replays and restored snapshots are equal at equal index. */
  state(member: bigint, index: bigint, hash: number): void {
    const known = this.states.get(index) ?? hash;
    hold(known === hash, () => `member ${member} has another state at ${index}`);
    this.states.set(index, hash);
  }

  conf(member: bigint, index: bigint, conf: ConfState): void {
    const text = confText(conf);
    const known = this.confs.get(index) ?? text;
    hold(known === text, () => `member ${member} has the configuration ${text} at ${index}, others ${known}`);
    this.confs.set(index, text);
    if (index < this.newestConf.index) return;
    this.newestConf = { index, conf };
    for (const one of [...conf.voters, ...conf.learners]) this.everMembers.add(one);
  }

  /** By what is committed. */
  isMember(member: bigint): boolean {
    const { voters, learners } = this.newestConf.conf;
    return voters.includes(member) || learners.includes(member);
  }

  /** By a committed change; ids are never used again. */
  isRemoved(member: bigint): boolean {
    return this.everMembers.has(member) && !this.isMember(member);
  }

  /** A command took effect: later copies are duplicates, so it does so once. */
  effect(command: string, index: bigint, key: string, value: string): void {
    const known = this.effects.get(command) ?? index;
    hold(known === index, () => `command ${command} took effect at ${known} and again at ${index}`);
    this.effects.set(command, index);
    this.values.set(`${key} ${index}`, value);
  }

  /** The index at which an acknowledged write took effect. */
  written(command: string): bigint {
    const index = this.effects.get(command);
    hold(index !== undefined, () => `command ${command} was acknowledged without an effect`);
    return index as bigint;
  }

  read(key: string, version: bigint, value: string): void {
    if (version === 0n) return;
    hold(this.values.get(`${key} ${version}`) === value, () => `${key} read as ${value}, which was not written at ${version}`);
  }

  /**
   * Writes of one register are ordered by their index, so operations are linearizable if none returns a version older than
   * what was known to somebody when it began.
   */
  linearizable(operation: string, version: bigint, floor: bigint, isWrite: boolean): void {
    hold(isWrite ? version > floor : version >= floor, () => `${operation} is of version ${version}, but ${floor} was known before it began`);
  }

  /** Everything that was ever applied, in short: the same run, the same hash. */
  summary(): string {
    const hash = createHash('sha1');
    for (const [index, { term, content }] of this.committed) hash.update(`${index} ${term} ${content} `);
    for (const [term, member] of this.leaderOf) hash.update(`${term} ${member} `);
    return hash.digest('hex');
  }

  get terms(): number {
    return this.leaderOf.size;
  }
}
