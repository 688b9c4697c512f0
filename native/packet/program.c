// program.c: what happens to a packet.
//
// Theory: every packet gets a scope (the network it belongs to: the network of its source address for a task's
// packet, the VNI for a tunnelled one, SCOPE_HOST for the node's own side). Flows are looked up first, in the way of
// conntrack; what no flow knows is a virtual address, a published port, a neighbour, or dropped with a reason.
// Target (scope, peer, address) says where a packet goes next; it is resolved before anything is rewritten, so that
// errors can quote the packet as its sender knows it. Longer than a file should be: the order of the checks is the
// security of the thing, and it is easier to judge in one piece.
#include "program.h"
#include "vxlan.h"

const uint8_t VIP_MAC[6] = {0x02, 0x5b, 0x45, 0x49, 0x4e, 0x01};
const uint8_t GATEWAY_MAC[6] = {0x02, 0x5b, 0x45, 0x49, 0x4e, 0x02};

typedef struct Context { Program *program; Packet *p; const Origin *origin; uint32_t scope, peer; } Context;

static Verdict drop(DropReason reason) { return (Verdict){.kind = VERDICT_DROP, .reason = reason}; }

void program_set_tables(Program *program, Snapshot *tables) {
  program->tables = tables;
  program->ingress_vni = program->ingress_address = 0;
  if (!tables) return;
  for (uint32_t i = 0; i < tables->network_count; i++)
    if (tables->networks[i].flags & NETWORK_INGRESS) program->ingress_vni = tables->networks[i].vni;
  for (uint32_t i = 0; i < tables->node_count; i++)
    if (tables->nodes[i].vtep == program->config.vtep) program->ingress_address = tables->nodes[i].ingress_address;
}

Interface *locals_find(const Locals *locals, uint32_t scope, uint32_t address) {
  if (!locals || !locals->index.slots) return NULL;
  // Same index as the tables use; the position leads to the interface.
  const Index *index = &locals->index;
  uint32_t found = index_find(index, scope, address);
  return found ? locals->interfaces[found - 1] : NULL;
}

static const uint8_t *own_mac(const Context *c) {
  return c->origin->kind == ORIGIN_INTERFACE && c->origin->interface->scope == SCOPE_GATEWAY ? GATEWAY_MAC : VIP_MAC;
}

static Verdict reply(Context *c, uint32_t size, DropReason reason) {
  if (!size) return drop(reason);
  c->program->reply_size = size;
  return (Verdict){.kind = VERDICT_REPLY, .reason = reason};
}

// Each task's interface has an allowance of its own: one that asks for errors must not silence those others wait for.
static bool may_send_error(Context *c) {
  Program *program = c->program;
  ErrorBudget *budget = c->origin->kind == ORIGIN_INTERFACE ? &c->origin->interface->errors : &program->errors;
  if (budget->second != program->now_s) *budget = (ErrorBudget){.second = program->now_s, .left = ERRORS_PER_SECOND_MAX};
  if (!budget->left) return false;
  budget->left--;
  return true;
}

// Refuses a packet aloud: a reset for TCP, an ICMP error otherwise.
static Verdict refuse(Context *c, DropReason reason) {
  Program *program = c->program;
  if (!may_send_error(c)) return drop(DROP_RATE_LIMITED);
  if (c->p->protocol == PROTOCOL_TCP) return reply(c, reply_tcp_reset(program->reply, c->p, own_mac(c)), reason);
  return reply(c, reply_icmp_error(program->reply, c->p, own_mac(c), c->p->destination, ICMP_UNREACHABLE, 3, 0), reason);
}

// Where a target is: on this node, behind a VTEP, or nowhere.
static Verdict resolve(Context *c, const Target *target) {
  Program *program = c->program;
  if (target->scope == SCOPE_HOST) return (Verdict){.kind = VERDICT_HOST};
  if (target->peer) return (Verdict){.kind = VERDICT_VXLAN, .vni = target->scope, .vtep = target->peer};
  Interface *local = locals_find(program->locals, target->scope, target->address);
  if (local) return (Verdict){.kind = VERDICT_INTERFACE, .interface = local};
  if (target->scope == SCOPE_GATEWAY) return drop(DROP_UNKNOWN_DESTINATION);
  uint32_t vtep = 0;
  const Endpoint *endpoint = snapshot_endpoint(program->tables, target->scope, target->address);
  if (endpoint) vtep = endpoint->vtep;
  else if (target->scope == program->ingress_vni) {
    const Node *node = snapshot_ingress_node(program->tables, target->address);
    if (node) vtep = node->vtep;
  }
  if (!vtep || vtep == program->config.vtep) return drop(DROP_UNKNOWN_DESTINATION);
  return (Verdict){.kind = VERDICT_VXLAN, .vni = target->scope, .vtep = vtep};
}

