// The swarm's unlock key as a node that becomes a manager asks for it, so that its keys never lie in the clear (docs on
// the wire facts, section 1.4 M).

import { create } from '@bufbuild/protobuf';
import { status as Status } from '@grpc/grpc-js';
import type { OwnLock } from '../core/ca/unlock.js';
import { ManagerClient, type Credentials } from '../io/grpc/client.js';
import { codeOf, toAppError } from '../io/grpc/service.js';
import { ok, type Result } from '../lib/result.js';
import { CA, GetUnlockKeyRequestSchema } from '../model/proto/swarmkit_pb.js';

const RPC_TIMEOUT_MS = 5000;

/** With a manager's certificate only. Without an unlock key managers are not locked. */
export async function fetchUnlockKey(address: string, from: Credentials): Promise<Result<OwnLock>> {
  const client = new ManagerClient(address, { ...from, serverName: 'swarm-ca' });
  try {
    const { unlockKey, version } = await client.unary(CA.method.getUnlockKey, create(GetUnlockKeyRequestSchema), RPC_TIMEOUT_MS);
    return ok({ unlockKey: unlockKey.length === 0 ? undefined : unlockKey, unlockVersion: version?.index ?? 0n });
  } catch (error) {
    // A manager of before there was autolock.
    if (codeOf(error) === Status.UNIMPLEMENTED) return ok({ unlockKey: undefined, unlockVersion: 0n });
    return { ok: false, error: toAppError(error) };
  } finally {
    client.close();
  }
}
