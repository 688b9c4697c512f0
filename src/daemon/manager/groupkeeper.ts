// GroupKeeper: while this manager leads, carries out what core/control/managers decides about the group.

import type { Logger } from 'pino';
import { decideGroup } from '../../core/control/managers.js';
import type { ReadTx } from '../../core/store/view.js';
import type { Result } from '../../lib/result.js';
import { create } from '@bufbuild/protobuf';
import { RaftMemberSchema, type StoreAction } from '../../model/proto/swarmkit_pb.js';
import type { Consensus } from './consensus.js';
import { changeMember } from './groupchange.js';

const INTERVAL_MS = 200;
const CHANGE_TIMEOUT_MS = 5000;

export interface GroupKeeperOptions {
  readonly consensus: Consensus;
  readonly nodeId: string;
  readonly advertiseAddr: string;
  readonly commit: (build: (view: ReadTx) => readonly StoreAction[]) => Promise<Result<void>>;
  readonly logger: Logger;
}

export class GroupKeeper {
  private readonly options: GroupKeeperOptions;

  constructor(options: GroupKeeperOptions) {
    this.options = options;
  }

  /** Until the term ends. */
  async run(term: AbortSignal): Promise<void> {
    while (!term.aborted) {
      await this.once();
      await new Promise<void>((resolve) => {
        const end = (): void => {
          clearTimeout(timer);
          term.removeEventListener('abort', end);
          resolve();
        };
        const timer = setTimeout(end, INTERVAL_MS);
        term.addEventListener('abort', end);
      });
    }
  }

  private async once(): Promise<void> {
    const { consensus, logger, commit } = this.options;
    const decide = (view: ReadTx): ReturnType<typeof decideGroup> => decideGroup({
      view, status: consensus.status, members: consensus.members.list(),
      self: create(RaftMemberSchema, { raftId: consensus.raftId, nodeId: this.options.nodeId, addr: this.options.advertiseAddr }),
    });
    const { actions, change, handOver } = decide(consensus.store);
    if (actions.length > 0) {
      const done = await commit((view) => (consensus.leading ? decide(view).actions : []));
      if (!done.ok && consensus.leading) logger.error({ error: done.error.message }, 'the managers\' states could not be written');
    }
    if (change !== undefined && consensus.leading) {
      const { kind, member } = change;
      const done = await changeMember(consensus, kind, member, CHANGE_TIMEOUT_MS);
      logger.info({ kind, nodeId: member.nodeId, addr: member.addr, done }, 'change of the group of managers');
    }
    if (handOver !== undefined && consensus.leading) consensus.transferLeader(handOver);
  }
}
