// Throws hostile bytes at every parser for a few seconds: frames with every origin, rows, DNS questions. ASan and
// UBSan judge; what the program forwards must still be a well-formed frame. SKEIN_FUZZ_SECONDS makes it longer.
#include "check.h"
#include "engine/offload.h"
#include "engine/store.h"
#include "packet/dns.h"
#include <time.h>

static Program program;
static Sandbox sandbox;
static Store store;

static void put_row(uint16_t kind, const char *key, const void *fixed, uint32_t fixed_size, const void *trailing, uint32_t trailing_size) {
  uint8_t row[4096];
  char error[600];
  RowHeader header = {.size = (uint32_t)(sizeof header + fixed_size + strlen(key) + trailing_size), .kind = kind, .key_size = (uint16_t)strlen(key)};
  memcpy(row, &header, sizeof header);
  memcpy(row + sizeof header, fixed, fixed_size);
  memcpy(row + sizeof header + fixed_size, key, strlen(key));
  if (trailing_size) memcpy(row + sizeof header + fixed_size + strlen(key), trailing, trailing_size);
  bool ok = row_check(row, header.size, error, sizeof error);
  if (!ok) fprintf(stderr, "%s\n", error);
  CHECK(ok && store_put(&store, row));
}

static void mapped(uint8_t out[16], uint32_t address) {
  memset(out, 0, 10);
  out[10] = out[11] = 0xff;
  memcpy(out + 12, &address, 4);
}

static void make_world(void) {
  CHECK(store_init(&store));
  for (uint32_t vni = 1; vni <= 2; vni++) {
    NetworkRow network = {.vni = vni, .flags = vni == 2 ? NETWORK_INGRESS : 0, .subnet_count = 1, .name_size = 3};
    uint8_t trailing[sizeof(SubnetAbi) + 3];
    SubnetAbi subnet = {.prefix = 24};
    mapped(subnet.address, ip4(10, 0, (int)vni, 0));
    mapped(subnet.gateway, ip4(10, 0, (int)vni, 1));
    memcpy(trailing, &subnet, sizeof subnet);
    memcpy(trailing + sizeof subnet, "net", 3);
    put_row(ROW_NETWORK, vni == 1 ? "net/1" : "net/2", &network, sizeof network, trailing, sizeof trailing);
    for (int i = 5; i <= 6; i++) {
      EndpointRow endpoint = {.vni = vni, .mac = {2, 0, 0, 0, 0, (uint8_t)i}};
      mapped(endpoint.address, ip4(10, 0, (int)vni, i));
      mapped(endpoint.vtep, ip4(192, 0, 2, i));
      char key[32];
      snprintf(key, sizeof key, "ep/%u/%d", vni, i);
      put_row(ROW_ENDPOINT, key, &endpoint, sizeof endpoint, NULL, 0);
    }
  }
  BackendAbi backends[2] = {{.weight = 1}, {.weight = 1}};
  for (int i = 0; i < 2; i++) mapped(backends[i].address, ip4(10, 0, 1, 5 + i));
  ServiceRow service = {.vni = 1, .backend_count = 2};
  mapped(service.vip, ip4(10, 0, 1, 2));
  put_row(ROW_SERVICE, "svc", &service, sizeof service, backends, sizeof backends);
  for (int i = 0; i < 2; i++) mapped(backends[i].address, ip4(10, 0, 2, 5 + i));
  PortRow port = {.protocol = 6, .published = 80, .target = 8080, .backend_count = 2};
  put_row(ROW_PORT, "port", &port, sizeof port, backends, sizeof backends);
  port.protocol = 17;
  put_row(ROW_PORT, "port/udp", &port, sizeof port, backends, sizeof backends);
  NameRow name = {.vni = 1, .address_count = 1, .name_size = 3};
  uint8_t trailing[19];
  mapped(trailing, ip4(10, 0, 1, 2));
  memcpy(trailing + 16, "web", 3);
  put_row(ROW_NAME, "name", &name, sizeof name, trailing, sizeof trailing);
  PointerRow pointer = {.vni = 1, .name_size = 3};
  mapped(pointer.address, ip4(10, 0, 1, 5));
  put_row(ROW_POINTER, "ptr", &pointer, sizeof pointer, "a.b", 3);
  NodeRow node;
  mapped(node.vtep, ip4(192, 0, 2, 5));
  mapped(node.ingress_address, ip4(10, 0, 2, 200));
  put_row(ROW_NODE, "node", &node, sizeof node, NULL, 0);
}

static void make_program(void) {
  void *memory = calloc(1, flow_memory_size(128));
  program.now_s = 1000;
  CHECK(flow_init(&program.flows, memory, 128, "boot", 1, 1000));
  program.config = (ProgramConfig){.configured = true, .vtep = ip4(192, 0, 2, 5), .gateway = ip4(172, 18, 0, 1),
    .gateway_mask = ip4(255, 255, 0, 0), .published = ip4(172, 18, 255, 254), .underlay_mtu = 1500, .vxlan_port = 4789};
  Snapshot *tables = store_build(&store, 1, 1, 0, NULL);
  CHECK(tables);
  program_set_tables(&program, tables);
  CHECK(program.ingress_vni == 2 && program.ingress_address == ip4(10, 0, 2, 200));
  uint32_t scopes[3] = {1, 2, SCOPE_GATEWAY}, addresses[3] = {ip4(10, 0, 1, 5), ip4(10, 0, 2, 5), ip4(172, 18, 0, 5)};
  static Interface *list[3];
  static Locals locals = {.interfaces = list};
  CHECK(index_init(&locals.index, 3));
  for (uint32_t i = 0; i < 3; i++) {
    sandbox.interfaces[i] = (Interface){.scope = scopes[i], .addresses = {addresses[i]}, .address_count = 1, .mac = {2, 0, 0, 0, 0, 5}, .mtu = 1450, .sandbox = &sandbox};
    list[i] = &sandbox.interfaces[i];
    index_put(&locals.index, scopes[i], addresses[i], i);
  }
  sandbox.count = 3;
  sandbox.gateway = &sandbox.interfaces[2];
  program.locals = &locals;
}

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
    if (test_random() % 4 == 0) vnet = (VnetHeader){.flags = (uint8_t)(test_random() % 3), .gso_type = (uint8_t)(test_random() % 8),
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
