// What one task or a stranger on the wire may not do to others: each test is a case of misbehaviour and its limit.
#include "engine/offload.h"
#include "world.h"

static uint8_t buffer[128 + FRAME_MAX];
static uint8_t *const frame = buffer + 128;
static const uint8_t own_mac[6] = {2, 0, 0, 0, 0, 5};

// A virtio header may say many things; what is cut to segments must end.
static void test_offload_claims(void) {
  Spec s = {.source = ip4(10, 0, 1, 5), .destination = ip4(10, 0, 1, 6), .protocol = 6, .flags = TCP_ACK, .payload = 3000, .partial = true};
  VnetHeader vnet;
  Packet p;
  uint32_t size = build(frame, &s, &vnet);
  for (int partial = 0; partial < 2; partial++) {
    vnet.flags = partial ? VNET_NEEDS_CSUM : 0;
    vnet.gso_type = GSO_ECN;
    vnet.gso_size = 0;
    CHECK(packet_parse(&p, frame, size, size, &vnet) == DROP_OFFLOAD);
  }
  vnet.gso_type = GSO_TCPV4 | GSO_ECN;
  vnet.gso_size = 1000;
  CHECK(packet_parse(&p, frame, size, size, &vnet) == DROP_NONE);
  // Nothing to cut.
  s.payload = 0;
  size = build(frame, &s, &vnet);
  vnet.gso_type = GSO_TCPV4;
  vnet.gso_size = 1000;
  CHECK(packet_parse(&p, frame, size, size, &vnet) == DROP_OFFLOAD);
}

static Verdict run(const Spec *s, const Origin *origin, Packet *p) {
  VnetHeader vnet;
  uint32_t size = build(frame, s, &vnet);
  CHECK(packet_parse(p, frame, size, size, &vnet) == DROP_NONE);
  return program_run(&program, p, origin);
}

// How an ICMP error quotes: a fragment after the first, less than the header.
static bool late, cut;

// An ICMP error about a quoted packet.
static Verdict run_error(uint32_t source, uint32_t destination, const Spec *quoted, const Origin *origin, Packet *p) {
  Spec s = {.source = source, .destination = destination, .protocol = 1, .flags = ICMP_UNREACHABLE, .payload = 28, .source_mac = own_mac};
  uint8_t inner[64];
  VnetHeader vnet;
  if (cut) s.payload = 16;
  uint32_t size = build(frame, &s, &vnet);
  build(inner, quoted, &vnet);
  if (late) store_be16(inner + 20, 1);
  memset(&vnet, 0, sizeof vnet);
  memcpy(frame + 42, inner + 14, s.payload);
  CHECK(packet_parse(p, frame, size, size, &vnet) == DROP_NONE);
  return program_run(&program, p, origin);
}

// What comes in the name of this node's own tunnel address was not sent by it.
static void test_own_vtep(void) {
  Spec s = {.source = ip4(10, 0, 1, 6), .destination = ip4(10, 0, 1, 5), .source_port = 7, .destination_port = 8, .protocol = 17, .payload = 9};
  Origin origin = {.kind = ORIGIN_VXLAN, .vni = 1, .vtep = ip4(192, 0, 2, 6)};
  Packet p;
  CHECK(run(&s, &origin, &p).kind == VERDICT_INTERFACE);
  origin.vtep = ip4(192, 0, 2, 5);
  s.source = ip4(10, 0, 1, 5);
  CHECK(run(&s, &origin, &p).reason == DROP_SPOOFED_PEER);
  s.source = ip4(10, 0, 1, 6);
  CHECK(run(&s, &origin, &p).reason == DROP_SPOOFED_PEER);
  s.source = ip4(198, 51, 100, 7);
  s.destination = ip4(10, 0, 2, 5);
  origin.vni = 2;
  CHECK(run(&s, &origin, &p).reason == DROP_SPOOFED_PEER);
  origin.vtep = ip4(192, 0, 2, 77);
  CHECK(run(&s, &origin, &p).reason == DROP_UNKNOWN_VTEP);
}

