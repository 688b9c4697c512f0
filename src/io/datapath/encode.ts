// encode: rows, sandboxes and configuration as bytes of the data plane's ABI. Pure.
// What cannot be expressed is an AppFailure with code invalid_argument, before anything is sent.

import { isIPv4, isIPv6 } from 'node:net';
import { AppFailure, appError } from '../../lib/result.js';
import type { BackendRow, Row } from '../../model/proto/skein_pb.js';
import type { Sandbox } from '../../model/sandbox.js';
import type { NodeNetworkConfig } from '../../platform/dataplane.js';
import {
  BACKEND_DRAINING,
  NETWORK_ENCRYPTED,
  NETWORK_INGRESS,
  NETWORK_INTERNAL,
  packStruct,
  RowKind,
  structSize,
} from './layout.js';

function invalid(message: string): never {
  throw new AppFailure(appError('invalid_argument', message));
}

/** 16 bytes, IPv4 mapped; empty text is the unspecified address. */
export function encodeAddress(text: string): Buffer {
  const out = Buffer.alloc(16);
  if (text === '') return out;
  if (!isIPv4(text)) {
    if (isIPv6(text)) throw new AppFailure(appError('unimplemented', `IPv6 address ${text}`));
    invalid(`bad address ${JSON.stringify(text)}`);
  }
  out[10] = out[11] = 0xff;
  text.split('.').forEach((part, i) => {
    out[12 + i] = Number(part);
  });
  return out;
}

export function parseCidr(text: string): { readonly address: string; readonly prefix: number } {
  const [address = '', prefix = '', ...rest] = text.split('/');
  if (rest.length > 0 || !/^\d{1,3}$/.test(prefix) || Number(prefix) > (isIPv6(address) ? 128 : 32)) {
    invalid(`bad CIDR ${JSON.stringify(text)}`);
  }
  return { address, prefix: Number(prefix) };
}

export function encodeMac(text: string): Buffer {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) invalid(`bad MAC ${JSON.stringify(text)}`);
  return Buffer.from(text.replaceAll(':', ''), 'hex');
}

function encodeBackends(backends: readonly BackendRow[]): Buffer {
  return Buffer.concat(
    backends.map((b) =>
      packStruct('BackendAbi', {
        address: encodeAddress(b.address),
        weight: b.weight,
        flags: b.draining ? BACKEND_DRAINING : 0,
      }),
    ),
  );
}

interface Encoded {
  readonly kind: number;
  readonly fixed: Buffer;
  readonly trailing: Buffer;
}

const NOTHING = Buffer.alloc(0);

function encodeBody({ row, key }: Row): Encoded {
  switch (row.case) {
    case 'network': {
      const v = row.value;
      const name = Buffer.from(v.name);
      const flags =
        (v.internal ? NETWORK_INTERNAL : 0) | (v.ingress ? NETWORK_INGRESS : 0) | (v.encrypted ? NETWORK_ENCRYPTED : 0);
      const subnets = v.subnets.map((s) => {
        const { address, prefix } = parseCidr(s.subnet);
        return packStruct('SubnetAbi', { address: encodeAddress(address), gateway: encodeAddress(s.gateway), prefix });
      });
      return {
        kind: RowKind.network,
        fixed: packStruct('NetworkRow', {
          vni: v.vni,
          mtu: v.mtu,
          flags,
          subnet_count: subnets.length,
          name_size: name.length,
        }),
        trailing: Buffer.concat([...subnets, name]),
      };
    }
    case 'endpoint': {
      const v = row.value;
      const fixed = packStruct('EndpointRow', {
        vni: v.vni,
        address: encodeAddress(v.address),
        vtep: encodeAddress(v.vtep),
        mac: encodeMac(v.mac),
      });
      return { kind: RowKind.endpoint, fixed, trailing: NOTHING };
    }
    case 'service': {
      const v = row.value;
      const fixed = packStruct('ServiceRow', {
        vni: v.vni,
        vip: encodeAddress(v.vip),
        backend_count: v.backends.length,
      });
      return { kind: RowKind.service, fixed, trailing: encodeBackends(v.backends) };
    }
    case 'port': {
      const v = row.value;
      const fixed = packStruct('PortRow', {
        protocol: v.protocol,
        host_mode: v.hostMode ? 1 : 0,
        published: v.published,
        target: v.target,
        backend_count: v.backends.length,
      });
      return { kind: RowKind.port, fixed, trailing: encodeBackends(v.backends) };
    }
    case 'node': {
      const v = row.value;
      const fixed = packStruct('NodeRow', {
        vtep: encodeAddress(v.vtep),
        ingress_address: encodeAddress(v.ingressAddress),
      });
      return { kind: RowKind.node, fixed, trailing: NOTHING };
    }
    case 'name': {
      const v = row.value;
      const name = Buffer.from(v.name);
      const fixed = packStruct('NameRow', {
        vni: v.vni,
        address_count: v.addresses.length,
        name_size: name.length,
      });
      return { kind: RowKind.name, fixed, trailing: Buffer.concat([...v.addresses.map(encodeAddress), name]) };
    }
    case 'pointer': {
      const v = row.value;
      const name = Buffer.from(v.name);
      const fixed = packStruct('PointerRow', {
        vni: v.vni,
        address: encodeAddress(v.address),
        name_size: name.length,
      });
      return { kind: RowKind.pointer, fixed, trailing: name };
    }
    default:
      return invalid(`row ${key} has no content`);
  }
}

