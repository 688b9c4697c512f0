// Checksums against naive recomputation, NAT of every kind of packet, cutting and gluing of super-frames, flow table.
#include "check.h"
#include "engine/offload.h"
#include "engine/tunnel.h"
#include "packet/csum.h"
#include "packet/liveness.h"

static uint8_t frame[FRAME_MAX + 64];

static void test_csum(void) {
  static uint8_t data[4096];
  for (int i = 0; i < 2000; i++) {
    size_t size = test_random() % sizeof data;
    for (size_t k = 0; k < size; k++) data[k] = (uint8_t)(i % 7 == 0 ? 0xff : test_random());
    CHECK(ntohs(csum_fold(csum_add(data, size, 0))) == naive_sum(data, size, 0));
  }
}

static void test_liveness(void) {
  uint8_t ask[LIVENESS_SIZE] = {0, 'S', 'K', 'L', LIVENESS_ASK}, data[LIVENESS_SIZE + 1] = {0};
  for (int i = 8; i < LIVENESS_SIZE; i++) ask[i] = (uint8_t)test_random();
  memcpy(data, ask, sizeof ask);
  uint32_t vni;
  CHECK(!vxlan_decode(ask, sizeof ask, &vni));
  CHECK(!liveness_answer(data, LIVENESS_SIZE - 1) && !liveness_answer(data, LIVENESS_SIZE + 1) && memcmp(data, ask, sizeof ask) == 0);
  CHECK(liveness_answer(data, LIVENESS_SIZE));
  CHECK(data[4] == LIVENESS_ANSWER && memcmp(data + 8, ask + 8, 16) == 0);
  CHECK(!liveness_answer(data, LIVENESS_SIZE)); // An answer is not answered.
  for (int bit = 0; bit < 64; bit++) { // Any other header is not a question.
    memcpy(data, ask, sizeof ask);
    data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    CHECK(!liveness_answer(data, LIVENESS_SIZE));
  }
}

static void test_nat(void) {
  for (int i = 0; i < 20000; i++) {
    VnetHeader vnet;
    Packet p;
    Spec s = {.source = (uint32_t)test_random(), .destination = (uint32_t)test_random(), .source_port = (uint16_t)test_random(),
      .destination_port = (uint16_t)test_random(), .protocol = i % 2 ? 6 : 17, .flags = TCP_ACK, .payload = test_random() % 100, .partial = i % 3 == 0};
    uint32_t size = build(frame, &s, &vnet);
    CHECK(packet_parse(&p, frame, size, size, &vnet) == DROP_NONE);
    FlowKey to = {.source = (uint32_t)test_random(), .destination = (uint32_t)test_random(), .source_port = (uint16_t)test_random(),
      .destination_port = (uint16_t)test_random()};
    nat_rewrite(&p, &to);
    packet_complete_checksum(&p);
    CHECK(transport_ok(frame));
    CHECK(load32(frame + 26) == to.source && load32(frame + 30) == to.destination);
    CHECK(load16(frame + 34) == to.source_port && load16(frame + 36) == to.destination_port);
  }
}

static void test_nat_error(void) {
  VnetHeader vnet, plain = {0};
  Packet p, error;
  static uint8_t out[FRAME_MAX];
  Spec s = {.source = ip4(10, 0, 1, 5), .destination = ip4(10, 0, 1, 6), .source_port = 1000, .destination_port = 80, .protocol = 17, .payload = 40};
  uint32_t size = build(frame, &s, &vnet);
  CHECK(packet_parse(&p, frame, size, size, &vnet) == DROP_NONE);
  size = reply_icmp_error(out, &p, VIP_MAC, s.destination, ICMP_UNREACHABLE, 3, 0);
  CHECK(size == 14 + 20 + 8 + 68 && transport_ok(out));
  CHECK(packet_parse(&error, out, size, size, &plain) == DROP_NONE && packet_is_icmp_error(&error));
  FlowKey tuple;
  CHECK(nat_embedded_tuple(&error, &tuple) && tuple.source == s.source && ntohs(tuple.destination_port) == 80);
  FlowKey inner = {.source = ip4(1, 2, 3, 4), .destination = ip4(4, 3, 2, 1), .source_port = htons(7), .destination_port = htons(8), .protocol = 17};
  nat_rewrite_error(&error, &inner, inner.destination, inner.source);
  CHECK(transport_ok(out));
  // The quoted datagram is whole, so its own checksum must be right too.
  uint8_t quoted[14 + 68];
  memcpy(quoted + 14, out + 42, 68);
  CHECK(transport_ok(quoted));
}

