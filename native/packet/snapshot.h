// snapshot.h: the tables as the packet program reads them: immutable once published, swapped whole by pointer.
// Only BackendSet.turn is written afterwards, by the packet thread.
#ifndef SKEIN_SNAPSHOT_H
#define SKEIN_SNAPSHOT_H
#include "lb.h"
#include "tables.h"

typedef struct Subnet { uint32_t address, mask, gateway; } Subnet;
typedef struct Network {
  uint32_t vni, mtu, flags, subnet_count;
  Subnet subnets[SUBNETS_MAX];
  char name[NAME_SIZE_MAX + 1];
} Network;
typedef struct Endpoint { uint32_t vni, address, vtep; uint8_t mac[6]; } Endpoint;
typedef struct Service { uint32_t vni, vip; BackendSet set; } Service;
typedef struct Port { uint8_t protocol, host_mode; uint16_t published, target; BackendSet set; } Port;
typedef struct Node { uint32_t vtep, ingress_address; } Node;
typedef struct Name { uint32_t vni, address_count; uint32_t *addresses; char name[NAME_SIZE_MAX + 1]; } Name;
typedef struct Pointer { uint32_t vni, address; char name[NAME_SIZE_MAX + 1]; } Pointer;

// Key (a, b) to position + 1.
typedef struct IndexSlot { uint32_t a, b, position; } IndexSlot;
typedef struct Index { IndexSlot *slots; uint32_t mask; } Index;

typedef struct Snapshot {
  uint64_t revision;
  // Differs from every other snapshot of this process; 0 means none.
  uint32_t generation;
  Network *networks;
  Endpoint *endpoints;
  Service *services;
  Port *ports;
  Node *nodes;
  Name *names;
  Pointer *pointers;
  uint32_t network_count, endpoint_count, service_count, port_count, node_count, name_count, pointer_count;
  Index network_index, endpoint_index, service_index, port_index, vtep_index, ingress_index, name_index, pointer_index;
} Snapshot;

// Addresses in network order, ports in host order.
const Network *snapshot_network(const Snapshot *s, uint32_t vni);
const Endpoint *snapshot_endpoint(const Snapshot *s, uint32_t vni, uint32_t address);
Service *snapshot_service(const Snapshot *s, uint32_t vni, uint32_t vip);
Port *snapshot_port(const Snapshot *s, uint8_t protocol, uint16_t published);
bool snapshot_knows_vtep(const Snapshot *s, uint32_t vtep);
const Node *snapshot_ingress_node(const Snapshot *s, uint32_t ingress_address);
const Name *snapshot_name(const Snapshot *s, uint32_t vni, const char *name);
const Pointer *snapshot_pointer(const Snapshot *s, uint32_t vni, uint32_t address);
bool network_contains(const Network *network, uint32_t address);
bool network_is_gateway(const Network *network, uint32_t address);
uint32_t name_hash(const char *name);

// Builder: index_build allocates for count keys; false: no memory.
bool index_init(Index *index, uint32_t count);
void index_put(Index *index, uint32_t a, uint32_t b, uint32_t position);
// Position + 1, 0 when absent.
uint32_t index_find(const Index *index, uint32_t a, uint32_t b);
void snapshot_free(Snapshot *s);
#endif
