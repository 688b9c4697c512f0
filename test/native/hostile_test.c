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

// An ICMP error about a quoted packet.
static Verdict run_error(uint32_t source, uint32_t destination, const Spec *quoted, const Origin *origin, Packet *p) {
  Spec s = {.source = source, .destination = destination, .protocol = 1, .flags = ICMP_UNREACHABLE, .payload = 28, .source_mac = own_mac};
  uint8_t inner[64];
  VnetHeader vnet;
  uint32_t size = build(frame, &s, &vnet);
  build(inner, quoted, &vnet);
  memset(&vnet, 0, sizeof vnet);
  memcpy(frame + 42, inner + 14, 28);
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

int main(void) {
  make_world();
  make_program();
  test_offload_claims();
  test_own_vtep();
  test_forged_errors();
  puts("hostile_test: ok");
  return 0;
}
