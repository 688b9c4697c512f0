// Checks of a ServiceSpec against itself and against the store: mode, update config, ports, networks. Texts are
// SwarmKit's, because users and scripts match on them.

import { isDnsName } from '../../lib/dnsname.js';
import { durationNs } from '../../lib/time.js';
import {
  EndpointSpec_ResolutionMode, PortConfig_Protocol, PortConfig_PublishMode,
  type EndpointSpec, type PortConfig, type Service, type ServiceSpec, type UpdateConfig,
} from '../../model/proto/swarmkit_pb.js';
import { pairValue } from '../../model/pairs.js';
import type { ReadTx } from '../store/view.js';
import { rpcFail } from './context.js';
import { checkReferencedPayloads, checkTaskSpec } from './task-checks.js';
import { checkAnnotations, firstRefusal, invalid, type Refusal } from './validate.js';

/** Leaves room for "tasks." before it. */
const ALIAS_MAX = 240;

export function isJob(spec: ServiceSpec | undefined): boolean {
  return spec?.mode.case === 'replicatedJob' || spec?.mode.case === 'globalJob';
}

/** Everything about a spec that needs no view. */
export function checkServiceSpec(spec: ServiceSpec): Refusal {
  return firstRefusal(
    () => checkAnnotations(spec.annotations),
    () => checkTaskSpec(spec.task),
    () => checkUpdate(spec.update),
    () => checkUpdate(spec.rollback),
    () => checkEndpoint(spec.endpoint),
    () => checkMode(spec),
  );
}

/** What depends on other objects. `serviceId` is the service being updated, undefined on create. */
export function checkServiceContext(view: ReadTx, spec: ServiceSpec, serviceId: string | undefined): Refusal {
  return firstRefusal(
    () => checkNetworks(view, spec),
    () => checkPortConflicts(view, spec, serviceId),
    () => checkReferencedPayloads(view, spec.task),
    () => checkIngress(view, spec),
  );
}

function checkMode(spec: ServiceSpec): Refusal {
  if (spec.mode.case === undefined) return invalid('service mode must be specified');
  if (!isJob(spec)) return undefined;
  if (spec.update !== undefined || spec.rollback !== undefined) {
    return invalid('update and rollback configuration is not allowed for jobs');
  }
  return undefined;
}

function checkUpdate(config: UpdateConfig | undefined): Refusal {
  if (config === undefined) return undefined;
  if (durationNs(config.delay) < 0n) return invalid('TaskSpec: update-delay cannot be negative');
  if (durationNs(config.monitor) < 0n) return invalid('TaskSpec: update-monitor cannot be negative');
  if (!(config.maxFailureRatio >= 0 && config.maxFailureRatio <= 1)) {
    return invalid('TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1');
  }
  return undefined;
}

function portKey(port: PortConfig): string {
  return `${port.publishedPort}/${port.protocol}`;
}

function checkEndpoint(endpoint: EndpointSpec | undefined): Refusal {
  const seen = new Set<string>();
  for (const port of endpoint?.ports ?? []) {
    if (port.targetPort < 1 || port.targetPort > 65535) return invalid(`invalid target port '${port.targetPort}'`);
    if (port.publishedPort > 65535) return invalid(`invalid published port '${port.publishedPort}'`);
    if (port.protocol === PortConfig_Protocol.SCTP) {
      return rpcFail('unimplemented', 'publishing an SCTP port is not supported yet: use tcp or udp');
    }
    const ingress = port.publishMode === PortConfig_PublishMode.INGRESS;
    if (endpoint?.mode === EndpointSpec_ResolutionMode.DNSRR && ingress) {
      return invalid("EndpointSpec: port published with ingress mode can't be used with dnsrr mode");
    }
    if (port.publishedPort === 0) continue;
    const key = portKey(port);
    if (seen.has(key)) return invalid('EndpointSpec: duplicate published ports provided');
    seen.add(key);
  }
  return undefined;
}

/** Networks a spec names: those of the task, else the legacy ones of the service. */
export function networkTargets(spec: ServiceSpec | undefined): readonly string[] {
  const own = spec?.task?.networks ?? [];
  const networks = own.length > 0 ? own : spec?.networks ?? [];
  return networks.map((x) => x.target);
}

function checkNetworks(view: ReadTx, spec: ServiceSpec): Refusal {
  const seen = new Set<string>();
  for (const target of networkTargets(spec)) {
    const network = view.get('network', target);
    if (network === undefined) return rpcFail('not_found', `network ${target} not found`);
    const annotations = network.spec?.annotations;
    if (network.spec?.ingress === true) {
      return invalid(`Service cannot be explicitly attached to the ingress network "${annotations?.name ?? ''}"`);
    }
    if (pairValue(annotations?.labels, 'com.docker.swarm.internal') !== undefined) {
      return invalid(`Service cannot be explicitly attached to "${annotations?.name ?? ''}" network which is a swarm internal network`);
    }
    if (seen.has(target)) return invalid(`network ${annotations?.name ?? target} is attached more than once`);
    seen.add(target);
  }
  return checkAliases(spec);
}

/** An alias that is no DNS name could never be asked for. */
function checkAliases(spec: ServiceSpec): Refusal {
  const attachments = [...spec.task?.networks ?? [], ...spec.networks];
  const bad = attachments.flatMap((attachment) => attachment.aliases).find((alias) => !isDnsName(alias) || alias.length > ALIAS_MAX);
  return bad === undefined ? undefined : invalid(`network alias "${bad.slice(0, 80)}" must be valid as a DNS name`);
}

function checkIngress(view: ReadTx, spec: ServiceSpec): Refusal {
  if (!usesIngress(spec.endpoint)) return undefined;
  if (view.list('network').some((network) => network.spec?.ingress === true)) return undefined;
  return rpcFail('failed_precondition', 'service needs ingress network, but no ingress network is present');
}

export function usesIngress(endpoint: EndpointSpec | undefined): boolean {
  return endpoint?.mode !== EndpointSpec_ResolutionMode.DNSRR
    && (endpoint?.ports ?? []).some((port) => port.publishMode === PortConfig_PublishMode.INGRESS);
}

/** A published port belongs to one service, except that several may publish it in host mode. */
function checkPortConflicts(view: ReadTx, spec: ServiceSpec, serviceId: string | undefined): Refusal {
  const wanted = (spec.endpoint?.ports ?? []).filter((port) => port.publishedPort !== 0);
  if (wanted.length === 0) return undefined;
  const keysOf = (mode: PortConfig_PublishMode): Set<string> =>
    new Set(wanted.filter((port) => port.publishMode === mode).map(portKey));
  const ingress = keysOf(PortConfig_PublishMode.INGRESS);
  const host = keysOf(PortConfig_PublishMode.HOST);
  for (const service of view.list('service')) {
    if (service.id === serviceId) continue;
    for (const port of [...(service.spec?.endpoint?.ports ?? []), ...(service.endpoint?.ports ?? [])]) {
      if (port.publishedPort === 0) continue;
      const key = portKey(port);
      if (port.publishMode === PortConfig_PublishMode.HOST) {
        if (ingress.has(key)) return portTaken(port, service, 'a host-published port');
      } else if (ingress.has(key) || host.has(key)) {
        return portTaken(port, service, 'an ingress port');
      }
    }
  }
  return undefined;
}

function portTaken(port: PortConfig, service: Service, as: string): Refusal {
  const name = service.spec?.annotations?.name ?? '';
  return invalid(`port '${port.publishedPort}' is already in use by service '${name}' (${service.id}) as ${as}`);
}
