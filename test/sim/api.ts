// API clients of the simulated swarm: each asks some manager for one change after the other (services, networks, nodes),
// and again when it was not answered. What they asked for is remembered nowhere: the store says what is wanted.

import { clone, create } from '@bufbuild/protobuf';
import { createNetwork, removeNetwork } from '../../src/core/control/networks.js';
import { updateNode } from '../../src/core/control/nodes.js';
import { createPayload, removePayload } from '../../src/core/control/payloads.js';
import { createService, removeService, updateService } from '../../src/core/control/services.js';
import type { ReadTx } from '../../src/core/store/view.js';
import type { Result } from '../../src/lib/result.js';
import { attachmentConfigs } from '../../src/model/network.js';
import {
  AnnotationsSchema, ConfigReferenceSchema, ConfigSpecSchema, DriverSchema, NetworkSpecSchema, NodeSpecSchema, NodeSpec_Availability,
  PortConfig_Protocol, PortConfig_PublishMode, SecretReferenceSchema, SecretSpecSchema, ServiceSpecSchema, UpdateConfig_FailureAction,
  UpdateConfig_UpdateOrder, type Service, type ServiceSpec, type StoreAction,
} from '../../src/model/proto/swarmkit_pb.js';
import { serviceSpec } from '../unit/harness.js';
import { until, type Process } from './process.js';
import type { SimManager } from './manager.js';
import type { SwarmWorld } from './swarm.js';

type Built = Result<{ readonly actions: readonly StoreAction[] }>;
type Request = (view: ReadTx, nowMs: number) => Built;

const SERVICES_MAX = 6;
const NETWORKS_MAX = 4;
const PAYLOADS_MAX = 3;
const REPLICAS_MAX = 5;
const ANSWER_MS = 25_000;
const GAP_MS_MAX = 1_500;
const READ_MS = 500;
const PORTS = [8080, 8081, 0];

export class ApiClient {
  done = 0;
  refused = 0;
  unanswered = 0;
  private readonly world: SwarmWorld;
  private readonly name: string;
  /** Between an answer and the next request, at most. */
  private gapMsMax = GAP_MS_MAX;
  private calm = false;
  private stopped = false;
  private count = 0;
  /** What it asks for next: it deploys a stack again that it has just removed. */
  private following: Request | undefined;

  constructor(world: SwarmWorld, name: string) {
    this.world = world;
    this.name = name;
  }

  start(): void {
    this.begin();
  }

  /** Slowly, and of managers of the group: one that was removed, or never joined, is nobody to ask when all is well. */
  startCalmly(gapMsMax: number): void {
    this.gapMsMax = gapMsMax;
    this.calm = true;
    this.begin();
  }

  private begin(): void {
    this.stopped = false;
    this.next(10);
  }

  stop(): void {
    this.stopped = true;
  }

  private next(delayMs: number): void {
    this.world.clock.after(delayMs, () => {
      if (this.stopped) return;
      const up = [...this.world.managers.values()].filter(({ host }) => host.up && host.store.cluster() !== undefined
        && (!this.calm || this.isMember(host.id)));
      if (up.length === 0) this.next(100);
      else this.ask(this.world.random.pick(up));
    });
  }

  private isMember(id: bigint): boolean {
    return [...this.world.hosts.values()].some(({ raft: { leader, status } }) => leader && status.activeConfState.voters.includes(id));
  }

  private ask(manager: SimManager): void {
    const { random, clock } = this.world;
    let done = false;
    const end = (what: 'done' | 'refused' | 'unanswered'): void => {
      if (done) return;
      done = true;
      this[what] += 1;
      this.next(random.between(5, this.gapMsMax));
    };
    clock.after(ANSWER_MS, () => end('unanswered'));
    manager.start(this.perform(manager, end));
  }

  private* perform(manager: SimManager, end: (what: 'done' | 'refused' | 'unanswered') => void): Process {
    const { random, clock } = this.world;
    // Most ask for what is there now; without a leader the manager goes by what it knows.
    yield* until<void>((resume) => {
      clock.after(manager.host.read(() => resume()) ? READ_MS : 5, resume);
    });
    const request = this.choose(manager.view);
    yield* until<void>((resume) => clock.after(random.between(0, 30), resume));
    const result = yield* manager.proposer.commit(`api ${this.name} ${++this.count}`, request);
    end(typeof result === 'string' ? result : 'refused');
  }

  private choose(view: ReadTx): Request {
    const { random } = this.world;
    const { following } = this;
    this.following = undefined;
    if (following !== undefined) return following;
    const services = view.list('service');
    const networks = view.list('network').filter((network) => network.spec?.ingress !== true);
    const roll = random.below(100);
    if (services.length === 0 || (roll < 20 && services.length < SERVICES_MAX)) return this.creation(view);
    if (roll < 30) return networks.length < NETWORKS_MAX ? this.networkCreation() : (now) => removeNetwork(now, random.pick(networks).id);
    if (roll < 40 && networks.length > 0) {
      // Mostly what no service names any more, as after a service was removed; its tasks may still be there.
      const used = new Set(services.flatMap((service) => attachmentConfigs(service).map(({ target }) => target)));
      const unused = networks.filter((network) => !used.has(network.id));
      const { id } = random.pick(unused.length > 0 && random.chance(0.8) ? unused : networks);
      if (random.chance(0.5)) this.following = this.networkCreation();
      return (now) => removeNetwork(now, id);
    }
    if (roll < 55) {
      const { id } = random.pick(services);
      return (now) => removeService(now, id);
    }
    if (roll < 70) return this.availability(view);
    if (roll < 78) return this.payload(view);
    return this.update(view, random.pick(services));
  }

