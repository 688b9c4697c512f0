// Nodes that are removed from the simulated swarm, off or running (--force), and machines that join it anew, under another id.

import { create } from '@bufbuild/protobuf';
import { removeNode } from '../../src/core/control/nodes.js';
import { createAction } from '../../src/core/store/actions.js';
import type { ReadTx } from '../../src/core/store/view.js';
import type { Result } from '../../src/lib/result.js';
import {
  AnnotationsSchema, NodeRole, NodeSchema, NodeSpecSchema, NodeStatusSchema, NodeStatus_State, type Node, type StoreAction,
} from '../../src/model/proto/swarmkit_pb.js';
import type { SwarmWorld } from './swarm.js';
import { SimWorker } from './worker.js';

const LOOK_MS = 500;
const ASK_AGAIN_LOOKS = 6;
/** Their addresses end in the number. */
const NUMBER_MAX = 200;

export function nodeObject(worker: SimWorker): Node {
  return create(NodeSchema, {
    id: worker.id, role: NodeRole.WORKER,
    spec: create(NodeSpecSchema, { annotations: create(AnnotationsSchema, {}), desiredRole: NodeRole.WORKER }),
    description: worker.description, status: create(NodeStatusSchema, { state: NodeStatus_State.DOWN }),
  });
}

export class NodeGroup {
  private readonly world: SwarmWorld;
  /** To be removed, by id: looks since somebody was asked for it. */
  private readonly leaving = new Map<string, { readonly force: boolean; looks: number }>();
  private readonly joining = new Map<SimWorker, { looks: number }>();
  private readonly ending = new Set<SimWorker>();
  private asked = 0;
  private seen = 0n;

  constructor(world: SwarmWorld) {
    this.world = world;
  }

  start(): void {
    this.look();
  }

  remove(worker: SimWorker, force: boolean): void {
    const staying = [...this.world.workers.values()].filter((other) => !this.ending.has(other)).length;
    if (staying <= 2 || this.leaving.size > 0 || this.ending.has(worker)) return;
    this.world.trace?.(`${worker.id} is to be removed${force ? ' by force' : ''}`);
    if (!force) worker.crash();
    this.leaving.set(worker.id, { force, looks: 0 });
  }

  /** By what the newest state says: requests may be lost, refused, or done long after they were given up. */
  private look(): void {
    const { world } = this;
    const view = world.newest();
    world.clock.after(LOOK_MS, () => this.look());
    // Managers that all began anew know nothing yet.
    if (view.index < this.seen) return;
    this.seen = view.index;
    for (const worker of [...world.workers.values()]) if (view.get('node', worker.id) === undefined) this.end(worker);
    for (const [id, wish] of this.leaving) {
      if (wish.looks++ % ASK_AGAIN_LOOKS !== 0) continue;
      // Its machine may have been started again: then only force helps.
      const force = wish.force || wish.looks > 4 * ASK_AGAIN_LOOKS;
      const randomBytes = (length: number): Uint8Array<ArrayBuffer> => new Uint8Array(length);
      this.ask((now, nowMs) => removeNode(now, { id, force }, { nowMs, newId: world.newId, randomBytes }));
    }
    for (const [worker, wish] of this.joining) {
      if (view.get('node', worker.id) !== undefined) {
        this.joining.delete(worker);
        world.workers.set(worker.id, worker);
        world.swarmChecker.mark('node joined');
        worker.start();
      } else if (wish.looks++ % ASK_AGAIN_LOOKS === 0) {
        const creation = [createAction('node', nodeObject(worker))];
        this.ask((now) => ({ ok: true, value: { actions: now.get('node', worker.id) === undefined ? creation : [] } }));
      }
    }
  }

  private ask(build: (view: ReadTx, nowMs: number) => Result<{ readonly actions: readonly StoreAction[] }>): void {
    const { random, managers } = this.world;
    const up = [...managers.values()].filter(({ host }) => host.up && host.store.cluster() !== undefined);
    if (up.length === 0) return;
    const manager = random.pick(up);
    const id = `nodes ${++this.asked}`;
    manager.start((function* () {
      yield* manager.proposer.commit(id, build);
    })());
  }

  /** The machine finds out some time later, leaves the swarm, and another one joins in its place. */
  private end(worker: SimWorker): void {
    if (this.ending.has(worker)) return;
    const { world } = this;
    this.ending.add(worker);
    this.leaving.delete(worker.id);
    world.swarmChecker.mark('node removed');
    world.trace?.(`${worker.id} was removed`);
    world.clock.after(world.random.between(100, 8_000), () => {
      worker.crash();
      world.workers.delete(worker.id);
      const number = world.nextNumber();
      if (number <= NUMBER_MAX) this.joining.set(new SimWorker(world, number), { looks: 0 });
    });
  }
}