// Checks what the tunnel asks of a packet. VERDICT_DROP with DROP_NONE means it may go.
static Verdict check_tunnel(Context *c, const Verdict *to) {
  Program *program = c->program;
  Packet *p = c->p;
  const Network *network = snapshot_network(program->tables, to->vni);
  if (network && (network->flags & NETWORK_ENCRYPTED)) return drop(DROP_ENCRYPTION);
  if (c->origin->kind == ORIGIN_VXLAN) return drop(DROP_LOOP);
  uint32_t limit = program->config.underlay_mtu - VXLAN_OVERHEAD;
  uint8_t gso = p->vnet.gso_type & (uint8_t)~GSO_ECN;
  uint32_t largest = gso == GSO_UDP_L4 ? (uint32_t)(p->payload - ETH_SIZE + p->vnet.gso_size) : p->size - ETH_SIZE;
  if (gso == GSO_TCPV4 || largest <= limit || !p->dont_fragment) {
    if (gso == GSO_UDP_L4 && largest > limit) return drop(DROP_TOO_BIG);
    return drop(DROP_NONE);
  }
  if (!may_send_error(c)) return drop(DROP_RATE_LIMITED);
  uint32_t size = reply_icmp_error(program->reply, p, own_mac(c), p->destination, ICMP_UNREACHABLE, 4, (uint16_t)limit);
  return reply(c, size, DROP_TOO_BIG);
}

// Link addresses for the next hop. source is NULL for a packet whose sender is not a neighbour of the receiver.
static void address_frame(Context *c, const Verdict *to, const Target *target, bool translated) {
  static const uint8_t *const vip = VIP_MAC;
  const uint8_t *destination = vip;
  uint8_t source[6];
  memcpy(source, translated || c->origin->kind == ORIGIN_HOST ? VIP_MAC : c->p->frame + 6, 6);
  if (to->kind == VERDICT_INTERFACE) {
    destination = to->interface->mac;
    if (to->interface->scope == SCOPE_GATEWAY) memcpy(source, GATEWAY_MAC, 6);
  } else if (to->kind == VERDICT_HOST) {
    destination = c->program->host_mac;
    memcpy(source, GATEWAY_MAC, 6);
  } else if (!target->peer) {
    const Endpoint *endpoint = snapshot_endpoint(c->program->tables, target->scope, target->address);
    if (endpoint) destination = endpoint->mac;
  }
  nat_set_macs(c->p, source, destination);
}

static Fragment *fragment_slot(Context *c, FlowKey *key) {
  *key = (FlowKey){.scope = c->scope, .peer = c->peer, .source = c->p->source, .destination = c->p->destination,
    .source_port = c->p->ip_id, .protocol = c->p->protocol};
  uint64_t h = mix64(mix64(c->program->flows.seed, ((uint64_t)key->source << 32) | key->destination),
                     ((uint64_t)key->scope << 32) | ((uint32_t)key->source_port << 8) | key->protocol);
  return &c->program->fragments[(h >> 32) % FRAGMENTS_MAX];
}

// Sends a packet to its target, translated to `to` if given.
static Verdict send_to(Context *c, const Target *target, const FlowKey *to) {
  Packet *p = c->p;
  Verdict verdict = resolve(c, target);
  if (verdict.kind == VERDICT_DROP) return verdict;
  if (verdict.kind == VERDICT_VXLAN) {
    Verdict check = check_tunnel(c, &verdict);
    if (check.kind != VERDICT_DROP || check.reason != DROP_NONE) return check;
    nat_clamp_mss(p, (uint16_t)(c->program->config.underlay_mtu - VXLAN_OVERHEAD - IP_SIZE - TCP_SIZE));
  }
  if (p->fragment_first) {
    FlowKey key;
    Fragment *fragment = fragment_slot(c, &key);
    *fragment = (Fragment){.key = key, .expires_s = c->program->now_s + FRAGMENT_TIMEOUT_S, .rewrite = to != NULL, .target = *target};
    if (to) fragment->to = *to;
  }
  if (to) nat_rewrite(p, to);
  address_frame(c, &verdict, target, to != NULL);
  return verdict;
}

