// Reads: barriers for linearizable reads. Each waits for a ReadIndex round that began after it was asked for; rounds are
// shared by all that ask while one is under way.

interface Round {
  readonly context: bigint;
  readonly done: Promise<boolean>;
  readonly finish: (confirmed: boolean) => void;
  /** The replica must have applied this much; unknown until the leader answers. */
  index: bigint | undefined;
}

/** A round that was lost on its way, or whose leader is gone, is asked for again. */
const AGAIN_MS = 300;

export class Reads {
  private current: Round | undefined;
  private next: Promise<boolean> | undefined;
  private count: bigint;
  private readonly ask: (context: bigint) => void;
  private readonly timeoutMs: number;

  /** `ask` starts a round, which may come to nothing. `first` must not be one of an earlier life: answers to it may be on their way. */
  constructor(ask: (context: bigint) => void, timeoutMs: number, first: bigint) {
    this.count = first;
    this.ask = ask;
    this.timeoutMs = timeoutMs;
  }

  /** True once this replica has applied all that was committed when it was called; false when no leader confirms it in time. */
  barrier(): Promise<boolean> {
    if (this.current === undefined) return this.begin();
    this.next ??= this.current.done.then(() => {
      this.next = undefined;
      return this.begin();
    });
    return this.next;
  }

  confirmed(context: bigint, index: bigint, applied: bigint): void {
    if (this.current?.context !== context) return;
    this.current.index = index;
    this.applied(applied);
  }

  applied(index: bigint): void {
    const round = this.current;
    if (round?.index !== undefined && round.index <= index) round.finish(true);
  }

  /** Another leader, or none: who was asked may not answer. */
  again(): void {
    if (this.current !== undefined && this.current.index === undefined) this.ask(this.current.context);
  }

  close(): void {
    this.current?.finish(false);
  }

  private begin(): Promise<boolean> {
    // One that waited for the last round's end may find that another has begun already.
    if (this.current !== undefined) return this.current.done;
    this.count += 1n;
    const context = this.count;
    let resolve!: (confirmed: boolean) => void;
    const done = new Promise<boolean>((settle) => { resolve = settle; });
    const again = setInterval(() => this.ask(context), AGAIN_MS);
    const late = setTimeout(() => round.finish(false), this.timeoutMs);
    const round: Round = {
      context, done, index: undefined,
      finish: (confirmed) => {
        clearInterval(again);
        clearTimeout(late);
        if (this.current === round) this.current = undefined;
        resolve(confirmed);
      },
    };
    this.current = round;
    this.ask(context);
    return done;
  }
}
