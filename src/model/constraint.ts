// Placement constraints: `key==value` and `key!=value` as SwarmKit reads them (values compare without case; node.ip
// takes an address or a prefix).

import { contains, parseAddress, parsePrefix } from '../lib/cidr.js';
import { fail, ok, type Result } from '../lib/result.js';
import { pairValue } from './pairs.js';
import { NodeRole, type Node } from './proto/swarmkit_pb.js';

export interface Constraint {
  readonly key: string;
  readonly equal: boolean;
  readonly value: string;
}

const KEY = /^(?:[a-z_][a-z0-9\-_.]+)$/i;
const VALUE = /^(?:[a-z0-9:\-_\s.*()?+[\]\\^$|/]+)$/i;

/** Errors in SwarmKit's words. */
export function parseConstraint(text: string): Result<Constraint> {
  for (const [operator, equal] of [['==', true], ['!=', false]] as const) {
    const at = text.indexOf(operator);
    if (at < 0) continue;
    const key = text.slice(0, at).trim();
    const value = text.slice(at + 2).trim();
    if (!KEY.test(key)) return fail('invalid_argument', `key '${key}' is invalid`);
    if (!VALUE.test(value)) return fail('invalid_argument', `value '${value}' is invalid`);
    return ok({ key, equal, value });
  }
  return fail('invalid_argument', 'constraint expected one operator from ==, !=');
}

/** A constraint that does not parse is met by no node. */
export function meetsConstraints(constraints: readonly string[], node: Node): boolean {
  return constraints.every((text) => {
    const parsed = parseConstraint(text);
    return parsed.ok && meets(parsed.value, node);
  });
}

function meets(constraint: Constraint, node: Node): boolean {
  const key = constraint.key.toLowerCase();
  if (key === 'node.ip') return meetsAddress(constraint, node);
  const found = valueOf(key, constraint.key, node);
  if (found === undefined) return false;
  return (found.toLowerCase() === constraint.value.toLowerCase()) === constraint.equal;
}

/** Undefined for keys nobody knows; a label that is not set is the empty string. */
function valueOf(key: string, original: string, node: Node): string | undefined {
  const description = node.description;
  switch (key) {
    case 'node.id': return node.id;
    case 'node.hostname': return description?.hostname ?? '';
    case 'node.role': return node.role === NodeRole.MANAGER ? 'manager' : 'worker';
    case 'node.platform.os': return description?.platform?.os ?? '';
    case 'node.platform.arch': return description?.platform?.architecture ?? '';
    default: break;
  }
  if (key.startsWith('node.labels.')) {
    return pairValue(node.spec?.annotations?.labels, original.slice('node.labels.'.length)) ?? '';
  }
  if (key.startsWith('engine.labels.')) {
    return pairValue(description?.engine?.labels, original.slice('engine.labels.'.length)) ?? '';
  }
  return undefined;
}

function meetsAddress(constraint: Constraint, node: Node): boolean {
  const address = parseAddress(node.status?.addr ?? '');
  const prefix = parsePrefix(constraint.value.includes('/') ? constraint.value : `${constraint.value}/32`);
  if (address === undefined || prefix === undefined) return false;
  return contains(prefix, address) === constraint.equal;
}