static void test_clamp(void) {
  VnetHeader vnet;
  Packet p;
  Spec s = {.source = 1, .destination = 2, .protocol = 6, .flags = TCP_SYN, .payload = 4};
  uint32_t size = build(frame, &s, &vnet);
  uint8_t option[4] = {2, 4, 0x05, 0xb4};
  memcpy(frame + 54, option, 4);
  frame[46] = 6 << 4;
  store16(frame + 50, 0);
  uint32_t pseudo = naive_sum(frame + 26, 8, 0) + 6 + 24;
  store_be16(frame + 50, (uint16_t)~naive_sum(frame + 34, 24, pseudo));
  CHECK(packet_parse(&p, frame, size, size, &vnet) == DROP_NONE && transport_ok(frame));
  nat_clamp_mss(&p, 1410);
  CHECK(load_be16(frame + 56) == 1410 && transport_ok(frame));
}

// Cuts a super-frame, checks every packet, glues them, compares with the original.
static void test_segments(void) {
  for (int round = 0; round < 200; round++) {
    VnetHeader vnet, plain = {0};
    Packet p;
    Spec s = {.source = ip4(10, 0, 0, 1), .destination = ip4(10, 0, 0, 2), .source_port = 1, .destination_port = 2, .protocol = 6,
      .flags = TCP_ACK | TCP_PSH, .payload = 2000 + test_random() % 60000, .sequence = 0xfffff000, .partial = true};
    uint32_t size = build(frame, &s, &vnet);
    vnet.gso_type = GSO_TCPV4;
    vnet.gso_size = 1398;
    CHECK(packet_parse(&p, frame, size, size, &vnet) == DROP_NONE);
    static SegmentBatch batch;
    static uint8_t wire[64][1600];
    Segmenter segmenter;
    Coalescer coalescer = {0};
    segmenter_init(&segmenter, &p, 77, 1450);
    uint32_t glued = 0, count = 0;
    while (segmenter_next(&segmenter, &batch)) {
      CHECK(batch.total <= DATAGRAM_MAX);
      for (uint32_t i = 0; i < batch.count; i++, count++) {
        uint8_t *to = wire[count % 64];
        memcpy(to, batch.vectors[2 * i].iov_base, batch.vectors[2 * i].iov_len);
        memcpy(to + batch.vectors[2 * i].iov_len, batch.vectors[2 * i + 1].iov_base, batch.vectors[2 * i + 1].iov_len);
        uint32_t length = (uint32_t)(batch.vectors[2 * i].iov_len + batch.vectors[2 * i + 1].iov_len), vni;
        CHECK(vxlan_decode(to, length, &vni) && vni == 77 && transport_ok(to + VXLAN_SIZE));
        Packet q;
        CHECK(packet_parse(&q, to + VXLAN_SIZE, length - VXLAN_SIZE, length - VXLAN_SIZE, &plain) == DROP_NONE);
        if (coalescer_append(&coalescer, &q, vni, 1, glued & 1)) continue;
        if (coalescer.active) {
          coalescer_finish(&coalescer);
          glued += coalescer.payload_size;
        }
        // Only a tail of a few bytes cannot start one.
        if (coalescer_start(&coalescer, &q, vni, 1, glued & 1)) continue;
        CHECK(q.size - q.payload < GSO_SIZE_MIN);
        glued += q.size - q.payload;
      }
    }
    if (coalescer.active) {
      coalescer_finish(&coalescer);
      glued += coalescer.payload_size;
    }
    CHECK(glued == s.payload);
    if (coalescer.count > 1) {
      CHECK(coalescer.packet.vnet.gso_size == 1398 && coalescer.packet.vnet.flags == VNET_NEEDS_CSUM);
      CHECK(coalescer.packet.tcp_flags & TCP_PSH);
    }
  }
}

// What a kernel cut but left the checksums of to a device that never came is glued like what has them.
static void test_partial_segments(void) {
  static uint8_t frames[3][256];
  Coalescer coalescer = {0};
  Packet p[3];
  for (uint32_t i = 0; i < 3; i++) {
    VnetHeader vnet, plain = {0};
    Spec s = {.source = ip4(10, 0, 0, 1), .destination = ip4(10, 0, 0, 2), .source_port = 1, .destination_port = 2, .protocol = 6,
      .flags = TCP_ACK, .payload = 100, .sequence = 1000 + 100 * i, .partial = true};
    uint32_t size = build(frames[i], &s, &vnet);
    // The last has neither: it is damaged.
    if (i == 2) frames[i][50] ^= 1;
    CHECK(packet_parse(&p[i], frames[i], size, size, &plain) == DROP_NONE);
  }
  CHECK(coalescer_start(&coalescer, &p[0], 7, 1, false));
  CHECK(coalescer_append(&coalescer, &p[1], 7, 1, false));
  CHECK(!coalescer_append(&coalescer, &p[2], 7, 1, false));
  coalescer_finish(&coalescer);
  CHECK(coalescer.count == 2 && coalescer.packet.vnet.flags == VNET_NEEDS_CSUM && coalescer.packet.vnet.gso_size == 100);
}

