// What a manager's member of the Raft group is made from.

import type { Logger } from 'pino';
import type { Credentials } from '../../io/grpc/client.js';
import type { RaftMember } from '../../model/proto/swarmkit_pb.js';

export interface ConsensusOptions {
  readonly directory: string;
  readonly dek: Uint8Array;
  /** The key that is about to take its place. */
  readonly pendingDek?: Uint8Array | undefined;
  readonly raftId: bigint;
  readonly nodeId: string;
  /** Where the other managers reach this one, "ip:port". */
  readonly advertiseAddr: string;
  /** This manager began the group, alone; others learn the group from its log. */
  readonly founder: boolean;
  /** The log is known to have held the state of the swarm. */
  readonly begun: boolean;
  /** Managers known from joining, until the log tells. */
  readonly seeds: readonly RaftMember[];
  readonly credentials: () => Credentials;
  readonly logger: Logger;
  /** Its log cannot be part of its group: nothing is sent any more, and close() is what is left. */
  readonly onStale: (reason: string) => void;
  /** What ends the loop: a disk that fails, or a bug. */
  readonly onCrash: (error: unknown) => void;
}
