// Copies and comparisons of messages: as protobuf-es' own, by random tasks and random changes of them.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { clone, create, equals, fromBinary, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { timestampFromMs } from '../../src/lib/time.js';
import { copyOf, sameMessage } from '../../src/model/message.js';
import {
  ContainerSpecSchema, NetworkAttachmentSchema, NetworkSchema, PairSchema, TaskSchema, TaskSpecSchema, TaskState, TaskStatusSchema,
  VersionSchema, type Task,
} from '../../src/model/proto/swarmkit_pb.js';
import { SecretSchema, SecretSpecSchema } from '../../src/model/proto/swarmkit_pb.js';

const text = fc.constantFrom('', 'a', 'b');
const tasks = fc.record({
  id: text, slot: fc.constantFrom(0n, 1n), state: fc.constantFrom(TaskState.NEW, TaskState.RUNNING), withStatus: fc.boolean(),
  image: text, runtime: fc.boolean(), addresses: fc.array(text, { maxLength: 2 }), label: text, atMs: fc.constantFrom(undefined, 1, 2.5),
}).map(({ id, slot, state, withStatus, image, runtime, addresses, label, atMs }): Task => create(TaskSchema, {
  id, slot, specVersion: create(VersionSchema, { index: slot }),
  spec: create(TaskSpecSchema, runtime ? {
    runtime: { case: 'container', value: create(ContainerSpecSchema, { image, labels: [create(PairSchema, { key: label, value: id })] }) },
  } : {}),
  networks: [create(NetworkAttachmentSchema, { network: create(NetworkSchema, { id: label }), addresses })],
  ...(withStatus ? { status: create(TaskStatusSchema, { state, ...(atMs === undefined ? {} : { timestamp: timestampFromMs(atMs) }) }) } : {}),
}));

describe('messages', () => {
  it('are the same exactly where protobuf says so, made by hand or decoded', () => {
    fc.assert(fc.property(tasks, tasks, (a, b) => {
      const decoded = fromBinary(TaskSchema, toBinary(TaskSchema, b));
      assert.equal(sameMessage(a, b), equals(TaskSchema, a, b));
      assert.equal(sameMessage(a, decoded), equals(TaskSchema, a, decoded));
      assert.ok(sameMessage(decoded, b));
    }));
  });

  it('are copied as protobuf does, and the copy shares nothing', () => {
    fc.assert(fc.property(tasks, (task) => {
      const copy = copyOf(task);
      assert.deepEqual(copy, clone(TaskSchema, task));
      const before = toBinary(TaskSchema, task);
      copy.networks[0]?.addresses.push('c');
      if (copy.status !== undefined) copy.status.message = 'changed';
      if (copy.spec?.runtime.case === 'container') copy.spec.runtime.value.labels.length = 0;
      assert.deepEqual(toBinary(TaskSchema, task), before);
    }));
  });

  it('compare and copy bytes', () => {
    const make = (...data: number[]) => create(SecretSchema, { spec: create(SecretSpecSchema, { data: Uint8Array.from(data) }) });
    assert.ok(sameMessage(make(1, 2), make(1, 2)));
    assert.ok(!sameMessage(make(1, 2), make(1, 3)));
    const copy = copyOf(make(1, 2));
    assert.deepEqual(copy, make(1, 2));
  });

  it('that are not there are the same as each other only', () => {
    assert.ok(sameMessage(undefined, undefined));
    assert.ok(!sameMessage(create(VersionSchema), undefined));
  });
});
