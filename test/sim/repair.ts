// Members whose log is damaged, and the operator who replaces them: their managers refuse to start, so they are taken out of the
// group by a change of its configuration, and a new member joins in their place, as a learner until it has what the group has.
// Only as long as the others are a majority by themselves: otherwise the operator restores a backup or begins a new cluster from
// one member (--force-new-cluster), which loses what only others had. That is no promise of the group's, and not simulated.

import { Membership } from '../../src/core/raft/confchange.js';
import type { ConfChangeKind, ConfState } from '../../src/core/raft/types.js';
import type { Host } from './host.js';
import type { World } from './world.js';

const LOOK_MS = 250;
const DAMAGED_MAX = 6;
/** A change may still be on its way to somebody: longer than any message takes. */
const QUIET_MS = 3_100;

interface Tools {
  readonly join: () => Host;
  readonly propose: (leader: Host, kind: ConfChangeKind, member: bigint) => void;
}

interface Case {
  readonly host: Host;
  readonly voter: boolean;
  newcomer: Host | undefined;
  /** What the group had when the newcomer was made. */
  goal: bigint;
}

export class Repair {
  private readonly world: World;
  private readonly tools: Tools;
  private readonly cases = new Set<Case>();
  private count = 0;
  private changedMs = -Infinity;

  constructor(world: World, tools: Tools) {
    this.world = world;
    this.tools = tools;
  }

  start(): void {
    this.world.clock.after(LOOK_MS, () => {
      for (const one of this.cases) this.look(one);
      this.start();
    });
  }

  /** A change of the configuration was asked for. */
  changed(): void {
    this.changedMs = this.world.clock.nowMs;
  }

  /** What the operator has not done yet, in words. */
  get open(): string | undefined {
    const [first] = this.cases;
    return first === undefined ? undefined : `member ${first.host.id} is damaged and not replaced yet`;
  }

  /** By whatever configuration may yet count, the others are a majority. */
  mayDamage(host: Host): boolean {
    const { clock, hosts, checker } = this.world;
    if (!host.up || this.count >= DAMAGED_MAX || clock.nowMs - this.changedMs < QUIET_MS) return false;
    if ([...this.cases].some(({ newcomer }) => newcomer === host)) return false;
    return checker.isMember(host.id) && [...hosts.values()].flatMap(confsOf).every((conf) => this.isSafe(conf, host));
  }

  private isSafe({ voters }: ConfState, without: Host): boolean {
    const { hosts, checker } = this.world;
    const sound = voters.filter((id) => {
      const host = hosts.get(id);
      return host !== undefined && host !== without && host.disk.damaged === undefined && !checker.isRemoved(id);
    });
    // One that has not joined yet knows of none.
    return voters.length === 0 || 2 * sound.length > voters.length;
  }

  damaged(host: Host): void {
    this.count += 1;
    this.cases.add({ host, voter: host.raft.status.activeConfState.voters.includes(host.id), newcomer: undefined, goal: 0n });
  }

  private look(one: Case): void {
    const { hosts, checker } = this.world;
    const { host, newcomer, voter } = one;
    // A deliberate bug let it begin.
    if (host.up) this.cases.delete(one);
    if (!host.refused) return;
    const leader = [...hosts.values()].filter(({ up, raft }) => up && raft.leader).sort((a, b) => Number(b.raft.term - a.raft.term))[0];
    if (leader === undefined) return;
    const { confState: { voters, learners }, commit } = leader.raft.status;
    if (newcomer === undefined) {
      if (!checker.isRemoved(host.id)) this.tools.propose(leader, 'removeNode', host.id);
      else Object.assign(one, { newcomer: this.tools.join(), goal: commit });
    } else if (voters.includes(newcomer.id) || (!voter && learners.includes(newcomer.id))) {
      this.cases.delete(one);
      newcomer.mark('replaced after damage');
    } else if (!learners.includes(newcomer.id)) this.tools.propose(leader, 'addLearner', newcomer.id);
    else if (newcomer.applied >= one.goal) this.tools.propose(leader, 'addNode', newcomer.id);
  }
}

/** By what is in its memory, if it runs, and by what is on its disk. */
function confsOf({ up, raft, disk }: Host): ConfState[] {
  const onDisk = new Membership(disk.snapshot.index, disk.snapshot.confState);
  onDisk.append(disk.entries);
  return up ? [raft.status.activeConfState, onDisk.current] : [onDisk.current];
}
