// A connection between two processes: messages arrive in order or not at all, then the connection is broken, which both
// ends notice some time later.

import type { World } from './world.js';

/** Of the losses of single packets, most are made good by TCP. */
const BREAK_SHARE = 0.02;

export class Pipe<T> {
  closed = false;
  private readonly world: World;
  private readonly from: bigint;
  private readonly to: bigint;
  private readonly deliver: (message: T) => void;
  private readonly broken: () => void;
  private lastAtMs = 0;

  constructor(world: World, from: bigint, to: bigint, deliver: (message: T) => void, broken: () => void) {
    this.world = world;
    this.from = from;
    this.to = to;
    this.deliver = deliver;
    this.broken = broken;
  }

  send(message: T): void {
    if (this.closed) return;
    const { clock, network, random } = this.world;
    if (!network.passes(this.from, this.to, BREAK_SHARE)) {
      this.close();
      clock.after(random.between(100, 1_500), this.broken);
      return;
    }
    this.lastAtMs = Math.max(this.lastAtMs, clock.nowMs + network.delay());
    clock.after(this.lastAtMs - clock.nowMs, () => {
      if (!this.closed) this.deliver(message);
    });
  }

  close(): void {
    this.closed = true;
  }
}