// A task reports errors of what it was sent, not of its neighbours' connections.
static void test_forged_errors(void) {
  Packet p;
  // The connection of an outside client to a published port, served by .6 on the other node.
  Spec client = {.source = ip4(198, 51, 100, 7), .destination = ip4(172, 18, 255, 254), .source_port = 4000, .destination_port = 80, .protocol = 17};
  Origin host = {.kind = ORIGIN_HOST}, task = {.kind = ORIGIN_INTERFACE, .interface = &sandbox.interfaces[1]};
  Verdict verdict = run(&client, &host, &p);
  while (verdict.kind != VERDICT_VXLAN) {
    client.source_port++;
    verdict = run(&client, &host, &p);
  }
  Spec quoted = {.source = client.source, .destination = ip4(10, 0, 2, 6), .source_port = client.source_port, .destination_port = 8080, .protocol = 17};
  CHECK(run_error(ip4(10, 0, 2, 5), client.source, &quoted, &task, &p).reason == DROP_SPOOFED_SOURCE);
  // Nor of what the nodes send each other.
  Spec tunnel = {.source = ip4(192, 0, 2, 5), .destination = ip4(192, 0, 2, 6), .source_port = 4789, .destination_port = 4789, .protocol = 17};
  Origin gateway = {.kind = ORIGIN_INTERFACE, .interface = &sandbox.interfaces[2]};
  for (int i = 0; i < 3; i++) {
    late = i == 1;
    cut = i == 2;
    CHECK(run_error(ip4(172, 18, 0, 5), tunnel.source, &tunnel, &gateway, &p).reason == DROP_SPOOFED_SOURCE);
  }
  late = cut = false;
  // Of its own it may, and so may the other node of its task's.
  while (verdict.kind != VERDICT_INTERFACE) {
    client.source_port++;
    verdict = run(&client, &host, &p);
  }
  Spec own = {.source = client.source, .destination = ip4(10, 0, 2, 5), .source_port = client.source_port, .destination_port = 8080, .protocol = 17};
  CHECK(run_error(ip4(10, 0, 2, 5), client.source, &own, &task, &p).kind == VERDICT_HOST);
  Origin peer = {.kind = ORIGIN_VXLAN, .vni = 2, .vtep = ip4(192, 0, 2, 6)};
  CHECK(run_error(ip4(10, 0, 2, 6), client.source, &quoted, &peer, &p).kind == VERDICT_HOST);
}

// Sends the first packet of a connection of the task to the VIP until the other node's backend gets it.
static void connect_vip(Spec *s, Packet *p) {
  Origin task = {.kind = ORIGIN_INTERFACE, .interface = &sandbox.interfaces[0]};
  *s = (Spec){.source = ip4(10, 0, 1, 5), .destination = ip4(10, 0, 1, 2), .source_port = s->source_port, .destination_port = 80, .protocol = 6, .flags = TCP_SYN, .source_mac = own_mac};
  while (run(s, &task, p).kind != VERDICT_VXLAN) s->source_port++;
}

// A new connection from the port of an old one does not stay with a backend that takes none.
static void test_syn_of_drained(void) {
  Origin task = {.kind = ORIGIN_INTERFACE, .interface = &sandbox.interfaces[0]}, peer = {.kind = ORIGIN_VXLAN, .vni = 1, .vtep = ip4(192, 0, 2, 6)};
  Packet p;
  Spec s = {.source_port = 20000};
  connect_vip(&s, &p);
  Spec answer = {.source = ip4(10, 0, 1, 6), .destination = s.source, .source_port = 80, .destination_port = s.source_port, .protocol = 6, .flags = TCP_SYN | TCP_ACK};
  CHECK(run(&answer, &peer, &p).kind == VERDICT_INTERFACE && p.source == s.destination);
  s.flags = TCP_ACK;
  CHECK(run(&s, &task, &p).kind == VERDICT_VXLAN);
  BackendSet *set = &program.tables->services[0].set;
  Backend *leaving = &set->backends[set->backends[0].address == ip4(10, 0, 1, 6) ? 0 : 1];
  leaving->draining = true;
  lb_prepare(set);
  CHECK(run(&s, &task, &p).kind == VERDICT_VXLAN);
  s.flags = TCP_SYN;
  CHECK(run(&s, &task, &p).kind == VERDICT_INTERFACE);
  leaving->draining = false;
  lb_prepare(set);
}

// A connection straight to a backend goes on when one through the VIP gets the same ports, and so does that one.
static void test_same_ports(void) {
  Origin task = {.kind = ORIGIN_INTERFACE, .interface = &sandbox.interfaces[0]}, peer = {.kind = ORIGIN_VXLAN, .vni = 1, .vtep = ip4(192, 0, 2, 6)};
  Packet p;
  Spec s = {.source_port = 30000};
  connect_vip(&s, &p);
  Spec answer = {.source = ip4(10, 0, 1, 6), .destination = s.source, .source_port = 80, .destination_port = s.source_port, .protocol = 6, .flags = TCP_ACK};
  CHECK(run(&answer, &peer, &p).kind == VERDICT_INTERFACE && p.source == answer.source && transport_ok(frame));
  CHECK(run(&s, &task, &p).kind == VERDICT_VXLAN && p.destination == answer.source && ntohs(p.source_port) != s.source_port);
  Spec second = answer;
  second.flags = TCP_SYN | TCP_ACK;
  second.destination_port = ntohs(p.source_port);
  CHECK(run(&second, &peer, &p).kind == VERDICT_INTERFACE && p.source == s.destination && ntohs(p.destination_port) == s.source_port && transport_ok(frame));
  answer.flags = TCP_ACK | TCP_PSH;
  CHECK(run(&answer, &peer, &p).kind == VERDICT_INTERFACE && p.source == answer.source);
}

