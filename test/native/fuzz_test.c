// Throws hostile bytes at every parser for a few seconds: frames with every origin, rows, DNS questions. ASan and
// UBSan judge; what the program forwards must still be a well-formed frame. SKEIN_FUZZ_SECONDS makes it longer.
#include "engine/offload.h"
#include "packet/dns.h"
#include "world.h"
#include <time.h>

static uint32_t pick_address(void) {
  uint32_t all[] = {ip4(10, 0, 1, 5), ip4(10, 0, 1, 6), ip4(10, 0, 1, 2), ip4(10, 0, 1, 1), ip4(10, 0, 2, 5), ip4(10, 0, 2, 6), ip4(10, 0, 2, 200),
    ip4(172, 18, 0, 5), ip4(172, 18, 0, 1), ip4(172, 18, 255, 254), ip4(198, 51, 100, 7), ip4(127, 0, 0, 1), 0xffffffff, (uint32_t)test_random()};
  return all[test_random() % (sizeof all / sizeof *all)];
}

static uint64_t verdicts[8];

static void fuzz_frame(void) {
  // Exactly as large as it says, so that ASan sees one byte too far; headroom as in the engine.
  static uint8_t scratch[4096];
  static const uint8_t mac[6] = {2, 0, 0, 0, 0, 5};
  VnetHeader vnet;
  Spec s = {.source = pick_address(), .destination = pick_address(), .source_port = (uint16_t)(test_random() % 4 ? 1000 + test_random() % 4 : 80),
    .destination_port = test_random() % 2 ? 80 : 8080, .protocol = (uint8_t[]){6, 17, 1, 6}[test_random() % 4], .payload = test_random() % 1700,
    .flags = (uint8_t)(test_random() % 4 ? TCP_SYN : test_random()), .partial = test_random() % 3 == 0, .source_mac = mac, .dont_fragment = test_random() % 2};
  if (s.protocol == 1) s.flags = (uint8_t[]){8, 0, 3, 11, 12, 5}[test_random() % 6];
  uint32_t size = build(scratch, &s, &vnet);
  if (s.protocol == 1 && s.flags == 3 && size > 42 + 28) {
    // An error about a packet that may have been translated.
    Spec inner = {.source = pick_address(), .destination = pick_address(), .source_port = 80, .destination_port = 1000, .protocol = 6, .payload = 0};
    uint8_t quoted[128];
    VnetHeader ignored;
    uint32_t quoted_size = build(quoted, &inner, &ignored) - 14;
    memcpy(scratch + 42, quoted + 14, quoted_size < size - 42 ? quoted_size : size - 42);
  }
  bool mutated = test_random() % 3;
  if (mutated) {
    for (uint64_t i = test_random() % 6; i > 0; i--) scratch[test_random() % (size < 70 ? size : 70)] = (uint8_t)test_random();
    if (test_random() % 4 == 0) size = (uint32_t)(test_random() % (size + 1));
    if (test_random() % 4 == 0) vnet = (VnetHeader){.flags = (uint8_t)(test_random() % 3), .gso_type = (uint8_t)(test_random() % 8 | (test_random() & GSO_ECN)),
      .gso_size = (uint16_t)test_random(), .csum_start = test_random() % 2 ? 34 : (uint16_t)test_random(), .csum_offset = test_random() % 2 ? 16 : 6};
  }
  uint8_t *memory = malloc(64 + size), *frame = memory + 64;
  memcpy(frame, scratch, size);
  Packet p;
  uint32_t head = test_random() % 4 ? size : (uint32_t)(test_random() % (size + 1));
  Origin origin = {.kind = test_random() % 3, .vni = (uint32_t)(test_random() % 4), .vtep = ip4(192, 0, 2, 5 + (int)(test_random() % 3))};
  origin.interface = &sandbox.interfaces[test_random() % 3];
  if (packet_parse(&p, frame, head, size, &vnet) == DROP_NONE) {
    HeldAck held = {.active = true, .packet = p};
    CHECK(!ack_supersedes(&held, &p));
    Coalescer coalescer = {0};
    Packet q = p;
    if (coalescer_start(&coalescer, &q, 1, 1, test_random() & 1)) coalescer_append(&coalescer, &q, 1, 1, test_random() & 1);
    if (origin.kind == ORIGIN_VXLAN) offload_receive(&p, 1450);
    Verdict verdict = program_run(&program, &p, &origin);
    verdicts[verdict.kind]++;
    if (verdict.kind == VERDICT_REPLY) {
      VnetHeader plain = {0};
      Packet r;
      CHECK(packet_parse(&r, program.reply, program.reply_size, program.reply_size, &plain) == DROP_NONE);
    } else if (verdict.kind != VERDICT_DROP && p.vnet.gso_type && p.head == p.size) {
      static SegmentBatch batch;
      Segmenter segmenter;
      segmenter_init(&segmenter, &p, 1, 1450);
      while (segmenter_next(&segmenter, &batch)) CHECK(batch.count <= SEGMENTS_MAX && batch.total <= DATAGRAM_MAX);
    } else if (verdict.kind != VERDICT_DROP && p.head == p.size) {
      packet_complete_checksum(&p);
      if (!mutated) CHECK(p.fragment || transport_ok(frame) || p.protocol == PROTOCOL_ICMP);
    }
  }
  free(memory);
  if (test_random() % 1000 == 0) {
    program.now_s += test_random() % 40;
    flow_sweep(&program.flows, program.now_s, 128);
    program.tables->generation++;
  }
  CHECK(program.flows.count + program.flows.free_count == program.flows.capacity);
}

