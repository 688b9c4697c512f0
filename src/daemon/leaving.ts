// Why a node does not leave its swarm unless it is told to by force, in Docker's words.

import { fail, type Result } from '../lib/result.js';
import type { ManagerPart } from './managerpart.js';
import type { NodeRecord } from './noderecord.js';

export function leaveRefusal({ locked, state }: NodeRecord, { manager }: ManagerPart): Result<never> | undefined {
  if (locked) {
    return fail('unavailable', 'Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.');
  }
  if (state?.role !== 'manager') return undefined;
  const managers = manager?.view().list('node').filter((node) => node.managerStatus !== undefined) ?? [];
  const last = managers.length <= 1
    ? ' Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message.' : ' Use `--force` to suppress this message.';
  return fail('unavailable', `You are attempting to leave the swarm on a node that is participating as a manager.${last}`);
}
