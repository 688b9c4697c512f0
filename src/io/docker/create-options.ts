// Task -> the Engine's container create request: what dockerd's own swarm worker would send, but with no network of
// the Engine's and our runtime.

import type Docker from 'dockerode';
import { type ContainerSpec, type Mount, Mount_BindOptions_Propagation, Mount_Type, type Task } from '../../model/proto/swarmkit_pb.js';
import type { TaskEnvironment } from '../../platform/executor.js';
import { durationMs } from '../oci/health.js';
import type { OciMount } from '../oci/spec-mounts.js';

export const ownerLabel = 'io.skein.owner';

export interface CreateInput {
  readonly task: Task;
  readonly spec: ContainerSpec;
  readonly environment: TaskEnvironment;
  readonly secrets: readonly OciMount[];
  readonly runtimeName: string;
  readonly owner: string;
}

export function createOptions(input: CreateInput): Docker.ContainerCreateOptions {
  const { spec, environment } = input;
  const graceMs = spec.stopGracePeriod === undefined ? undefined : durationMs(spec.stopGracePeriod);
  const options: Record<string, unknown> = {
    name: environment.name,
    Image: spec.image,
    Hostname: environment.hostname,
    User: spec.user,
    Tty: spec.tty,
    OpenStdin: spec.openStdin,
    WorkingDir: spec.dir,
    Env: [...environment.env],
    Labels: { ...environment.labels, 'com.docker.swarm.task': '', 'com.docker.swarm.task.id': input.task.id, [ownerLabel]: input.owner },
    HostConfig: hostConfig(input),
  };
  if (spec.command.length > 0) options['Entrypoint'] = spec.command;
  if (spec.args.length > 0) options['Cmd'] = spec.args;
  if (spec.stopSignal !== '') options['StopSignal'] = spec.stopSignal;
  if (graceMs !== undefined) options['StopTimeout'] = Math.ceil(graceMs / 1000);
  const health = spec.healthcheck;
  if (health !== undefined) {
    const ns = (duration: Parameters<typeof durationMs>[0]): number => Math.round(durationMs(duration) * 1e6);
    options['Healthcheck'] = {
      Test: health.test, Interval: ns(health.interval), Timeout: ns(health.timeout), StartPeriod: ns(health.startPeriod), Retries: health.retries,
    };
  }
  return options as Docker.ContainerCreateOptions;
}

function hostConfig(input: CreateInput): Record<string, unknown> {
  const { task, spec, environment } = input;
  const limits = task.spec?.resources?.limits;
  const reservations = task.spec?.resources?.reservations;
  const swapBytes = task.spec?.resources?.swapBytes;
  const memoryBytes = Number(limits?.memoryBytes ?? 0n);
  const logDriver = task.logDriver ?? task.spec?.logDriver;
  const security = [
    ...(spec.privileges?.noNewPrivileges === true ? ['no-new-privileges'] : []),
    ...(spec.privileges?.seccomp?.mode === 1 ? ['seccomp=unconfined'] : []),
    ...(spec.privileges?.seccomp?.mode === 2 ? [`seccomp=${Buffer.from(spec.privileges.seccomp.profile).toString('utf8')}`] : []),
  ];
  return {
    NetworkMode: 'none',
    // The wrapper refuses containers without a namespace of ours.
    ...(environment.netns === '' ? {} : { Runtime: input.runtimeName }),
    Dns: [...environment.dns.nameservers],
    DnsSearch: [...environment.dns.search],
    DnsOptions: [...environment.dns.options],
    ExtraHosts: environment.hosts.flatMap(({ address, names }) => names.map((name) => `${name}:${address}`)),
    Mounts: [...spec.mounts.map(mount), ...input.secrets.map(({ destination, source }) => ({ Type: 'bind', Source: source, Target: destination, ReadOnly: true }))],
    ReadonlyRootfs: spec.readOnly,
    ...(spec.init === undefined ? {} : { Init: spec.init }),
    GroupAdd: spec.groups,
    CapAdd: spec.capabilityAdd,
    CapDrop: spec.capabilityDrop,
    SecurityOpt: security,
    Sysctls: Object.fromEntries(spec.sysctls.map(({ key, value }) => [key, value])),
    Ulimits: spec.ulimits.map(({ name, soft, hard }) => ({ Name: name, Soft: Number(soft), Hard: Number(hard) })),
    OomScoreAdj: Number(spec.oomScoreAdj),
    ...(memoryBytes > 0 ? { Memory: memoryBytes } : {}),
    ...(memoryBytes > 0 && swapBytes !== undefined ? { MemorySwap: swapBytes < 0n ? -1 : memoryBytes + Number(swapBytes) } : {}),
    ...((reservations?.memoryBytes ?? 0n) > 0n ? { MemoryReservation: Number(reservations?.memoryBytes) } : {}),
    ...((limits?.nanoCpus ?? 0n) > 0n ? { NanoCpus: Number(limits?.nanoCpus) } : {}),
    ...(spec.pidsLimit > 0n ? { PidsLimit: Number(spec.pidsLimit) } : {}),
    ...(logDriver === undefined || logDriver.name === '' ? {} : {
      LogConfig: { Type: logDriver.name, Config: Object.fromEntries(logDriver.options.map(({ key, value }) => [key, value])) },
    }),
    RestartPolicy: { Name: 'no' },
  };
}

function mount(item: Mount): Record<string, unknown> {
  const common = { Source: item.source, Target: item.target, ReadOnly: item.readonly };
  switch (item.type) {
    case Mount_Type.BIND: {
      const propagation = Mount_BindOptions_Propagation[item.bindOptions?.propagation ?? 0] ?? 'RPRIVATE';
      return { ...common, Type: 'bind', BindOptions: { Propagation: propagation.toLowerCase(), NonRecursive: item.bindOptions?.nonrecursive ?? false } };
    }
    case Mount_Type.VOLUME: {
      const driver = item.volumeOptions?.driverConfig;
      return {
        ...common, Type: 'volume',
        VolumeOptions: {
          NoCopy: item.volumeOptions?.nocopy ?? false,
          Labels: Object.fromEntries((item.volumeOptions?.labels ?? []).map(({ key, value }) => [key, value])),
          ...(driver === undefined ? {} : { DriverConfig: { Name: driver.name, Options: Object.fromEntries(driver.options.map(({ key, value }) => [key, value])) } }),
        },
      };
    }
    case Mount_Type.TMPFS:
      return { Type: 'tmpfs', Target: item.target, ReadOnly: item.readonly, TmpfsOptions: { SizeBytes: Number(item.tmpfsOptions?.sizeBytes ?? 0n), Mode: item.tmpfsOptions?.mode ?? 0 } };
    default:
      return { ...common, Type: 'unknown' };
  }
}
