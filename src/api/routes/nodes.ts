// /nodes: list, inspect, update, remove.

import { find } from '../../core/control/lookup.js';
import { nodeName } from '../../model/task.js';
import { removeNode, updateNode } from '../../core/control/nodes.js';
import { unwrap } from '../../lib/result.js';
import { toRecord } from '../../model/pairs.js';
import { NodeSpec_Membership } from '../../model/proto/swarmkit_pb.js';
import { NodeRole } from '../../model/proto/swarmkit_pb.js';
import { nodeSpecFromJson, nodeToJson } from '../convert/node.js';
import type { Call, Route } from '../http.js';

export function nodeRoutes(): Route[] {
  return [
    ['GET', '/nodes', list],
    ['GET', '/nodes/:id', inspect],
    ['DELETE', '/nodes/:id', remove],
    ['POST', '/nodes/:id/update', update],
  ];
}

function list(call: Call): void {
  const filters = call.filters('id', 'label', 'node.label', 'membership', 'name', 'role');
  filters.oneOf('role', ['worker', 'manager'], (value) => `invalid role filter: '${value}'`);
  filters.oneOf('membership', ['accepted', 'pending'], (value) => `invalid membership filter: '${value}'`);
  const nodes = call.manager().view().list('node').filter((node) =>
    filters.prefix('id', node.id) && filters.prefix('name', nodeName(node))
    && filters.labels('label', toRecord(node.description?.engine?.labels))
    && filters.labels('node.label', toRecord(node.spec?.annotations?.labels))
    && filters.ignoringCase('role', node.role === NodeRole.MANAGER ? 'manager' : 'worker')
    && filters.ignoringCase('membership',
      node.spec?.membership === NodeSpec_Membership.PENDING ? 'pending' : 'accepted'));
  call.reply(200, nodes.map(nodeToJson));
}

function inspect(call: Call): void {
  call.reply(200, nodeToJson(unwrap(find(call.manager().view(), 'node', call.param('id')))));
}

async function update(call: Call): Promise<void> {
  const manager = call.manager();
  const version = call.version('node');
  const spec = nodeSpecFromJson(await call.json());
  unwrap(await manager.commit((view) => updateNode(view, { id: call.param('id'), version, spec })));
  call.reply(200);
}

async function remove(call: Call): Promise<void> {
  const request = { id: call.param('id'), force: call.flag('force') };
  unwrap(await call.manager().commit((view, context) => removeNode(view, request, context)));
  call.reply(200);
}
