// What goes wrong in the simulated world, one thing after the other: processes end and start, all at once as well; the
// network loses, delays, repeats and is cut; disks get slow, clocks fast; and the group changes its members and leaders.

import type { ConfChangeKind } from '../../src/core/raft/types.js';
import { Host } from './host.js';
import { Repair } from './repair.js';
import type { World } from './world.js';

const VOTERS_MAX = 5;
const HOSTS_MAX = 8;
/** Of the time of day: badly kept clocks, a time zone taken for another one, a clock that was never set. */
const SKEWS_MS = [0, 40, -40, 3_000, -3_000, 60_000, -60_000, 3_600_000, -3_600_000, -40 * 24 * 3_600_000];

export class Faults {
  readonly counts = new Map<string, number>();
  readonly repair: Repair;
  private readonly world: World;
  private nextId: bigint;
  private stopped = false;
  /** Removed for good by a committed change; their processes do not know it, and end a while later. */
  private readonly removed = new Set<bigint>();
  /** Each run has its own mix and pace: what is rare in one is common in another. */
  private readonly mix: readonly (readonly [string, () => void])[];
  private readonly gapMsMax: number;

  constructor(world: World) {
    this.world = world;
    const { random } = world;
    this.gapMsMax = random.pick([150, 400, 1_200]);
    this.mix = this.actions.flatMap((action) => Array.from({ length: random.pick([0, 1, 1, 2, 5]) }, () => action));
    if (this.mix.length === 0) this.mix = this.actions;
    if (random.chance(0.5)) this.badNetwork();
    this.repair = new Repair(world, { join: () => this.join(), propose: (leader, kind, member) => this.propose(leader, kind, member) });
    this.nextId = [...world.hosts.keys()].reduce((max, id) => (id > max ? id : max), 0n) + 1n;
  }

  start(): void {
    this.repair.start();
    this.plan();
  }

  get count(): number {
    return [...this.counts.values()].reduce((sum, count) => sum + count, 0);
  }

  /** All is well from now on. */
  stop(): void {
    this.stopped = true;
    this.world.network.calm();
    for (const host of this.world.hosts.values()) {
      if (!host.up) host.start();
      host.disk.writeMsMax = 5;
      host.pace = 1;
      host.skewMs = 0;
    }
  }

  private plan(): void {
    const { clock, random } = this.world;
    clock.after(random.between(10, this.gapMsMax), () => {
      if (this.stopped) return;
      const [name, action] = random.pick(this.mix);
      this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
      this.world.trace?.(name);
      action();
      this.plan();
    });
  }

  private readonly actions: readonly (readonly [string, () => void])[] = [
    ['crash', () => this.crash(this.anyHost())],
    ['crash of the leader', () => this.crash(this.leader())],
    ['power loss', () => [...this.world.hosts.values()].forEach((host) => this.crash(host))],
    ['damage', () => this.damage(this.anyHost())],
    ['damage of the leader', () => this.damage(this.leader())],
    ['isolation', () => this.isolate(this.anyHost())],
    ['isolation of the leader', () => this.isolate(this.leader())],
    ['isolation of a slow leader', () => this.isolateSlow(this.leader())],
    ['partition', () => this.partition()],
    ['one-way cut', () => this.world.network.cut(this.anyHost().id, this.anyHost().id)],
    ['healing', () => this.world.network.heal()],
    ['healing', () => this.world.network.heal()],
    ['healing', () => this.world.network.heal()],
    ['bad network', () => this.badNetwork()],
    ['good network', () => this.world.network.calm()],
    ['slow disk', () => this.slowDisk(this.anyHost())],
    ['slow disk of the leader', () => this.slowDisk(this.leader())],
    ['another leader during a write', () => this.depose(this.leader())],
    ['another leader during a write', () => this.depose(this.leader())],
    ['clock pace', () => { this.anyHost().pace = this.world.random.pick([0.3, 0.7, 1, 1.5, 4]); }],
    ['clock jump', () => { this.anyHost().skewMs = this.world.random.pick(SKEWS_MS); }],
    ['clocks right', () => [...this.world.hosts.values()].forEach((host) => { host.skewMs = 0; })],
    ['transfer', () => this.transfer(this.leader(), this.anyHost())],
    ['candidates', () => this.candidates()],
    ['candidates, then restarts', () => {
      this.candidates();
      for (const host of this.world.hosts.values()) this.world.clock.after(this.world.random.between(3, 25), () => this.crash(host, 3));
    }],
    ['false suspicion', () => this.suspect(this.anyHost(), this.leader())],
    ['campaign', () => this.campaign(this.anyHost())],
    ['membership', () => this.changeMembers(this.leader())],
    ['membership', () => this.changeMembers(this.leader())],
    ['much membership', () => this.changeMuch()],
    ['isolation, then much membership', () => {
      this.isolateSlow(this.leader());
      this.changeMuch();
    }],
  ];

  private anyHost(): Host {
    return this.world.random.pick([...this.world.hosts.values()]);
  }

  /** Of the newest term. */
  private leader(): Host | undefined {
    const leaders = [...this.world.hosts.values()].filter((host) => host.up && host.raft.leader);
    return leaders.sort((a, b) => Number(b.raft.status.term - a.raft.status.term))[0];
  }

  /** Several of the same term. */
  private candidates(): void {
    for (let i = 0; i < 3; i++) this.stand(this.anyHost());
  }

