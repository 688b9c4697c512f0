// ContainerSpec between Docker's JSON and the model, both ways. Pure.

import { create } from '@bufbuild/protobuf';
import {
  ConfigReferenceSchema, ContainerSpecSchema, ContainerSpec_DNSConfigSchema, ContainerSpec_Isolation,
  ContainerSpec_UlimitSchema, FileTargetSchema, HealthConfigSchema, PrivilegesSchema,
  Privileges_AppArmorOptsSchema, Privileges_AppArmorOpts_AppArmorMode, Privileges_CredentialSpecSchema,
  Privileges_SELinuxContextSchema, Privileges_SeccompOptsSchema, Privileges_SeccompOpts_SeccompMode,
  RuntimeTargetSchema, SecretReferenceSchema,
  type ConfigReference, type ContainerSpec, type FileTarget, type HealthConfig, type Privileges, type SecretReference,
} from '../../model/proto/swarmkit_pb.js';
import { toPairs, toRecord } from '../../model/pairs.js';
import { durationNs } from '../../lib/time.js';
import { compact, nonEmpty, word, wordOf, type JsonObject, type Reader } from './json.js';
import { mountFromJson, mountToJson } from './mount.js';

const ISOLATION = {
  '': ContainerSpec_Isolation.DEFAULT, default: ContainerSpec_Isolation.DEFAULT,
  process: ContainerSpec_Isolation.PROCESS, hyperv: ContainerSpec_Isolation.HYPERV,
};
const SECCOMP = {
  '': Privileges_SeccompOpts_SeccompMode.DEFAULT,
  default: Privileges_SeccompOpts_SeccompMode.DEFAULT,
  unconfined: Privileges_SeccompOpts_SeccompMode.UNCONFINED,
  custom: Privileges_SeccompOpts_SeccompMode.CUSTOM,
};
const APPARMOR = {
  '': Privileges_AppArmorOpts_AppArmorMode.DEFAULT,
  default: Privileges_AppArmorOpts_AppArmorMode.DEFAULT,
  disabled: Privileges_AppArmorOpts_AppArmorMode.DISABLED,
};

export function containerFromJson(json: Reader): ContainerSpec {
  const spec = create(ContainerSpecSchema, {
    image: json.text('Image'),
    labels: toPairs(json.record('Labels')),
    command: json.texts('Command'),
    args: json.texts('Args'),
    hostname: json.text('Hostname'),
    env: json.texts('Env'),
    dir: json.text('Dir'),
    user: json.text('User'),
    groups: json.texts('Groups'),
    tty: json.flag('TTY'),
    openStdin: json.flag('OpenStdin'),
    readOnly: json.flag('ReadOnly'),
    stopSignal: json.text('StopSignal'),
    mounts: json.objects('Mounts').map(mountFromJson),
    hosts: json.texts('Hosts'),
    secrets: json.objects('Secrets').map(secretFromJson),
    configs: json.objects('Configs').map(configFromJson),
    isolation: word(ISOLATION, json.text('Isolation'), `invalid isolation: ${json.text('Isolation')}`),
    sysctls: toPairs(json.record('Sysctls')),
    capabilityAdd: json.texts('CapabilityAdd'),
    capabilityDrop: json.texts('CapabilityDrop'),
    ulimits: json.objects('Ulimits').map((x) =>
      create(ContainerSpec_UlimitSchema, { name: x.text('Name'), soft: x.int('Soft'), hard: x.int('Hard') })),
    oomScoreAdj: json.int('OomScoreAdj'),
  });
  const init = json.optionalFlag('Init');
  if (init !== undefined) spec.init = init;
  const grace = json.duration('StopGracePeriod');
  if (grace !== undefined) spec.stopGracePeriod = grace;
  const privileges = json.object('Privileges');
  if (privileges !== undefined) spec.privileges = privilegesFromJson(privileges);
  const dns = json.object('DNSConfig');
  if (dns !== undefined) {
    spec.dnsConfig = create(ContainerSpec_DNSConfigSchema, {
      nameservers: dns.texts('Nameservers'), search: dns.texts('Search'), options: dns.texts('Options'),
    });
  }
  const health = json.object('Healthcheck');
  if (health !== undefined) spec.healthcheck = healthFromJson(health);
  return spec;
}

