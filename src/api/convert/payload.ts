// Secrets and configs between Docker's JSON and the model. A secret's data never goes out. Pure.

import { create } from '@bufbuild/protobuf';
import {
  ConfigSpecSchema, SecretSpecSchema, type Config, type ConfigSpec, type Secret, type SecretSpec,
} from '../../model/proto/swarmkit_pb.js';
import { toRecord } from '../../model/pairs.js';
import { compact, nonEmpty, type JsonObject, type Reader } from './json.js';
import { driverFromJson, driverToJson } from './mount.js';
import { annotationsFromJson, metaToJson } from './service.js';

export function secretSpecFromJson(json: Reader): SecretSpec {
  const templating = driverFromJson(json.object('Templating'));
  const driver = driverFromJson(json.object('Driver'));
  return create(SecretSpecSchema, {
    annotations: annotationsFromJson(json),
    data: json.bytes('Data'),
    ...(templating === undefined ? {} : { templating }),
    ...(driver === undefined ? {} : { driver }),
  });
}

export function configSpecFromJson(json: Reader): ConfigSpec {
  const templating = driverFromJson(json.object('Templating'));
  return create(ConfigSpecSchema, {
    annotations: annotationsFromJson(json),
    data: json.bytes('Data'),
    ...(templating === undefined ? {} : { templating }),
  });
}

function common(spec: SecretSpec | ConfigSpec | undefined): Record<string, unknown> {
  return {
    Name: spec?.annotations?.name ?? '',
    Labels: toRecord(spec?.annotations?.labels),
    Templating: driverToJson(spec?.templating),
  };
}

export function secretToJson(secret: Secret): JsonObject {
  return {
    ID: secret.id, ...metaToJson(secret.meta),
    Spec: compact({ ...common(secret.spec), Driver: driverToJson(secret.spec?.driver) }),
  };
}

export function configToJson(config: Config): JsonObject {
  const data = Buffer.from(config.spec?.data ?? []).toString('base64');
  return { ID: config.id, ...metaToJson(config.meta), Spec: compact({ ...common(config.spec), Data: nonEmpty(data) }) };
}