  private crash(host: Host | undefined, downMsMax = 2_000): void {
    if (host?.up !== true) return;
    const { random, clock, hosts } = this.world;
    host.crash();
    clock.after(random.between(1, downMsMax), () => {
      if (hosts.has(host.id) && !host.up) host.start();
    });
    for (const other of hosts.values()) if (random.chance(0.5)) clock.after(random.between(1, 50), () => this.suspect(other, host));
  }

  /** Found at the next start. */
  private damage(host: Host | undefined): void {
    if (host === undefined || !this.repair.mayDamage(host)) return;
    this.crash(host);
    if (host.up) return;
    host.disk.damage(this.world.random);
    this.world.trace?.(`${host.id} is damaged: ${host.disk.damaged}`);
    this.repair.damaged(host);
  }

  private suspect(host: Host, leader: Host | undefined): void {
    if (!host.up || leader === undefined) return;
    host.raft.suspect(leader.id);
    host.work();
  }

  private transfer(leader: Host | undefined, host: Host): void {
    leader?.raft.transferLeader(host.id);
    leader?.work();
  }

  /** As if a leader had handed over to it: no pre-vote, and no lease holds it up. */
  private stand(host: Host): void {
    if (!host.up) return;
    const { term } = host.raft.status;
    host.step({
      kind: 'timeoutNow', to: host.id, from: 0n, term, index: 0n, logTerm: 0n, entries: [], commit: 0n, reject: false, rejectHint: 0n,
      transfer: false, context: 0n, snapshot: undefined,
    });
  }

  private campaign(host: Host): void {
    if (!host.up) return;
    host.raft.campaign();
    host.work();
  }

  private isolate(host: Host | undefined): void {
    if (host !== undefined) this.split((other) => other === host);
  }

  private isolateSlow(leader: Host | undefined): void {
    if (leader === undefined) return;
    leader.pace = 4;
    this.isolate(leader);
  }

  private partition(): void {
    const side = new Set([...this.world.hosts.values()].filter(() => this.world.random.chance(0.5)));
    this.split((host) => side.has(host));
  }

  private split(inside: (host: Host) => boolean): void {
    const { hosts, network } = this.world;
    for (const a of hosts.values()) for (const b of hosts.values()) if (inside(a) !== inside(b)) network.cut(a.id, b.id);
  }

  private badNetwork(): void {
    const { network, random } = this.world;
    network.lossRate = random.unit() * 0.4;
    network.repeatRate = random.unit() * 0.3;
    network.lateRate = random.unit() * 0.2;
    network.delayMsMax = random.between(5, 200);
  }

  private slowDisk(host: Host | undefined): void {
    if (host !== undefined) host.disk.writeMsMax = this.world.random.pick([5, 5, 200, 1_500]);
  }

  /** What it writes meanwhile is sent to nobody, and is replaced before the write is done. */
  private depose(leader: Host | undefined): void {
    if (leader === undefined) return;
    const { clock, network, random } = this.world;
    leader.disk.writeMsMax = 3_000;
    this.isolate(leader);
    clock.after(random.between(400, 1_000), () => network.heal());
  }

  /** By all that take themselves for leaders. */
  private changeMuch(): void {
    for (const host of this.world.hosts.values()) {
      for (let i = 0; i < 4 && host.up && host.raft.leader; i++) this.changeMembers(host);
    }
  }

  private changeMembers(leader: Host | undefined): void {
    const { random, hosts } = this.world;
    // While a member is being replaced nobody changes others.
    if (leader === undefined || this.repair.open !== undefined) return;
    const { voters, learners } = leader.raft.status.activeConfState;
    const choices: (() => void)[] = [];
    if (hosts.size < HOSTS_MAX && voters.length + learners.length < VOTERS_MAX + 1) {
      choices.push(() => this.propose(leader, random.chance(0.7) ? 'addLearner' : 'addNode', this.join().id));
    }
    if (voters.length < VOTERS_MAX && learners.length > 0) choices.push(() => this.propose(leader, 'addNode', random.pick(learners)));
    if (voters.length > 3 || (voters.length > 1 && random.chance(0.3))) {
      choices.push(() => this.propose(leader, random.chance(0.2) ? 'addLearner' : 'removeNode', random.pick([leader.id, ...voters])));
    }
    if (learners.length > 0) choices.push(() => this.propose(leader, 'removeNode', random.pick(learners)));
    if (choices.length > 0) random.pick(choices)();
  }

  private join(): Host {
    const host = new Host(this.world, this.nextId++, false);
    this.world.hosts.set(host.id, host);
    return host;
  }

  private propose(leader: Host, kind: ConfChangeKind, member: bigint): void {
    if (leader.raft.proposeConfChange({ kind, member, context: new Uint8Array(0) }).ok) this.repair.changed();
    leader.work();
    this.collect();
  }

  /** Plans the end of processes whose removal is committed: for a while they may go on, not knowing it. */
  private collect(): void {
    const { hosts, checker, clock } = this.world;
    for (const host of hosts.values()) {
      if (!checker.isRemoved(host.id) || this.removed.has(host.id)) continue;
      this.removed.add(host.id);
      clock.after(5_000, () => {
        if (host.up) host.crash();
        hosts.delete(host.id);
      });
    }
  }
}
