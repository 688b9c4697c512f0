// Whether a task still matches its service: the rule behind the CLI's private `_up-to-date` filter. Equal spec
// versions settle it; otherwise only a change of what the task itself was made from counts (not of the replica count).

import { equals } from '@bufbuild/protobuf';
import {
  EndpointSpecSchema, TaskSpecSchema, type EndpointSpec, type Service, type Task,
} from '../../model/proto/swarmkit_pb.js';

function sameEndpoint(a: EndpointSpec | undefined, b: EndpointSpec | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return equals(EndpointSpecSchema, a, b);
}

export function isTaskDirty(service: Service, task: Task): boolean {
  const wanted = service.specVersion?.index;
  if (wanted !== undefined && task.specVersion?.index === wanted) return false;
  const { spec } = service;
  if (spec?.task === undefined || task.spec === undefined) return true;
  if (!equals(TaskSpecSchema, spec.task, task.spec)) return true;
  return task.endpoint !== undefined && !sameEndpoint(spec.endpoint, task.endpoint.spec);
}
