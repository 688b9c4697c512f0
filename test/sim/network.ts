// The simulated network: loses, delays, repeats and reorders messages, and is cut in one direction or both.

import type { Prng } from '../../src/lib/prng.js';
import type { Clock } from './clock.js';

export class SimNetwork {
  lossRate = 0;
  repeatRate = 0;
  delayMsMax = 20;
  /** Of messages that take far longer than the others, and arrive out of order. */
  lateRate = 0;
  sentCount = 0;
  private readonly cuts = new Set<string>();
  private readonly clock: Clock;
  private readonly random: Prng;

  constructor(clock: Clock, random: Prng) {
    this.clock = clock;
    this.random = random;
  }

  cut(from: bigint, to: bigint): void {
    this.cuts.add(`${from}>${to}`);
  }

  mend(from: bigint, to: bigint): void {
    this.cuts.delete(`${from}>${to}`);
  }

  heal(): void {
    this.cuts.clear();
  }

  get isCalm(): boolean {
    return this.cuts.size === 0 && this.lossRate === 0 && this.lateRate === 0;
  }

  calm(): void {
    this.heal();
    this.lossRate = 0;
    this.repeatRate = 0;
    this.lateRate = 0;
    this.delayMsMax = 20;
  }

  /** `deliver` once, more often, or never; then `lost`, if given, tells at last that it was lost. */
  send(from: bigint, to: bigint, deliver: () => void, lost?: () => void): void {
    const { random, clock } = this;
    this.sentCount += 1;
    const arrives = !random.chance(this.lossRate) && !this.cuts.has(`${from}>${to}`);
    if (!arrives) {
      if (lost !== undefined) clock.after(random.between(50, 500), lost);
      return;
    }
    clock.after(this.delay(), deliver);
    if (random.chance(this.repeatRate)) clock.after(this.delay(), deliver);
  }

  /** `share`: of the losses, those that count. */
  passes(from: bigint, to: bigint, share: number): boolean {
    return !this.cuts.has(`${from}>${to}`) && !this.cuts.has(`${to}>${from}`) && !this.random.chance(this.lossRate * share);
  }

  delay(): number {
    return this.random.chance(this.lateRate) ? this.random.between(100, 3_000) : this.random.between(1, this.delayMsMax);
  }
}
