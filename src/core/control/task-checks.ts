// Checks of a TaskSpec: image, mounts, constraints, health check, secrets, templates. Texts are SwarmKit's; mounts
// are checked here too (Docker leaves that to the node), so that a bad mount is an immediate error.

import { durationNs } from '../../lib/time.js';
import { parseConstraint } from '../../model/constraint.js';
import {
  Mount_Type,
  type ContainerSpec, type HealthConfig, type Mount, type Placement, type RestartPolicy, type TaskSpec,
} from '../../model/proto/swarmkit_pb.js';
import type { ReadTx } from '../store/view.js';
import { checkResources, firstRefusal, invalid, type Refusal } from './validate.js';

const IMAGE_REFERENCE = new RegExp(
  '^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/)?'
  + '[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*'
  + '(?::[\\w][\\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?$');
const MIN_HEALTH_NS = 1_000_000n;
const TEMPLATE_FIELDS = [
  '.Service.ID', '.Service.Name', '.Service.Labels', '.Node.ID', '.Node.Hostname', '.Node.Platform.OS',
  '.Node.Platform.Architecture', '.Node.Platform', '.Task.ID', '.Task.Name', '.Task.Slot',
];

export function checkTaskSpec(spec: TaskSpec | undefined): Refusal {
  if (spec === undefined) return invalid('TaskSpec: missing runtime');
  const { runtime } = spec;
  if (runtime.case === undefined) return invalid('TaskSpec: missing runtime');
  if (runtime.case !== 'container') return invalid('RuntimeSpec: unimplemented runtime in service spec');
  const container = runtime.value;
  return firstRefusal(
    () => checkResources(spec.resources?.limits),
    () => checkResources(spec.resources?.reservations),
    () => checkRestart(spec.restart),
    () => checkPlacement(spec.placement),
    () => checkContainer(container),
  );
}

function checkRestart(policy: RestartPolicy | undefined): Refusal {
  if (durationNs(policy?.delay) < 0n) return invalid('TaskSpec: restart-delay cannot be negative');
  if (durationNs(policy?.window) < 0n) return invalid('TaskSpec: restart-window cannot be negative');
  return undefined;
}

export function checkPlacement(placement: Placement | undefined): Refusal {
  for (const constraint of placement?.constraints ?? []) {
    const parsed = parseConstraint(constraint);
    if (!parsed.ok) return invalid(parsed.error.message);
  }
  return undefined;
}

function checkContainer(container: ContainerSpec): Refusal {
  if (container.image === '') return invalid('ContainerSpec: image reference must be provided');
  if (!IMAGE_REFERENCE.test(container.image)) {
    return invalid(`ContainerSpec: "${container.image}" is not a valid repository/tag`);
  }
  return firstRefusal(
    () => checkMounts(container.mounts),
    () => checkHealth(container.healthcheck),
    () => checkTemplates(container),
    () => checkReferences('secret', container.secrets.map((x) => [x.secretId, x.secretName, x.target.value?.name])),
    () => checkReferences('config', container.configs.map((x) => [
      x.configId, x.configName, x.target.case === 'file' ? x.target.value.name : x.target.case === 'runtime' ? x.configName : undefined,
    ])),
  );
}

function checkMounts(mounts: readonly Mount[]): Refusal {
  const targets = new Set<string>();
  for (const mount of mounts) {
    const refusal = checkMount(mount);
    if (refusal !== undefined) return refusal;
    if (targets.has(mount.target)) return invalid(`ContainerSpec: duplicate mount point: ${mount.target}`);
    targets.add(mount.target);
  }
  return undefined;
}

