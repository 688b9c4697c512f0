// Network rows: from the store to what a node's tables must hold. clusterRows() computes every row once per store
// state; partsForNode() picks what one node needs; diffParts() makes the increment. Rows of a node that is DOWN are gone
// in the same commit. A task is an active backend while it runs and is meant to; a draining one takes no new flow.

import { create } from '@bufbuild/protobuf';
import { sameMessage } from '../../model/message.js';
import { addressOf, attachmentConfigs, isIngress, macOf, vniOf, vtepOf } from '../../model/network.js';
import { desiredOf, ingressPorts, hostPorts, stateOf, taskName, usesVip } from '../../model/task.js';
import { isDnsName } from '../../lib/dnsname.js';
import {
  BackendRowSchema, SubnetRowSchema, type BackendRow, type Row,
} from '../../model/proto/skein_pb.js';
import {
  NodeStatus_State, PortConfig_Protocol, TaskState, type Network, type Node, type PortConfig, type Service, type Task,
} from '../../model/proto/swarmkit_pb.js';
import { pairValue } from '../../model/pairs.js';
import type { ReadTx } from '../store/view.js';

/** Inner MTU: 1500 of the underlay less VXLAN over IPv4, as Docker. */
const MTU_DEFAULT = 1500;
const VXLAN_OVERHEAD = 50;
const MTU_OPTION = 'com.docker.network.driver.mtu';

export interface ClusterRows {
  /** Rows of one VNI, by key. */
  readonly byVni: ReadonlyMap<number, ReadonlyMap<string, Row>>;
  /** Rows every node needs: nodes and ingress ports. */
  readonly common: ReadonlyMap<string, Row>;
  readonly ingressVni: number | undefined;
}

/** `before`: of an earlier state. What did not change stays the same, so that nobody need look into it for each node. */
export function clusterRows(view: ReadTx, before?: ClusterRows): ClusterRows {
  const builder = new Builder(view);
  for (const network of view.list('network')) builder.network(network);
  for (const node of view.list('node')) builder.node(node);
  for (const service of view.list('service')) builder.service(service);
  for (const task of view.list('task')) builder.task(task);
  const rows = builder.finish();
  if (before === undefined) return rows;
  return {
    common: kept(before.common, rows.common), ingressVni: rows.ingressVni,
    byVni: new Map([...rows.byVni].map(([vni, ofVni]) => [vni, kept(before.byVni.get(vni), ofVni)])),
  };
}

function kept(before: Part | undefined, rows: Map<string, Row>): Part {
  if (before === undefined) return rows;
  let same = before.size === rows.size;
  for (const [key, row] of rows) {
    const old = before.get(key);
    if (old !== undefined && sameMessage(old, row)) rows.set(key, old);
    else same = false;
  }
  return same ? before : rows;
}

type Part = ReadonlyMap<string, Row>;
/** What a node needs, in parts that nodes share: by VNI, and what is common to all. No two parts have a key in common. */
export type Parts = ReadonlyMap<number, Part>;

/** No VNI (RFC 7348: 24 bits). */
const COMMON = -1;
const NO_ROWS: Part = new Map();

/** What one node needs: its tasks' networks, the ingress network, and what is common to all. */
export function partsForNode(view: ReadTx, rows: ClusterRows, nodeId: string): Parts {
  const vnis = new Set<number>();
  if (rows.ingressVni !== undefined) vnis.add(rows.ingressVni);
  for (const task of view.tasksOfNode(nodeId)) {
    if (stateOf(task) < TaskState.ASSIGNED || stateOf(task) > TaskState.RUNNING) continue;
    for (const attachment of task.networks) {
      const vni = attachment.network === undefined ? undefined : vniOf(attachment.network);
      if (vni !== undefined) vnis.add(vni);
    }
  }
  return new Map([[COMMON, rows.common], ...[...vnis].map((vni) => [vni, rows.byVni.get(vni) ?? NO_ROWS] as const)]);
}

/** The same in one. */
export function rowsForNode(view: ReadTx, rows: ClusterRows, nodeId: string): Map<string, Row> {
  const all = new Map<string, Row>();
  for (const part of partsForNode(view, rows, nodeId).values()) for (const [key, one] of part) all.set(key, one);
  return all;
}

export interface RowDiff {
  readonly upsert: Row[];
  readonly remove: string[];
}

/**
 * The last difference of each part from a later one: nodes mostly have the same, and go from it to the same. The later one is held
 * weakly: or a node that has stopped reading would keep, with the part it has, every one that followed.
 */
const differences = new WeakMap<Part, { readonly after: WeakRef<Part>; readonly diff: RowDiff }>();

