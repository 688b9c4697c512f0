// Liveness of a simulated leader: daemon/manager/liveness.ts on simulated time. The decisions are the real ones
// (core/dispatcher/liveness.ts), with their own pace: a probe of each data plane every 40 ms. That would be most of all events, so
// probes, answers and looks are not planned one by one: every so often, and when an agent is heard, all that were due since are gone
// through in their order. Whether one got through goes by the network of then, and by when the machine was up.

import type { Life, Observer } from '../../src/core/dispatcher/liveness.js';
import type { ReadTx } from '../../src/core/store/view.js';
import { isSkeinNode, vtepOf } from '../../src/model/network.js';
import { NodeStatus_State } from '../../src/model/proto/swarmkit_pb.js';
import type { SwarmWorld } from './swarm.js';

const CATCH_UP_MS = 200;
/** There and back, when all is well. */
const ROUND_TRIP_MS = 30;

interface Sign {
  readonly atMs: number;
  readonly nodeId: string;
  readonly kind: 'agent' | 'plane';
}

export interface LivenessOptions {
  readonly world: SwarmWorld;
  readonly host: bigint;
  readonly periodMs: number;
  readonly view: () => ReadTx;
  readonly onLost: (nodeId: string, reason: string) => void;
}

export class SimLiveness {
  private readonly options: LivenessOptions;
  private readonly lives = new Map<string, Life>();
  /** Told, until they come back. */
  private readonly lost = new Set<string>();
  /** Not asked now: DOWN for another reason, or without an address. */
  private readonly idle = new Set<string>();
  private observer!: Observer;
  private lastProbeMs = -Infinity;
  private nextTickMs = 0;
  /** On their way here, by the time they come. */
  private signs: Sign[] = [];
  private stalledUntilMs = 0;
  private deafUntilMs = 0;
  /** Counts starts and stops. */
  private turn = 0;
  private running = false;
  private asked: { readonly index: bigint; readonly ids: readonly string[] } | undefined;

  constructor(options: LivenessOptions) {
    this.options = options;
  }

  private get clockMs(): number {
    return this.options.world.clock.nowMs;
  }

  start(): void {
    const { core } = this.options.world;
    const turn = ++this.turn;
    this.lives.clear();
    this.lost.clear();
    this.idle.clear();
    this.signs = [];
    this.asked = undefined;
    this.lastProbeMs = -Infinity;
    this.observer = core.newObserver(this.clockMs);
    this.nextTickMs = this.clockMs + this.tickMs;
    this.running = true;
    const again = (): void => {
      if (this.turn !== turn) return;
      this.catchUp();
      this.options.world.clock.after(CATCH_UP_MS, again);
    };
    again();
  }

  stop(): void {
    this.turn += 1;
    this.running = false;
  }

  /**
   * The leader's process stands still: it asks nobody and hears nobody, and finds what came meanwhile in its sockets, or, if its
   * whole machine did (`deaf`), nothing.
   */
  stall(ms: number, deaf: boolean): void {
    if (!this.running) return;
    this.catchUp();
    this.stalledUntilMs = this.clockMs + ms;
    this.deafUntilMs = deaf ? this.stalledUntilMs : 0;
    if (deaf) this.signs = [];
  }

  agentHeard(nodeId: string): void {
    if (this.running) this.arrives({ atMs: this.clockMs, nodeId, kind: 'agent' });
  }

  /** A session begins. `alive`: of an agent that had one before. */
  agentCame(nodeId: string, alive: boolean): void {
    const { core, swarmChecker } = this.options.world;
    if (!this.running) return;
    this.catchUp();
    const life = this.lives.get(nodeId);
    if (this.lost.delete(nodeId) && life !== undefined) {
      this.lives.set(nodeId, core.revived(life, alive, this.at(this.clockMs), this.pace.floorMs));
      if (alive) swarmChecker.mark('lost node had been alive');
    } else this.agentHeard(nodeId);
  }

  forget(nodeId: string): void {
    this.lives.delete(nodeId);
    this.lost.delete(nodeId);
    this.idle.delete(nodeId);
  }

  /** Of a node that is judged: undefined for others. */
  lifeOf(nodeId: string): Life | undefined {
    return this.lost.has(nodeId) || this.idle.has(nodeId) ? undefined : this.lives.get(nodeId);
  }

