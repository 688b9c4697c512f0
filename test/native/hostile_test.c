// What one task or a stranger on the wire may not do to others: each test is a case of misbehaviour and its limit.
#include "engine/offload.h"
#include "world.h"

static uint8_t buffer[128 + FRAME_MAX];
static uint8_t *const frame = buffer + 128;

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

int main(void) {
  make_world();
  make_program();
  test_offload_claims();
  puts("hostile_test: ok");
  return 0;
}