function healthFromJson(json: Reader): HealthConfig {
  const health = create(HealthConfigSchema, { test: json.texts('Test'), retries: Number(json.int('Retries')) });
  const interval = json.nonZeroDuration('Interval');
  const timeout = json.nonZeroDuration('Timeout');
  const startPeriod = json.nonZeroDuration('StartPeriod');
  const startInterval = json.nonZeroDuration('StartInterval');
  if (interval !== undefined) health.interval = interval;
  if (timeout !== undefined) health.timeout = timeout;
  if (startPeriod !== undefined) health.startPeriod = startPeriod;
  if (startInterval !== undefined) health.startInterval = startInterval;
  return health;
}

function healthToJson(health: HealthConfig): JsonObject {
  return compact({
    Test: nonEmpty(health.test),
    Interval: nonEmpty(Number(durationNs(health.interval))),
    Timeout: nonEmpty(Number(durationNs(health.timeout))),
    StartPeriod: nonEmpty(Number(durationNs(health.startPeriod))),
    StartInterval: nonEmpty(Number(durationNs(health.startInterval))),
    Retries: nonEmpty(health.retries),
  });
}

function fileFromJson(json: Reader): FileTarget {
  return create(FileTargetSchema, {
    name: json.text('Name'), uid: json.text('UID'), gid: json.text('GID'), mode: json.uint32('Mode'),
  });
}

function fileToJson(file: FileTarget): JsonObject {
  return { Name: file.name, UID: file.uid, GID: file.gid, Mode: file.mode };
}

function secretFromJson(json: Reader): SecretReference {
  const file = json.object('File');
  return create(SecretReferenceSchema, {
    secretId: json.text('SecretID'),
    secretName: json.text('SecretName'),
    ...(file === undefined ? {} : { target: { case: 'file' as const, value: fileFromJson(file) } }),
  });
}

function secretToJson(reference: SecretReference): JsonObject {
  return compact({
    File: reference.target.case === 'file' ? fileToJson(reference.target.value) : undefined,
    SecretID: reference.secretId,
    SecretName: reference.secretName,
  });
}

function configFromJson(json: Reader): ConfigReference {
  const reference = create(ConfigReferenceSchema, {
    configId: json.text('ConfigID'), configName: json.text('ConfigName'),
  });
  const file = json.object('File');
  if (file !== undefined) reference.target = { case: 'file', value: fileFromJson(file) };
  else if (json.has('Runtime')) reference.target = { case: 'runtime', value: create(RuntimeTargetSchema) };
  return reference;
}

function configToJson(reference: ConfigReference): JsonObject {
  return compact({
    File: reference.target.case === 'file' ? fileToJson(reference.target.value) : undefined,
    Runtime: reference.target.case === 'runtime' ? {} : undefined,
    ConfigID: reference.configId,
    ConfigName: reference.configName,
  });
}

function privilegesFromJson(json: Reader): Privileges {
  const privileges = create(PrivilegesSchema, { noNewPrivileges: json.flag('NoNewPrivileges') });
  const credential = json.object('CredentialSpec');
  if (credential !== undefined) {
    const spec = create(Privileges_CredentialSpecSchema);
    if (credential.text('File') !== '') spec.source = { case: 'file', value: credential.text('File') };
    else if (credential.text('Registry') !== '') spec.source = { case: 'registry', value: credential.text('Registry') };
    else if (credential.text('Config') !== '') spec.source = { case: 'config', value: credential.text('Config') };
    privileges.credentialSpec = spec;
  }
  const selinux = json.object('SELinuxContext');
  if (selinux !== undefined) {
    privileges.selinuxContext = create(Privileges_SELinuxContextSchema, {
      disable: selinux.flag('Disable'), user: selinux.text('User'), role: selinux.text('Role'),
      type: selinux.text('Type'), level: selinux.text('Level'),
    });
  }
  const seccomp = json.object('Seccomp');
  if (seccomp !== undefined) {
    privileges.seccomp = create(Privileges_SeccompOptsSchema, {
      mode: word(SECCOMP, seccomp.text('Mode'), `unknown seccomp mode: ${seccomp.text('Mode')}`),
      profile: seccomp.bytes('Profile'),
    });
  }
  const apparmor = json.object('AppArmor');
  if (apparmor !== undefined) {
    privileges.apparmor = create(Privileges_AppArmorOptsSchema, {
      mode: word(APPARMOR, apparmor.text('Mode'), `unknown apparmor mode: ${apparmor.text('Mode')}`),
    });
  }
  return privileges;
}

