// snapshot.c: look-ups in a published snapshot.
#include "snapshot.h"
#include <stdlib.h>

static uint32_t slot_of(const Index *index, uint32_t a, uint32_t b) {
  return (uint32_t)(mix64(0x9ae16a3b2f90404fULL, ((uint64_t)a << 32) | b) >> 20) & index->mask;
}

bool index_init(Index *index, uint32_t count) {
  uint32_t size = 4;
  while (size < count * 2) size *= 2;
  index->mask = size - 1;
  index->slots = calloc(size, sizeof *index->slots);
  return index->slots != NULL;
}

void index_put(Index *index, uint32_t a, uint32_t b, uint32_t position) {
  uint32_t i = slot_of(index, a, b);
  while (index->slots[i].position) i = (i + 1) & index->mask;
  index->slots[i] = (IndexSlot){a, b, position + 1};
}

// Position + 1 of the next entry with this key, starting after *at; the first call has *at = UINT32_MAX.
static uint32_t index_next(const Index *index, uint32_t a, uint32_t b, uint32_t *at) {
  if (!index->slots) return 0;
  uint32_t i = *at == UINT32_MAX ? slot_of(index, a, b) : (*at + 1) & index->mask;
  for (; index->slots[i].position; i = (i + 1) & index->mask) {
    if (index->slots[i].a != a || index->slots[i].b != b) continue;
    *at = i;
    return index->slots[i].position;
  }
  return 0;
}

uint32_t index_find(const Index *index, uint32_t a, uint32_t b) {
  uint32_t at = UINT32_MAX;
  return index_next(index, a, b, &at);
}

#define LOOKUP(array, index, a, b) uint32_t found = index_find(&s->index, a, b); return found ? &s->array[found - 1] : NULL

const Network *snapshot_network(const Snapshot *s, uint32_t vni) { LOOKUP(networks, network_index, vni, 0); }
const Endpoint *snapshot_endpoint(const Snapshot *s, uint32_t vni, uint32_t address) { LOOKUP(endpoints, endpoint_index, vni, address); }
Service *snapshot_service(const Snapshot *s, uint32_t vni, uint32_t vip) { LOOKUP(services, service_index, vni, vip); }
Port *snapshot_port(const Snapshot *s, uint8_t protocol, uint16_t published) { LOOKUP(ports, port_index, protocol, published); }
bool snapshot_knows_vtep(const Snapshot *s, uint32_t vtep) { return index_find(&s->vtep_index, vtep, 0) != 0; }
const Node *snapshot_ingress_node(const Snapshot *s, uint32_t address) { LOOKUP(nodes, ingress_index, address, 0); }
const Pointer *snapshot_pointer(const Snapshot *s, uint32_t vni, uint32_t address) { LOOKUP(pointers, pointer_index, vni, address); }

uint32_t name_hash(const char *name) {
  uint64_t h = 0xcbf29ce484222325ULL;
  for (; *name; name++) h = (h ^ (uint8_t)*name) * 0x100000001b3ULL;
  return (uint32_t)(h ^ (h >> 32));
}

const Name *snapshot_name(const Snapshot *s, uint32_t vni, const char *name) {
  uint32_t at = UINT32_MAX, found, hash = name_hash(name);
  while ((found = index_next(&s->name_index, vni, hash, &at)))
    if (strcmp(s->names[found - 1].name, name) == 0) return &s->names[found - 1];
  return NULL;
}

bool network_contains(const Network *network, uint32_t address) {
  for (uint32_t i = 0; i < network->subnet_count; i++)
    if (((address ^ network->subnets[i].address) & network->subnets[i].mask) == 0) return true;
  return false;
}

bool network_is_gateway(const Network *network, uint32_t address) {
  for (uint32_t i = 0; i < network->subnet_count; i++)
    if (network->subnets[i].gateway == address && address) return true;
  return false;
}

void snapshot_free(Snapshot *s) {
  if (!s) return;
  for (uint32_t i = 0; i < s->service_count; i++) free(s->services[i].set.backends);
  for (uint32_t i = 0; i < s->port_count; i++) free(s->ports[i].set.backends);
  for (uint32_t i = 0; i < s->name_count; i++) free(s->names[i].addresses);
  void *all[] = {s->networks, s->endpoints, s->services, s->ports, s->nodes, s->names, s->pointers,
    s->network_index.slots, s->endpoint_index.slots, s->service_index.slots, s->port_index.slots, s->vtep_index.slots,
    s->ingress_index.slots, s->name_index.slots, s->pointer_index.slots, s};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}