// The outer headers of a super-frame that leaves whole, and what does not leave so.
static void test_tunnel(void) {
  static uint8_t buffer[TUNNEL_HEADROOM + 70000];
  uint8_t *start = buffer + TUNNEL_HEADROOM;
  VnetHeader vnet;
  Packet p;
  Spec s = {.source = ip4(10, 0, 0, 1), .destination = ip4(10, 0, 0, 2), .source_port = 1, .destination_port = 2, .protocol = 6,
    .flags = TCP_ACK, .payload = 60000, .sequence = 1, .partial = true};
  uint32_t size = build(start, &s, &vnet);
  vnet.gso_type = GSO_TCPV4 | GSO_ECN;
  vnet.gso_size = 1398;
  CHECK(packet_parse(&p, start, size, size, &vnet) == DROP_NONE);
  TunnelRoute route = {.source = ip4(192, 0, 2, 1), .destination = ip4(192, 0, 2, 2), .vni = 77, .source_port = 40000, .destination_port = 4789, .ip_id = 9};
  CHECK(tunnel_encode(&p, &route, 1398));
  TunnelVnetHeader header;
  memcpy(&header, buffer, sizeof header);
  CHECK(header.base.flags == 9 && header.base.gso_type == (0x21 | GSO_ECN) && header.base.gso_size == 1398);
  CHECK(header.outer_l4 == 34 && header.inner_l3 == 64 && header.base.csum_start == 84 && header.base.header_size == 50 + p.payload);
  uint8_t *ip = buffer + sizeof header + ETH_SIZE;
  uint32_t vni, udp_size = UDP_SIZE + VXLAN_SIZE + size;
  CHECK(naive_sum(ip, IP_SIZE, 0) == 0xffff && load_be16(ip + 2) == IP_SIZE + udp_size && load_be16(ip + 4) == 9);
  CHECK(load_be16(ip + 20) == 40000 && load_be16(ip + 22) == 4789 && load_be16(ip + 24) == udp_size);
  CHECK(load_be16(ip + 26) == naive_sum(ip + 12, 8, PROTOCOL_UDP + udp_size));
  CHECK(vxlan_decode(ip + IP_SIZE + UDP_SIZE, VXLAN_SIZE, &vni) && vni == 77 && ip + IP_SIZE + UDP_SIZE + VXLAN_SIZE == start);
  p.vnet.gso_type = GSO_UDP_L4;
  CHECK(!tunnel_encode(&p, &route, 1398));
  p.vnet.gso_type = GSO_TCPV4;
  p.vnet.flags = 0;
  CHECK(!tunnel_encode(&p, &route, 1398));
  p.vnet.flags = VNET_NEEDS_CSUM;
  p.size = 65535 - 35;
  CHECK(!tunnel_encode(&p, &route, 1398));
}

// A newer acknowledgement may stand in for an older one, and for nothing else.
static void test_acknowledgements(void) {
  static uint8_t frames[2][128];
  VnetHeader vnet;
  Packet p[2];
  for (int i = 0; i < 2; i++) {
    Spec s = {.source = ip4(10, 0, 0, 1), .destination = ip4(10, 0, 0, 2), .source_port = 1, .destination_port = 2, .protocol = 6, .flags = TCP_ACK, .sequence = 7};
    uint32_t size = build(frames[i], &s, &vnet);
    // The acknowledged number wraps around.
    store_be32(frames[i] + 42, 0xfffffff0u + 32u * (uint32_t)i);
    CHECK(packet_parse(&p[i], frames[i], size, size, &vnet) == DROP_NONE && ack_may_hold(&p[i]));
  }
  HeldAck held = {.active = true, .packet = p[0]};
  CHECK(ack_supersedes(&held, &p[1]));
  held.packet = p[1];
  CHECK(!ack_supersedes(&held, &p[0]) && !ack_supersedes(&held, &p[1])); // older, repeated
  held.packet = p[0];
  held.replaced = ACKS_REPLACED_MAX;
  CHECK(!ack_supersedes(&held, &p[1]));
  held.replaced = 0;
  held.active = false;
  CHECK(!ack_supersedes(&held, &p[1]));
  held.active = true;
  static const uint8_t differs[] = {0, 6, 15, 22, 26, 30, 34, 36, 38}; // MACs, TOS, TTL, addresses, ports, sequence
  for (size_t i = 0; i < sizeof differs; i++) {
    frames[0][differs[i]] ^= 1;
    CHECK(!ack_supersedes(&held, &p[1]));
    frames[0][differs[i]] ^= 1;
  }
  Packet q = p[1];
  q.tcp_flags |= TCP_PSH;
  CHECK(!ack_may_hold(&q) && !ack_supersedes(&held, &q));
  q = p[1];
  q.size++; // data
  CHECK(!ack_may_hold(&q));
  frames[1][46] |= 1; // AccECN
  CHECK(!ack_may_hold(&p[1]));
}

