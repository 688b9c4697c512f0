// Helpers for tests of control functions: a store that applies what a change returns, and short builders of specs.

import { create } from '@bufbuild/protobuf';
import { Reader } from '../../src/api/convert/json.js';
import { serviceSpecFromJson } from '../../src/api/convert/service.js';
import { createNetwork } from '../../src/core/control/networks.js';
import type { Change, ChangeContext } from '../../src/core/control/context.js';
import { createAction } from '../../src/core/store/actions.js';
import { Store } from '../../src/core/store/store.js';
import { unwrap, type Result } from '../../src/lib/result.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import {
  AnnotationsSchema, DriverSchema, IPAMConfigSchema, IPAMOptionsSchema, NetworkSpecSchema,
  type NetworkSpec, type ServiceSpec, type StoreAction,
} from '../../src/model/proto/swarmkit_pb.js';

export class World {
  readonly store = new Store();
  private count = 0;

  context(): ChangeContext {
    return {
      nowMs: 1_700_000_000_000 + this.count,
      newId: () => `id${String(++this.count).padStart(23, '0')}`,
      randomBytes: (length) => new Uint8Array(length).fill(++this.count),
    };
  }

  apply(actions: readonly StoreAction[]): void {
    const command = create(CommandSchema, {
      id: `c${++this.count}`, time: timestampFromMs(1_700_000_000_000 + this.count), actions: [...actions],
    });
    unwrap(this.store.apply(this.store.index + 1n, command));
  }

  run<T>(build: (store: Store, context: ChangeContext) => Result<Change<T>>): T {
    const { actions, value } = unwrap(build(this.store, this.context()));
    this.apply(actions);
    return value;
  }

  /** The error of a change that must be refused. */
  refused<T>(build: (store: Store, context: ChangeContext) => Result<Change<T>>): { code: string; message: string } {
    const result = build(this.store, this.context());
    if (result.ok) throw new Error('the change was accepted');
    return result.error;
  }

  addIngress(): string {
    return this.run((view, context) => createNetwork(view, network('ingress', { subnet: '10.0.0.0/24', ingress: true }), context));
  }

  add(...actions: Parameters<typeof createAction>): void {
    this.apply([createAction(...actions)]);
  }
}

export function spec(name: string, more: Record<string, unknown> = {}, container: Record<string, unknown> = {}): ServiceSpec {
  return serviceSpecFromJson(new Reader({
    Name: name, TaskTemplate: { ContainerSpec: { Image: 'app:1', ...container } }, ...more,
  }));
}

export function published(port: number, mode = 'ingress', protocol = 'tcp'): Record<string, unknown> {
  return { EndpointSpec: { Ports: [{ Protocol: protocol, TargetPort: 80, PublishedPort: port, PublishMode: mode }] } };
}

export function network(
  name: string, options: { subnet?: string; gateway?: string; ingress?: boolean; driver?: string } = {},
): NetworkSpec {
  const made = create(NetworkSpecSchema, {
    annotations: create(AnnotationsSchema, { name }), ingress: options.ingress ?? false,
    driverConfig: create(DriverSchema, { name: options.driver ?? 'overlay' }),
  });
  if (options.subnet !== undefined) {
    made.ipam = create(IPAMOptionsSchema, {
      driver: create(DriverSchema, { name: 'default' }),
      configs: [create(IPAMConfigSchema, { subnet: options.subnet, gateway: options.gateway ?? '' })],
    });
  }
  return made;
}
