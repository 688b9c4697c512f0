// Executor: runs tasks. The verbs are SwarmKit's Controller; an implementation keeps tasks running when the agent
// dies and finds them again by adopt().

import type { NodeDescription, Task } from '../model/proto/swarmkit_pb.js';

export interface TaskEnvironment {
  /** Path of the task's network namespace, complete. */
  readonly netns: string;
  /** Container name, `<service>.<slot or node id>.<task id>`. */
  readonly name: string;
  /** Contents of /etc/resolv.conf's nameserver lines and search domains. */
  readonly dns: { readonly nameservers: readonly string[]; readonly search: readonly string[]; readonly options: readonly string[] };
  /** Lines for /etc/hosts: address and names. */
  readonly hosts: readonly { readonly address: string; readonly names: readonly string[] }[];
  /** Spec after templates were expanded on this node: hostname, env, mounts. */
  readonly hostname: string;
  readonly env: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  /** Payloads of the secrets and configs that the task's spec refers to, by id. */
  readonly secrets: ReadonlyMap<string, Uint8Array>;
  readonly configs: ReadonlyMap<string, Uint8Array>;
}

export interface ContainerState {
  readonly containerId: string;
  readonly pid: number;
  readonly startedAtMs: number;
}

export interface ExitState {
  readonly exitCode: number;
  readonly finishedAtMs: number;
  /** Set when it did not end by itself, e.g. "OOM killed" or "unhealthy container". */
  readonly reason: string | undefined;
}

export interface LogRecord {
  readonly stream: 'stdout' | 'stderr';
  /** Nanoseconds since the epoch. */
  readonly timestampNs: bigint;
  /** One line including its newline; a partial line has none. */
  readonly data: Uint8Array;
}

export interface LogOptions {
  readonly follow: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  /** Last n lines; undefined for all. */
  readonly tail: number | undefined;
  readonly sinceNs: bigint | undefined;
  readonly signal: AbortSignal;
}

/** Rejections with AppFailure are expected failures (unknown image, bad mount): the task is REJECTED or FAILED with the message. */
export interface Controller {
  /** Image present, root file system and config written. */
  prepare(task: Task, environment: TaskEnvironment): Promise<void>;
  start(): Promise<ContainerState>;
  /** Resolves once the task counts as up: at once, or when its health check first passes. */
  healthy(): Promise<void>;
  /** Resolves when the task's process has ended (or was found ended). */
  wait(): Promise<ExitState>;
  /** Asks it to end: stop signal, then after graceMs SIGKILL. Resolves when it ended. */
  shutdown(graceMs: number): Promise<void>;
  terminate(): Promise<void>;
  /** Removes everything on disk but keeps nothing running. Idempotent. */
  remove(): Promise<void>;
  logs(options: LogOptions): AsyncIterable<LogRecord>;
  state(): ContainerState | undefined;
}

export interface ImageSummary {
  /** "sha256:..." of the image's config. */
  readonly id: string;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  readonly createdMs: number;
  readonly sizeBytes: number;
  readonly os: string;
  readonly architecture: string;
  /** The OCI image config's `config` object: Env, Cmd, Entrypoint, ... */
  readonly config: Readonly<Record<string, unknown>>;
}

export interface ImageStore {
  list(): Promise<readonly ImageSummary[]>;
  /** By name, name:tag, name@digest or id (prefix); undefined when unknown. */
  inspect(reference: string): Promise<ImageSummary | undefined>;
  /** `docker load`: a tar of docker-archive or OCI layout, possibly compressed. Returns the loaded names. */
  load(tar: AsyncIterable<Uint8Array>): Promise<readonly string[]>;
  /** `docker import`: a root file system tar. Returns the image id. */
  importTar(tar: AsyncIterable<Uint8Array>, options: { readonly reference: string | undefined; readonly changes: readonly string[]; readonly message: string }): Promise<string>;
  remove(reference: string): Promise<boolean>;
}

export interface ContainerSummary {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly imageId: string;
  readonly command: string;
  readonly createdMs: number;
  readonly state: 'created' | 'running' | 'exited';
  readonly startedAtMs: number | undefined;
  readonly exit: ExitState | undefined;
  readonly pid: number;
  readonly labels: Readonly<Record<string, string>>;
}

export interface Executor {
  readonly kind: 'oci' | 'docker';
  /** Platform, resources and engine of this machine, without tls_info. */
  describe(hostname: string): Promise<NodeDescription>;
  readonly images: ImageStore;
  /** The controller of a task; the same object for the same task id while it is known. */
  controller(taskId: string): Controller;
  /** Task ids with something on disk or running, found after a restart. */
  adopt(): Promise<readonly string[]>;
  containers(): Promise<readonly ContainerSummary[]>;
  close(): Promise<void>;
}
