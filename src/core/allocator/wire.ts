// The wire types the allocator makes, gathered so that its main file reads as policy.

import { sameMessage } from '../../model/message.js';
import type { Endpoint } from '../../model/proto/swarmkit_pb.js';

export {
  DataPathSchema, DriverSchema, EndpointSchema, EndpointSpecSchema, Endpoint_VirtualIPSchema, IPAMConfigSchema, IPAMConfig_AddressFamily,
  IPAMOptionsSchema, NetworkAttachmentSchema, TaskState,
} from '../../model/proto/swarmkit_pb.js';

export function equalsEndpoint(a: Endpoint, b: Endpoint): boolean {
  return sameMessage(a, b);
}
