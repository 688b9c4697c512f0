// newcluster: `docker swarm init --force-new-cluster`, on disk and as a manager: the log is rewritten, and nobody else is in the
// group any more. From the first step to the last the node's state says that it was begun: an agent that is killed meanwhile is
// no member of the old group after its start, and begins again when it is told to.

import { LOCKED } from '../api/errors.js';
import { expectedFailure, fail, type AppError, type Result } from '../lib/result.js';
import type { NodeAddresses } from './addresses.js';
import { newRaftId } from './founding.js';
import { forceNewGroup } from './manager/forcenew.js';
import type { ManagerPart } from './managerpart.js';
import type { NodeRecord } from './noderecord.js';
import type { SwarmState } from './swarmstate.js';

const UNFINISHED = 'a new cluster was begun from it, and that was not finished';

/** Why this node cannot. */
export function forceRefusal({ state, locked, refused }: NodeRecord): Result<never> | undefined {
  if (locked) return fail('unavailable', LOCKED);
  if (state === undefined || (refused !== undefined && state.unfit === undefined)) return fail('failed_precondition', refused ?? '');
  if (state.role === 'manager' && state.raftId !== '') return undefined;
  return fail('failed_precondition', 'This node is not a swarm manager: only a manager has the state to begin a new cluster from.');
}

/** Undefined when the manager leads, alone; else the state says whether anything was changed. The part has ended before. */
export async function beginAnew(record: NodeRecord, part: ManagerPart, { advertiseAddr }: NodeAddresses): Promise<Result<never> | undefined> {
  const state = record.state as SwarmState;
  const { files } = record;
  const raftId = newRaftId();
  const { group: _others, unfit: past, ...kept } = state;
  const next: SwarmState = {
    ...kept, advertiseAddr, raftId: raftId.toString(), joined: true, begun: true, managers: [{ nodeId: state.nodeId, addr: advertiseAddr }],
  };
  try {
    await record.save({ ...state, unfit: past ?? UNFINISHED });
    const keys = await files.raftKeys();
    const group = { directory: files.raftDir, dek: keys.current, pendingDek: keys.pending, raftId, nodeId: state.nodeId, advertiseAddr };
    const refused = await forceNewGroup(group).then(() => undefined, expected);
    if (refused !== undefined) {
      await record.save(state);
      return { ok: false, error: refused };
    }
    await record.save({ ...next, unfit: UNFINISHED });
    await part.start(next, 0);
    await record.save(next);
    return undefined;
  } catch (error) {
    return { ok: false, error: expected(error) };
  }
}

/** A bug goes on as one. */
function expected(error: unknown): AppError {
  const failure = expectedFailure(error);
  if (failure === undefined) throw error;
  return failure.toError();
}
