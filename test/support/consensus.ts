// A group of one manager over a log on disk, without a node around it.

import { pino } from 'pino';
import { Consensus } from '../../src/daemon/manager/consensus.js';

/** Started: what is on disk was applied. */
export async function openAlone(directory: string, dek: Uint8Array, raftId: bigint, onCrash: (error: unknown) => void): Promise<Consensus> {
  const consensus = await Consensus.open({
    directory, dek, raftId, nodeId: 'm1', advertiseAddr: '127.0.0.1:2377', founder: true, begun: false, seeds: [],
    credentials: () => ({ rootCa: undefined, key: undefined, certificate: undefined, serverName: 'swarm-manager' }),
    logger: pino({ level: 'silent' }), onStale: (reason) => { throw new Error(reason); }, onCrash,
  });
  await consensus.start();
  return consensus;
}
