// Result and AppError: expected failures as values. A bug is an assertion, never one of these.

export type Result<T, E = AppError> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: E };

export function ok<T>(value: T): { readonly ok: true; readonly value: T } {
  return { ok: true, value };
}

export function err<E>(error: E): { readonly ok: false; readonly error: E } {
  return { ok: false, error };
}

/**
 * What went wrong, in the words the user sees.
 * The code follows gRPC's names; src/api maps it to an HTTP status, src/io/grpc to a status code.
 */
export type ErrorCode =
  | 'invalid_argument'
  | 'not_found'
  | 'already_exists'
  | 'permission_denied'
  | 'unauthenticated'
  | 'failed_precondition'
  | 'aborted'
  | 'unavailable'
  | 'deadline_exceeded'
  | 'resource_exhausted'
  | 'unimplemented'
  | 'internal';

export interface AppError {
  readonly code: ErrorCode;
  readonly message: string;
}

export function appError(code: ErrorCode, message: string): AppError {
  return { code, message };
}

export function fail(code: ErrorCode, message: string): { readonly ok: false; readonly error: AppError } {
  return { ok: false, error: { code, message } };
}

/** An AppError on its way through code that throws (promises, streams). */
export class AppFailure extends Error {
  readonly code: ErrorCode;
  constructor(error: AppError) {
    super(error.message);
    this.name = 'AppFailure';
    this.code = error.code;
  }
  toError(): AppError {
    return { code: this.code, message: this.message };
  }
}

/** Unwraps a result, throwing AppFailure for an expected error. */
export function unwrap<T>(result: Result<T>): T {
  if (!result.ok) throw new AppFailure(result.error);
  return result.value;
}

/** What a machine that is full, busy or broken answers to a system call: not a bug of the caller. */
const MACHINE_ERRORS: ReadonlySet<string> = new Set([
  'EAGAIN', 'EBUSY', 'EDQUOT', 'EIO', 'EMFILE', 'ENFILE', 'ENOMEM', 'ENOSPC', 'ENOTEMPTY', 'EROFS', 'ETIMEDOUT',
]);

/** The expected failure that a caught error is, alone or gathered; undefined for a bug. */
export function expectedFailure(error: unknown): AppFailure | undefined {
  if (error instanceof AppFailure) return error;
  if (error instanceof AggregateError) {
    const parts = error.errors.map(expectedFailure);
    if (parts.length === 0 || parts.includes(undefined)) return undefined;
    const code = parts.find((part) => part?.code !== 'unavailable')?.code ?? 'unavailable';
    return new AppFailure({ code, message: error.message });
  }
  const { code, message } = error as { code?: string; message: string };
  return code !== undefined && MACHINE_ERRORS.has(code) ? new AppFailure({ code: 'unavailable', message }) : undefined;
}
