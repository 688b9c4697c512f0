// Finding the object a user means: by full id, then by exact name, then by id prefix, as Docker does for all swarm
// objects. The failures carry Docker's texts.

import { fail, ok, type Result } from '../../lib/result.js';
import type { Node, Task } from '../../model/proto/swarmkit_pb.js';
import { nodeName, taskName } from '../../model/task.js';
import type { ObjectTypes, ReadTx } from '../store/view.js';

type Findable = 'service' | 'network' | 'secret' | 'config' | 'node' | 'task';

function nameOf<K extends Findable>(kind: K, object: ObjectTypes[K]): string {
  if (kind === 'node') return nodeName(object as Node);
  if (kind === 'task') return taskName(object as Task);
  return (object as ObjectTypes['service']).spec?.annotations?.name ?? '';
}

export function find<K extends Findable>(view: ReadTx, kind: K, reference: string): Result<ObjectTypes[K]> {
  const exact = view.get(kind, reference);
  if (exact !== undefined) return ok(exact);
  const all = view.list(kind);
  let matches = all.filter((object) => nameOf(kind, object) === reference);
  if (matches.length === 0 && reference !== '') matches = all.filter((object) => object.id.startsWith(reference));
  const [first] = matches;
  if (first === undefined) return fail('not_found', `${kind} ${reference} not found`);
  if (matches.length > 1) {
    return fail('invalid_argument', `${kind} ${reference} is ambiguous (${matches.length} matches found)`);
  }
  return ok(first);
}
