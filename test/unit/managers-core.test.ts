// What the leader decides about the group of managers: who is taken in or out, who leads next, and what is refused.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { decideGroup, successor, type GroupDecision, type GroupInput } from '../../src/core/control/managers.js';
import { createAction } from '../../src/core/store/actions.js';
import type { Consensus } from '../../src/daemon/manager/consensus.js';
import { changeMember } from '../../src/daemon/manager/groupchange.js';
import { Members } from '../../src/daemon/manager/members.js';
import {
  NodeRole, NodeSchema, NodeSpecSchema, NodeSpec_Availability as Availability, RaftMemberSchema,
  RaftMemberStatus_Reachability as Reachability, type Node, type RaftMember,
} from '../../src/model/proto/swarmkit_pb.js';
import { World } from '../support/control.js';

interface Member {
  readonly drained?: boolean;
  /** Its node is to be a worker. */
  readonly demoted?: boolean;
  /** It is one already: it was demoted while it joined. */
  readonly worker?: boolean;
  /** It is in the group, and its node is not in the store. */
  readonly gone?: boolean;
  readonly silent?: boolean;
  readonly learner?: boolean;
  readonly match?: bigint;
}

/** Members 1, 2, ...; the first leads. */
function group(...members: Member[]): GroupInput {
  const world = new World();
  const known: RaftMember[] = members.map((_, index) => create(RaftMemberSchema, {
    raftId: BigInt(index + 1), nodeId: `n${index + 1}`, addr: `192.0.2.${index + 1}:2377`,
  }));
  world.apply(members.flatMap(({ gone, drained, demoted, worker }, index) => (gone === true ? [] : [createAction('node',
    create(NodeSchema, {
    id: `n${index + 1}`, role: worker === true ? NodeRole.WORKER : NodeRole.MANAGER,
    spec: create(NodeSpecSchema, {
      desiredRole: demoted === true || worker === true ? NodeRole.WORKER : NodeRole.MANAGER,
      availability: drained === true ? Availability.DRAIN : Availability.ACTIVE,
    }),
  }))])));
  return {
    view: world.store,
    members: known,
    self: known[0] as RaftMember,
    status: {
      id: 1n, commit: 5000n,
      confState: { voters: members.flatMap(({ learner }, index) => (learner === true ? [] : [BigInt(index + 1)])) },
      progress: members.map(({ learner, silent, match }, index) => ({
        member: BigInt(index + 1), learner: learner === true, heard: silent !== true, match: match ?? 5000n,
      })),
    },
  };
}

function removed({ change }: GroupDecision): bigint | undefined {
  assert.ok(change === undefined || change.kind === 'removeNode');
  return change?.member.raftId;
}

test('a leader goes on leading as long as its node is active', () => {
  const decision = decideGroup(group({}, {}, {}));
  assert.equal(decision.handOver, undefined);
  assert.equal(decision.change, undefined);
});

test('a drained leader hands over to the furthest that is heard from, never to a drained one', () => {
  assert.equal(decideGroup(group({ drained: true }, { match: 10n }, { match: 20n })).handOver, 3n);
  assert.equal(decideGroup(group({ drained: true }, { match: 10n }, { match: 20n, silent: true })).handOver, 2n);
  assert.equal(decideGroup(group({ drained: true }, { match: 10n }, { match: 20n, drained: true })).handOver, 2n);
  assert.equal(decideGroup(group({ drained: true }, { drained: true }, { drained: true })).handOver, undefined);
  assert.equal(decideGroup(group({ drained: true }, { learner: true }, { silent: true })).handOver, undefined);
  assert.equal(decideGroup(group({ drained: true })).handOver, undefined);
});

test('a demoted leader hands over even to a drained one, not to one that goes itself', () => {
  assert.equal(decideGroup(group({ demoted: true }, { drained: true }, { drained: true, match: 1n })).handOver, 2n);
  assert.equal(decideGroup(group({ demoted: true }, { demoted: true }, { match: 1n })).handOver, 3n);
  assert.equal(decideGroup(group({ demoted: true })).handOver, undefined);
});

test('whoever stops hands over as well, to a node that is not drained first', () => {
  assert.equal(successor(group({}, { drained: true }, { match: 1n })), 3n);
  assert.equal(successor(group({}, { drained: true }, { silent: true })), 2n);
  assert.equal(successor(group({}, { silent: true }, { gone: true })), undefined);
});