// One task asks for errors without end; another is still told that its packet is too big.
static void test_error_budget(void) {
  Packet p;
  Spec closed = {.source = ip4(10, 0, 1, 5), .destination = ip4(10, 0, 1, 2), .source_port = 7, .destination_port = 80, .protocol = 6, .flags = TCP_ACK, .source_mac = own_mac};
  Origin task = {.kind = ORIGIN_INTERFACE, .interface = &sandbox.interfaces[0]};
  for (int i = 0; i < ERRORS_PER_SECOND_MAX; i++) CHECK(run(&closed, &task, &p).kind == VERDICT_REPLY);
  CHECK(run(&closed, &task, &p).reason == DROP_RATE_LIMITED);
  Spec big = {.source = ip4(10, 0, 2, 5), .destination = ip4(10, 0, 2, 6), .protocol = 17, .payload = 1460, .dont_fragment = true, .source_mac = own_mac};
  Origin other = {.kind = ORIGIN_INTERFACE, .interface = &sandbox.interfaces[1]};
  CHECK(run(&big, &other, &p).kind == VERDICT_REPLY);
  program.now_s++;
  CHECK(run(&closed, &task, &p).kind == VERDICT_REPLY);
}

static FlowTable table;

static Flow *connect_flow(uint32_t source, uint32_t number, bool established) {
  uint16_t port = (uint16_t)number;
  FlowKey key[2] = {{.scope = 1, .source = source, .destination = 9 + (number >> 16), .source_port = port, .destination_port = 80, .protocol = 6},
    {.scope = 1, .source = 10 + (number >> 16), .destination = source, .source_port = 80, .destination_port = port, .protocol = 6}};
  Flow *flow = flow_insert(&table, FLOW_VIP, key, 100);
  CHECK(flow);
  flow_touch(flow, 0, TCP_SYN, 100);
  if (established) flow_touch(flow, 1, TCP_SYN | TCP_ACK, 100);
  if (established) flow_touch(flow, 0, TCP_ACK, 100);
  return flow;
}

static uint32_t flows_of(uint32_t source) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < table.capacity; i++) count += table.flows[i].kind != FLOW_FREE && table.flows[i].key[0].source == source;
  return count;
}

// One task opens connections without end, established or not: those of others stay, and theirs find a place.
static void test_flow_fairness(void) {
  enum { CAPACITY = 1024, OTHERS = 40 };
  for (int established = 0; established < 2; established++) {
    void *memory = calloc(1, flow_memory_size(CAPACITY));
    CHECK(flow_init(&table, memory, CAPACITY, "boot", 42, 100));
    for (uint32_t i = 0; i < OTHERS; i++) connect_flow(1000 + i % 4, i, true);
    for (uint32_t i = 0; i < 20000; i++) {
      connect_flow(6, i, established);
      // It takes a while until the other side answers a new connection of another.
      if (i % 1000 == 500) connect_flow(2000, i, false);
      if (i % 1000 == 600) {
        FlowKey key = {.scope = 1, .source = 2000, .destination = 9, .source_port = (uint16_t)(i - 100), .destination_port = 80, .protocol = 6};
        FlowRef found = flow_find(&table, &key);
        CHECK(found.flow);
        flow_touch(found.flow, 1, TCP_SYN | TCP_ACK, 100);
        flow_touch(found.flow, 0, TCP_ACK, 100);
      }
    }
    for (uint32_t i = 0; i < 4; i++) CHECK(flows_of(1000 + i) == OTHERS / 4);
    CHECK(flows_of(2000) == 20 && table.count == CAPACITY && table.evicted > 0);
    flow_free(&table);
    free(memory);
  }
  // Strangers that only knock do not drive out one who has many connections.
  void *memory = calloc(1, flow_memory_size(CAPACITY));
  CHECK(flow_init(&table, memory, CAPACITY, "boot", 42, 100));
  for (uint32_t i = 0; i < CAPACITY / 2; i++) connect_flow(6, i, true), connect_flow(100000 + i, i, false);
  for (uint32_t i = 0; i < 20000; i++) connect_flow(200000 + i, i, false);
  CHECK(flows_of(6) >= CAPACITY / 2 - 4);
  flow_free(&table);
  free(memory);
}

int main(void) {
  make_world();
  make_program();
  test_offload_claims();
  test_own_vtep();
  test_forged_errors();
  test_syn_of_drained();
  test_same_ports();
  test_error_budget();
  test_flow_fairness();
  puts("hostile_test: ok");
  return 0;
}