static void test_flows(void) {
  enum { CAPACITY = 256 };
  void *memory = calloc(1, flow_memory_size(CAPACITY));
  FlowTable t;
  CHECK(flow_init(&t, memory, CAPACITY, "boot", 42, 100));
  FlowKey keys[2000][2];
  for (uint32_t i = 0; i < 2000; i++) {
    keys[i][0] = (FlowKey){.scope = 5, .source = i, .destination = 9, .source_port = (uint16_t)i, .destination_port = 80, .protocol = 6};
    keys[i][1] = (FlowKey){.scope = 5, .source = 10, .destination = i, .source_port = 80, .destination_port = (uint16_t)i, .protocol = 6};
    Flow *flow = flow_insert(&t, FLOW_VIP, keys[i], 100);
    CHECK(flow && flow_find(&t, &keys[i][0]).flow == flow && flow_find(&t, &keys[i][1]).direction == 1);
    CHECK(!flow_insert(&t, FLOW_VIP, keys[i], 100));
    flow_touch(flow, 0, TCP_SYN, 100);
    if (i % 3 == 0) flow_remove(&t, flow);
    CHECK(t.count + t.free_count == CAPACITY);
  }
  CHECK(t.evicted > 0 && t.count <= CAPACITY);
  // Whatever is left is found by both keys, nothing else is.
  uint32_t found = 0;
  for (uint32_t i = 0; i < 2000; i++) {
    FlowRef a = flow_find(&t, &keys[i][0]), b = flow_find(&t, &keys[i][1]);
    CHECK(a.flow == b.flow);
    found += a.flow != NULL;
  }
  CHECK(found == t.count);
  // Adoption: one torn entry is left out, the rest is there.
  uint32_t kept = t.count;
  for (uint32_t i = 0; i < CAPACITY; i++) {
    if (t.flows[i].kind == FLOW_FREE) continue;
    t.flows[i].seq |= 1;
    break;
  }
  flow_free(&t);
  CHECK(flow_init(&t, memory, CAPACITY, "boot", 43, 101));
  CHECK(t.adopted == kept - 1 && t.torn == 1);
  flow_sweep(&t, 100000, CAPACITY);
  CHECK(t.count == 0 && t.free_count == CAPACITY);
  flow_free(&t);
  CHECK(flow_init(&t, memory, CAPACITY, "another boot", 43, 101) && t.adopted == 0);
  flow_free(&t);
  free(memory);
}

static void test_lb(void) {
  Backend backends[3] = {{.address = 1, .weight = 1}, {.address = 2, .weight = 2}, {.address = 3, .weight = 1, .draining = true}};
  BackendSet set = {.backends = backends, .count = 3};
  lb_prepare(&set);
  int count[4] = {0};
  for (int i = 0; i < 300; i++) count[lb_pick(&set)->address]++;
  CHECK(count[1] == 100 && count[2] == 200 && count[3] == 0);
  backends[0].draining = backends[1].draining = true;
  lb_prepare(&set);
  CHECK(lb_pick(&set) != NULL);
  for (int i = 0; i < 3; i++) backends[i].weight = 0;
  lb_prepare(&set);
  CHECK(lb_pick(&set) == NULL);
  set.count = 0;
  CHECK(lb_pick(&set) == NULL);
}

int main(void) {
  test_csum();
  test_liveness();
  test_nat();
  test_nat_error();
  test_clamp();
  test_segments();
  test_partial_segments();
  test_tunnel();
  test_acknowledgements();
  test_flows();
  test_lb();
  puts("packet_test: ok");
  return 0;
}
