// The wire types the allocator makes, gathered so that its main file reads as policy.

import { equals } from '@bufbuild/protobuf';
import { EndpointSchema, type Endpoint } from '../../model/proto/swarmkit_pb.js';

export {
  DataPathSchema, DriverSchema, EndpointSchema, EndpointSpecSchema, Endpoint_VirtualIPSchema, IPAMConfigSchema, IPAMConfig_AddressFamily,
  IPAMOptionsSchema, NetworkAttachmentSchema, NetworkSchema, NodeSchema, ServiceSchema, TaskSchema, TaskState,
} from '../../model/proto/swarmkit_pb.js';

export function equalsEndpoint(a: Endpoint, b: Endpoint): boolean {
  return equals(EndpointSchema, a, b);
}
