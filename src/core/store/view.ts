// ReadTx: what every pure part of the control plane reads. Lists are in id order, never in insertion order, so that
// a replica restored from a snapshot decides the same. Objects are immutable once stored: change a clone.

import type {
  Cluster, Config, Network, Node, Secret, Service, StoreAction, Task,
} from '../../model/proto/swarmkit_pb.js';

export interface ObjectTypes {
  node: Node;
  service: Service;
  task: Task;
  network: Network;
  cluster: Cluster;
  secret: Secret;
  config: Config;
}
export type Kind = keyof ObjectTypes;
export const KINDS: readonly Kind[] = ['node', 'service', 'task', 'network', 'cluster', 'secret', 'config'];
export type StoreObject = ObjectTypes[Kind];

export interface ReadTx {
  /** Raft index of the last applied command. */
  readonly index: bigint;
  get<K extends Kind>(kind: K, id: string): ObjectTypes[K] | undefined;
  /** All objects of a kind, by id. */
  list<K extends Kind>(kind: K): readonly ObjectTypes[K][];
  /** By exact name, case-insensitive as in SwarmKit. Not for tasks and nodes. */
  byName<K extends 'service' | 'network' | 'secret' | 'config'>(kind: K, name: string): ObjectTypes[K] | undefined;
  tasksOfService(serviceId: string): readonly Task[];
  tasksOfNode(nodeId: string): readonly Task[];
  /** PENDING and meant to run, the oldest first: what the scheduler has to look at. Nothing may change meanwhile. */
  pendingTasks(): Iterable<Task>;
  /** The one cluster object; undefined before the swarm was initialised. */
  cluster(): Cluster | undefined;
}

export type StoreEvent = {
  [K in Kind]: {
    readonly kind: K;
    readonly action: 'create' | 'update' | 'remove';
    readonly object: ObjectTypes[K];
    /** Before the change; undefined on create. */
    readonly old: ObjectTypes[K] | undefined;
  };
}[Kind];

export type Actions = readonly StoreAction[];
