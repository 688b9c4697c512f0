// DataPlane: the tables and devices of one node, as the agent drives them. Implementations forward packets;
// they never decide policy. Every call is idempotent: the agent repeats all of it after either side restarted.

import type { Row } from '../model/proto/skein_pb.js';
import type { Sandbox } from '../model/sandbox.js';

/** What the node's own side of the data plane is made of. */
export interface NodeNetworkConfig {
  readonly nodeId: string;
  /** Data-path address: source of VXLAN packets and where it listens. */
  readonly vtep: string;
  readonly vxlanPort: number;
  /** The gateway bridge network, CIDR text of the bridge's own address, e.g. "172.18.0.1/16". */
  readonly gatewayBridge: string;
  /** Linux MTU of the underlay interface, used to cut VXLAN packets. */
  readonly underlayMtu: number;
}

/** Complete set of rows (replace) or an increment. */
export interface TableDelta {
  readonly revision: bigint;
  readonly replace: boolean;
  readonly upsert: readonly Row[];
  readonly remove: readonly string[];
}

export interface DataPlaneProbe {
  readonly engine: string;
  readonly supported: boolean;
  /** One line per capability looked at: what was found and what follows. */
  readonly findings: readonly { readonly name: string; readonly ok: boolean; readonly detail: string }[];
}

/** A DNS question that the rows do not answer. */
export interface DnsMiss {
  /** Id of the sandbox that asked. */
  readonly sandbox: string;
  readonly tcp: boolean;
  /** The query as received. */
  readonly query: Uint8Array;
  /** Sends the answer; a second call or a call after the data plane restarted does nothing. */
  reply(answer: Uint8Array): void;
}

export interface DataPlane {
  probe(): Promise<DataPlaneProbe>;
  configure(config: NodeNetworkConfig): Promise<void>;
  /** Makes the sandbox's namespace, devices, addresses, routes and DNS sockets; resolves when all of it is there. */
  attach(sandbox: Sandbox): Promise<{ readonly netns: string }>;
  detach(sandboxId: string): Promise<void>;
  /** Sandboxes the data plane or the disk knows of (after a restart). */
  sandboxes(): Promise<readonly string[]>;
  /** Resolves with the installed revision. */
  apply(delta: TableDelta): Promise<bigint>;
  /** Counter name to value, drops as "drop.<reason>". */
  counters(): Promise<Readonly<Record<string, bigint>>>;
  onDnsMiss(handler: (miss: DnsMiss) => void): void;
  /** Called when the data plane process was lost and is back: the owner sends configuration, sandboxes and rows again. */
  onRestart(handler: () => void): void;
  /** Lets go of the data plane; it goes on forwarding. */
  close(): Promise<void>;
  /** Stops the data plane and removes everything it made. */
  destroy(): Promise<void>;
  /** destroy(), but it may be used again: the node left its swarm and may join another. */
  reset(): Promise<void>;
}