export function diffParts(before: Parts, after: Parts): RowDiff {
  const upsert: Row[] = [];
  const remove: string[] = [];
  for (const key of new Set([...before.keys(), ...after.keys()])) {
    const [from, to] = [before.get(key) ?? NO_ROWS, after.get(key) ?? NO_ROWS];
    if (from === to) continue;
    let known = differences.get(from);
    if (known === undefined || known.after.deref() !== to) {
      differences.set(from, known = { after: new WeakRef(to), diff: diffRows(from, to) });
    }
    for (const row of known.diff.upsert) upsert.push(row);
    for (const gone of known.diff.remove) remove.push(gone);
  }
  return { upsert, remove };
}

export function diffRows(before: ReadonlyMap<string, Row>, after: ReadonlyMap<string, Row>): RowDiff {
  const upsert: Row[] = [];
  const remove: string[] = [];
  for (const [key, row] of after) {
    const old = before.get(key);
    if (old === undefined || (old !== row && !sameMessage(old, row))) upsert.push(row);
  }
  for (const key of before.keys()) if (!after.has(key)) remove.push(key);
  return { upsert, remove };
}

class Builder {
  private readonly view: ReadTx;
  private readonly byVni = new Map<number, Map<string, Row>>();
  private readonly common = new Map<string, Row>();
  private readonly names = new Map<number, Map<string, Set<string>>>();
  private ingressVni: number | undefined;

  constructor(view: ReadTx) {
    this.view = view;
  }

  network(network: Network): void {
    const vni = vniOf(network);
    if (vni === undefined) return;
    if (isIngress(network)) this.ingressVni = vni;
    const option = Number(pairValue(network.driverState?.options, MTU_OPTION) ?? MTU_DEFAULT);
    const subnets = (network.ipam?.configs ?? []).map((c) => create(SubnetRowSchema, { subnet: c.subnet, gateway: c.gateway }));
    this.put(vni, `net/${vni}`, {
      case: 'network',
      value: {
        $typeName: 'skein.v1.NetworkRow', vni, networkId: network.id, name: network.spec?.annotations?.name ?? '', subnets,
        mtu: (Number.isInteger(option) && option > VXLAN_OVERHEAD ? option : MTU_DEFAULT) - VXLAN_OVERHEAD,
        internal: network.spec?.internal === true, ingress: isIngress(network),
        encrypted: pairValue(network.spec?.driverConfig?.options, 'encrypted') !== undefined,
      },
    });
  }

  node(node: Node): void {
    const vtep = vtepOf(node);
    if (node.status?.state === NodeStatus_State.DOWN || vtep === '') return;
    const attachment = node.attachments.find((a) => a.network !== undefined && isIngress(a.network));
    const ingressAddress = addressOf(attachment?.addresses[0] ?? '');
    this.common.set(`node/${node.id}`, row(`node/${node.id}`, {
      case: 'node', value: { $typeName: 'skein.v1.NodeRow', nodeId: node.id, vtep, ingressAddress },
    }));
    const vni = attachment?.network === undefined ? undefined : vniOf(attachment.network);
    if (vni !== undefined && ingressAddress !== '') this.endpoint(vni, ingressAddress, vtep, node.id, '');
  }

  service(service: Service): void {
    const backends = this.view.tasksOfService(service.id).filter((task) => this.isBackend(task));
    for (const config of attachmentConfigs(service)) {
      const network = this.view.get('network', config.target);
      const vni = network === undefined ? undefined : vniOf(network);
      if (vni === undefined) continue;
      const name = service.spec?.annotations?.name ?? '';
      const rows = backends.flatMap((task) => backendRow(task, config.target) ?? []);
      const active = rows.filter((b) => !b.draining).map((b) => b.address);
      const vip = addressOf(service.endpoint?.virtualIps.find((v) => v.networkId === config.target)?.addr ?? '');
      if (usesVip(service) && vip !== '') {
        const key = `svc/${vni}/${service.id}`;
        this.put(vni, key, {
          case: 'service', value: { $typeName: 'skein.v1.ServiceRow', vni, serviceId: service.id, name, vip, backends: rows },
        });
      }
      for (const alias of [name, ...config.aliases]) {
        this.name(vni, alias, vip !== '' && usesVip(service) ? [vip] : active);
        this.name(vni, `tasks.${alias}`, active);
      }
    }
    for (const port of ingressPorts(service.endpoint?.ports)) this.port(service, port, backends);
  }