static Verdict send_fragment(Context *c) {
  FlowKey key;
  const Fragment *fragment = fragment_slot(c, &key);
  if (fragment->expires_s <= c->program->now_s || memcmp(&fragment->key, &key, sizeof key) != 0) return drop(DROP_FRAGMENT_UNKNOWN);
  Fragment copy = *fragment;
  return send_to(c, &copy.target, copy.rewrite ? &copy.to : NULL);
}

static FlowKey packet_key(const Context *c) {
  const Packet *p = c->p;
  return (FlowKey){.scope = c->scope, .peer = c->peer, .source = p->source, .destination = p->destination,
    .source_port = p->source_port, .destination_port = p->destination_port, .protocol = p->protocol};
}

static Target flow_target(const Flow *flow, int direction) {
  const FlowKey *other = &flow->key[!direction];
  return (Target){.scope = other->scope, .peer = other->peer, .address = other->source};
}

// Whether the tables still hold the backend that a flow is bound to.
static bool flow_is_current(Program *program, Flow *flow) {
  uint32_t *checked = &program->flows.checked[flow - program->flows.flows];
  if (*checked == program->tables->generation) return true;
  const FlowKey *ask = &flow->key[0];
  uint32_t backend = flow->key[1].source;
  if (flow->kind == FLOW_VIP) {
    Service *service = snapshot_service(program->tables, ask->scope, ask->destination);
    if (!service || !lb_contains(&service->set, backend)) return false;
  } else if (flow->kind == FLOW_PORT) {
    Port *port = snapshot_port(program->tables, (uint8_t)ask->protocol, ntohs(ask->destination_port));
    if (!port || !lb_contains(&port->set, backend) || htons(port->target) != flow->key[1].source_port) return false;
  }
  *checked = program->tables->generation;
  return true;
}

// Whether the backend of a flow is about to go while another one takes new connections.
static bool flow_drains(const Program *program, const Flow *flow) {
  const FlowKey *ask = &flow->key[0];
  const BackendSet *set = NULL;
  if (flow->kind == FLOW_VIP) {
    const Service *service = snapshot_service(program->tables, ask->scope, ask->destination);
    set = service ? &service->set : NULL;
  } else if (flow->kind == FLOW_PORT) {
    const Port *port = snapshot_port(program->tables, (uint8_t)ask->protocol, ntohs(ask->destination_port));
    set = port ? &port->set : NULL;
  }
  return set && lb_drains(set, flow->key[1].source);
}

static Verdict send_by_flow(Context *c, Flow *flow, int direction) {
  flow_touch(flow, direction, c->p->tcp_flags, c->program->now_s);
  FlowKey to = flow_inverse(&flow->key[!direction]);
  Target target = flow_target(flow, direction);
  return send_to(c, &target, &to);
}

// Inserts a flow; when the port the answering side would see is taken, another source port is tried.
static Flow *insert_flow(Program *program, FlowKind kind, FlowKey key[2]) {
  Flow *flow = flow_insert(&program->flows, kind, key, program->now_s);
  if (key[0].protocol == PROTOCOL_ICMP) return flow;
  for (uint32_t i = 0; !flow && i < 64; i++) {
    program->random = mix64(program->random, i + 1);
    key[1].destination_port = htons((uint16_t)(32768 + (program->random >> 33) % 28000));
    flow = flow_insert(&program->flows, kind, key, program->now_s);
  }
  return flow;
}

// A connection straight to the backend, which no flow knows, may have the ports of a newer one through the virtual
// address. Its packets show: before the first answer to a SYN nothing else comes from that side. The newer one then
// gets another port, with which its next SYN goes out.
static bool answers_older(const Flow *flow, const Packet *p) {
  return flow->kind == FLOW_VIP && flow->state == STATE_NEW && p->protocol == PROTOCOL_TCP && !(p->tcp_flags & (TCP_SYN | TCP_RST));
}

