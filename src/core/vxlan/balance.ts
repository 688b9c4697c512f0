// Load balancing as pure functions: which backend a new flow gets, how its packets are rewritten and the replies
// written back. The reference of native/packet/lb.c and nat.c; checksums are updated, not computed anew.

import { hasPorts, Protocol, put16, put32, updated, word16, type Frame } from './frame.js';

export interface Backend {
  readonly address: number;
  readonly weight: number;
  readonly draining: boolean;
}

/** Rounds: in round r every backend with a weight above r takes one flow. turn is where to look first next time. */
export function pickBackend(backends: readonly Backend[], turn: number): { readonly backend: Backend; readonly turn: number } | undefined {
  const fresh = backends.filter((b) => b.weight > 0 && !b.draining);
  const able = fresh.length > 0 ? fresh : backends.filter((b) => b.weight > 0);
  const highest = Math.max(0, ...able.map((b) => b.weight));
  if (highest === 0) return undefined;
  for (let at = turn; ; at++) {
    const backend = backends[at % backends.length] as Backend;
    const round = Math.floor(at / backends.length) % highest;
    if (able.includes(backend) && backend.weight > round) return { backend, turn: at + 1 };
  }
}

export interface Tuple {
  readonly source: number;
  readonly destination: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
}

function halves(value: number): number[] {
  return [Math.floor(value / 65_536), value % 65_536];
}

/** The frame with the addresses and ports of `to`; only addresses for fragments after the first and for ICMP. */
export function rewrite(bytes: Uint8Array, frame: Frame, to: Tuple): Uint8Array {
  const out = Uint8Array.from(bytes);
  const before = [...halves(frame.source), ...halves(frame.destination)];
  const after = [...halves(to.source), ...halves(to.destination)];
  put16(out, frame.network + 10, updated(word16(bytes, frame.network + 10), before, after));
  put32(out, frame.network + 12, to.source);
  put32(out, frame.network + 16, to.destination);
  if (!hasPorts(frame)) return out;
  const udp = frame.protocol === Protocol.udp;
  const field = frame.transport + (udp ? 6 : 16);
  const checksum = word16(bytes, field);
  if (!udp || checksum !== 0) {
    const made = updated(checksum, [...before, frame.sourcePort, frame.destinationPort], [...after, to.sourcePort, to.destinationPort]);
    put16(out, field, made === 0 && udp ? 0xffff : made);
  }
  put16(out, frame.transport, to.sourcePort);
  put16(out, frame.transport + 2, to.destinationPort);
  return out;
}

/** A packet to a virtual address, on its way to the backend. */
export function toBackend(bytes: Uint8Array, frame: Frame, backend: number): Uint8Array {
  return rewrite(bytes, frame, { ...frame, destination: backend });
}

/** The backend's reply, as from the virtual address. */
export function fromBackend(bytes: Uint8Array, frame: Frame, vip: number): Uint8Array {
  return rewrite(bytes, frame, { ...frame, source: vip });
}