  private creation(view: ReadTx): Request {
    const { random, newId } = this.world;
    const networks = view.list('network').filter((network) => network.spec?.ingress !== true && random.chance(0.5)).map(({ id }) => id);
    const published = random.chance(0.4);
    const publishMode = random.pick([PortConfig_PublishMode.INGRESS, PortConfig_PublishMode.INGRESS, PortConfig_PublishMode.HOST]);
    const spec = serviceSpec(`s${random.below(2 * SERVICES_MAX)}`, {
      replicas: random.between(1, REPLICAS_MAX), global: random.chance(0.2), networks, dnsrr: !published && random.chance(0.2),
      image: 'app:1', restart: { delayMs: random.pick([0, 100, 1_000]) },
      ports: published ? [{ protocol: PortConfig_Protocol.TCP, targetPort: 80, publishedPort: random.pick(PORTS), publishMode }] : [],
      update: {
        parallelism: random.between(0, 2), delayMs: random.pick([0, 300]), monitorMs: random.pick([0, 500]),
        order: random.pick([UpdateConfig_UpdateOrder.STOP_FIRST, UpdateConfig_UpdateOrder.START_FIRST]),
        failureAction: random.pick([UpdateConfig_FailureAction.CONTINUE, UpdateConfig_FailureAction.ROLLBACK]), maxFailureRatio: 0.3,
      },
    });
    this.give(spec, view);
    return (now, nowMs) => createService(now, clone(ServiceSpecSchema, spec), { nowMs, newId, randomBytes: (length) => new Uint8Array(length) });
  }

  private payload(view: ReadTx): Request {
    const { random, newId } = this.world;
    const kind = random.pick(['secret', 'config'] as const);
    const known = view.list(kind);
    if (known.length >= PAYLOADS_MAX || (known.length > 0 && random.chance(0.4))) {
      const { id } = random.pick<{ readonly id: string }>(known);
      return (now) => removePayload(now, kind, id);
    }
    const init = { annotations: create(AnnotationsSchema, { name: `${kind}${random.below(2 * PAYLOADS_MAX)}` }), data: Uint8Array.of(1) };
    const spec = kind === 'secret' ? create(SecretSpecSchema, init) : create(ConfigSpecSchema, init);
    return (now, nowMs) => createPayload(now, kind, spec, { nowMs, newId, randomBytes: (length) => new Uint8Array(length) });
  }

  /** Names some of the secrets and configs there are. */
  private give(spec: ServiceSpec, view: ReadTx): void {
    const { random } = this.world;
    if (spec.task?.runtime.case !== 'container') return;
    const { value } = spec.task.runtime;
    const nameOf = (object: { readonly spec?: { readonly annotations?: { readonly name: string } | undefined } | undefined }): string =>
      object.spec?.annotations?.name ?? '';
    value.secrets = view.list('secret').filter(() => random.chance(0.3)).map((secret) => create(SecretReferenceSchema, {
      secretId: secret.id, secretName: nameOf(secret), target: { case: 'file', value: { name: secret.id } },
    }));
    value.configs = view.list('config').filter(() => random.chance(0.3)).map((config) => create(ConfigReferenceSchema, {
      configId: config.id, configName: nameOf(config), target: { case: 'file', value: { name: config.id } },
    }));
  }

  private networkCreation(): Request {
    const { random, newId } = this.world;
    const spec = create(NetworkSpecSchema, {
      annotations: create(AnnotationsSchema, { name: `net${random.below(2 * NETWORKS_MAX)}` }),
      driverConfig: create(DriverSchema, { name: 'overlay' }),
    });
    return (now, nowMs) => createNetwork(now, clone(NetworkSpecSchema, spec), { nowMs, newId, randomBytes: (length) => new Uint8Array(length) });
  }

  private update(view: ReadTx, { id, meta, spec }: Service): Request {
    const { random, newId } = this.world;
    const next: ServiceSpec = clone(ServiceSpecSchema, spec ?? create(ServiceSpecSchema));
    const kind = random.below(4);
    if (kind < 2 && next.mode.case === 'replicated') next.mode.value.replicas = BigInt(random.between(0, REPLICAS_MAX));
    else if (kind === 2 && next.task !== undefined) next.task.forceUpdate += 1n;
    else if (random.chance(0.3)) this.give(next, view);
    else if (next.task?.runtime.case === 'container') next.task.runtime.value.image = `app:${random.below(5)}`;
    const version = meta?.version?.index ?? 0n;
    const rollback = random.chance(0.05);
    return (now, nowMs) => updateService(now, { id, version, spec: clone(ServiceSpecSchema, next), rollback, registryAuthFrom: 'spec' },
      { nowMs, newId, randomBytes: (length) => new Uint8Array(length) });
  }

  private availability(view: ReadTx): Request {
    const { random } = this.world;
    const node = random.pick(view.list('node'));
    const drained = view.list('node').filter((other) => other.spec?.availability === NodeSpec_Availability.DRAIN);
    const active = drained.includes(node) || drained.length > 1;
    const target = active && drained.length > 0 ? random.pick(drained) : node;
    const spec = clone(NodeSpecSchema, target.spec ?? create(NodeSpecSchema));
    spec.availability = active ? NodeSpec_Availability.ACTIVE : NodeSpec_Availability.DRAIN;
    const version = target.meta?.version?.index ?? 0n;
    return (now) => updateNode(now, { id: target.id, version, spec: clone(NodeSpecSchema, spec) });
  }
}
