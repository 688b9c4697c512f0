// Sandbox: what a task's network namespace is made of; the agent decides it, the data plane builds it.

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