static void give_way(Program *program, Flow *flow) {
  FlowKey key[2] = {flow->key[0], flow->key[1]};
  // The port differs in one bit at least, and insert_flow looks further if that one is taken, too.
  key[1].destination_port ^= htons(1);
  flow_remove(&program->flows, flow);
  insert_flow(program, FLOW_VIP, key);
}

static Verdict start_flow(Context *c, FlowKind kind, FlowKey key[2]) {
  Flow *flow = insert_flow(c->program, kind, key);
  if (!flow) return drop(DROP_FLOW_COLLISION);
  c->program->flows.checked[flow - c->program->flows.flows] = c->program->tables->generation;
  Verdict verdict = send_by_flow(c, flow, 0);
  // A flow whose first packet went nowhere would only pin a dead backend.
  if (verdict.kind == VERDICT_DROP) flow_remove(&c->program->flows, flow);
  return verdict;
}

static bool starts_connection(const Packet *p) {
  return p->protocol != PROTOCOL_TCP || (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

static Verdict to_service(Context *c, Service *service) {
  Packet *p = c->p;
  if (p->protocol == PROTOCOL_ICMP)
    return p->icmp_type == ICMP_ECHO && !p->fragment ? reply(c, reply_echo(c->program->reply, p, VIP_MAC), DROP_NONE) : drop(DROP_ICMP);
  if (!packet_has_ports(p)) return drop(DROP_PROTOCOL);
  if (!starts_connection(p)) return refuse(c, DROP_NO_FLOW);
  for (uint32_t tries = 0; tries <= service->set.count; tries++) {
    const Backend *backend = lb_pick(&service->set);
    if (!backend) break;
    Target target = {.scope = c->scope, .address = backend->address};
    if (resolve(c, &target).kind == VERDICT_DROP) continue;
    // A task that reaches itself: its kernel drops its own address as a source.
    uint32_t source = backend->address == p->source ? service->vip : p->source;
    FlowKey key[2] = {packet_key(c), {.scope = c->scope, .source = backend->address, .destination = source,
      .source_port = p->destination_port, .destination_port = p->source_port, .protocol = p->protocol}};
    return start_flow(c, FLOW_VIP, key);
  }
  return refuse(c, DROP_NO_BACKEND);
}

static bool inside_any_network(const Program *program, uint32_t address) {
  if ((ntohl(address) >> 24) == 127) return true;
  if (((address ^ program->config.gateway) & program->config.gateway_mask) == 0) return true;
  for (uint32_t i = 0; i < program->tables->network_count; i++)
    if (network_contains(&program->tables->networks[i], address)) return true;
  return false;
}

static Verdict to_published(Context *c) {
  Program *program = c->program;
  Packet *p = c->p;
  if (!packet_has_ports(p)) return drop(DROP_PROTOCOL);
  Port *port = snapshot_port(program->tables, p->protocol, ntohs(p->destination_port));
  if (!port) return refuse(c, DROP_NO_BACKEND);
  if (!starts_connection(p)) return refuse(c, DROP_NO_FLOW);
  uint32_t scope = port->host_mode ? (uint32_t)SCOPE_GATEWAY : program->ingress_vni;
  uint32_t source = p->source;
  if (inside_any_network(program, source)) {
    source = port->host_mode ? program->config.gateway : program->ingress_address;
    if (!source) return drop(DROP_NOT_CONFIGURED);
    program->clients_rewritten++;
  }
  for (uint32_t tries = 0; scope && tries <= port->set.count; tries++) {
    const Backend *backend = lb_pick(&port->set);
    if (!backend) break;
    Target target = {.scope = scope, .address = backend->address};
    if (resolve(c, &target).kind == VERDICT_DROP) continue;
    FlowKey key[2] = {packet_key(c), {.scope = scope, .source = backend->address, .destination = source,
      .source_port = htons(port->target), .destination_port = p->source_port, .protocol = p->protocol}};
    return start_flow(c, FLOW_PORT, key);
  }
  return refuse(c, DROP_NO_BACKEND);
}

// Looks for a flow of this packet. False: none, go on with policy.
static bool by_flow(Context *c, Verdict *verdict) {
  Program *program = c->program;
  Packet *p = c->p;
  FlowKey key = packet_key(c);
  if (packet_is_icmp_error(p)) {
    FlowKey tuple;
    // A task may complain of what was sent to itself only, or it could break connections of its neighbours, and cut down
    // what this node sends to others. That holds for quotes, too, that no flow is looked up by.
    if (c->origin->kind == ORIGIN_INTERFACE && nat_embedded_destination(p) != p->source) {
      *verdict = drop(DROP_SPOOFED_SOURCE);
      return true;
    }
    if (!nat_embedded_tuple(p, &tuple)) return false;
    key = flow_inverse(&tuple);
    key.scope = c->scope;
    key.peer = c->peer;
  }
  FlowRef found = flow_find(&program->flows, &key);
  if (!found.flow) return false;
  Flow *flow = found.flow;
  if (packet_is_icmp_error(p)) {
    const FlowKey *other = &flow->key[!found.direction];
    Target target = flow_target(flow, found.direction);
    uint32_t source = p->source == flow->key[found.direction].source ? other->destination : p->source;
    *verdict = send_to(c, &target, NULL);
    if (verdict->kind > VERDICT_REPLY) nat_rewrite_error(p, other, source, other->source);
    return true;
  }
  if (found.direction == 0) {
    bool current = flow_is_current(program, flow);
    // A SYN in the place of a connection that ended, or begins it anew with a task that is being stopped.
    bool again = p->protocol == PROTOCOL_TCP && starts_connection(p) && (flow->state >= STATE_CLOSING || flow_drains(program, flow));
    if (again || !current) {
      flow_remove(&program->flows, flow);
      if (p->protocol != PROTOCOL_TCP || starts_connection(p)) return false;
      *verdict = refuse(c, DROP_BACKEND_REMOVED);
      return true;
    }
  }
  if (found.direction == 1 && answers_older(flow, p)) {
    give_way(program, flow);
    return false;
  }
  *verdict = send_by_flow(c, flow, found.direction);
  return true;
}

static Verdict answer_arp(Context *c) {
  Program *program = c->program;
  const Interface *interface = c->origin->interface;
  const uint8_t *arp = c->p->frame + ETH_SIZE;
  if (load_be16(arp) != 1 || load_be16(arp + 2) != ETHERTYPE_IPV4 || arp[4] != 6 || arp[5] != 4) return drop(DROP_MALFORMED);
  if (load_be16(arp + 6) != 1) return drop(DROP_NONE);
  uint32_t target = load32(arp + 24);
  if (c->origin->kind == ORIGIN_VXLAN) {
    const Interface *local = locals_find(program->locals, c->origin->vni, target);
    return local ? reply(c, reply_arp(program->reply, c->p, local->mac), DROP_NONE) : drop(DROP_UNKNOWN_NEIGHBOUR);
  }
  if (memcmp(arp + 8, interface->mac, 6) != 0) return drop(DROP_SPOOFED_MAC);
  for (uint32_t i = 0; i < interface->address_count; i++)
    if (interface->addresses[i] == target) return drop(DROP_NONE);
  if (interface->scope == SCOPE_GATEWAY) return reply(c, reply_arp(program->reply, c->p, GATEWAY_MAC), DROP_NONE);
  const uint8_t *mac = NULL;
  const Network *network = snapshot_network(program->tables, interface->scope);
  const Interface *local = locals_find(program->locals, interface->scope, target);
  const Endpoint *endpoint = snapshot_endpoint(program->tables, interface->scope, target);
  if (local) mac = local->mac;
  else if (endpoint) mac = endpoint->mac;
  else if (network && network_is_gateway(network, target)) mac = VIP_MAC;
  else if (snapshot_service(program->tables, interface->scope, target)) mac = VIP_MAC;
  else if (interface->scope == program->ingress_vni && snapshot_ingress_node(program->tables, target)) mac = VIP_MAC;
  return mac ? reply(c, reply_arp(program->reply, c->p, mac), DROP_NONE) : drop(DROP_UNKNOWN_NEIGHBOUR);
}

// The interface of this sandbox that owns an address, the arriving one first.
static const Interface *source_owner(const Interface *arrived, uint32_t address) {
  for (uint32_t i = 0; i < arrived->address_count; i++)
    if (arrived->addresses[i] == address) return arrived;
  const Sandbox *sandbox = arrived->sandbox;
  for (uint32_t k = 0; k < sandbox->count; k++)
    for (uint32_t i = 0; i < sandbox->interfaces[k].address_count; i++)
      if (sandbox->interfaces[k].addresses[i] == address) return &sandbox->interfaces[k];
  return NULL;
}

static bool is_group(uint32_t address) {
  uint32_t host = ntohl(address);
  return host >> 28 == 14 || host == 0xffffffff || host >> 24 == 0;
}

// A UDP server on the wildcard address answers an outside client with the address of its default route, not with the
// one it was asked at; the flow is found by trying the sandbox's other addresses. TCP never does this.
static bool by_flow_of_sibling(Context *c, Verdict *verdict) {
  const Sandbox *sandbox = c->origin->interface->sandbox;
  if (c->p->protocol != PROTOCOL_UDP) return false;
  for (uint32_t i = 0; i < sandbox->count; i++) {
    const Interface *sibling = &sandbox->interfaces[i];
    for (uint32_t k = 0; sibling->scope != SCOPE_GATEWAY && k < sibling->address_count; k++) {
      FlowKey key = packet_key(c);
      key.scope = sibling->scope;
      key.source = sibling->addresses[k];
      FlowRef found = flow_find(&c->program->flows, &key);
      if (!found.flow || found.direction != 1) continue;
      *verdict = send_by_flow(c, found.flow, 1);
      return true;
    }
  }
  return false;
}

static Verdict from_gateway_interface(Context *c, const Interface *owner) {
  Program *program = c->program;
  Packet *p = c->p;
  Target host = {.scope = SCOPE_HOST, .address = p->destination};
  bool neighbour = ((p->destination ^ program->config.gateway) & program->config.gateway_mask) == 0;
  if (neighbour && p->destination != program->config.gateway) return drop(DROP_TASK_ISOLATION);
  if (ntohl(p->destination) >> 24 == 127) return drop(DROP_UNKNOWN_DESTINATION);
  if (owner->scope == SCOPE_GATEWAY) return send_to(c, &host, NULL);
  // The way out with an overlay address as source: the gateway address stands in for it.
  const Interface *gateway = c->origin->interface;
  bool echo = p->protocol == PROTOCOL_ICMP && p->icmp_type == ICMP_ECHO;
  if ((!packet_has_ports(p) && !echo) || p->fragment || !gateway->address_count) return drop(DROP_SPOOFED_SOURCE);
  if (p->protocol == PROTOCOL_TCP && !starts_connection(p)) return refuse(c, DROP_NO_FLOW);
  FlowKey key[2] = {packet_key(c), {.scope = SCOPE_HOST, .source = p->destination, .destination = gateway->addresses[0],
    .source_port = p->destination_port, .destination_port = p->source_port, .protocol = p->protocol}};
  return start_flow(c, FLOW_EGRESS, key);
}

static Verdict from_interface(Context *c) {
  Program *program = c->program;
  Packet *p = c->p;
  const Interface *interface = c->origin->interface;
  if (memcmp(p->frame + 6, interface->mac, 6) != 0) return drop(DROP_SPOOFED_MAC);
  if (p->ethertype == ETHERTYPE_ARP) return answer_arp(c);
  if (p->frame[0] & 1 || is_group(p->destination)) return drop(DROP_MULTICAST);
  const Interface *owner = source_owner(interface, p->source);
  if (!owner) return drop(DROP_SPOOFED_SOURCE);
  c->scope = owner->scope;
  if (p->fragment && !p->fragment_first) return send_fragment(c);
  Verdict verdict;
  if (by_flow(c, &verdict)) return verdict;
  if (interface->scope == SCOPE_GATEWAY && owner == interface && by_flow_of_sibling(c, &verdict)) return verdict;
  if (interface->scope == SCOPE_GATEWAY) return from_gateway_interface(c, owner);
  if (owner != interface) return drop(DROP_SPOOFED_SOURCE);
  Service *service = snapshot_service(program->tables, c->scope, p->destination);
  if (service) return to_service(c, service);
  const Network *network = snapshot_network(program->tables, c->scope);
  if (network && network_is_gateway(network, p->destination)) {
    if (p->protocol != PROTOCOL_ICMP || p->icmp_type != ICMP_ECHO || p->fragment) return refuse(c, DROP_NOT_LOCAL);
    return reply(c, reply_echo(program->reply, p, VIP_MAC), DROP_NONE);
  }
  Target target = {.scope = c->scope, .address = p->destination};
  FlowKey reverse = flow_inverse(&(FlowKey){.scope = c->scope, .source = p->source, .destination = p->destination,
    .source_port = p->source_port, .destination_port = p->destination_port, .protocol = p->protocol});
  // A flow through a virtual address has the same ports: its replies would be taken for this one's.
  if (packet_has_ports(p) && starts_connection(p) && flow_find(&program->flows, &reverse).flow &&
      flow_find(&program->flows, &reverse).direction == 1) {
    FlowKey key[2] = {packet_key(c), reverse};
    return start_flow(c, FLOW_EGRESS, key);
  }
  return send_to(c, &target, NULL);
}

static Verdict from_host(Context *c) {
  Program *program = c->program;
  Packet *p = c->p;
  if (p->ethertype != ETHERTYPE_IPV4) return drop(DROP_ETHERTYPE);
  if (p->frame[0] & 1 || is_group(p->destination)) return drop(DROP_MULTICAST);
  c->scope = SCOPE_HOST;
  if (p->fragment && !p->fragment_first) return send_fragment(c);
  Verdict verdict;
  if (by_flow(c, &verdict)) return verdict;
  if (p->destination == program->config.published) return to_published(c);
  Target target = {.scope = SCOPE_GATEWAY, .address = p->destination};
  return send_to(c, &target, NULL);
}

static Verdict from_vxlan(Context *c) {
  Program *program = c->program;
  Packet *p = c->p;
  uint32_t vni = c->origin->vni, vtep = c->origin->vtep;
  if (!snapshot_knows_vtep(program->tables, vtep)) return drop(DROP_UNKNOWN_VTEP);
  // This node sends itself nothing through the tunnel: it is some other process here, in the name of our tasks.
  if (vtep == program->config.vtep) return drop(DROP_SPOOFED_PEER);
  const Network *network = snapshot_network(program->tables, vni);
  if (!network) return drop(DROP_UNKNOWN_VNI);
  if (network->flags & NETWORK_ENCRYPTED) return drop(DROP_ENCRYPTION);
  if (p->ethertype == ETHERTYPE_ARP) return answer_arp(c);
  if (p->frame[0] & 1 || is_group(p->destination)) return drop(DROP_MULTICAST);
  c->scope = vni;
  bool outside = !network_contains(network, p->source);
  if (outside) {
    if (!(network->flags & NETWORK_INGRESS)) return drop(DROP_SPOOFED_PEER);
    c->peer = vtep;
  } else {
    const Endpoint *endpoint = snapshot_endpoint(program->tables, vni, p->source);
    const Node *node = endpoint ? NULL : snapshot_ingress_node(program->tables, p->source);
    uint32_t owner = endpoint ? endpoint->vtep : node && vni == program->ingress_vni ? node->vtep : 0;
    if (owner != vtep) return drop(DROP_SPOOFED_PEER);
  }
  if (p->fragment && !p->fragment_first) return send_fragment(c);
  Verdict verdict;
  if (by_flow(c, &verdict)) return verdict;
  Target target = {.scope = vni, .address = p->destination};
  if (!locals_find(program->locals, vni, p->destination)) return drop(DROP_NOT_LOCAL);
  if (!outside || !packet_has_ports(p)) return send_to(c, &target, NULL);
  FlowKey key[2] = {packet_key(c), {.scope = vni, .source = p->destination, .destination = p->source,
    .source_port = p->destination_port, .destination_port = p->source_port, .protocol = p->protocol}};
  return start_flow(c, FLOW_RETURN, key);
}

Verdict program_run(Program *program, Packet *p, const Origin *origin) {
  if (!program->config.configured || !program->tables) return drop(DROP_NOT_CONFIGURED);
  Context c = {.program = program, .p = p, .origin = origin};
  switch (origin->kind) {
  case ORIGIN_INTERFACE: return from_interface(&c);
  case ORIGIN_HOST: return from_host(&c);
  case ORIGIN_VXLAN: return from_vxlan(&c);
  }
  return drop(DROP_MALFORMED);
}
