// Orchestrator: from services to tasks. reconcile(input) -> actions and when to come again. Runs after every change;
// it is idempotent and bounded per pass (CHANGES_MAX).

import { Change, type Input, type Outcome } from './change.js';
import { reconcileDrains } from './drain.js';
import { reconcileGlobal } from './global.js';
import { reconcileOrphans } from './orphans.js';
import { reconcileReaper } from './reaper.js';
import { reconcileReplicated } from './replicated.js';
import { reconcileStarts } from './restart.js';
import { reconcileUpdate } from './update.js';

export function orchestrate(input: Input): Outcome {
  const change = new Change();
  reconcileOrphans(input, change);
  reconcileDrains(input, change);
  for (const service of input.view.list('service')) {
    if (change.full) break;
    if (service.pendingDelete) continue;
    reconcileUpdate(input, change, service);
    reconcileReplicated(input, change, service);
    reconcileGlobal(input, change, service);
  }
  reconcileStarts(input, change);
  reconcileReaper(input, change);
  return change.outcome();
}