static void fuzz_dns(void) {
  static const uint8_t question[] = {0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 3, 'w', 'e', 'b', 3, 'n', 'e', 't', 0, 0, 1, 0, 1, 0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0};
  static const uint8_t reverse[] = {0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, '5', 1, '1', 1, '0', 2, '1', '0', 7, 'i', 'n', '-', 'a', 'd', 'd', 'r', 4, 'a', 'r', 'p', 'a', 0, 0, 12, 0, 1};
  bool back = test_random() % 2;
  uint32_t size = back ? sizeof reverse : sizeof question;
  uint8_t *query = malloc(size);
  memcpy(query, back ? reverse : question, size);
  for (uint64_t i = test_random() % 5; i > 0; i--) query[test_random() % size] = (uint8_t)test_random();
  if (test_random() % 4 == 0) {
    uint32_t cut = (uint32_t)(test_random() % (size + 1));
    uint8_t *shorter = malloc(cut ? cut : 1);
    memcpy(shorter, query, cut);
    free(query);
    query = shorter;
    size = cut;
  }
  uint32_t vnis[1] = {1}, out_size = 0;
  uint8_t *out = malloc(DNS_MESSAGE_MAX);
  DnsAsker asker = {.vnis = vnis, .vni_count = 1, .tcp = test_random() % 2, .random = test_random()};
  if (dns_answer(program.tables, &asker, query, size, out, DNS_MESSAGE_MAX, &out_size) == DNS_ANSWER) {
    CHECK(out_size >= DNS_HEADER && (out[2] & 0x80));
    CHECK(dns_truncate(out, out_size) <= out_size);
  }
  dns_refuse(query, size, DNS_SERVFAIL, out);
  dns_udp_limit(query, size);
  if (size >= 1) {
    memcpy(out, query, size);
    CHECK(dns_truncate(out, size) <= size);
  }
  free(out);
  free(query);
}

static void fuzz_row(void) {
  uint32_t size = (uint32_t)(test_random() % 200);
  uint8_t *row = malloc(size ? size : 1);
  for (uint32_t i = 0; i < size; i++) row[i] = (uint8_t)(test_random() % 3 ? 0 : test_random());
  if (size >= 8) {
    RowHeader header = {.size = test_random() % 4 ? size : (uint32_t)test_random(), .kind = (uint16_t)(test_random() % 9), .key_size = (uint16_t)(test_random() % 20)};
    memcpy(row, &header, sizeof header);
  }
  char error[600];
  Store scratch;
  if (row_check(row, size, error, sizeof error) && test_random() % 50 == 0) {
    CHECK(store_init(&scratch) && store_put(&scratch, row));
    Snapshot *tables = store_build(&scratch, 1, 1, 0, NULL);
    CHECK(tables);
    snapshot_free(tables);
    store_free(&scratch);
  }
  free(row);
}

int main(void) {
  const char *seconds = getenv("SKEIN_FUZZ_SECONDS");
  time_t end = time(NULL) + (seconds ? atoi(seconds) : 4);
  make_world();
  make_program();
  uint64_t rounds = 0;
  for (; time(NULL) < end; rounds++) {
    for (int i = 0; i < 100; i++) fuzz_frame();
    for (int i = 0; i < 20; i++) fuzz_dns();
    for (int i = 0; i < 20; i++) fuzz_row();
  }
  // The fuzzer is worth nothing if it reaches one verdict only.
  for (int i = VERDICT_DROP; i <= VERDICT_VXLAN; i++) CHECK(verdicts[i] > 0);
  printf("fuzz_test: ok, %llu rounds, %llu flows evicted\n", (unsigned long long)rounds, (unsigned long long)program.flows.evicted);
  snapshot_free(program.tables);
  store_free(&store);
  flow_free(&program.flows);
  return 0;
}
