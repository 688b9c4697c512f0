// A manager that starts must not wait for others: what it has to wait for is on its own disk.

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { encodeConfChange } from '../../src/core/raft/confchange.js';
import type { ConfChangeKind, Entry } from '../../src/core/raft/types.js';
import { Consensus } from '../../src/daemon/manager/consensus.js';
import { memberContext } from '../../src/daemon/manager/members.js';
import { RaftLog } from '../../src/io/raftlog/raftlog.js';

const KEY = new Uint8Array(32).fill(7);
const OWN = 1n;
const OTHER = 2n;
/** Nobody listens there. */
const NOBODY = '127.0.0.1:1';
const made: string[] = [];
after(async () => Promise.all(made.map((directory) => rm(directory, { recursive: true, force: true }))));

function change(index: bigint, kind: ConfChangeKind, member: bigint): Entry {
  const data = encodeConfChange({ kind, member, context: memberContext(member, `n${member}`, NOBODY) });
  return { index, term: 1n, kind: 'confChange', data };
}

/** The log of a group's founder, as a kill left it. */
async function logOf(entries: readonly Entry[], commit: bigint): Promise<string> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'skein-start-'));
  made.push(directory);
  const log = new RaftLog(directory, KEY);
  await log.load();
  await log.append({ term: 1n, vote: OWN, commit }, entries);
  await log.close();
  return directory;
}

async function started(directory: string): Promise<bigint> {
  const consensus = await Consensus.open({
    directory, dek: KEY, raftId: OWN, nodeId: 'n1', advertiseAddr: NOBODY, founder: true, begun: false, seeds: [],
    credentials: () => ({ rootCa: undefined, key: undefined, certificate: undefined, serverName: 'swarm-manager' }),
    logger: pino({ level: 'silent' }), onStale: (reason) => { throw new Error(reason); }, onCrash: (error) => { throw error; },
  });
  try {
    assert.equal(await Promise.race([consensus.start().then(() => 'started'), sleep(3000, 'waits')]), 'started');
    return consensus.status.applied;
  } finally {
    await consensus.close();
  }
}

const FIRST = [change(1n, 'addNode', OWN), change(2n, 'addLearner', OTHER)];

describe('a manager that starts while the others are away', () => {
  it('does not wait for the second voter of its group, whose entry it did not see committed', async () => {
    assert.equal(await started(await logOf([...FIRST, change(3n, 'addNode', OTHER)], 2n)), 2n);
  });

  it('has all that is on its disk when nobody else votes', async () => {
    assert.ok(await started(await logOf(FIRST, 1n)) >= 2n);
  });
});
