// gRPC over the generated protobuf services: one definition per service, codes to and from AppError.

import type { DescMessage, DescMethod, DescService, MessageShape } from '@bufbuild/protobuf';
import { status as Status, type MethodDefinition, type ServiceDefinition, type ServiceError } from '@grpc/grpc-js';
import { decode, encode } from '../protobuf/codec.js';
import { AppFailure, type AppError, type ErrorCode } from '../../lib/result.js';

export function methodDefinition(service: DescService, method: DescMethod): MethodDefinition<object, object> {
  return {
    path: `/${service.typeName}/${method.name}`,
    requestStream: method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
    responseStream: method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
    requestSerialize: (message) => toBuffer(method.input, message),
    requestDeserialize: (bytes) => decode(method.input, bytes),
    responseSerialize: (message) => toBuffer(method.output, message),
    responseDeserialize: (bytes) => decode(method.output, bytes),
  };
}

function toBuffer(schema: DescMessage, message: object): Buffer {
  const bytes = encode(schema, message as MessageShape<DescMessage>);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function serviceDefinition(service: DescService): ServiceDefinition {
  return Object.fromEntries(service.methods.map((method) => [method.localName, methodDefinition(service, method)]));
}

const CODES: Readonly<Record<ErrorCode, Status>> = {
  invalid_argument: Status.INVALID_ARGUMENT,
  not_found: Status.NOT_FOUND,
  already_exists: Status.ALREADY_EXISTS,
  permission_denied: Status.PERMISSION_DENIED,
  unauthenticated: Status.UNAUTHENTICATED,
  failed_precondition: Status.FAILED_PRECONDITION,
  aborted: Status.ABORTED,
  unavailable: Status.UNAVAILABLE,
  deadline_exceeded: Status.DEADLINE_EXCEEDED,
  resource_exhausted: Status.RESOURCE_EXHAUSTED,
  unimplemented: Status.UNIMPLEMENTED,
  internal: Status.INTERNAL,
};

export function toStatus(error: AppError): { code: Status; details: string } {
  return { code: CODES[error.code], details: error.message };
}

/** The code of a failed call; undefined when the error is not gRPC's. */
export function codeOf(error: unknown): Status | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'number' ? error.code : undefined;
}

export function toAppError(error: unknown): AppError {
  if (error instanceof AppFailure) return error.toError();
  const code = codeOf(error);
  if (code === undefined) throw error;
  const found = (Object.entries(CODES) as [ErrorCode, Status][]).find(([, value]) => value === code);
  return { code: found?.[0] ?? 'internal', message: (error as ServiceError).details };
}
