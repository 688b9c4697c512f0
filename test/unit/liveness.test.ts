// Liveness: when a node is dead, learnt from the gaps between its signs of life and from the observer's own time; with
// traces of overload, pauses and loss. Then what a prober and a data plane say to each other.

import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import type { AddressInfo } from 'node:net';
import { describe, it } from 'node:test';
import {
  heard, isLost, judge, limitMs, newLife, newObserver, observe, paceOf, revived, type Life,
} from '../../src/core/dispatcher/liveness.js';
import { Sessions } from '../../src/core/dispatcher/sessions.js';
import { Liveness } from '../../src/daemon/manager/liveness.js';
import { Prober, probePacket } from '../../src/io/liveness/prober.js';
import { pino } from 'pino';
import { DataPathSchema, NodeStatus_State } from '../../src/model/proto/swarmkit_pb.js';
import { create } from '@bufbuild/protobuf';
import { seeded, type Random } from '../support/random.js';
import { Swarm } from './harness.js';
import { eventually } from '../system/fixture.js';

const PACE = paceOf(5000, 3);
const FLOOR = PACE.floorMs;

/** Answers of a data plane. */
function steady(everyMs: number, untilMs: number): Life {
  let life = newLife(0);
  for (let at = everyMs; at <= untilMs; at += everyMs) life = heard(life, 'plane', at);
  return life;
}

/** A node and an observer on one machine, step by step; returns when it was taken for dead. */
interface Trace {
  readonly seconds: number;
  /** The process that should run at `ms` runs only this much later. */
  readonly planeDelay: (ms: number) => number;
  readonly agentDelay: (ms: number) => number;
  readonly observerDelay: (ms: number) => number;
  readonly loss?: number;
  /** What comes in while the observer does not run is lost. */
  readonly deaf?: boolean;
  readonly diesAtMs?: number;
  /** The agent is killed, the data plane goes on. */
  readonly agentDiesAtMs?: number;
}

function run(trace: Trace, random: Random, periodMs = 5000): number | undefined {
  const pace = paceOf(periodMs, 3);
  const arrivals: { atMs: number; kind: 'plane' | 'agent' }[] = [];
  const dies = trace.diesAtMs ?? Infinity;
  const agentDies = Math.min(trace.agentDiesAtMs ?? Infinity, dies);
  // A process that is late is late for everything in between: what it does comes in its order.
  let planeMs = 0;
  let agentMs = 0;
  for (let ms = pace.probeMs; ms < trace.seconds * 1000; ms += pace.probeMs) {
    planeMs = Math.max(planeMs, ms + trace.planeDelay(ms));
    if (planeMs < dies && random.unit() >= (trace.loss ?? 0)) arrivals.push({ atMs: planeMs + 1, kind: 'plane' });
  }
  for (let ms = pace.heartbeatMs; ms < trace.seconds * 1000; ms += pace.heartbeatMs) {
    agentMs = Math.max(agentMs, ms + trace.agentDelay(ms));
    if (agentMs < agentDies) arrivals.push({ atMs: agentMs + 1, kind: 'agent' });
  }
  arrivals.sort((a, b) => a.atMs - b.atMs);
  let observer = newObserver(0);
  let life = newLife(0);
  let next = 0;
  for (let clock = 0; clock < trace.seconds * 1000;) {
    const delay = trace.observerDelay(clock);
    clock += pace.tickMs + delay;
    observer = observe(observer, clock, 2 * pace.tickMs);
    for (; (arrivals[next]?.atMs ?? Infinity) <= clock; next++) {
      const { atMs, kind } = arrivals[next] as (typeof arrivals)[number];
      if (trace.deaf === true && delay > 0 && atMs > clock - delay - pace.tickMs) continue;
      life = heard(life, kind, observer.livedMs);
    }
    if (judge(new Map([['n', life]]), observer.livedMs, pace.floorMs).length > 0) return clock;
  }
  return undefined;
}

const PROMPT = (): number => 0;
const QUIET = { planeDelay: PROMPT, agentDelay: PROMPT, observerDelay: PROMPT };

describe('how long a silence is explained', () => {
  it('by the floor while signs are regular; not at all before there were some', () => {
    assert.equal(limitMs(steady(PACE.probeMs, 10_000), FLOOR), FLOOR);
    assert.equal(isLost(steady(PACE.probeMs, 10_000), 10_000 + FLOOR, FLOOR), false);
    assert.equal(isLost(steady(PACE.probeMs, 10_000), 10_001 + FLOOR, FLOOR), true);
    assert.equal(isLost(steady(PACE.probeMs, 4 * PACE.probeMs), 60_000, FLOOR), false, 'behind a firewall, perhaps');
  });

  it('by the longest gap of late, half as long again, which fades', () => {
    let life = heard(steady(200, 10_000), 'agent', 11_600);
    assert.equal(limitMs(life, FLOOR), 1.5 * 1600);
    for (let at = 11_800; at < 80_000; at += 200) life = heard(life, 'agent', at);
    assert.ok(limitMs(life, FLOOR) < 1300, `${limitMs(life, FLOOR)} ms after a minute`);
  });

  it('not by how long the first sign took to come', () => {
    let life = newLife(0);
    for (let at = 8000; at < 12_000; at += 200) life = heard(life, 'plane', at);
    assert.equal(limitMs(life, FLOOR), FLOOR);
  });
});

