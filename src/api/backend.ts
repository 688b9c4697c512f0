// NodeBackend and ManagerBackend: what the HTTP API needs of the running node. The daemon implements them; the API
// holds no state of its own.

import type { ChangeContext } from '../core/control/context.js';
import type { ClusterUpdate } from '../core/control/cluster.js';
import type { ReadTx, StoreEvent } from '../core/store/view.js';
import type { Result } from '../lib/result.js';
import type {
  LogMessage, LogSelector, LogSubscriptionOptions, StoreAction,
} from '../model/proto/swarmkit_pb.js';
import type { Executor } from '../platform/executor.js';

export type { ChangeContext };
/** A user's update of the swarm's settings. */
export type SwarmUpdate = Omit<ClusterUpdate, 'rootCa'>;

export interface ManagerBackend {
  /** The replica's state; what was committed before fresh() was called is in it. */
  view(): ReadTx;
  /** True once view() shows all that was committed before the call; false when no leader says so: then it may be old. */
  fresh(): Promise<boolean>;
  /**
   * Runs `build` on the current state and commits what it returns: durable and applied when this resolves.
   * When a concurrent change got in between (not a user's stale version), build runs again on the new state.
   * The result's value is whatever build returned beside the actions.
   */
  commit<T>(build: (view: ReadTx, context: ChangeContext) => Result<{ actions: readonly StoreAction[]; value: T }>): Promise<Result<T>>;
  /** Changes the swarm's settings, which may begin a rotation of its root or of the managers' unlock key. */
  updateSwarm(request: SwarmUpdate): Promise<Result<void>>;
  /** Log lines of the selected tasks, gathered from the nodes. Ends when all nodes are done and follow is off. */
  logs(selector: LogSelector, options: LogSubscriptionOptions, signal: AbortSignal): AsyncIterable<LogMessage>;
  /** Called after every applied command; returns the function that unsubscribes. */
  onEvents(listener: (events: readonly StoreEvent[], nowMs: number) => void): () => void;
}

export type LocalNodeState = 'inactive' | 'pending' | 'active' | 'error' | 'locked';

export interface InitRequest {
  readonly listenAddr: string;
  readonly advertiseAddr: string;
  readonly dataPathAddr: string;
  readonly dataPathPort: number;
  readonly forceNewCluster: boolean;
  readonly availability: 'active' | 'pause' | 'drain';
  readonly defaultAddrPool: readonly string[];
  readonly subnetSize: number;
  readonly autoLockManagers: boolean;
  readonly taskHistoryRetentionLimit: number | undefined;
  readonly heartbeatPeriodNs: bigint | undefined;
  readonly nodeCertExpiryNs: bigint | undefined;
  readonly snapshotInterval: bigint | undefined;
  readonly keepOldSnapshots: bigint | undefined;
  readonly labels: Readonly<Record<string, string>>;
}

export interface JoinRequest {
  readonly listenAddr: string;
  readonly advertiseAddr: string;
  readonly dataPathAddr: string;
  readonly remoteAddrs: readonly string[];
  readonly joinToken: string;
  readonly availability: 'active' | 'pause' | 'drain';
}

export interface LocalNode {
  readonly state: LocalNodeState;
  readonly error: string;
  /** Empty while inactive. */
  readonly nodeId: string;
  readonly isManager: boolean;
  /** Host part only. */
  readonly nodeAddr: string;
  /** Managers this node knows, "ip:port" with their node ids. */
  readonly remoteManagers: readonly { readonly nodeId: string; readonly addr: string }[];
  readonly rootCaPem: string;
}

export interface NodeBackend {
  readonly hostname: string;
  readonly stateDir: string;
  readonly executor: Executor;
  local(): LocalNode;
  /** Undefined on a worker or outside a swarm. */
  manager(): ManagerBackend | undefined;
  /** Resolves with the node id. */
  swarmInit(request: InitRequest): Promise<Result<string>>;
  swarmJoin(request: JoinRequest): Promise<Result<void>>;
  swarmLeave(force: boolean): Promise<Result<void>>;
  /** Of a node in the state `locked`. */
  swarmUnlock(key: Uint8Array): Promise<Result<void>>;
  /** Images were added or removed; resolves once the managers know (or cannot be reached), so that they can be used at once. */
  imagesChanged(): Promise<void>;
}
