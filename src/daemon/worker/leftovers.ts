// Leftovers: what a former agent left on the machine and no task needs. Removed in the background, again and again until
// it is gone: nothing of it may keep the node from serving, and nothing of it may be forgotten.

import type { Logger } from 'pino';
import { expectedFailure } from '../../lib/result.js';

const FIRST_DELAY_MS = 1000;
const LAST_DELAY_MS = 30_000;

/** How long to wait before trying something again: doubled each time, from 1 s to 30 s. */
export function backoffMs(retries: number): number {
  return Math.min(FIRST_DELAY_MS * 2 ** Math.min(retries, 16), LAST_DELAY_MS);
}

export class Leftovers {
  private readonly pending = new Map<string, NodeJS.Timeout | undefined>();
  private readonly logger: Logger;
  private readonly onBug: (error: unknown) => void;
  private closed = false;

  constructor(logger: Logger, onBug: (error: unknown) => void) {
    this.logger = logger;
    this.onBug = onBug;
  }

  /** Tries at once; resolves after the first attempt, whatever came of it. */
  async remove(what: string, removal: () => Promise<void>, retries = 0): Promise<void> {
    this.pending.set(what, undefined);
    try {
      await removal();
      this.pending.delete(what);
    } catch (error) {
      const failure = expectedFailure(error);
      if (failure === undefined) throw error;
      if (this.closed) return;
      this.logger.warn({ what, retries, error: failure.message }, 'a remain of a former task cannot be removed yet');
      this.pending.set(what, setTimeout(() => {
        this.remove(what, removal, retries + 1).catch(this.onBug);
      }, backoffMs(retries)));
    }
  }

  close(): void {
    this.closed = true;
    for (const timer of this.pending.values()) clearTimeout(timer);
    this.pending.clear();
  }
}
