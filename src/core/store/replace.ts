// A leader's snapshot takes the place of a whole store. Whoever follows the store looks at it again as a whole: events of
// nodes and of the cluster concern every listener.

import type { StoreState } from '../../model/proto/skein_pb.js';
import type { Store } from './store.js';
import type { StoreEvent } from './view.js';

export function replaceState(store: Store, state: StoreState): StoreEvent[] {
  const before = store.list('node');
  store.restore(state);
  const gone = before.filter(({ id }) => store.get('node', id) === undefined);
  return [
    ...store.list('cluster').map((object): StoreEvent => ({ kind: 'cluster', action: 'update', object, old: object })),
    ...store.list('node').map((object): StoreEvent => ({ kind: 'node', action: 'update', object, old: object })),
    ...gone.map((object): StoreEvent => ({ kind: 'node', action: 'remove', object, old: object })),
  ];
}