describe('a dead node', () => {
  it('is told within 1.5 s on a quiet machine, at any moment of its rhythm', () => {
    for (let moment = 0; moment < 600; moment += 13) {
      const diesAtMs = 20_000 + moment;
      const told = run({ seconds: 40, ...QUIET, diesAtMs }, seeded(moment));
      assert.ok(told !== undefined && told - diesAtMs < 1500, `died at ${diesAtMs}, told after ${(told ?? Infinity) - diesAtMs} ms`);
    }
  });

  it('is told within 3 s where a tenth of the probes is lost and everybody is late now and then', () => {
    let worst = 0;
    for (let seed = 1; seed <= 200; seed++) {
      const random = seeded(seed);
      const late = (): number => (random.chance(0.1) ? random.below(250) : random.below(20));
      const told = run({ seconds: 60, planeDelay: late, agentDelay: late, observerDelay: late, loss: 0.1, diesAtMs: 40_000 }, random);
      assert.ok(told !== undefined && told >= 40_000, `seed ${seed}: ${told}`);
      worst = Math.max(worst, told - 40_000);
    }
    assert.ok(worst < 3000, `${worst} ms`);
  });

  it('is told at the heartbeat period the user set, in proportion', () => {
    for (const [periodMs, mostMs] of [[1000, 700], [2000, 1000], [20_000, 6000]] as const) {
      const told = run({ seconds: 120, ...QUIET, diesAtMs: 90_000 }, seeded(1), periodMs);
      assert.ok(told !== undefined && told - 90_000 < mostMs, `period ${periodMs}: ${(told ?? Infinity) - 90_000} ms`);
    }
  });
});

describe('a node that lives', () => {
  it('is not taken for dead while everything is late by what a scheduler does to an overloaded machine', () => {
    for (let seed = 1; seed <= 100; seed++) {
      const random = seeded(seed);
      // Time slices: mostly short, now and then long, three processes each on their own.
      const late = (): number => (random.chance(0.02) ? random.below(700) : random.below(120));
      assert.equal(run({ seconds: 300, planeDelay: late, agentDelay: late, observerDelay: late, loss: 0.05 }, random), undefined,
        `seed ${seed}`);
    }
  });

  it('is not taken for dead while the whole machine stands still for longer and longer, up to 2.5 s at a time', () => {
    const still = (ms: number): number => Math.max(Math.min(300 * 1.2 ** Math.floor(ms / 5000), 2500) - ms % 5000, 0);
    assert.equal(run({ seconds: 120, planeDelay: still, agentDelay: still, observerDelay: PROMPT }, seeded(1)), undefined);
  });

  it('is not taken for dead because the observer did not run', () => {
    for (const pauseMs of [500, 2000, 10_000, 60_000]) {
      const observerDelay = (ms: number): number => (ms % 20_000 < 100 && ms > 1000 ? pauseMs : 0);
      // Its data plane and agent went on all the time; what they sent waits in the sockets, or was lost there.
      for (const deaf of [false, true]) {
        assert.equal(run({ ...QUIET, seconds: 200, observerDelay, loss: 0.2, deaf }, seeded(pauseMs)), undefined, `${pauseMs} ms`);
      }
    }
  });

  it('is not taken for dead because its agent is: gone or stopped for as long as SwarmKit waits', () => {
    assert.equal(run({ ...QUIET, seconds: 60, agentDiesAtMs: 30_000 }, seeded(1)), undefined);
    const stopped = (ms: number): number => (ms > 30_000 && ms < 45_000 ? 45_000 - ms : 0);
    assert.equal(run({ ...QUIET, seconds: 60, agentDelay: stopped }, seeded(1)), undefined);
    assert.equal(run({ ...QUIET, seconds: 60, planeDelay: stopped }, seeded(1)), undefined, 'nor its data plane');
  });

  it('explains its next silence once it was taken for dead by mistake, in bounds; a new agent explains nothing', () => {
    const life = steady(200, 10_000);
    const soon = revived(life, true, 11_400, FLOOR);
    assert.equal(limitMs(soon, FLOOR), 1.5 * 1400);
    assert.equal(soon.answers, 0);
    const later = revived(life, true, 60_000, FLOOR);
    assert.equal(limitMs(later, FLOOR), 1.5 * (1.6 * FLOOR), 'a cut link is told within 3 s the next time too');
    assert.equal(limitMs(revived(life, false, 11_400, FLOOR), FLOOR), FLOOR);
  });
});

