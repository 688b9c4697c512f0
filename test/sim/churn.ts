// What goes wrong with the simulated nodes: agents, data planes and machines end and start again, nodes are cut off from
// the managers or removed from the swarm, tables are installed late.

import { NodeGroup } from './nodegroup.js';
import type { SwarmWorld } from './swarm.js';
import type { SimWorker } from './worker.js';

export class Churn {
  private readonly world: SwarmWorld;
  private readonly group: NodeGroup;
  private readonly gapMsMax: number;
  private readonly mix: readonly (() => void)[];
  count = 0;
  private stopped = false;

  constructor(world: SwarmWorld) {
    this.world = world;
    this.group = new NodeGroup(world);
    const { random } = world;
    this.gapMsMax = random.pick([500, 2_000, 8_000]);
    const all = [
      () => this.restart(this.anyNode(), random.between(10, 2_000)),
      () => this.crash(this.anyNode(), random.between(100, 3_000)),
      () => this.crash(this.anyNode(), random.between(2_000, 20_000)),
      () => this.cutOff(this.anyNode(), random.between(100, 3_000)),
      () => this.cutOff(this.anyNode(), random.between(3_000, 25_000)),
      () => [...world.managers.values()].find(({ leads }) => leads)?.liveness.stall(random.between(50, 5_000), random.chance(0.5)),
      () => this.anyNode().crashPlane(),
      () => { this.anyNode().installMsMax = random.pick([5, 40, 300, 2_000]); },
      () => [...world.workers.values()].forEach((worker) => this.crash(worker, random.between(100, 5_000))),
      () => this.group.remove(this.anyNode(), random.chance(0.5)),
    ];
    const mixed = all.flatMap((action) => Array.from({ length: random.pick([0, 1, 1, 3]) }, () => action));
    this.mix = mixed.length === 0 ? all : mixed;
  }

  start(): void {
    this.group.start();
    this.plan();
  }

  /** All is well from now on, but for a machine that may be gone for good. */
  stop(): void {
    this.stopped = true;
    const { workers, random } = this.world;
    const gone = workers.size > 2 && random.chance(0.4) ? this.anyNode() : undefined;
    for (const worker of workers.values()) {
      worker.installMsMax = 40;
      if (worker === gone) worker.crash();
      else worker.start();
    }
  }

  private plan(): void {
    const { clock, random } = this.world;
    clock.after(random.between(100, this.gapMsMax), () => {
      if (this.stopped) return;
      this.count += 1;
      random.pick(this.mix)();
      this.plan();
    });
  }

  private anyNode(): SimWorker {
    return this.world.random.pick([...this.world.workers.values()]);
  }

  private restart(worker: SimWorker, downMs: number): void {
    if (!worker.up) return;
    this.world.trace?.(`agent of ${worker.id} ends`);
    worker.stop();
    this.world.clock.after(downMs, () => this.startAgain(worker));
  }

  private crash(worker: SimWorker, downMs: number): void {
    if (!worker.up) return;
    this.world.trace?.(`${worker.id} crashes`);
    worker.crash();
    this.world.clock.after(downMs, () => this.startAgain(worker));
  }

  private startAgain(worker: SimWorker): void {
    if (!this.stopped && this.world.workers.get(worker.id) === worker) worker.start();
  }

  private cutOff(worker: SimWorker, ms: number): void {
    const { network, hosts, clock } = this.world;
    this.world.trace?.(`${worker.id} is cut off`);
    for (const host of hosts.keys()) {
      network.cut(host, worker.port);
      network.cut(worker.port, host);
    }
    clock.after(ms, () => {
      for (const host of hosts.keys()) {
        network.mend(host, worker.port);
        network.mend(worker.port, host);
      }
    });
  }
}
