// world.h: tables, one sandbox and a program that the C tests send packets through: networks 1 and 2 (ingress), this
// node (192.0.2.5) with the task at .5 of each and 172.18.0.5 on the way out, another node (192.0.2.6) with .6.
#ifndef SKEIN_WORLD_H
#define SKEIN_WORLD_H
#include "check.h"
#include "engine/store.h"

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
#endif