function checkMount(mount: Mount): Refusal {
  const absolute = (path: string): boolean => path.startsWith('/') || path.includes('{{');
  if (!absolute(mount.target)) return invalid(`invalid mount target, must be an absolute path: ${mount.target}`);
  switch (mount.type) {
    case Mount_Type.BIND:
      if (!absolute(mount.source)) return invalid(`invalid bind mount source, must be an absolute path: ${mount.source}`);
      return undefined;
    case Mount_Type.VOLUME:
      if (mount.source.startsWith('/')) {
        return invalid(`invalid volume mount source, must not be an absolute path: ${mount.source}`);
      }
      return undefined;
    case Mount_Type.TMPFS:
      return mount.source === '' ? undefined : invalid('invalid tmpfs source, source must be empty');
    case Mount_Type.NPIPE:
      return invalid('invalid mount type "npipe": only supported on Windows');
    case Mount_Type.CLUSTER:
      return invalid('cluster volumes are not supported yet: use a bind, volume or tmpfs mount');
    default:
      return invalid(`invalid mount type: ${String(mount.type)}`);
  }
}

function checkHealth(health: HealthConfig | undefined): Refusal {
  if (health === undefined) return undefined;
  const durations = [
    ['Interval', health.interval], ['Timeout', health.timeout], ['StartPeriod', health.startPeriod],
    ['StartInterval', health.startInterval],
  ] as const;
  for (const [name, duration] of durations) {
    const ns = durationNs(duration);
    if (ns !== 0n && ns < MIN_HEALTH_NS) return invalid(`ContainerSpec: ${name} in HealthConfig cannot be less than 1ms`);
  }
  if (health.retries < 0) return invalid('ContainerSpec: Retries in HealthConfig cannot be negative');
  return undefined;
}

/** Template actions must name a known field or function; the node expands them. */
function checkTemplates(container: ContainerSpec): Refusal {
  const texts: readonly (readonly [string, string])[] = [
    ['hostname', container.hostname],
    ...container.env.map((value) => ['env', value] as const),
    ...container.mounts.flatMap((mount) => [['mounts', mount.source] as const, ['mounts', mount.target] as const]),
  ];
  for (const [what, text] of texts) {
    for (const match of text.matchAll(/\{\{(.*?)\}\}/g)) {
      const action = (match[1] ?? '').trim();
      const unknown = [...action.matchAll(/\.[A-Z]\w*(?:\.\w+)*/g)]
        .map((field) => field[0])
        .find((field) => !TEMPLATE_FIELDS.includes(field) && !field.startsWith('.Service.Labels.'));
      if (unknown !== undefined) {
        return invalid(`expanding ${what} failed: template: expansion: executing at <${unknown}>: can't evaluate field`);
      }
    }
  }
  return undefined;
}

function checkReferences(kind: string, references: readonly (readonly [string, string, string | undefined])[]): Refusal {
  const targets = new Map<string, string>();
  for (const [id, name, target] of references) {
    if (id === '' || name === '') return invalid(`malformed ${kind} reference`);
    if (target === undefined || target === '') {
      return invalid(`malformed ${kind} reference, no target provided`);
    }
    const earlier = targets.get(target);
    if (earlier !== undefined) {
      return invalid(`${kind} references '${earlier}' and '${name}' have a conflicting target: '${target}'`);
    }
    targets.set(target, name);
  }
  return undefined;
}

/** The referenced secrets and configs exist under the names given. */
export function checkReferencedPayloads(view: ReadTx, spec: TaskSpec | undefined): Refusal {
  if (spec?.runtime.case !== 'container') return undefined;
  const container = spec.runtime.value;
  const missingSecrets = container.secrets
    .filter((x) => view.get('secret', x.secretId)?.spec?.annotations?.name !== x.secretName)
    .map((x) => x.secretName);
  const missingConfigs = container.configs
    .filter((x) => view.get('config', x.configId)?.spec?.annotations?.name !== x.configName)
    .map((x) => x.configName);
  return missing('secret', missingSecrets) ?? missing('config', missingConfigs);
}

function missing(kind: string, names: readonly string[]): Refusal {
  if (names.length === 0) return undefined;
  return invalid(`${kind}${names.length === 1 ? '' : 's'} not found: ${names.join(', ')}`);
}