function privilegesToJson(privileges: Privileges): JsonObject {
  const { credentialSpec, selinuxContext, seccomp, apparmor } = privileges;
  const source = credentialSpec?.source;
  return compact({
    CredentialSpec: source === undefined ? null : {
      Config: source.case === 'config' ? source.value : '',
      File: source.case === 'file' ? source.value : '',
      Registry: source.case === 'registry' ? source.value : '',
    },
    SELinuxContext: selinuxContext === undefined ? null : {
      Disable: selinuxContext.disable, User: selinuxContext.user, Role: selinuxContext.role,
      Type: selinuxContext.type, Level: selinuxContext.level,
    },
    Seccomp: seccomp === undefined ? undefined : compact({
      Mode: wordOf(SECCOMP, seccomp.mode, 'default'),
      Profile: nonEmpty(Buffer.from(seccomp.profile).toString('base64')),
    }),
    AppArmor: apparmor === undefined ? undefined : { Mode: wordOf(APPARMOR, apparmor.mode, 'default') },
    NoNewPrivileges: nonEmpty(privileges.noNewPrivileges),
  });
}

export function containerToJson(spec: ContainerSpec): JsonObject {
  const dns = spec.dnsConfig;
  return compact({
    Image: nonEmpty(spec.image),
    Labels: nonEmpty(toRecord(spec.labels)),
    Command: nonEmpty(spec.command),
    Args: nonEmpty(spec.args),
    Hostname: nonEmpty(spec.hostname),
    Env: nonEmpty(spec.env),
    Dir: nonEmpty(spec.dir),
    User: nonEmpty(spec.user),
    Groups: nonEmpty(spec.groups),
    Privileges: spec.privileges === undefined ? undefined : privilegesToJson(spec.privileges),
    Init: spec.init,
    StopSignal: nonEmpty(spec.stopSignal),
    TTY: nonEmpty(spec.tty),
    OpenStdin: nonEmpty(spec.openStdin),
    ReadOnly: nonEmpty(spec.readOnly),
    Mounts: nonEmpty(spec.mounts.map(mountToJson)),
    StopGracePeriod: spec.stopGracePeriod === undefined ? undefined : Number(durationNs(spec.stopGracePeriod)),
    Healthcheck: spec.healthcheck === undefined ? undefined : healthToJson(spec.healthcheck),
    Hosts: nonEmpty(spec.hosts),
    DNSConfig: dns === undefined ? undefined : compact({
      Nameservers: nonEmpty(dns.nameservers), Search: nonEmpty(dns.search), Options: nonEmpty(dns.options),
    }),
    Secrets: nonEmpty(spec.secrets.map(secretToJson)),
    Configs: nonEmpty(spec.configs.map(configToJson)),
    Isolation: wordOf(ISOLATION, spec.isolation, 'default'),
    Sysctls: nonEmpty(toRecord(spec.sysctls)),
    CapabilityAdd: nonEmpty(spec.capabilityAdd),
    CapabilityDrop: nonEmpty(spec.capabilityDrop),
    Ulimits: nonEmpty(spec.ulimits.map((x) => ({ Name: x.name, Hard: Number(x.hard), Soft: Number(x.soft) }))),
    OomScoreAdj: nonEmpty(Number(spec.oomScoreAdj)),
  });
}
