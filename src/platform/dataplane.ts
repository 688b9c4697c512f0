// DataPlane: the tables and devices of one node, as the agent drives them. Implementations forward packets;
// they never decide policy. Every call is idempotent: the agent repeats all of it after either side restarted.

import type { Row } from '../model/proto/skein_pb.js';

/** One interface of a task in an overlay network. */
export interface OverlayInterface {
  /** Device name in the task's namespace, e.g. "eth0". */
  readonly ifname: string;
  readonly vni: number;
  /** CIDR text, e.g. "10.0.1.5/24". */
  readonly addresses: readonly string[];
  readonly mac: string;
  readonly mtu: number;
}

/** The task's way out: an interface on the node's gateway bridge network, with the default route. */
export interface GatewayInterface {
  readonly ifname: string;
  /** CIDR text, e.g. "172.18.0.7/16". */
  readonly address: string;
  readonly mac: string;
}

/** Everything of a task's network namespace. Complete before the task's first instruction. */
export interface Sandbox {
  /** Task id; the namespace becomes <runDir>/netns/<id>. */
  readonly id: string;
  readonly interfaces: readonly OverlayInterface[];
  /** Absent for tasks that have only internal networks. */
  readonly gateway: GatewayInterface | undefined;
  /** Net sysctls to set inside, name to value, e.g. "net.core.somaxconn". */
  readonly sysctls: Readonly<Record<string, string>>;
}

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
