// What a service names is there and stays: of two requests, each right by what it saw, the second in the log is refused, and is
// decided again by whoever asked.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { removeNetwork } from '../../src/core/control/networks.js';
import { removePayload } from '../../src/core/control/payloads.js';
import { createService } from '../../src/core/control/services.js';
import { createAction, updateAction } from '../../src/core/store/actions.js';
import { copyOf } from '../../src/model/message.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import {
  AnnotationsSchema, ConfigSchema, ConfigSpecSchema, SecretReferenceSchema, SecretSchema, SecretSpecSchema, type StoreAction,
} from '../../src/model/proto/swarmkit_pb.js';
import type { Result } from '../../src/lib/result.js';
import { Swarm, serviceSpec } from './harness.js';

const bytes = Uint8Array.of(1);
const named = (name: string) => create(AnnotationsSchema, { name });

function offer(swarm: Swarm, built: Result<{ readonly actions: readonly StoreAction[] }>): string {
  assert.ok(built.ok);
  const command = create(CommandSchema, { id: swarm.newId(), time: timestampFromMs(swarm.nowMs), actions: [...built.value.actions] });
  const result = swarm.store.apply(swarm.store.index + 1n, copyOf(command));
  return result.ok ? 'done' : result.error.message;
}

function withSecret(swarm: Swarm): ReturnType<typeof serviceSpec> {
  const spec = serviceSpec('web', {});
  if (spec.task?.runtime.case === 'container') {
    spec.task.runtime.value.secrets.push(create(SecretReferenceSchema, {
      secretId: 'key', secretName: 'key', target: { case: 'file', value: { name: 'key' } },
    }));
  }
  swarm.apply([
    createAction('secret', create(SecretSchema, { id: 'key', spec: create(SecretSpecSchema, { annotations: named('key'), data: bytes }) })),
    createAction('config', create(ConfigSchema, {
      id: 'conf', spec: create(ConfigSpecSchema, { annotations: named('conf'), data: bytes }),
    })),
  ]);
  return spec;
}

const context = (swarm: Swarm) => ({ nowMs: swarm.nowMs, newId: swarm.newId, randomBytes: (length: number) => new Uint8Array(length) });

describe('a service and what it names', () => {
  it('network removed while a service of it is created: whichever comes second is refused', () => {
    const first = new Swarm();
    const network = first.addNetwork('front');
    const creation = createService(first.store, serviceSpec('web', { networks: [network] }), context(first));
    const removal = removeNetwork(first.store, network);
    assert.equal(offer(first, removal), 'done');
    assert.equal(offer(first, creation), `network ${network} not found`);

    const second = new Swarm();
    const other = second.addNetwork('front');
    const late = removeNetwork(second.store, other);
    assert.equal(offer(second, createService(second.store, serviceSpec('web', { networks: [other] }), context(second))), 'done');
    assert.equal(offer(second, late), 'update out of sequence');
    assert.ok(second.store.get('network', other));
  });

  it('secrets alike', () => {
    const first = new Swarm();
    const creation = createService(first.store, withSecret(first), context(first));
    const removal = removePayload(first.store, 'secret', 'key');
    assert.equal(offer(first, removal), 'done');
    assert.equal(offer(first, creation), 'secret key not found');

    const second = new Swarm();
    const made = createService(second.store, withSecret(second), context(second));
    const late = removePayload(second.store, 'secret', 'key');
    assert.equal(offer(second, made), 'done');
    assert.equal(offer(second, late), 'update out of sequence');
    assert.equal(offer(second, removePayload(second.store, 'config', 'conf')), 'done', 'nobody names it');
  });

  it('what a service named before and has lost does not keep the manager from changing it', () => {
    const swarm = new Swarm();
    const network = swarm.addNetwork('front');
    const id = swarm.addService('web', { networks: [network] });
    const moved = copyOf(swarm.get('service', id));
    moved.previousSpec = copyOf(moved.spec ?? serviceSpec('web', {}));
    moved.spec = serviceSpec('web', {});
    swarm.apply([updateAction('service', moved)]);
    assert.equal(offer(swarm, removeNetwork(swarm.store, network)), 'done');
    const back = copyOf(swarm.get('service', id));
    if (back.previousSpec !== undefined) back.spec = back.previousSpec;
    delete back.previousSpec;
    assert.equal(offer(swarm, { ok: true, value: { actions: [updateAction('service', back)] } }), 'done');
    assert.equal(offer(swarm, { ok: true, value: { actions: [updateAction('service', copyOf(swarm.get('service', id)))] } }), 'done');
  });
});
