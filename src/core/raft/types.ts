// The vocabulary of the Raft core: what goes in and what comes out. Terms are those of the paper ("In Search of an
// Understandable Consensus Algorithm", extended version) and of the thesis; message kinds are raftpb's.
// Ids of members are raft ids (63 random bits, never used again), not node ids; 0 stands for none.

export type EntryKind = 'normal' | 'confChange';

export interface Entry {
  readonly index: bigint;
  readonly term: bigint;
  readonly kind: EntryKind;
  /**
   * Opaque for `normal`; an encoded ConfChange for `confChange`. Empty for a leader's first entry in its term, unless it
   * begins the group.
   */
  readonly data: Uint8Array;
}

export interface HardState {
  readonly term: bigint;
  /** Member voted for in this term, 0 for none. */
  readonly vote: bigint;
  readonly commit: bigint;
}

/** Who counts. Sorted ascending, no member in both. */
export interface ConfState {
  readonly voters: readonly bigint[];
  /** Receive the log, are never counted. */
  readonly learners: readonly bigint[];
}

/** `addNode` of a learner makes it a voter; `updateNode` changes nothing but the context. */
export type ConfChangeKind = 'addNode' | 'addLearner' | 'removeNode' | 'updateNode';

export interface ConfChange {
  readonly kind: ConfChangeKind;
  readonly member: bigint;
  /** Opaque: the member's node id and address. */
  readonly context: Uint8Array;
}

export interface SnapshotMeta {
  readonly index: bigint;
  readonly term: bigint;
  readonly confState: ConfState;
}

export interface Snapshot extends SnapshotMeta {
  readonly data: Uint8Array;
}

export type MessageKind =
  | 'append' | 'appendResponse' | 'heartbeat' | 'heartbeatResponse' | 'snapshot'
  | 'preVote' | 'preVoteResponse' | 'vote' | 'voteResponse'
  | 'timeoutNow' | 'readIndex' | 'readIndexResponse';

export interface Message {
  readonly kind: MessageKind;
  readonly to: bigint;
  readonly from: bigint;
  readonly term: bigint;
  /** append: index and term of the entry before the first one. vote, preVote: those of the candidate's last entry.
   * appendResponse: the last index the follower has (match), or, rejected, the index that was refused. */
  readonly index: bigint;
  readonly logTerm: bigint;
  readonly entries: readonly Entry[];
  readonly commit: bigint;
  readonly reject: boolean;
  /** appendResponse, rejected: the follower's guess where the logs may meet (thesis, 5.3), with its term in logTerm. */
  readonly rejectHint: bigint;
  /** vote, preVote: asked for by a leadership transfer, so leases do not hold it up. */
  readonly transfer: boolean;
  /** heartbeat, heartbeatResponse: newest read round; readIndex, readIndexResponse: the asker's own number. */
  readonly context: bigint;
  /** Kind `snapshot`. On its way out only meta: the shell adds the bytes of the newest snapshot it has, and its meta. */
  readonly snapshot: SnapshotMeta | Snapshot | undefined;
}

export type Role = 'follower' | 'preCandidate' | 'candidate' | 'leader';

export interface SoftState {
  readonly role: Role;
  /** 0 while unknown. */
  readonly leader: bigint;
}

/** The state machine, once it has applied `index`, may answer the read `context` linearizably (thesis, 6.4). */
export interface ReadState {
  readonly context: bigint;
  readonly index: bigint;
}

export interface Ready {
  /** Changed since the last Ready: persist with the entries. */
  readonly hardState: HardState | undefined;
  /** A snapshot from the leader: persist it, drop the log, restore the state machine from it; before `entries`. */
  readonly snapshot: Snapshot | undefined;
  /** Persist, in order. The first one's index may be at or below what is on disk: that and all after it is replaced. */
  readonly entries: readonly Entry[];
  /**
   * A leader's appends and heartbeats: they may go while what is above is being written, for they vouch for nothing that this
   * member has on disk (thesis, 10.2.1). May be lost.
   */
  readonly early: readonly Message[];
  /** Send after hardState, snapshot and entries are on disk, in order; may be lost. */
  readonly messages: readonly Message[];
  /** Apply to the state machine, in order. applyConfChange() tells the configuration that a `confChange` entry made. */
  readonly committed: readonly Entry[];
  readonly readStates: readonly ReadState[];
  /** Changed since the last Ready. A member that leads one term and then another is no leader in a Ready between. */
  readonly softState: SoftState | undefined;
  /** The write must be on disk before going on. A mere advance of commit may ride with the next write. */
  readonly mustSync: boolean;
}

export type ProgressState = 'probe' | 'replicate' | 'snapshot';

/** A leader's knowledge of one member. */
export interface ProgressView {
  readonly member: bigint;
  readonly state: ProgressState;
  readonly match: bigint;
  readonly next: bigint;
  readonly learner: boolean;
  /**
   * In this or the last period of the quorum's checks: at most two election timeouts ago. Of this one alone each check would say no,
   * until the next answer.
   */
  readonly heard: boolean;
}

export interface RaftStatus {
  readonly id: bigint;
  readonly role: Role;
  readonly leader: bigint;
  /** It leads, or its leader spoke within the last election timeout. */
  readonly hearsLeader: boolean;
  readonly term: bigint;
  readonly commit: bigint;
  readonly applied: bigint;
  /** With `confState` and `applied` the meta of a snapshot taken now. */
  readonly appliedTerm: bigint;
  readonly last: bigint;
  /** As of `applied`: what a snapshot taken there holds. */
  readonly confState: ConfState;
  /** As of `last`: who counts now (thesis, 4.1). */
  readonly activeConfState: ConfState;
  /** The other members, also one whose removal is not committed yet. Empty unless this member leads. */
  readonly progress: readonly ProgressView[];
}

export interface RaftStart {
  readonly id: bigint;
  readonly hardState: HardState;
  /**
   * As of the snapshot; members joined later are learned from the log. Without a snapshot: this member alone if it begins
   * a group, which its first entry then says; empty if it waits to be added.
   */
  readonly confState: ConfState;
  /** Index and term of the snapshot the log begins after; 0 without one. */
  readonly snapshotIndex: bigint;
  readonly snapshotTerm: bigint;
  /** Persisted entries after the snapshot, contiguous. */
  readonly entries: readonly Entry[];
  /** Ticks without a word from the leader until a member campaigns: this many to twice as many, drawn anew each time. */
  readonly electionTicks: number;
  readonly heartbeatTicks: number;
  /** For the draws above, and for numbers that no earlier life of this member may have used: another one at each start. */
  readonly seed: bigint;
  /** Bytes of entries in one append message; at least one entry always goes. */
  readonly appendBytesMax: number;
  /** Append messages on their way to one follower. */
  readonly inflightMax: number;
  /** Bytes of entries not committed yet; proposals beyond are refused. */
  readonly uncommittedBytesMax: number;
}

/** Why a proposal was not taken. */
export type ProposalRefusal =
  | 'notLeader' | 'transferring' | 'tooMuchUncommitted'
  /** One is not applied yet, or the leader has committed no entry of its own term. */
  | 'confChangePending'
  /** No voter would be left. */
  | 'confChangeInvalid'
  /** The log does not tell who began the group: compact() before anybody joins. */
  | 'snapshotNeeded';
