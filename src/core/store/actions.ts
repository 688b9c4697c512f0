// Builders of StoreAction: the only way core code asks for a change.

import { create } from '@bufbuild/protobuf';
import { StoreActionKind, StoreActionSchema, type StoreAction } from '../../model/proto/swarmkit_pb.js';
import type { Kind, ObjectTypes } from './view.js';

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

export function removeAction<K extends Kind>(kind: K, object: ObjectTypes[K]): StoreAction {
  return action(StoreActionKind.REMOVE, kind, object);
}
