// Health: a manager asks another whether its Raft part serves (SwarmKit: service "Raft"; "" is the whole process).

import { create } from '@bufbuild/protobuf';
import { AppFailure } from '../../lib/result.js';
import type { Handler } from '../../io/grpc/server.js';
import {
  HealthCheckResponseSchema, HealthCheckResponse_ServingStatus, type HealthCheckRequest,
} from '../../model/proto/swarmkit_pb.js';

const SERVICES = ['', 'Raft'];

export function healthHandlers(): Record<string, Handler> {
  return {
    check: async (request: HealthCheckRequest) => {
      if (!SERVICES.includes(request.service)) throw new AppFailure({ code: 'not_found', message: 'unknown service' });
      return create(HealthCheckResponseSchema, { status: HealthCheckResponse_ServingStatus.SERVING });
    },
  };
}