  task(task: Task): void {
    const state = stateOf(task);
    if (state < TaskState.ASSIGNED || state > TaskState.RUNNING) return;
    const node = this.view.get('node', task.nodeId);
    if (node === undefined || node.status?.state === NodeStatus_State.DOWN) return;
    const vtep = vtepOf(node);
    if (vtep === '') return;
    for (const attachment of task.networks) {
      const network = attachment.network;
      const vni = network === undefined ? undefined : vniOf(network);
      if (network === undefined || vni === undefined) continue;
      for (const cidr of attachment.addresses) {
        const address = addressOf(cidr);
        this.endpoint(vni, address, vtep, node.id, task.id);
        if (isIngress(network)) continue;
        const name = taskName(task);
        this.put(vni, `ptr/${vni}/${address}`, {
          case: 'pointer',
          value: { $typeName: 'skein.v1.PointerRow', vni, address, name: `${name}.${network.spec?.annotations?.name ?? ''}` },
        });
        this.name(vni, name, [address]);
      }
    }
  }

  finish(): ClusterRows & { readonly byVni: Map<number, Map<string, Row>>; readonly common: Map<string, Row> } {
    for (const [vni, names] of this.names) {
      for (const [name, addresses] of names) {
        this.put(vni, `name/${vni}/${name}`, {
          case: 'name', value: { $typeName: 'skein.v1.NameRow', vni, name, addresses: [...addresses].sort() },
        });
      }
    }
    return { byVni: this.byVni, common: this.common, ingressVni: this.ingressVni };
  }

  private isBackend(task: Task): boolean {
    if (stateOf(task) !== TaskState.RUNNING || task.desiredState > TaskState.RUNNING) return false;
    const node = this.view.get('node', task.nodeId);
    return node !== undefined && node.status?.state !== NodeStatus_State.DOWN;
  }

  private port(service: Service, port: PortConfig, tasks: readonly Task[]): void {
    const protocol = port.protocol === PortConfig_Protocol.UDP ? 'udp' : port.protocol === PortConfig_Protocol.TCP ? 'tcp' : undefined;
    if (protocol === undefined || port.publishedPort === 0) return;
    const key = `port/${protocol}/${port.publishedPort}`;
    const ingress = this.view.list('network').find(isIngress);
    const backends = ingress === undefined ? [] : tasks.flatMap((task) => backendRow(task, ingress.id) ?? []);
    this.common.set(key, row(key, {
      case: 'port',
      value: {
        $typeName: 'skein.v1.PortRow', protocol: protocol === 'udp' ? 17 : 6, published: port.publishedPort,
        target: port.targetPort, serviceId: service.id, hostMode: false, backends,
      },
    }));
  }

  private endpoint(vni: number, address: string, vtep: string, nodeId: string, taskId: string): void {
    this.put(vni, `ep/${vni}/${address}`, {
      case: 'endpoint', value: { $typeName: 'skein.v1.EndpointRow', vni, address, mac: macOf(address), vtep, nodeId, taskId },
    });
  }

  private name(vni: number, name: string, addresses: readonly string[]): void {
    // Nobody could ask for it, and the data plane refuses an update with a row it cannot hold.
    if (!isDnsName(name)) return;
    let names = this.names.get(vni);
    if (names === undefined) this.names.set(vni, names = new Map());
    const key = name.toLowerCase();
    const set = names.get(key) ?? new Set<string>();
    for (const address of addresses) set.add(address);
    names.set(key, set);
  }

  private put(vni: number, key: string, value: Row['row']): void {
    let rows = this.byVni.get(vni);
    if (rows === undefined) this.byVni.set(vni, rows = new Map());
    rows.set(key, row(key, value));
  }
}

function row(key: string, value: Row['row']): Row {
  return { $typeName: 'skein.v1.Row', key, row: value };
}

function backendRow(task: Task, networkId: string): BackendRow | undefined {
  const attachment = task.networks.find((a) => a.network?.id === networkId);
  const address = attachment?.addresses[0];
  if (address === undefined) return undefined;
  return create(BackendRowSchema, {
    taskId: task.id, address: addressOf(address), weight: 1, draining: desiredOf(task) > TaskState.RUNNING,
  });
}

/** Host-mode ports of a node's own running tasks, by the tasks' gateway addresses: the agent adds these itself. */
export function hostPortRows(tasks: readonly Task[], gatewayAddress: (taskId: string) => string | undefined): Row[] {
  const rows: Row[] = [];
  for (const task of tasks) {
    const address = gatewayAddress(task.id);
    if (address === undefined) continue;
    for (const port of hostPorts(task.endpoint?.ports)) {
      if (port.publishedPort === 0 || port.protocol === PortConfig_Protocol.SCTP) continue;
      const udp = port.protocol === PortConfig_Protocol.UDP;
      const key = `hostport/${udp ? 'udp' : 'tcp'}/${port.publishedPort}`;
      rows.push(row(key, {
        case: 'port',
        value: {
          $typeName: 'skein.v1.PortRow', protocol: udp ? 17 : 6, published: port.publishedPort, target: port.targetPort,
          serviceId: task.serviceId, hostMode: true,
          backends: [create(BackendRowSchema, { taskId: task.id, address, weight: 1, draining: false })],
        },
      }));
    }
  }
  return rows;
}
