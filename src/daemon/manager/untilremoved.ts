// A stream of a node lasts until the peer ends it or the node is removed from the swarm: calls are authorized when they begin.

import type { StoreEvent } from '../../core/store/view.js';
import { AppFailure } from '../../lib/result.js';
import { removedText } from './authorize.js';
import type { Manager } from './manager.js';

/** `run` ends soon after its signal is aborted. Fails where the node is not in the swarm (any more). */
export async function untilRemoved(
  manager: Pick<Manager, 'view' | 'onEvents'>, nodeId: string, closed: AbortSignal, run: (over: AbortSignal) => Promise<void>,
): Promise<void> {
  const over = new AbortController();
  const end = (): void => over.abort();
  const isGone = (event: StoreEvent): boolean => event.kind === 'node' && event.action === 'remove' && event.object.id === nodeId;
  const unsubscribe = manager.onEvents((events) => events.some(isGone) && end());
  closed.addEventListener('abort', end);
  try {
    checkThere(manager, nodeId);
    if (closed.aborted) end();
    await run(over.signal);
    checkThere(manager, nodeId);
  } finally {
    unsubscribe();
    closed.removeEventListener('abort', end);
  }
}

export function checkThere(manager: Pick<Manager, 'view'>, nodeId: string): void {
  if (manager.view().get('node', nodeId) === undefined) throw new AppFailure({ code: 'permission_denied', message: removedText(nodeId) });
}