describe('many nodes', () => {
  const lives = (silent: number, alive: number): Map<string, Life> => new Map([
    ...Array.from({ length: silent }, (_, i) => [`dead${i}`, heard(steady(200, 10_000), 'agent', 10_000 + 40 * i)] as const),
    ...Array.from({ length: alive }, (_, i) => [`live${i}`, steady(200, 11_800)] as const),
  ]);
  it('are told one by one', () => {
    assert.deepEqual(judge(lives(2, 2), 12_000, FLOOR), ['dead0', 'dead1']);
    assert.deepEqual(judge(lives(1, 0), 12_000, FLOOR), ['dead0']);
  });

  it('are not told when all fall silent: it is the observer that is cut off', () => {
    assert.deepEqual(judge(lives(4, 0), 11_050, FLOOR), [], 'the first one\'s time is up, the others are silent too');
    assert.deepEqual(judge(lives(4, 0), 12_000, FLOOR), []);
    assert.deepEqual(judge(lives(4, 1), 12_000, FLOOR).length, 4);
  });

  it('are asked less often', () => {
    assert.deepEqual(PACE, { tickMs: 100, probeMs: 200, heartbeatMs: 500, floorMs: 1000 });
    const many = paceOf(5000, 1000);
    assert.equal(many.probeMs, 2000);
    assert.equal(many.heartbeatMs, 5000, 'never less often than the user set');
    assert.equal(paceOf(5000, 100).floorMs, 2400);
    for (let nodes = 1; nodes <= 2000; nodes += 7) {
      const { probeMs, heartbeatMs, floorMs } = paceOf(5000, nodes);
      assert.ok(floorMs >= 5 * probeMs && floorMs >= 2 * heartbeatMs, 'either alone is heard more than once in that time');
    }
  });
});

describe('the observer\'s time', () => {
  it('passes while it runs, and counts what it missed', () => {
    let observer = newObserver(1000);
    for (const clock of [1100, 1200, 9200, 9250]) observer = observe(observer, clock, 200);
    assert.deepEqual(observer, { clockMs: 9250, livedMs: 450, stalledMs: 7800 });
    assert.equal(observe(observer, 9000, 200).livedMs, 450, 'never back');
  });
});

describe('a session that is lost', () => {
  it('expires at once, and only once; again if it is lost again: it may have been taken for ready meanwhile', () => {
    const sessions = new Sessions();
    sessions.register('n1', '', 's1', 0, 5000);
    sessions.lose('n1', 1200);
    sessions.lose('nobody', 1200);
    assert.deepEqual(sessions.expire(1200), ['n1', 'nobody']);
    assert.deepEqual(sessions.expire(90_000), []);
    assert.equal(sessions.check('n1', 's1'), 'unknown node');
    sessions.lose('n1', 91_000);
    assert.deepEqual(sessions.expire(91_000), ['n1']);
  });

  it('expires again if its registration took effect after its time was up: it is READY since', () => {
    const sessions = new Sessions();
    sessions.register('n1', '', 's1', 0, 5000);
    assert.deepEqual(sessions.expire(15_000), ['n1']);
    sessions.registered('n1', 16_000);
    sessions.registered('gone', 16_000);
    assert.deepEqual(sessions.expire(16_000), ['n1']);
    sessions.register('n1', '', 's2', 20_000, 5000);
    sessions.registered('n1', 21_000);
    assert.deepEqual([sessions.expire(34_999), sessions.check('n1', 's2')], [[], 'ok']);
  });
});

describe('a prober', () => {
  it('hears who answers with what it was asked, and nobody else', async () => {
    const plane = dgram.createSocket('udp4');
    await new Promise<void>((resolve) => plane.bind(0, '127.0.0.1', resolve));
    const asked: Buffer[] = [];
    const answers: string[] = [];
    plane.on('message', (message, from) => {
      asked.push(message);
      assert.equal(message.length, 24);
      assert.equal(message[0]! & 0x08, 0, 'no VXLAN packet');
      const token = message.subarray(8);
      const forged = probePacket('answer', Buffer.alloc(16, 1));
      for (const packet of [forged, message, probePacket('answer', token).subarray(0, 23)]) plane.send(packet, from.port, from.address);
      if (asked.length === 2) plane.send(probePacket('answer', token), from.port, from.address);
    });
    const prober = await Prober.open((nodeId) => answers.push(nodeId));
    try {
      const { port } = plane.address() as AddressInfo;
      prober.ask('n1', '127.0.0.1', port);
      await eventually('the first question', 2000, async () => assert.equal(asked.length, 1));
      prober.ask('n2', '127.0.0.1', port);
      await eventually('the answer', 2000, async () => assert.deepEqual(answers, ['n2']));
      assert.notDeepEqual(asked[0]?.subarray(8), asked[1]?.subarray(8), 'a token for each');
      prober.forget('n2');
      prober.ask('n2', '127.0.0.1', port);
      await eventually('another question', 2000, async () => assert.equal(asked.length, 3));
      assert.notDeepEqual(asked[2]?.subarray(8), asked[1]?.subarray(8), 'anew');
    } finally {
      prober.close();
      plane.close();
    }
  });
});

