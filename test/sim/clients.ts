// Clients of the simulated group: each does one thing after the other, reads a register or writes one, at whatever member
// it takes for the leader, and tries again elsewhere with the same command id until it is answered or gives up.
// A register is a service of the store: its version is the index of the last write.

import { clone, create } from '@bufbuild/protobuf';
import { encode } from '../../src/io/protobuf/codec.js';
import { createAction, updateAction } from '../../src/core/store/actions.js';
import type { Store } from '../../src/core/store/store.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { CommandSchema } from '../../src/model/proto/skein_pb.js';
import { AnnotationsSchema, PairSchema, ServiceSchema, ServiceSpecSchema } from '../../src/model/proto/swarmkit_pb.js';
import { EPOCH_MS, type Host } from './host.js';
import type { World } from './world.js';

const KEYS = ['a', 'b', 'c', 'd'];
const ATTEMPTS_MAX = 12;

export interface ClientStats {
  reads: number;
  writes: number;
  refused: number;
  givenUp: number;
}

export class Client {
  readonly stats: ClientStats = { reads: 0, writes: 0, refused: 0, givenUp: 0 };
  private readonly world: World;
  private readonly name: string;
  private readonly readRate: number;
  private readonly wanderRate: number;
  /** Shared by all: the newest version of each register that somebody knows of. */
  private readonly floors: Map<string, bigint>;
  private target: Host;
  private operations = 0;
  private stopped = false;

  /** `readRate`: of all it does; `wanderRate`: how often it turns to another member without need. */
  constructor(world: World, name: string, floors: Map<string, bigint>, readRate: number, wanderRate: number) {
    this.world = world;
    this.readRate = readRate;
    this.wanderRate = wanderRate;
    this.name = name;
    this.floors = floors;
    this.target = [...world.hosts.values()][0] as Host;
  }

  start(): void {
    this.next();
  }

  stop(): void {
    this.stopped = true;
  }

  private next(): void {
    if (this.stopped) return;
    const { random, clock } = this.world;
    clock.after(random.between(2, 80), () => {
      const key = random.pick(KEYS);
      const id = `${this.name}-${++this.operations}`;
      if (random.chance(this.readRate)) this.read(id, key, this.floors.get(key) ?? 0n, 1);
      else this.write(id, key, this.floors.get(key) ?? 0n);
    });
  }

  private choose(): Host {
    const { hosts, random } = this.world;
    if (random.chance(this.wanderRate) || !hosts.has(this.target.id)) this.target = random.pick([...hosts.values()]);
    return this.target;
  }

  /** Where the member says its leader is. */
  private follow(): void {
    const { hosts, random } = this.world;
    const leader = this.target.up ? hosts.get(this.target.raft.status.leader) : undefined;
    this.target = leader ?? random.pick([...hosts.values()]);
  }

  private learned(operation: string, key: string, version: bigint, floor: bigint, isWrite: boolean): void {
    this.world.checker.linearizable(`${operation} of ${key}`, version, floor, isWrite);
    if (version > (this.floors.get(key) ?? 0n)) this.floors.set(key, version);
  }

  private read(id: string, key: string, floor: bigint, attempt: number): void {
    let done = false;
    const answer = (store: Store): void => {
      if (done) return;
      done = true;
      const service = store.get('service', key);
      const version = service?.meta?.version?.index ?? 0n;
      this.world.checker.read(key, version, service?.spec?.annotations?.labels[0]?.value ?? '');
      this.learned(`read ${id}`, key, version, floor, false);
      this.stats.reads += 1;
      this.next();
    };
    const asked = this.choose().read(answer);
    this.world.clock.after(asked ? 400 : 50, () => {
      if (done) return;
      done = true;
      this.follow();
      if (attempt < ATTEMPTS_MAX) this.read(id, key, floor, attempt + 1);
      else this.giveUp();
    });
  }

  private write(id: string, key: string, floor: bigint): void {
    const host = this.choose();
    const data = this.command(id, key, host.store);
    let done = false;
    const acknowledge = (accepted: boolean): void => {
      if (done) return;
      done = true;
      if (accepted) {
        this.learned(`write ${id}`, key, this.world.checker.written(id), floor, true);
        this.stats.writes += 1;
      } else {
        this.stats.refused += 1;
      }
      this.next();
    };
    const attempt = (at: Host, count: number): void => {
      const taken = at.submit({ id, data }, acknowledge);
      this.world.clock.after(taken ? 400 : 50, () => {
        if (done) return;
        if (count >= ATTEMPTS_MAX) {
          done = true;
          this.giveUp();
          return;
        }
        this.follow();
        attempt(this.choose(), count + 1);
      });
    };
    attempt(host, 1);
  }

  private giveUp(): void {
    this.stats.givenUp += 1;
    this.next();
  }

  /** By the version that the member's own replica has: it may be stale, and then refused. */
  private command(id: string, key: string, store: Store): Uint8Array {
    const annotations = create(AnnotationsSchema, { name: `register ${key}`, labels: [create(PairSchema, { key: 'value', value: id })] });
    const spec = create(ServiceSpecSchema, { annotations });
    const existing = store.get('service', key);
    const action = existing === undefined
      ? createAction('service', create(ServiceSchema, { id: key, spec }))
      : updateAction('service', Object.assign(clone(ServiceSchema, existing), { spec }));
    return encode(CommandSchema, create(CommandSchema, { id, time: timestampFromMs(EPOCH_MS + this.world.clock.nowMs), actions: [action] }));
  }
}
