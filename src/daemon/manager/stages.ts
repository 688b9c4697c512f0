// Stages: proposes what a stage decided, in commands that fit. A refusal is never taken for a change: it is counted,
// logged, and the loop comes again after a pause that grows, so that nothing it cannot do makes it spin.

import type { Logger } from 'pino';
import { inBatches } from '../../core/store/batches.js';
import type { Applied } from '../../core/store/store.js';
import type { AppError, Result } from '../../lib/result.js';
import type { StoreAction } from '../../model/proto/swarmkit_pb.js';

const RETRY_MIN_MS = 1000;
const RETRY_MAX_MS = 60_000;
/** Objects named once in the log as too large; beyond it the memory begins anew. */
const NAMED_MAX = 1000;

export type Propose = (actions: readonly StoreAction[], nowMs: number) => Promise<Result<Applied>>;

/** Another change came in between: what was decided is decided again on the new state. */
export function isRace(error: AppError): boolean {
  return error.message === 'update out of sequence' || error.code === 'not_found' || error.code === 'already_exists';
}

export class Stages {
  /** Commands of stages that were refused for another reason than a race. */
  refused = 0;
  /** Actions left out because they fit into no command. */
  oversized = 0;
  private readonly propose: Propose;
  private readonly logger: Logger;
  private readonly named = new Set<string>();
  private retryMs = 0;
  private failed = false;

  constructor(propose: Propose, logger: Logger) {
    this.propose = propose;
    this.logger = logger;
  }

  /** True when something was changed. */
  async run(stage: string, actions: readonly StoreAction[], nowMs: number): Promise<boolean> {
    let changed = false;
    for (const batch of this.portions(stage, actions)) {
      const applied = await this.propose(batch, nowMs);
      if (!applied.ok) {
        this.refusedBatch(stage, applied.error, batch.length);
        // What follows may build on it.
        return changed;
      }
      changed = true;
    }
    return changed;
  }

  /** Commands in order; what fits into none is counted and left out. */
  portions(stage: string, actions: readonly StoreAction[]): readonly (readonly StoreAction[])[] {
    if (actions.length === 0) return [];
    const { batches, oversized } = inBatches(actions);
    for (const { action, bytes } of oversized) {
      this.oversized += 1;
      const id = action.target.value?.id ?? '';
      if (this.named.has(id)) continue;
      if (this.named.size >= NAMED_MAX) this.named.clear();
      this.named.add(id);
      this.logger.error({ stage, kind: action.target.case, id, bytes }, 'a change is too large for one command and was left out');
    }
    return batches;
  }

  /** How long to wait before trying again what was refused in the pass that ends now; undefined when all went well. */
  endPass(): number | undefined {
    this.retryMs = this.failed ? Math.min(Math.max(2 * this.retryMs, RETRY_MIN_MS), RETRY_MAX_MS) : 0;
    this.failed = false;
    return this.retryMs === 0 ? undefined : this.retryMs;
  }

  private refusedBatch(stage: string, error: AppError, actions: number): void {
    this.failed = true;
    if (isRace(error)) return;
    this.refused += 1;
    this.logger.error({ stage, error: error.message, actions, refused: this.refused }, 'a change of the manager was refused: trying again later');
  }
}
