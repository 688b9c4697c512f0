// Proposals: commands on their way into the log, from whichever manager. One resolves once the command was applied on
// this replica, whoever led and however often it was proposed: a retry carries the same command id, so nothing is applied
// twice, and the first application answers.

import { create } from '@bufbuild/protobuf';
import { COMMAND_BYTES_MAX } from '../../core/store/batches.js';
import type { Applied } from '../../core/store/store.js';
import type { ManagerClient } from '../../io/grpc/client.js';
import { encode } from '../../io/protobuf/codec.js';
import { fail, type AppError, type Result } from '../../lib/result.js';
import { CommandSchema, ManagerGroup, ProposeRequestSchema, type Command } from '../../model/proto/skein_pb.js';

/** More that wait are refused at once. */
const WAITING_MAX = 10_000;
/** Docker's clients wait for a minute; an election takes a second or two. */
const PROPOSE_TIMEOUT_MS = 20_000;
/** No election takes so long: the group has lost its majority, or this manager its group, or its way to the leader. */
const PATIENCE_MS = 5000;
const FORWARD_TIMEOUT_MS = 3000;
const RETRY_MS = 50;
/** A proposal that was taken and is not applied by now is made once more: the leader that took it may be gone. */
const REPEAT_MS = 3000;

export const NO_LEADER = "The swarm does not have a leader. It's possible that too few managers are online. "
  + 'Make sure more than half of the managers are online.';
const UNREACHED = 'The leader of the swarm cannot be reached from this manager. Ask another manager, or check the network between them.';

export interface ProposalsOptions {
  /** Into the own log; false when this manager does not lead. */
  readonly here: (data: Uint8Array) => boolean;
  /** Of one that leads: in the term that it was told to lead. It may have lost that and won another while a write went on. */
  readonly inTerm: () => boolean;
  readonly leading: () => boolean;
  /** For how long there has been no leader. */
  readonly leaderlessMs: () => number;
  readonly leaderClient: () => ManagerClient | undefined;
  readonly onLeadership: (listener: () => void) => () => void;
}

export class Proposals {
  private readonly options: ProposalsOptions;
  private readonly waiting = new Map<string, (result: Result<Applied>) => void>();
  private wakers = new Set<() => void>();
  private closed = false;

  constructor(options: ProposalsOptions) {
    this.options = options;
  }

  async propose(command: Command): Promise<Result<Applied>> {
    const data = encode(CommandSchema, command);
    const refusal = this.refusal(data);
    if (refusal !== undefined) return { ok: false, error: refusal };
    let result: Result<Applied> | undefined;
    const applied = this.wait(command.id).then((value) => { result = value; });
    const deadline = performance.now() + PROPOSE_TIMEOUT_MS;
    let reachedMs = performance.now();
    while (result === undefined) {
      // Waited for from before the leader is asked: while one answers, or does not, another may have taken its place.
      const change = this.nextChange();
      // Nor is its answer needed where the log has told already: the way of the call may be cut, and that of the log not.
      const answer = await Promise.race([
        this.submit(data), change.happened.then(() => 'refused' as const), applied.then(() => 'taken' as const),
      ]);
      await this.appliedOrChanged(applied, change.happened, answer === 'taken' ? REPEAT_MS : RETRY_MS);
      change.forget();
      const now = performance.now();
      if (answer !== 'unreached') reachedMs = now;
      const unreached = now - reachedMs > PATIENCE_MS;
      const leaderless = answer !== 'taken' && this.options.leaderlessMs() > PATIENCE_MS;
      if (result !== undefined || !(leaderless || unreached || now > deadline)) continue;
      this.applied(command.id, fail('unavailable', unreached && !leaderless ? UNREACHED : NO_LEADER));
      // Or what was told as failed would be proposed once more.
      await applied;
    }
    return result;
  }

  /** Counts only as long as this manager leads. */
  async proposeAsLeader(command: Command): Promise<Result<Applied>> {
    const data = encode(CommandSchema, command);
    const refusal = this.refusal(data);
    if (refusal !== undefined) return { ok: false, error: refusal };
    const applied = this.wait(command.id);
    const lost = fail('aborted', 'this manager does not lead any more');
    const stop = this.options.onLeadership(() => this.applied(command.id, lost));
    if (!this.options.inTerm() || !this.options.here(data)) this.applied(command.id, lost);
    const result = await applied;
    stop();
    return result;
  }

  /** Another leader, or none: what the last one took may be lost. */
  leaderChanged(): void {
    const { wakers } = this;
    this.wakers = new Set();
    for (const wake of wakers) wake();
  }

  /** The log says what became of it; commands of others are ignored. */
  applied(commandId: string, result: Result<Applied>): void {
    const resolve = this.waiting.get(commandId);
    if (resolve === undefined) return;
    this.waiting.delete(commandId);
    resolve(result);
  }

  /**
   * The leader's snapshot took the place of entries that were never seen here: what became of those that wait is not
   * known. Asked again, the store would only say that it has seen them, whether it did them or refused them.
   */
  skipped(): void {
    for (const id of [...this.waiting.keys()]) {
      this.applied(id, fail('unavailable', 'this manager fell too far behind to tell whether the change was made'));
    }
  }

  close(): void {
    this.closed = true;
    for (const id of [...this.waiting.keys()]) this.applied(id, fail('unavailable', 'this manager is stopping'));
  }

  private refusal(data: Uint8Array): AppError | undefined {
    if (data.length > COMMAND_BYTES_MAX) {
      return { code: 'invalid_argument', message: `raft: raft message is too large and can't be sent (${data.length} bytes)` };
    }
    if (this.closed) return { code: 'unavailable', message: 'this manager is stopping' };
    if (this.waiting.size < WAITING_MAX) return undefined;
    return { code: 'resource_exhausted', message: 'too many changes are waiting to be committed: try again' };
  }

  private nextChange(): { readonly happened: Promise<void>; readonly forget: () => void } {
    let wake!: () => void;
    const happened = new Promise<void>((resolve) => { wake = resolve; });
    this.wakers.add(wake);
    return { happened, forget: () => this.wakers.delete(wake) };
  }

  private async appliedOrChanged(applied: Promise<void>, changed: Promise<void>, ms: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => { timer = setTimeout(resolve, ms); });
    await Promise.race([applied, changed, late]);
    clearTimeout(timer);
  }

  private wait(commandId: string): Promise<Result<Applied>> {
    return new Promise((resolve) => {
      this.waiting.set(commandId, resolve);
    });
  }

  private async submit(data: Uint8Array): Promise<'taken' | 'refused' | 'unreached'> {
    const answered = (taken: boolean): 'taken' | 'refused' => (taken ? 'taken' : 'refused');
    if (this.options.leading()) return answered(this.options.here(data));
    const client = this.options.leaderClient();
    if (client === undefined) return 'unreached';
    const request = create(ProposeRequestSchema, { command: data });
    return client.unary(ManagerGroup.method.propose, request, FORWARD_TIMEOUT_MS)
      .then(({ taken }) => answered(taken), () => 'unreached');
  }
}
