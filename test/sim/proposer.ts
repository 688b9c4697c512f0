// Proposals of a simulated manager: daemon/manager/proposals.ts on simulated time. A command is offered again, here or to
// whoever leads, until it is applied on this replica; the same id, so that it takes effect once.

import { create } from '@bufbuild/protobuf';
import { encode as toBytes } from '../../src/io/protobuf/codec.js';
import type { ReadTx } from '../../src/core/store/view.js';
import type { AppError, Result } from '../../src/lib/result.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import type { StoreAction } from '../../src/model/proto/swarmkit_pb.js';
import type { Host } from './host.js';
import { until, type Process } from './process.js';
import type { SwarmWorld } from './swarm.js';

export const COMMIT_TRIES = 20;
export const RETRY_MS = 50;
const PROPOSE_TIMEOUT_MS = 20_000;
const REPEAT_MS = 3_000;
const LEADERLESS_MS = 5_000;

export class Proposer {
  private readonly world: SwarmWorld;
  private readonly host: Host;
  private readonly later: (delayMs: number, action: () => void) => void;
  private proposals = 0;

  constructor(world: SwarmWorld, host: Host, later: (delayMs: number, action: () => void) => void) {
    this.world = world;
    this.host = host;
    this.later = later;
  }

  newId(who: string): string {
    return `${who} ${this.host.id}.${++this.proposals}`;
  }

  /** Until it is applied here, whoever leads, or given up. */
  * propose(id: string, data: Uint8Array): Process<boolean> {
    const result = yield* this.proposeAny(id, data);
    return result === 'applied';
  }

  private* proposeAny(id: string, data: Uint8Array): Process<'applied' | 'unanswered' | AppError> {
    return yield* until<'applied' | 'unanswered' | AppError>((resume) => {
      const deadlineMs = this.world.clock.nowMs + PROPOSE_TIMEOUT_MS;
      let done = false;
      let ledMs = this.world.clock.nowMs;
      const end = (result: 'applied' | 'unanswered' | AppError): void => {
        if (done) return;
        done = true;
        resume(result);
      };
      this.host.await(id, (accepted, error) => end(accepted ? 'applied' : error as AppError));
      const attempt = (): void => {
        if (done) return;
        const taken = this.submit(data);
        if (this.host.raft.status.leader !== 0n) ledMs = this.world.clock.nowMs;
        if (this.world.clock.nowMs > deadlineMs || (!taken && this.world.clock.nowMs - ledMs > LEADERLESS_MS)) {
          this.host.forget(id);
          end('unanswered');
          return;
        }
        this.later(taken ? REPEAT_MS : RETRY_MS, attempt);
      };
      attempt();
    });
  }

  private submit(data: Uint8Array): boolean {
    if (this.host.raft.leader) return this.host.offer(data);
    const leader = this.host.raft.status.leader;
    if (leader === 0n || !this.world.hosts.has(leader)) return false;
    this.world.network.send(this.host.id, leader, () => this.world.hosts.get(leader)?.offer(data));
    return true;
  }

  /** `unanswered`: it may yet be done. */
  * commit(who: string, build: (view: ReadTx, nowMs: number) => Result<{ actions: readonly StoreAction[] }>): Process<'done' | 'unanswered' | AppError> {
    for (let attempt = 0; attempt < COMMIT_TRIES; attempt++) {
      const nowMs = this.host.nowMs();
      const built = build(this.host.store, nowMs);
      if (!built.ok) return built.error;
      if (built.value.actions.length === 0) return 'done';
      const id = this.newId(who);
      const result = yield* this.proposeAny(id, encode(id, nowMs, built.value.actions, this.host.store.index));
      if (result === 'applied') return 'done';
      if (result === 'unanswered') return result;
      if (!isRace(result)) return result;
    }
    return 'unanswered';
  }
}

export function isRace(error: AppError): boolean {
  return error.message === 'update out of sequence' || error.code === 'not_found' || error.code === 'already_exists';
}

export function encode(id: string, nowMs: number, actions: readonly StoreAction[], seen: bigint): Uint8Array {
  return toBytes(CommandSchema, create(CommandSchema, { id, time: timestampFromMs(nowMs), seen, actions: [...actions] }));
}
