// ChangeContext and Change: the shape of every control function. A control function reads the view, validates a
// request and returns the actions to commit beside the value for the caller. It is pure: the time and random bytes
// come with the context, so that a retry on a newer view is safe.

import { fail, ok, type ErrorCode, type Result } from '../../lib/result.js';
import type { NewId } from '../../lib/ids.js';
import type { StoreAction } from '../../model/proto/swarmkit_pb.js';

/** What a change may use besides the view: the time and fresh random ids and bytes, taken outside the core. */
export interface ChangeContext {
  readonly nowMs: number;
  readonly newId: NewId;
  readonly randomBytes: (length: number) => Uint8Array;
}

export interface Change<T> {
  readonly actions: readonly StoreAction[];
  readonly value: T;
}

export function change<T>(actions: readonly StoreAction[], value: T): Result<Change<T>> {
  return ok({ actions, value });
}

const RPC_CODES: Readonly<Record<RpcCode, readonly [string, ErrorCode]>> = {
  invalid_argument: ['InvalidArgument', 'invalid_argument'],
  not_found: ['NotFound', 'not_found'],
  already_exists: ['AlreadyExists', 'already_exists'],
  permission_denied: ['PermissionDenied', 'permission_denied'],
  failed_precondition: ['FailedPrecondition', 'failed_precondition'],
  unimplemented: ['Unimplemented', 'unimplemented'],
  unknown: ['Unknown', 'internal'],
};
type RpcCode =
  | 'invalid_argument' | 'not_found' | 'already_exists' | 'permission_denied' | 'failed_precondition'
  | 'unimplemented' | 'unknown';

/** An error in the words that a SwarmKit manager's answer has behind a Docker Engine; scripts match on them. */
export function rpcFail(code: RpcCode, message: string): { readonly ok: false; readonly error: { code: ErrorCode; message: string } } {
  const [name, errorCode] = RPC_CODES[code];
  return fail(errorCode, `rpc error: code = ${name} desc = ${message}`);
}

/** SwarmKit's answer to an update that names another version than the stored one. */
export function outOfSequence(): ReturnType<typeof rpcFail> {
  return rpcFail('unknown', 'update out of sequence');
}
