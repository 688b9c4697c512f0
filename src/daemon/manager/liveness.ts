// Liveness: asks the data planes of our nodes, hears their agents, and tells the sessions which nodes are lost, long before
// SwarmKit's three heartbeats (core/dispatcher/liveness.ts decides). Stock engines have no data plane of ours and are left to
// their heartbeats; so is this manager's own node: a manager that does not run cannot say that it does not.

import type { Logger } from 'pino';
import {
  heard, judge, limitMs, newLife, newObserver, observe, paceOf, revived, type Life, type Observer, type Pace,
} from '../../core/dispatcher/liveness.js';
import type { ReadTx } from '../../core/store/view.js';
import { Prober } from '../../io/liveness/prober.js';
import { VXLAN_PORT, isSkeinNode, vtepOf } from '../../model/network.js';
import { NodeStatus_State } from '../../model/proto/swarmkit_pb.js';

/** What is asked of io/liveness/prober.ts. */
export type Asker = Pick<Prober, 'ask' | 'forget' | 'close'>;

export interface LivenessOptions {
  readonly view: () => ReadTx;
  readonly periodMs: () => number;
  readonly raftId: bigint;
  readonly logger: Logger;
  readonly onLost: (nodeId: string, reason: string) => void;
  readonly open?: (onAnswer: (nodeId: string) => void) => Promise<Asker>;
}

export class Liveness {
  private readonly options: LivenessOptions;
  private readonly lives = new Map<string, Life>();
  /** Told, until they come back. */
  private readonly lost = new Set<string>();
  /** Not asked now: DOWN for another reason, or without an address. */
  private readonly idle = new Set<string>();
  private observer: Observer = newObserver(performance.now());
  private prober: Asker | undefined;
  private timer: NodeJS.Timeout | undefined;
  private lastProbeMs = -Infinity;
  /** Counts starts and stops. */
  private turn = 0;

  constructor(options: LivenessOptions) {
    this.options = options;
  }

  /** The leader's work: begins knowing nothing, and may be started again after stop(). */
  async start(): Promise<void> {
    const turn = ++this.turn;
    this.lives.clear();
    this.lost.clear();
    this.idle.clear();
    const prober = await (this.options.open ?? Prober.open)((nodeId) => this.heard(nodeId, 'plane'));
    if (turn !== this.turn) {
      prober.close();
      return;
    }
    this.prober = prober;
    this.arm();
  }

  stop(): void {
    this.turn += 1;
    clearTimeout(this.timer);
    this.prober?.close();
    this.prober = undefined;
  }

  /** How long the agent of a node waits until its next heartbeat; undefined for stock engines: theirs is the user's setting. */
  heartbeatMs(nodeId: string): number | undefined {
    const node = this.options.view().get('node', nodeId);
    return node !== undefined && isSkeinNode(node) ? this.pace().heartbeatMs : undefined;
  }

  /** A heartbeat. */
  agentHeard(nodeId: string): void {
    this.heard(nodeId, 'agent');
  }

  /** A session begins. `alive`: of an agent that had one before. */
  agentCame(nodeId: string, alive: boolean): void {
    const life = this.lives.get(nodeId);
    if (this.lost.delete(nodeId) && life !== undefined) {
      this.lives.set(nodeId, revived(life, alive, this.nowMs(), this.pace().floorMs));
    } else this.agentHeard(nodeId);
  }

  forget(nodeId: string): void {
    this.lives.delete(nodeId);
    this.lost.delete(nodeId);
    this.idle.delete(nodeId);
    this.prober?.forget(nodeId);
  }

  private heard(nodeId: string, kind: 'agent' | 'plane'): void {
    const life = this.lives.get(nodeId);
    if (life !== undefined && !this.lost.has(nodeId)) this.lives.set(nodeId, heard(life, kind, this.nowMs()));
  }

  private pace(): Pace {
    return paceOf(this.options.periodMs(), this.lives.size);
  }

  /** Also between two ticks: what comes in late, after a stall, came in before the next look. */
  private nowMs(): number {
    this.observer = observe(this.observer, performance.now(), 2 * this.pace().tickMs);
    return this.observer.livedMs;
  }

  private arm(): void {
    const { tickMs } = this.pace();
    this.timer = setTimeout(() => {
      // After what the sockets have for us.
      setImmediate(() => {
        if (this.prober === undefined) return;
        this.look();
        this.arm();
      });
    }, tickMs);
    this.timer.unref();
  }

  private look(): void {
    const nowMs = this.nowMs();
    const { probeMs, tickMs, floorMs } = this.pace();
    if (nowMs - this.lastProbeMs >= probeMs - tickMs / 2) {
      this.lastProbeMs = nowMs;
      this.probe(nowMs);
    }
    const asked = new Map([...this.lives].filter(([nodeId]) => !this.lost.has(nodeId) && !this.idle.has(nodeId)));
    for (const nodeId of judge(asked, nowMs, floorMs)) {
      this.lost.add(nodeId);
      const life = this.lives.get(nodeId) as Life;
      const silentMs = Math.round(nowMs - life.lastMs);
      this.options.logger.warn({
        nodeId, silentMs, limitMs: Math.round(limitMs(life, floorMs)), stalledMs: Math.round(this.observer.stalledMs),
      }, 'a node is lost: its agent and its data plane are silent');
      this.options.onLost(nodeId, `heartbeat failure: neither its agent nor its data plane was heard for ${silentMs} ms`);
    }
  }

  private probe(nowMs: number): void {
    for (const node of this.options.view().list('node')) {
      if (!isSkeinNode(node) || node.managerStatus?.raftId === this.options.raftId || this.lost.has(node.id)) continue;
      const address = vtepOf(node);
      if (address === '' || node.status?.state === NodeStatus_State.DOWN) {
        this.idle.add(node.id);
        continue;
      }
      if (this.idle.delete(node.id) || !this.lives.has(node.id)) this.lives.set(node.id, newLife(nowMs));
      this.prober?.ask(node.id, address, node.VXLANUDPPort === 0 ? VXLAN_PORT : node.VXLANUDPPort);
    }
  }
}
