// AppError to HTTP: the only place that knows status codes for expected failures, and Docker's texts for a node that
// cannot answer for the swarm.

import { AppFailure, type AppError, type ErrorCode } from '../lib/result.js';
import type { LocalNode } from './backend.js';

const STATUS: Readonly<Record<ErrorCode, number>> = {
  invalid_argument: 400,
  not_found: 404,
  already_exists: 409,
  permission_denied: 403,
  unauthenticated: 401,
  failed_precondition: 400,
  aborted: 500,
  unavailable: 503,
  deadline_exceeded: 500,
  resource_exhausted: 500,
  unimplemented: 501,
  internal: 500,
};

export function statusOf(error: AppError): number {
  return STATUS[error.code];
}

export const ALREADY_IN_SWARM = 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and '
  + 'join another one.';
export const NOT_IN_SWARM = 'This node is not part of a swarm';
const NO_SWARM = 'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node '
  + 'to swarm and try again.';
const NOT_MANAGER = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please "
  + 'run this command on a manager node or promote the current node to a manager.';
export const LOCKED = 'Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to '
  + 'unlock it.';
const NO_LEADER = "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than "
  + 'half of the managers are online.';

/** Why this node cannot answer for the swarm. */
export function notManager(local: LocalNode): AppFailure {
  const text = local.state === 'locked' ? LOCKED
    : local.state === 'inactive' ? NO_SWARM
    : local.state === 'error' ? local.error
    : local.isManager ? NO_LEADER
    : NOT_MANAGER;
  return new AppFailure({ code: 'unavailable', message: text });
}

export function noLeader(): AppFailure {
  return failure('unavailable', NO_LEADER);
}

export function failure(code: ErrorCode, message: string): AppFailure {
  return new AppFailure({ code, message });
}

export function notFound(message: string): AppFailure {
  return failure('not_found', message);
}
