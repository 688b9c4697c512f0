// layout: the C structs of native/packet/tables.h, in TypeScript. Packed, little endian, no padding.
// test/system/datapath-abi.test.ts compares every size and offset with `skein-datapath --abi`.

export const ABI_VERSION = 1;
export const FRAME_SIZE_MAX = 1 << 20;
export const FRAME_HEADER_SIZE = 16;

export const FrameType = {
  hello: 1,
  configure: 2,
  attach: 3,
  detach: 4,
  sandboxes: 5,
  applyBegin: 6,
  applyRows: 7,
  applyRemove: 8,
  applyCommit: 9,
  counters: 10,
  destroy: 11,
  dnsReply: 12,
  ok: 64,
  error: 65,
  dnsMiss: 66,
} as const;

export const RowKind = { network: 1, endpoint: 2, service: 3, port: 4, node: 5, name: 6, pointer: 7 } as const;
export const NETWORK_INTERNAL = 1;
export const NETWORK_INGRESS = 2;
export const NETWORK_ENCRYPTED = 4;
export const BACKEND_DRAINING = 1;

/** Bytes of each field, in order. Numbers up to 8 bytes are integers, larger ones byte strings, unless named in BYTES. */
export const LAYOUTS = {
  FrameHeader: { size: 4, type: 2, abi: 2, id: 8 },
  RowHeader: { size: 4, kind: 2, key_size: 2 },
  NetworkRow: { vni: 4, mtu: 4, flags: 2, subnet_count: 2, name_size: 2 },
  SubnetAbi: { address: 16, gateway: 16, prefix: 1 },
  EndpointRow: { vni: 4, address: 16, vtep: 16, mac: 6 },
  ServiceRow: { vni: 4, vip: 16, backend_count: 4 },
  BackendAbi: { address: 16, weight: 4, flags: 4 },
  PortRow: { protocol: 1, host_mode: 1, published: 2, target: 2, backend_count: 4 },
  NodeRow: { vtep: 16, ingress_address: 16 },
  NameRow: { vni: 4, address_count: 2, name_size: 2 },
  PointerRow: { vni: 4, address: 16, name_size: 2 },
  ConfigureAbi: { vtep: 16, gateway: 16, gateway_prefix: 1, vxlan_port: 2, underlay_mtu: 2 },
  AttachAbi: { id: 64, interface_count: 2, sysctl_size: 2 },
  InterfaceAbi: { ifname: 16, vni: 4, mac: 6, mtu: 2, is_gateway: 1, address_count: 1 },
  AddressAbi: { address: 16, prefix: 1 },
  ApplyBeginAbi: { revision: 8, replace: 1 },
  DnsMissAbi: { id: 4, tcp: 1, sandbox: 64 },
  DnsReplyAbi: { id: 4 },
} as const satisfies Record<string, Record<string, number>>;

export type StructName = keyof typeof LAYOUTS;
type Values<S extends StructName> = Record<keyof (typeof LAYOUTS)[S], number | bigint | Uint8Array>;

export function structSize(name: StructName): number {
  return Object.values(LAYOUTS[name]).reduce((sum, size) => sum + size, 0);
}

/** Packs one struct; byte strings shorter than their field are padded with zeros. */
export function packStruct<S extends StructName>(name: S, values: Values<S>): Buffer {
  const out = Buffer.alloc(structSize(name));
  let at = 0;
  for (const [field, size] of Object.entries(LAYOUTS[name])) {
    const value = values[field as keyof Values<S>];
    if (value instanceof Uint8Array) {
      if (value.length > size) throw new RangeError(`${name}.${field}: ${value.length} bytes, room for ${size}`);
      out.set(value, at);
    } else if (size === 8) out.writeBigUInt64LE(BigInt(value), at);
    else out.writeUIntLE(Number(value), at, size);
    at += size;
  }
  return out;
}

/** Offset of a field, for reading. */
export function fieldOffset<S extends StructName>(name: S, field: keyof (typeof LAYOUTS)[S]): number {
  let at = 0;
  for (const [key, size] of Object.entries(LAYOUTS[name])) {
    if (key === field) return at;
    at += size;
  }
  throw new RangeError(`${name} has no field ${String(field)}`);
}
