// Data-path addresses: who may be sent other nodes' traffic. A node announces its address itself, so it could name
// another's and receive what is meant for that one. Hence an address is given out, like any other: to one node that is not
// DOWN. Among several that want it the first is the one that also talks to the manager from it, which it could not if
// the address were not its own; then whoever has it; then the older node. The others get none and are told why.
//
// A node that changes its address lets go of the old one with the same decision. A node that is DOWN or removed has
// none, so a machine that replaced it can have its address; the old one has to want it again when it comes back.

import { timestampMs } from '../../lib/time.js';
import { isUnicast } from '../../lib/cidr.js';
import { cutText } from '../../lib/text.js';
import { announcedAddress, vtepOf } from '../../model/network.js';
import { compareText } from '../../model/pairs.js';
import { nodeName } from '../../model/task.js';
import { NodeStatus_State, type Node } from '../../model/proto/swarmkit_pb.js';

export interface DataPathDecision {
  readonly addr: string;
  /** Why there is none; empty where nothing is wrong. */
  readonly problem: string;
}

const NONE: DataPathDecision = { addr: '', problem: '' };
const SHOWN_MAX = 64;

export function decideDataPaths(nodes: readonly Node[]): Map<string, DataPathDecision> {
  const decisions = new Map<string, DataPathDecision>();
  const wanted = new Map<string, Node[]>();
  for (const node of nodes) {
    const address = announcedAddress(node);
    if (node.status?.state === NodeStatus_State.DOWN || address === '') decisions.set(node.id, NONE);
    else if (!isUnicast(address)) decisions.set(node.id, { addr: '', problem: invalidText(address) });
    else wanted.set(address, [...wanted.get(address) ?? [], node]);
  }
  for (const [address, rivals] of wanted) {
    const [first, ...others] = rivals.sort((a, b) => rank(a, address) - rank(b, address) || byAge(a, b)) as [Node, ...Node[]];
    decisions.set(first.id, { addr: address, problem: '' });
    for (const other of others) decisions.set(other.id, { addr: '', problem: takenText(address, first) });
  }
  return decisions;
}

function rank(node: Node, address: string): number {
  if (node.status?.addr === address) return vtepOf(node) === address ? 0 : 1;
  return vtepOf(node) === address ? 2 : 3;
}

function byAge(a: Node, b: Node): number {
  return timestampMs(a.meta?.createdAt) - timestampMs(b.meta?.createdAt) || compareText(a.id, b.id);
}

function invalidText(address: string): string {
  return `data-path address "${cutText(address, SHOWN_MAX)}" is not an IPv4 address of one host: join again with --data-path-addr`;
}

function takenText(address: string, owner: Node): string {
  const name = cutText(nodeName(owner), SHOWN_MAX);
  const who = name === '' ? owner.id : `${owner.id} (${name})`;
  return `data-path address ${address} is in use by node ${who}: join again with another --data-path-addr, or remove that node`;
}