  private get pace(): ReturnType<SwarmWorld['core']['paceOf']> {
    return this.options.world.core.paceOf(this.options.periodMs, this.lives.size);
  }

  private get tickMs(): number {
    return this.pace.tickMs;
  }

  /** The observer's own time. */
  private at(clockMs: number): number {
    this.observer = this.options.world.core.observe(this.observer, clockMs, 2 * this.tickMs);
    return this.observer.livedMs;
  }

  private catchUp(): void {
    const { clockMs, tickMs } = this;
    while (this.running) {
      if (this.nextTickMs < this.stalledUntilMs) {
        this.nextTickMs = this.stalledUntilMs;
        this.options.world.swarmChecker.mark('observer stood still');
      }
      if (this.nextTickMs > clockMs) break;
      this.hear(this.nextTickMs);
      this.look(this.nextTickMs);
      this.nextTickMs += tickMs;
    }
    this.hear(clockMs);
  }

  /** What has come. */
  private hear(untilMs: number): void {
    if (untilMs < this.stalledUntilMs) return;
    const { core } = this.options.world;
    let count = 0;
    for (const { atMs, nodeId, kind } of this.signs) {
      if (atMs > untilMs) break;
      count += 1;
      const life = this.lives.get(nodeId);
      if (life === undefined || this.lost.has(nodeId)) continue;
      this.lives.set(nodeId, core.heard(life, kind, this.at(Math.max(atMs, this.stalledUntilMs))));
    }
    if (count > 0) this.signs.splice(0, count);
  }

  private arrives(sign: Sign): void {
    if (sign.atMs < this.deafUntilMs) return;
    const { signs } = this;
    let at = signs.length;
    while (at > 0 && (signs[at - 1] as Sign).atMs > sign.atMs) at -= 1;
    if (at === signs.length) signs.push(sign);
    else signs.splice(at, 0, sign);
  }

  private look(clockMs: number): void {
    const { world: { core }, onLost } = this.options;
    const nowMs = this.at(clockMs);
    const { probeMs, tickMs, floorMs } = this.pace;
    if (nowMs - this.lastProbeMs >= probeMs - tickMs / 2) {
      this.lastProbeMs = nowMs;
      this.probe(clockMs, nowMs);
    }
    // Nobody is lost who was heard within that.
    let silent = false;
    for (const { lastMs } of this.lives.values()) silent ||= nowMs - lastMs > floorMs;
    if (!silent) return;
    const asked = new Map([...this.lives].filter(([nodeId]) => !this.lost.has(nodeId) && !this.idle.has(nodeId)));
    for (const nodeId of core.judge(asked, nowMs, floorMs)) {
      this.lost.add(nodeId);
      const silentMs = Math.round(nowMs - (asked.get(nodeId) as Life).lastMs);
      onLost(nodeId, `heartbeat failure: neither its agent nor its data plane was heard for ${silentMs} ms`);
    }
  }

  private probe(clockMs: number, nowMs: number): void {
    const view = this.options.view();
    if (this.asked?.index !== view.index) this.asked = { index: view.index, ids: this.toAsk(view) };
    for (const nodeId of this.asked.ids) {
      if (this.lost.has(nodeId)) continue;
      if (this.idle.delete(nodeId) || !this.lives.has(nodeId)) this.lives.set(nodeId, this.options.world.core.newLife(nowMs));
      this.ask(nodeId, clockMs);
    }
  }

  private toAsk(view: ReadTx): string[] {
    const ids: string[] = [];
    for (const node of view.list('node')) {
      if (!isSkeinNode(node)) continue;
      if (vtepOf(node) !== '' && node.status?.state !== NodeStatus_State.DOWN) ids.push(node.id);
      else if (!this.lost.has(node.id)) this.idle.add(node.id);
    }
    return ids;
  }

  private ask(nodeId: string, clockMs: number): void {
    const { world: { network, workers }, host } = this.options;
    const worker = workers.get(nodeId);
    if (worker?.planeAnswered(clockMs) !== true) return;
    if (network.isCalm) this.arrives({ atMs: clockMs + ROUND_TRIP_MS, nodeId, kind: 'plane' });
    else if (network.passes(host, worker.port, 1) && network.passes(worker.port, host, 1)) {
      this.arrives({ atMs: clockMs + network.delay() + network.delay(), nodeId, kind: 'plane' });
    }
  }
}
