// /secrets and /configs.

import { find } from '../../core/control/lookup.js';
import { createPayload, removePayload, updatePayload, type PayloadKind } from '../../core/control/payloads.js';
import type { ReadTx } from '../../core/store/view.js';
import { unwrap } from '../../lib/result.js';
import { toRecord } from '../../model/pairs.js';
import type { Config, Secret } from '../../model/proto/swarmkit_pb.js';
import type { JsonObject } from '../convert/json.js';
import { configSpecFromJson, configToJson, secretSpecFromJson, secretToJson } from '../convert/payload.js';
import type { Call, Route } from '../http.js';

export function payloadRoutes(): Route[] {
  return (['secret', 'config'] as const).flatMap((kind): Route[] => [
    ['GET', `/${kind}s`, (call) => list(call, kind)],
    ['POST', `/${kind}s/create`, (call) => createOne(call, kind)],
    ['GET', `/${kind}s/:id`, (call) => inspect(call, kind)],
    ['DELETE', `/${kind}s/:id`, (call) => remove(call, kind)],
    ['POST', `/${kind}s/:id/update`, (call) => update(call, kind)],
  ]);
}

function shown(kind: PayloadKind, object: Secret | Config): JsonObject {
  return kind === 'secret' ? secretToJson(object as Secret) : configToJson(object as Config);
}

function all(view: ReadTx, kind: PayloadKind): readonly (Secret | Config)[] {
  return kind === 'secret' ? view.list('secret') : view.list('config');
}

function list(call: Call, kind: PayloadKind): void {
  const filters = call.filters('id', 'label', 'name', 'names');
  const objects = all(call.manager().view(), kind).filter((object) => {
    const annotations = object.spec?.annotations;
    const name = annotations?.name ?? '';
    return filters.prefix('id', object.id) && filters.prefix('name', name) && filters.exact('names', name)
      && filters.labels('label', toRecord(annotations?.labels));
  });
  call.reply(200, objects.map((object) => shown(kind, object)));
}

function inspect(call: Call, kind: PayloadKind): void {
  const view = call.manager().view();
  const id = call.param('id');
  call.reply(200, shown(kind, kind === 'secret' ? unwrap(find(view, 'secret', id)) : unwrap(find(view, 'config', id))));
}

async function createOne(call: Call, kind: PayloadKind): Promise<void> {
  const manager = call.manager();
  const json = await call.json();
  const spec = kind === 'secret' ? secretSpecFromJson(json) : configSpecFromJson(json);
  const id = unwrap(await manager.commit((view, context) => createPayload(view, kind, spec, context)));
  call.reply(201, { ID: id });
}

async function update(call: Call, kind: PayloadKind): Promise<void> {
  const manager = call.manager();
  const version = call.version(kind);
  const json = await call.json();
  const spec = kind === 'secret' ? secretSpecFromJson(json) : configSpecFromJson(json);
  unwrap(await manager.commit((view) => updatePayload(view, kind, { id: call.param('id'), version, spec })));
  call.reply(200);
}

async function remove(call: Call, kind: PayloadKind): Promise<void> {
  unwrap(await call.manager().commit((view) => removePayload(view, kind, call.param('id'))));
  call.reply(204);
}
