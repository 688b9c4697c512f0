// relock: a node's keys, sealed as the swarm says now. What lay in the clear before counts as known: the certificate is to be
// renewed, and the key of the raft log replaced.

import { lockChangeTo, type OwnLock } from '../core/ca/unlock.js';
import { newDataKey, type NodeKeys, type RaftKeys } from '../io/keystore/nodefile.js';

/** The same object when nothing changes. */
export function relocked(keys: NodeKeys, lock: OwnLock): NodeKeys {
  // None was written yet: there is nothing that the lock could be older than.
  if (keys.key === '') return { ...keys, unlockKey: lock.unlockKey, unlockVersion: lock.unlockVersion };
  const change = lockChangeTo(keys, lock);
  if (change === undefined) return keys;
  const { unlockKey, unlockVersion, replaceKeys } = change;
  const { raft } = keys;
  return {
    ...keys, unlockKey, unlockVersion, exposed: keys.exposed || replaceKeys,
    raft: replaceKeys && raft !== undefined ? withReplacement(raft) : raft,
  };
}

/** While one replacement is under way the next one waits for it: the files of the log have two keys at most. */
function withReplacement(raft: RaftKeys): RaftKeys {
  return raft.pending === undefined ? { ...raft, pending: newDataKey() } : { ...raft, again: true };
}
