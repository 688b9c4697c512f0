// VXLAN (RFC 7348) and what is inside: header codec, a parser of Ethernet, IPv4, TCP, UDP and ICMP headers, Internet
// checksums (RFC 1071, RFC 1624). The reference of native/packet: bytes in, values out; offsets count from the frame.

export const VXLAN_BYTES = 8;
const VXLAN_FLAGS = 0x08;
const VNI_MAX = 2 ** 24;
export const ETHERNET_BYTES = 14;
const IP_BYTES_MIN = 20;
const ARP_BYTES = 28;
const FRAME_BYTES_MAX = 65_535 + ETHERNET_BYTES;
export const Protocol = { icmp: 1, tcp: 6, udp: 17 } as const;
const EtherType = { ipv4: 0x0800, arp: 0x0806, ipv6: 0x86dd } as const;

export function byteAt(bytes: Uint8Array, at: number): number {
  return bytes[at] ?? 0;
}

export function word16(bytes: Uint8Array, at: number): number {
  return byteAt(bytes, at) * 256 + byteAt(bytes, at + 1);
}

export function word32(bytes: Uint8Array, at: number): number {
  return word16(bytes, at) * 65_536 + word16(bytes, at + 2);
}

export function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = Math.floor(value / 256) % 256;
  bytes[at + 1] = value % 256;
}

export function put32(bytes: Uint8Array, at: number, value: number): void {
  put16(bytes, at, Math.floor(value / 65_536));
  put16(bytes, at + 2, value % 65_536);
}

export function encodeVxlan(vni: number, frame: Uint8Array): Uint8Array {
  const datagram = new Uint8Array(VXLAN_BYTES + frame.length);
  datagram[0] = VXLAN_FLAGS;
  put32(datagram, 4, (vni % VNI_MAX) * 256);
  datagram.set(frame, VXLAN_BYTES);
  return datagram;
}

/** Undefined without the I bit; reserved bits are ignored on receipt, as the RFC asks. */
export function decodeVxlan(datagram: Uint8Array): { readonly vni: number; readonly frame: Uint8Array } | undefined {
  if (datagram.length < VXLAN_BYTES || (byteAt(datagram, 0) & VXLAN_FLAGS) === 0) return undefined;
  return { vni: Math.floor(word32(datagram, 4) / 256), frame: datagram.subarray(VXLAN_BYTES) };
}

/** One's complement sum of 16-bit words, folded; an odd last byte is the high half of a word. */
export function sum16(bytes: Uint8Array, start = 0): number {
  let sum = start;
  for (let i = 0; i < bytes.length; i += 2) sum += word16(bytes, i);
  return fold(sum);
}

export function fold(sum: number): number {
  let rest = sum;
  while (rest > 0xffff) rest = (rest % 65_536) + Math.floor(rest / 65_536);
  return rest;
}

/** RFC 1624, equation 3, for any number of replaced words. */
export function updated(checksum: number, before: readonly number[], after: readonly number[]): number {
  let sum = 0xffff - checksum;
  for (const word of before) sum += 0xffff - word;
  for (const word of after) sum += word;
  return 0xffff - fold(sum);
}

export interface Frame {
  /** Without Ethernet padding. */
  readonly size: number;
  readonly etherType: number;
  readonly network: number;
  readonly transport: number;
  readonly payload: number;
  readonly protocol: number;
  readonly fragment: boolean;
  readonly firstFragment: boolean;
  readonly source: number;
  readonly destination: number;
  /** ICMP echo: the identifier, twice. */
  readonly sourcePort: number;
  readonly destinationPort: number;
}

export type FrameError = 'malformed' | 'ethertype' | 'ipv6';

export function parseFrame(bytes: Uint8Array): Frame | FrameError {
  if (bytes.length < ETHERNET_BYTES || bytes.length > FRAME_BYTES_MAX) return 'malformed';
  const etherType = word16(bytes, 12);
  const empty = {
    size: bytes.length, etherType, network: ETHERNET_BYTES, transport: ETHERNET_BYTES, payload: ETHERNET_BYTES, protocol: 0,
    fragment: false, firstFragment: false, source: 0, destination: 0, sourcePort: 0, destinationPort: 0,
  };
  if (etherType === EtherType.arp) return bytes.length >= ETHERNET_BYTES + ARP_BYTES ? empty : 'malformed';
  if (etherType !== EtherType.ipv4) return etherType === EtherType.ipv6 ? 'ipv6' : 'ethertype';
  if (bytes.length < ETHERNET_BYTES + IP_BYTES_MIN) return 'malformed';
  const version = byteAt(bytes, 14);
  const header = (version & 15) * 4;
  const total = word16(bytes, 16);
  if (version >> 4 !== 4 || header < IP_BYTES_MIN || total < header || ETHERNET_BYTES + total > bytes.length) return 'malformed';
  const place = word16(bytes, 20);
  const fragment = (place & 0x3fff) !== 0;
  const firstFragment = fragment && (place & 0x1fff) === 0;
  const transport = ETHERNET_BYTES + header;
  const frame: Frame = {
    ...empty, size: ETHERNET_BYTES + total, transport, payload: transport, protocol: byteAt(bytes, 23), fragment, firstFragment,
    source: word32(bytes, 26), destination: word32(bytes, 30),
  };
  return fragment && !firstFragment ? frame : parseTransport(bytes, frame);
}

function parseTransport(bytes: Uint8Array, frame: Frame): Frame | FrameError {
  const { transport: at, protocol } = frame;
  const room = frame.size - at;
  const ports = { sourcePort: word16(bytes, at), destinationPort: word16(bytes, at + 2) };
  if (protocol === Protocol.tcp) {
    const header = (byteAt(bytes, at + 12) >> 4) * 4;
    return room < 20 || header < 20 || header > room ? 'malformed' : { ...frame, ...ports, payload: at + header };
  }
  if (protocol === Protocol.udp) {
    const length = word16(bytes, at + 4);
    return room < 8 || length < 8 || (!frame.fragment && length > room) ? 'malformed' : { ...frame, ...ports, payload: at + 8 };
  }
  if (protocol !== Protocol.icmp) return frame;
  if (room < 8) return 'malformed';
  const echo = byteAt(bytes, at) === 0 || byteAt(bytes, at) === 8;
  const id = echo ? word16(bytes, at + 4) : 0;
  return { ...frame, payload: at + 8, sourcePort: id, destinationPort: id };
}

export function hasPorts(frame: Frame): boolean {
  return (!frame.fragment || frame.firstFragment) && (frame.protocol === Protocol.tcp || frame.protocol === Protocol.udp);
}

/** Whether header and transport checksums are right; an absent one of UDP is. Whole packets only. */
export function checksumsRight(bytes: Uint8Array, frame: Frame): boolean {
  if (sum16(bytes.subarray(frame.network, frame.transport)) !== 0xffff) return false;
  const segment = bytes.subarray(frame.transport, frame.size);
  if (frame.protocol === Protocol.icmp) return sum16(segment) === 0xffff;
  if (!hasPorts(frame) || (frame.protocol === Protocol.udp && word16(segment, 6) === 0)) return true;
  const pseudo = sum16(bytes.subarray(26, 34)) + frame.protocol + segment.length;
  return sum16(segment, pseudo) === 0xffff;
}
