// Builders of StoreAction: the only way core code asks for a change.

import { create } from '@bufbuild/protobuf';
import {
  ClusterSchema, ConfigSchema, NetworkSchema, NodeSchema, SecretSchema, ServiceSchema, StoreActionKind, StoreActionSchema, TaskSchema,
  type Meta, type StoreAction,
} from '../../model/proto/swarmkit_pb.js';
import type { Kind, ObjectTypes, StoreObject } from './view.js';

function action<K extends Kind>(kind: StoreActionKind, name: K, object: ObjectTypes[K]): StoreAction {
  return create(StoreActionSchema, { action: kind, target: { case: name, value: object } as StoreAction['target'] });
}

export function createAction<K extends Kind>(kind: K, object: ObjectTypes[K]): StoreAction {
  return action(StoreActionKind.CREATE, kind, object);
}

/** The object must carry the Version it was read with; apply refuses a stale one. */
export function updateAction<K extends Kind>(kind: K, object: ObjectTypes[K]): StoreAction {
  return action(StoreActionKind.UPDATE, kind, object);
}

/** Names the object and the version it was read with: what apply looks at. The rest would only fill the command. */
export function removeAction<K extends Kind>(kind: K, object: ObjectTypes[K]): StoreAction {
  return action(StoreActionKind.REMOVE, kind, bare(kind, object) as ObjectTypes[K]);
}

function bare(kind: Kind, { id, meta }: { id: string; meta?: Meta | undefined }): StoreObject {
  const init = { id, ...(meta === undefined ? {} : { meta }) };
  switch (kind) {
    case 'node': return create(NodeSchema, init);
    case 'service': return create(ServiceSchema, init);
    case 'task': return create(TaskSchema, init);
    case 'network': return create(NetworkSchema, init);
    case 'cluster': return create(ClusterSchema, init);
    case 'secret': return create(SecretSchema, init);
    case 'config': return create(ConfigSchema, init);
  }
}
