// Linearizable reads without a log entry (thesis, 6.4). The leader notes its commit index, then makes sure by a round of
// heartbeats that it still led when asked; rounds are numbered within its term and one confirms all reads before it.
// Both queues are bounded; what is dropped is never answered, and its asker asks again.

/** Reads of one leader that are not confirmed. */
const READS_MAX = 10_000;
/** Reads a follower waits for. */
const FORWARDED_MAX = 10_000;

export interface Read {
  /** Who asked. */
  readonly from: bigint;
  /** By the asker's own number. */
  readonly context: bigint;
}

export interface ConfirmedRead extends Read {
  readonly index: bigint;
}

/** Leader's side. */
export class ReadRounds {
  private waiting: Read[] = [];
  private asked: { readonly round: bigint; readonly reads: readonly ConfirmedRead[] }[] = [];
  private askedCount = 0;
  /** Newest round begun in this term. */
  newest = 0n;

  /** False if there are too many already. */
  add(read: Read): boolean {
    if (this.waiting.length + this.askedCount >= READS_MAX) return false;
    this.waiting.push(read);
    return true;
  }

  get hasWaiting(): boolean {
    return this.waiting.length > 0;
  }

  /** A round for all that wait; `commit` is of the leader's own term. */
  begin(commit: bigint): void {
    this.newest += 1n;
    this.asked.push({ round: this.newest, reads: this.waiting.map((read) => ({ ...read, index: commit })) });
    this.askedCount += this.waiting.length;
    this.waiting = [];
  }

  /** A majority answered this round. */
  confirm(round: bigint): readonly ConfirmedRead[] {
    const done = this.asked.filter((one) => one.round <= round).flatMap((one) => one.reads);
    if (done.length === 0) return done;
    this.asked = this.asked.filter((one) => one.round > round);
    this.askedCount -= done.length;
    return done;
  }

  clear(): void {
    this.waiting = [];
    this.asked = [];
    this.askedCount = 0;
    this.newest = 0n;
  }
}

/** Follower's side: reads on their way to the leader, by numbers that no earlier life of this member has used. */
export class ForwardedReads {
  private readonly contexts = new Map<bigint, { readonly context: bigint; readonly expires: number }>();
  private nextNumber: bigint;
  private ticks = 0;

  constructor(firstNumber: bigint) {
    this.nextNumber = firstNumber;
  }

  /** The number to ask by; undefined if there are too many. */
  add(context: bigint, ticks: number): bigint | undefined {
    if (this.contexts.size >= FORWARDED_MAX) return undefined;
    const number = this.nextNumber;
    this.nextNumber += 1n;
    this.contexts.set(number, { context, expires: this.ticks + ticks });
    return number;
  }

  take(number: bigint): bigint | undefined {
    const found = this.contexts.get(number);
    this.contexts.delete(number);
    return found?.context;
  }

  tick(): void {
    this.ticks += 1;
    // Insertion order is the order of expiry.
    for (const [number, { expires }] of this.contexts) {
      if (expires > this.ticks) break;
      this.contexts.delete(number);
    }
  }
}
