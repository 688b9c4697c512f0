// Prober: asks data planes whether they are there. A datagram to a node's VXLAN port with the I bit clear, which no VXLAN
// device takes for a packet; skein-datapath sends it back (native/packet/liveness.h). The token is random for each node,
// so only who received a probe can answer it: what a forger could do is keep up a node that is dead.

import { randomBytes } from 'node:crypto';
import dgram from 'node:dgram';

const SIZE = 24;
const TOKEN_AT = 8;
const TOKEN_SIZE = 16;
const ASK = 1;
const ANSWER = 2;

export function probePacket(kind: 'ask' | 'answer', token: Uint8Array): Buffer {
  const packet = Buffer.alloc(SIZE);
  packet.write('SKL', 1, 'latin1');
  packet[4] = kind === 'ask' ? ASK : ANSWER;
  packet.set(token.subarray(0, TOKEN_SIZE), TOKEN_AT);
  return packet;
}

export class Prober {
  private readonly socket: dgram.Socket;
  private readonly tokens = new Map<string, Buffer>();
  private readonly nodes = new Map<string, string>();

  private constructor(socket: dgram.Socket, onAnswer: (nodeId: string) => void) {
    this.socket = socket;
    // Of a send that failed: an unreachable node is a silent one.
    socket.on('error', () => undefined);
    socket.on('message', (message) => {
      if (message.length !== SIZE || message[4] !== ANSWER) return;
      const nodeId = this.nodes.get(message.toString('latin1', TOKEN_AT));
      if (nodeId !== undefined) onAnswer(nodeId);
    });
  }

  static async open(onAnswer: (nodeId: string) => void): Promise<Prober> {
    const socket = dgram.createSocket('udp4');
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.bind(0, () => {
        socket.off('error', reject);
        resolve();
      });
    });
    socket.unref();
    return new Prober(socket, onAnswer);
  }

  ask(nodeId: string, address: string, port: number): void {
    let packet = this.tokens.get(nodeId);
    if (packet === undefined) {
      packet = probePacket('ask', randomBytes(TOKEN_SIZE));
      this.tokens.set(nodeId, packet);
      this.nodes.set(packet.toString('latin1', TOKEN_AT), nodeId);
    }
    this.socket.send(packet, port, address, () => undefined);
  }

  forget(nodeId: string): void {
    const packet = this.tokens.get(nodeId);
    if (packet === undefined) return;
    this.tokens.delete(nodeId);
    this.nodes.delete(packet.toString('latin1', TOKEN_AT));
  }

  close(): void {
    this.socket.close();
  }
}