/** A leader of nodes whose agents and data planes are switches. */
class Listening {
  readonly swarm = new Swarm({ nodes: 0 });
  readonly planes = new Set<string>();
  readonly agents = new Set<string>();
  readonly lost: [string, string][] = [];
  readonly asked: string[] = [];
  readonly liveness: Liveness;
  private readonly beats: NodeJS.Timeout;

  constructor(nodes: readonly string[], stock: readonly string[] = []) {
    for (const id of [...nodes, ...stock]) {
      this.swarm.addNode(id, { skein: nodes.includes(id) });
      this.swarm.editNode(id, (node) => { node.dataPath = create(DataPathSchema, { addr: node.status?.addr ?? '' }); });
      this.planes.add(id);
      this.agents.add(id);
    }
    this.liveness = new Liveness({
      view: () => this.swarm.store, periodMs: () => 1000, raftId: 1n, logger: pino({ level: 'silent' }),
      onLost: (nodeId, reason) => this.lost.push([nodeId, reason]),
      open: async (onAnswer) => ({
        ask: (nodeId) => {
          this.asked.push(nodeId);
          if (this.planes.has(nodeId)) setTimeout(() => onAnswer(nodeId), 2);
        },
        forget: () => undefined,
        close: () => undefined,
      }),
    });
    this.beats = setInterval(() => {
      for (const id of this.agents) this.liveness.agentHeard(id);
    }, 100);
  }

  async run(body: () => Promise<void>): Promise<void> {
    await this.liveness.start();
    try {
      await new Promise((resolve) => setTimeout(resolve, 500));
      await body();
    } finally {
      this.liveness.stop();
      clearInterval(this.beats);
    }
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('the leader', () => {
  it('tells a node that is silent both ways, once, and why; not one whose agent or data plane is', async () => {
    const listening = new Listening(['dead', 'agentless', 'planeless', 'well']);
    await listening.run(async () => {
      listening.agents.delete('agentless');
      listening.planes.delete('planeless');
      listening.agents.delete('dead');
      listening.planes.delete('dead');
      await eventually('it is told', 3000, async () => assert.equal(listening.lost.length, 1));
      await pause(700);
      assert.deepEqual(listening.lost.map(([nodeId]) => nodeId), ['dead']);
      assert.match(listening.lost[0]?.[1] ?? '', /^heartbeat failure: neither its agent nor its data plane was heard for \d+ ms$/);
    });
  });

  it('begins anew with a node that comes back, and tells its next death', async () => {
    const listening = new Listening(['n1']);
    await listening.run(async () => {
      const die = async (deaths: number): Promise<void> => {
        listening.agents.clear();
        listening.planes.clear();
        await eventually('it is told', 4000, async () => assert.equal(listening.lost.length, deaths));
      };
      await die(1);
      listening.swarm.setNodeState('n1', NodeStatus_State.DOWN);
      const asked = listening.asked.length;
      await pause(200);
      assert.equal(listening.asked.length, asked, 'who is DOWN is not asked');
      listening.swarm.setNodeState('n1', NodeStatus_State.READY);
      listening.agents.add('n1');
      listening.planes.add('n1');
      listening.liveness.agentCame('n1', false);
      await pause(600);
      assert.equal(listening.lost.length, 1);
      await die(2);
    });
  });

  it('asks and judges no stock engine, none without an address, and nobody once it leads no more', async () => {
    const listening = new Listening(['ours', 'unaddressed'], ['stock']);
    listening.swarm.editNode('unaddressed', (node) => { delete node.dataPath; });
    await listening.run(async () => {
      assert.deepEqual([...new Set(listening.asked)], ['ours']);
      assert.equal(listening.liveness.heartbeatMs('stock'), undefined);
      assert.equal(listening.liveness.heartbeatMs('ours'), 100);
      listening.liveness.stop();
      listening.agents.clear();
      listening.planes.clear();
      await pause(800);
      assert.deepEqual(listening.lost, []);
      await listening.liveness.start();
      await pause(800);
      assert.deepEqual(listening.lost, [], 'it knows nothing yet');
    });
  });
});
