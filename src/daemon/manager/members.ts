// Members: who is in the group of managers, by raft id, as the log says: from the contexts of its membership changes.

import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import type { ConfChange } from '../../core/raft/types.js';
import { RaftMemberSchema, type RaftMember } from '../../model/proto/swarmkit_pb.js';

/** Those taken out longest ago are forgotten. */
const REMOVED_MAX = 1000;

export class Members {
  private readonly byId = new Map<bigint, RaftMember>();
  /** Taken out of the group in this process' life, the last ones last. A raft id is never used again. */
  private readonly removed = new Set<bigint>();
  private readonly seen = new Map<bigint, string>();

  constructor(members: readonly RaftMember[]) {
    this.replace(members);
  }

  /** As a snapshot has it. It may be older than what was known: those that it lacks may have come later, and one of them may lead. */
  replace(members: readonly RaftMember[]): void {
    this.byId.clear();
    for (const member of members) this.byId.set(member.raftId, member);
  }

  apply(change: ConfChange): void {
    if (change.kind === 'removeNode') this.remove(change.member);
    else if (change.context.length > 0) this.byId.set(change.member, fromBinary(RaftMemberSchema, change.context));
  }

  private remove(raftId: bigint): void {
    this.byId.delete(raftId);
    this.seen.delete(raftId);
    this.removed.add(raftId);
    const [oldest] = this.removed;
    if (oldest !== undefined && this.removed.size > REMOVED_MAX) this.removed.delete(oldest);
  }

  /** As a link of it says, for as long as that stands: it may have moved, or come, while this manager was away. */
  located(raftId: bigint, addr: string | undefined): void {
    if (addr === undefined) this.seen.delete(raftId);
    else this.seen.set(raftId, addr);
  }

  /** Where all but this one are reached. */
  addresses(but: bigint): Map<bigint, string> {
    const addresses = new Map([...this.list().map(({ raftId, addr }) => [raftId, addr] as const), ...this.seen]);
    addresses.delete(but);
    return addresses;
  }

  get(raftId: bigint): RaftMember | undefined {
    return this.byId.get(raftId);
  }

  wasRemoved(raftId: bigint): boolean {
    return this.removed.has(raftId);
  }

  ofNode(nodeId: string): RaftMember | undefined {
    return this.list().find((member) => member.nodeId === nodeId);
  }

  /** Sorted by raft id. */
  list(): RaftMember[] {
    return [...this.byId.values()].sort((a, b) => (a.raftId < b.raftId ? -1 : a.raftId > b.raftId ? 1 : 0));
  }
}

export function memberContext(raftId: bigint, nodeId: string, addr: string): Uint8Array {
  return toBinary(RaftMemberSchema, create(RaftMemberSchema, { raftId, nodeId, addr }));
}
