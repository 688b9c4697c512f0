// Networks between Docker's JSON and the model. A swarm network's JSON has the shape of any engine network; the node's
// own predefined networks are listed beside it. Pure.

import { create } from '@bufbuild/protobuf';
import {
  AnnotationsSchema, DriverSchema, IPAMConfigSchema, IPAMConfig_AddressFamily, IPAMOptionsSchema, NetworkSpecSchema,
  type IPAMConfig, type IPAMOptions, type Network, type NetworkSpec,
} from '../../model/proto/swarmkit_pb.js';
import { toPairs, toRecord } from '../../model/pairs.js';
import { AppFailure } from '../../lib/result.js';
import { compact, goTime, nonEmpty, type JsonObject, type Reader } from './json.js';
import { driverToJson } from './mount.js';

function ipamConfigFromJson(json: Reader): IPAMConfig {
  const subnet = json.text('Subnet');
  return create(IPAMConfigSchema, {
    family: subnet.includes(':') ? IPAMConfig_AddressFamily.IPV6 : IPAMConfig_AddressFamily.IPV4,
    subnet,
    range: json.text('IPRange'),
    gateway: json.text('Gateway'),
    reserved: toPairs(json.record('AuxiliaryAddresses')),
  });
}

function ipamFromJson(json: Reader): IPAMOptions {
  const driver = json.text('Driver');
  return create(IPAMOptionsSchema, {
    driver: create(DriverSchema, { name: driver === '' ? 'default' : driver, options: toPairs(json.record('Options')) }),
    configs: json.objects('Config').map(ipamConfigFromJson),
  });
}

/** The body of POST /networks/create. */
export function networkSpecFromJson(json: Reader): NetworkSpec {
  if (json.flag('ConfigOnly') || json.object('ConfigFrom') !== undefined) {
    throw new AppFailure({ code: 'invalid_argument', message: 'config-only networks are not supported' });
  }
  const driver = json.text('Driver');
  const spec = create(NetworkSpecSchema, {
    annotations: create(AnnotationsSchema, { name: json.text('Name'), labels: toPairs(json.record('Labels')) }),
    driverConfig: create(DriverSchema, {
      name: driver === '' ? 'bridge' : driver, options: toPairs(json.record('Options')),
    }),
    ipv6Enabled: json.flag('EnableIPv6'),
    internal: json.flag('Internal'),
    attachable: json.flag('Attachable'),
    ingress: json.flag('Ingress'),
  });
  const ipam = json.object('IPAM');
  if (ipam !== undefined) spec.ipam = ipamFromJson(ipam);
  return spec;
}

/** The network inside a task: another shape than the network resource. */
export function networkSpecToJson(spec: NetworkSpec): JsonObject {
  return compact({
    Name: spec.annotations?.name ?? '',
    Labels: toRecord(spec.annotations?.labels),
    DriverConfiguration: driverToJson(spec.driverConfig),
    IPv6Enabled: nonEmpty(spec.ipv6Enabled),
    Internal: nonEmpty(spec.internal),
    Attachable: nonEmpty(spec.attachable),
    Ingress: nonEmpty(spec.ingress),
    IPAMOptions: spec.ipam === undefined ? undefined : ipamToJson(spec.ipam),
    Scope: 'swarm',
  });
}

export function ipamToJson(ipam: IPAMOptions): JsonObject {
  return compact({
    Driver: driverToJson(ipam.driver) ?? {},
    Configs: nonEmpty(ipam.configs.map((x) =>
      compact({ Subnet: nonEmpty(x.subnet), Range: nonEmpty(x.range), Gateway: nonEmpty(x.gateway) }))),
  });
}

function resourceIpam(network: Network): JsonObject {
  const allocated = network.ipam?.configs ?? [];
  const configs = allocated.length > 0 ? allocated : network.spec?.ipam?.configs ?? [];
  const driver = network.spec?.ipam?.driver;
  const options = toRecord(driver?.options);
  return {
    Driver: (driver?.name ?? '') === '' ? 'default' : driver?.name,
    Options: Object.keys(options).length === 0 ? null : options,
    Config: configs.filter((x) => x.subnet !== '').map((x) => compact({
      Subnet: x.subnet,
      IPRange: nonEmpty(x.range),
      Gateway: nonEmpty(x.gateway),
      AuxiliaryAddresses: nonEmpty(toRecord(x.reserved)),
    })),
  };
}

export function networkToJson(network: Network, extra: JsonObject = {}): JsonObject {
  const { spec } = network;
  const state = toRecord(network.driverState?.options);
  const options = Object.keys(state).length > 0 ? state : toRecord(spec?.driverConfig?.options);
  return {
    Name: spec?.annotations?.name ?? '',
    Id: network.id,
    Created: goTime(network.meta?.createdAt),
    Scope: 'swarm',
    Driver: spec?.driverConfig?.name ?? 'overlay',
    EnableIPv4: true,
    EnableIPv6: spec?.ipv6Enabled ?? false,
    IPAM: resourceIpam(network),
    Internal: spec?.internal ?? false,
    Attachable: spec?.attachable ?? false,
    Ingress: spec?.ingress ?? false,
    ConfigFrom: { Network: '' },
    ConfigOnly: false,
    Containers: null,
    Options: Object.keys(options).length === 0 ? null : options,
    Labels: toRecord(spec?.annotations?.labels),
    ...extra,
  };
}

/** The networks every Docker node has by itself. They are names only: tasks do not attach to them. */
export function predefinedNetwork(name: string, id: string): JsonObject {
  return {
    Name: name, Id: id, Created: '2024-01-01T00:00:00Z', Scope: 'local', Driver: name === 'none' ? 'null' : name,
    EnableIPv4: true, EnableIPv6: false, IPAM: { Driver: 'default', Options: null, Config: [] }, Internal: false,
    Attachable: false, Ingress: false, ConfigFrom: { Network: '' }, ConfigOnly: false, Containers: {}, Options: {},
    Labels: {},
  };
}