export function encodeRow(row: Row): Buffer {
  const key = Buffer.from(row.key);
  const { kind, fixed, trailing } = encodeBody(row);
  const size = structSize('RowHeader') + fixed.length + key.length + trailing.length;
  return Buffer.concat([packStruct('RowHeader', { size, kind, key_size: key.length }), fixed, key, trailing]);
}

export function encodeConfig(config: NodeNetworkConfig): Buffer {
  const gateway = parseCidr(config.gatewayBridge);
  return packStruct('ConfigureAbi', {
    vtep: encodeAddress(config.vtep),
    gateway: encodeAddress(gateway.address),
    gateway_prefix: gateway.prefix,
    vxlan_port: config.vxlanPort,
    underlay_mtu: config.underlayMtu,
  });
}

function encodeAddresses(addresses: readonly string[]): Buffer[] {
  return addresses.map((text) => {
    const { address, prefix } = parseCidr(text);
    return packStruct('AddressAbi', { address: encodeAddress(address), prefix });
  });
}

export function encodeSandbox(sandbox: Sandbox, underlayMtu: number): Buffer {
  const parts: Buffer[] = [];
  for (const i of sandbox.interfaces) {
    parts.push(
      packStruct('InterfaceAbi', {
        ifname: Buffer.from(i.ifname),
        vni: i.vni,
        mac: encodeMac(i.mac),
        mtu: i.mtu,
        is_gateway: 0,
        address_count: i.addresses.length,
      }),
      ...encodeAddresses(i.addresses),
    );
  }
  if (sandbox.gateway) {
    parts.push(
      packStruct('InterfaceAbi', {
        ifname: Buffer.from(sandbox.gateway.ifname),
        vni: 0,
        mac: encodeMac(sandbox.gateway.mac),
        mtu: underlayMtu,
        is_gateway: 1,
        address_count: 1,
      }),
      ...encodeAddresses([sandbox.gateway.address]),
    );
  }
  const lines = Object.entries(sandbox.sysctls).map(([name, value]) => {
    if (/[\n=]/.test(name) || value.includes('\n')) invalid(`bad sysctl ${JSON.stringify(name)}`);
    return `${name}=${value}\n`;
  });
  const sysctls = Buffer.from(lines.join(''));
  const head = packStruct('AttachAbi', {
    id: Buffer.from(sandbox.id),
    interface_count: sandbox.interfaces.length + (sandbox.gateway ? 1 : 0),
    sysctl_size: sysctls.length,
  });
  return Buffer.concat([head, ...parts, sysctls]);
}

/** Packs pieces into chunks of at most `max` bytes, none of them cut. */
export function chunk(pieces: readonly Buffer[], max: number): Buffer[] {
  const chunks: Buffer[] = [];
  let current: Buffer[] = [];
  let size = 0;
  for (const piece of pieces) {
    if (piece.length > max) invalid(`a row of ${piece.length} bytes is too large`);
    if (size + piece.length > max) {
      chunks.push(Buffer.concat(current));
      current = [];
      size = 0;
    }
    current.push(piece);
    size += piece.length;
  }
  if (size > 0) chunks.push(Buffer.concat(current));
  return chunks;
}