test('who is demoted or gone is taken out, unless those left and heard from are no quorum', () => {
  assert.equal(removed(decideGroup(group({}, { demoted: true }, {}))), 2n);
  assert.equal(removed(decideGroup(group({}, {}, { gone: true, silent: true }))), 3n);
  assert.equal(removed(decideGroup(group({}, { demoted: true }, { silent: true }))), undefined);
  assert.equal(removed(decideGroup(group({}, {}, { worker: true }))), 3n);
  assert.equal(removed(decideGroup(group({}, {}, { worker: true, silent: true }))), 3n);
  // Itself last of all: another one does that.
  assert.equal(removed(decideGroup(group({ demoted: true }, {}, {}))), undefined);
});

test('a learner votes once it has caught up, and only while it is heard from and stays', () => {
  const change = (member: Member): GroupDecision['change'] => decideGroup(group({}, {}, { ...member, learner: true })).change;
  assert.equal(change({ match: 3999n }), undefined);
  assert.equal(change({ match: 4000n })?.kind, 'addNode');
  assert.equal(change({ match: 5000n, silent: true }), undefined);
  const young = group({}, { learner: true, match: 0n });
  assert.equal(decideGroup({ ...young, status: { ...young.status, commit: 20n } }).change, undefined);
  assert.equal(change({ demoted: true })?.kind, 'removeNode');
  assert.equal(change({ worker: true })?.kind, 'removeNode');
  assert.equal(change({ worker: true, match: 10n })?.kind, 'removeNode');
});

test('of two members of one node the one that is not heard from is taken out', () => {
  const twice = (...silent: number[]): GroupInput => {
    const input = group({}, {}, { silent: silent.includes(3) }, { silent: silent.includes(4) });
    return { ...input, members: input.members.map((member, index) => (index === 3 ? { ...member, nodeId: 'n3' } : member)) };
  };
  assert.equal(removed(decideGroup(twice(3))), 3n);
  assert.equal(removed(decideGroup(twice(4))), 4n);
  assert.equal(removed(decideGroup(twice(3, 4))), undefined);
  assert.equal(removed(decideGroup(twice())), undefined);
});

test('before anything else the group learns who and where this manager is', () => {
  const input = group({}, { demoted: true }, {});
  const [self, ...others] = input.members as [RaftMember, ...RaftMember[]];
  assert.equal(decideGroup({ ...input, members: others }).change?.kind, 'addNode');
  const moved = create(RaftMemberSchema, { ...self, addr: '198.51.100.7:2377' });
  const decision = decideGroup({ ...input, self: moved });
  assert.equal(decision.change?.kind, 'updateNode');
  assert.equal(decision.change?.member.addr, '198.51.100.7:2377');
});

test('nodes tell who leads, who is reached, and are workers only once they are out of the group', () => {
  const input = group({}, { silent: true }, { demoted: true });
  const nodes = new Map(decideGroup(input).actions.map(({ target }) => {
    const node = target.value as Node;
    return [node.id, node] as const;
  }));
  assert.equal(nodes.get('n1')?.managerStatus?.leader, true);
  assert.equal(nodes.get('n2')?.managerStatus?.reachability, Reachability.UNREACHABLE);
  assert.equal(nodes.get('n3')?.role, NodeRole.MANAGER);
  const out = { ...input, members: input.members.slice(0, 2) };
  const [worker] = decideGroup(out).actions.map(({ target }) => target.value as Node).filter(({ id }) => id === 'n3');
  assert.equal(worker?.role, NodeRole.WORKER);
  assert.equal(worker?.managerStatus, undefined);
});

test('a vote is not given to one that is taken out meanwhile: nobody would take it out again', async () => {
  const member = create(RaftMemberSchema, { raftId: 2n, nodeId: 'n2', addr: '192.0.2.2:2377' });
  const members = new Members([member]);
  let proposed = 0;
  const consensus = {
    leading: true, members, status: { confState: { voters: [1n], learners: [2n] } },
    proposeChange: () => {
      proposed += 1;
      members.apply({ kind: 'removeNode', member: 2n, context: new Uint8Array() });
    },
  } as unknown as Consensus;
  assert.equal(await changeMember(consensus, 'addNode', member, 2000), false);
  assert.equal(proposed, 1);
});
