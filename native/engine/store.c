// store.c: see store.h. Rows are checked before they are kept; building from checked rows cannot fail but for memory.
#include "store.h"
#include <stdio.h>
#include <stdlib.h>

static const uint32_t FIXED_SIZE[] = {0, sizeof(NetworkRow), sizeof(EndpointRow), sizeof(ServiceRow), sizeof(PortRow),
  sizeof(NodeRow), sizeof(NameRow), sizeof(PointerRow)};

bool abi_address(const uint8_t address[16], uint32_t *out) {
  static const uint8_t zero[16], mapped[12] = {[10] = 0xff, [11] = 0xff};
  *out = 0;
  if (memcmp(address, zero, 16) == 0) return true;
  if (memcmp(address, mapped, 12) != 0) return false;
  memcpy(out, address + 12, 4);
  return true;
}

typedef struct RowView { RowHeader header; const uint8_t *fixed, *key, *trailing; uint32_t trailing_size; } RowView;

static RowView view(const uint8_t *row) {
  RowView v;
  memcpy(&v.header, row, sizeof v.header);
  v.fixed = row + sizeof v.header;
  v.key = v.fixed + FIXED_SIZE[v.header.kind];
  v.trailing = v.key + v.header.key_size;
  v.trailing_size = v.header.size - (uint32_t)(v.trailing - row);
  return v;
}

static bool addresses_ok(const uint8_t *first, uint32_t count, uint32_t stride) {
  uint32_t ignored;
  for (uint32_t i = 0; i < count; i++)
    if (!abi_address(first + (size_t)i * stride, &ignored)) return false;
  return true;
}

static bool name_ok(const uint8_t *name, uint32_t size) {
  return size > 0 && size <= NAME_SIZE_MAX && !memchr(name, 0, size);
}

// A text of what is wrong with the row, NULL when nothing is.
static const char *check_kind(const RowView *v) {
  static const char *const ipv6 = "unsupported: IPv6 address", *const short_row = "trailing elements missing";
  switch (v->header.kind) {
  case ROW_NETWORK: {
    NetworkRow r;
    memcpy(&r, v->fixed, sizeof r);
    if (r.subnet_count > SUBNETS_MAX || r.vni >= 1 << 24) return "bad network";
    if (v->trailing_size != r.subnet_count * sizeof(SubnetAbi) + r.name_size) return short_row;
    if (r.name_size && !name_ok(v->trailing + r.subnet_count * sizeof(SubnetAbi), r.name_size)) return "bad name";
    for (uint32_t i = 0; i < r.subnet_count; i++) {
      const uint8_t *subnet = v->trailing + i * sizeof(SubnetAbi);
      if (!addresses_ok(subnet, 2, 16)) return ipv6;
      if (subnet[32] > 32) return "bad prefix";
    }
    return NULL;
  }
  case ROW_ENDPOINT: return addresses_ok(v->fixed + 4, 2, 16) ? NULL : ipv6;
  case ROW_SERVICE: {
    ServiceRow r;
    memcpy(&r, v->fixed, sizeof r);
    if (r.backend_count > BACKENDS_MAX || v->trailing_size != r.backend_count * sizeof(BackendAbi)) return short_row;
    return addresses_ok(r.vip, 1, 16) && addresses_ok(v->trailing, r.backend_count, sizeof(BackendAbi)) ? NULL : ipv6;
  }
  case ROW_PORT: {
    PortRow r;
    memcpy(&r, v->fixed, sizeof r);
    if (r.backend_count > BACKENDS_MAX || v->trailing_size != r.backend_count * sizeof(BackendAbi)) return short_row;
    if ((r.protocol != 6 && r.protocol != 17) || !r.published || !r.target) return "bad port";
    return addresses_ok(v->trailing, r.backend_count, sizeof(BackendAbi)) ? NULL : ipv6;
  }
  case ROW_NODE: return addresses_ok(v->fixed, 2, 16) ? NULL : ipv6;
  case ROW_NAME: {
    NameRow r;
    memcpy(&r, v->fixed, sizeof r);
    if (v->trailing_size != r.address_count * 16u + r.name_size) return short_row;
    if (!name_ok(v->trailing + r.address_count * 16u, r.name_size)) return "bad name";
    return addresses_ok(v->trailing, r.address_count, 16) ? NULL : ipv6;
  }
  case ROW_POINTER: {
    PointerRow r;
    memcpy(&r, v->fixed, sizeof r);
    if (v->trailing_size != r.name_size) return short_row;
    if (!name_ok(v->trailing, r.name_size)) return "bad name";
    return addresses_ok(r.address, 1, 16) ? NULL : ipv6;
  }
  }
  return "unknown kind";
}

bool row_check(const uint8_t *row, uint32_t size, char *error, size_t error_size) {
  RowHeader header;
  const char *text = NULL;
  if (size < sizeof header) {
    snprintf(error, error_size, "invalid: row header cut");
    return false;
  }
  memcpy(&header, row, sizeof header);
  if (header.size > size || !header.key_size || header.key_size > KEY_SIZE_MAX) text = "bad row header";
  else if (header.kind < ROW_NETWORK || header.kind > ROW_POINTER) text = "unknown kind";
  else if (header.size < sizeof header + FIXED_SIZE[header.kind] + header.key_size) text = "row too short";
  if (text) {
    snprintf(error, error_size, "invalid: %s", text);
    return false;
  }
  RowView v = view(row);
  text = check_kind(&v);
  if (!text) return true;
  snprintf(error, error_size, "%s (row %.*s)", text, header.key_size, (const char *)v.key);
  return false;
}

static uint32_t key_hash(const uint8_t *key, uint32_t size) {
  uint64_t h = 0xcbf29ce484222325ULL;
  for (uint32_t i = 0; i < size; i++) h = (h ^ key[i]) * 0x100000001b3ULL;
  return (uint32_t)(h ^ (h >> 32));
}

bool store_init(Store *store) {
  store->bucket_count = 1 << 16;
  store->count = 0;
  store->buckets = calloc(store->bucket_count, sizeof *store->buckets);
  return store->buckets != NULL;
}

void store_free(Store *store) {
  for (uint32_t i = 0; store->buckets && i < store->bucket_count; i++) {
    for (StoredRow *row = store->buckets[i]; row;) {
      StoredRow *next = row->next;
      free(row);
      row = next;
    }
  }
  free(store->buckets);
  store->buckets = NULL;
}

static StoredRow **find(Store *store, const uint8_t *key, uint32_t key_size, uint32_t hash) {
  StoredRow **at = &store->buckets[hash & (store->bucket_count - 1)];
  for (; *at; at = &(*at)->next) {
    RowView v = view((*at)->bytes);
    if ((*at)->hash == hash && v.header.key_size == key_size && memcmp(v.key, key, key_size) == 0) break;
  }
  return at;
}

bool store_put(Store *store, const uint8_t *bytes) {
  RowView v = view(bytes);
  if (store->count >= ROWS_MAX) return false;
  StoredRow *row = malloc(sizeof *row + v.header.size);
  if (!row) return false;
  row->hash = key_hash(v.key, v.header.key_size);
  row->size = v.header.size;
  memcpy(row->bytes, bytes, v.header.size);
  StoredRow **at = find(store, v.key, v.header.key_size, row->hash);
  StoredRow *old = *at;
  row->next = old ? old->next : NULL;
  *at = row;
  if (!old) store->count++;
  free(old);
  return true;
}

void store_remove(Store *store, const char *key, uint32_t key_size) {
  StoredRow **at = find(store, (const uint8_t *)key, key_size, key_hash((const uint8_t *)key, key_size));
  StoredRow *row = *at;
  if (!row) return;
  *at = row->next;
  free(row);
  store->count--;
}

static void copy_name(char out[NAME_SIZE_MAX + 1], const uint8_t *name, uint32_t size) {
  memcpy(out, name, size);
  out[size] = 0;
}

// A start that differs by node and by service.
static uint32_t start_of(uint32_t vtep, uint64_t service) { return (uint32_t)(mix64(mix64(0x5eed, vtep), service) >> 40); }

static bool copy_backends(BackendSet *set, const uint8_t *trailing, uint32_t count) {
  set->backends = calloc(count ? count : 1, sizeof *set->backends);
  if (!set->backends) return false;
  set->count = count;
  for (uint32_t i = 0; i < count; i++) {
    BackendAbi b;
    memcpy(&b, trailing + i * sizeof b, sizeof b);
    abi_address(b.address, &set->backends[i].address);
    set->backends[i].weight = b.weight;
    set->backends[i].draining = b.flags & BACKEND_DRAINING;
  }
  lb_prepare(set);
  return true;
}

static void build_network(Snapshot *s, const RowView *v) {
  NetworkRow r;
  memcpy(&r, v->fixed, sizeof r);
  Network *n = &s->networks[s->network_count++];
  *n = (Network){.vni = r.vni, .mtu = r.mtu, .flags = r.flags, .subnet_count = r.subnet_count};
  for (uint32_t i = 0; i < r.subnet_count; i++) {
    SubnetAbi a;
    memcpy(&a, v->trailing + i * sizeof a, sizeof a);
    abi_address(a.address, &n->subnets[i].address);
    abi_address(a.gateway, &n->subnets[i].gateway);
    n->subnets[i].mask = a.prefix ? htonl(~0u << (32 - a.prefix)) : 0;
  }
  copy_name(n->name, v->trailing + r.subnet_count * sizeof(SubnetAbi), r.name_size);
}

static bool build_row(Snapshot *s, const RowView *v, uint32_t vtep, const Snapshot *before) {
  switch (v->header.kind) {
  case ROW_NETWORK: build_network(s, v); return true;
  case ROW_ENDPOINT: {
    EndpointRow r;
    memcpy(&r, v->fixed, sizeof r);
    Endpoint *e = &s->endpoints[s->endpoint_count++];
    e->vni = r.vni;
    memcpy(e->mac, r.mac, 6);
    return abi_address(r.address, &e->address) && abi_address(r.vtep, &e->vtep);
  }
  case ROW_SERVICE: {
    ServiceRow r;
    memcpy(&r, v->fixed, sizeof r);
    Service *service = &s->services[s->service_count++];
    service->vni = r.vni;
    abi_address(r.vip, &service->vip);
    const Service *old = before ? snapshot_service(before, service->vni, service->vip) : NULL;
    if (old) service->set.turn = old->set.turn;
    service->set.start = start_of(vtep, ((uint64_t)service->vni << 32) | service->vip);
    return copy_backends(&service->set, v->trailing, r.backend_count);
  }
  case ROW_PORT: {
    PortRow r;
    memcpy(&r, v->fixed, sizeof r);
    Port *port = &s->ports[s->port_count++];
    *port = (Port){.protocol = r.protocol, .host_mode = r.host_mode, .published = r.published, .target = r.target};
    const Port *old = before ? snapshot_port(before, r.protocol, r.published) : NULL;
    if (old) port->set.turn = old->set.turn;
    port->set.start = start_of(vtep, ((uint64_t)port->protocol << 32) | port->published);
    return copy_backends(&port->set, v->trailing, r.backend_count);
  }
  case ROW_NODE: {
    NodeRow r;
    memcpy(&r, v->fixed, sizeof r);
    Node *node = &s->nodes[s->node_count++];
    return abi_address(r.vtep, &node->vtep) && abi_address(r.ingress_address, &node->ingress_address);
  }
  case ROW_NAME: {
    NameRow r;
    memcpy(&r, v->fixed, sizeof r);
    Name *name = &s->names[s->name_count++];
    *name = (Name){.vni = r.vni, .address_count = r.address_count};
    name->addresses = calloc(r.address_count ? r.address_count : 1, sizeof(uint32_t));
    if (!name->addresses) return false;
    for (uint32_t i = 0; i < r.address_count; i++) abi_address(v->trailing + i * 16, &name->addresses[i]);
    copy_name(name->name, v->trailing + r.address_count * 16u, r.name_size);
    return true;
  }
  default: {
    PointerRow r;
    memcpy(&r, v->fixed, sizeof r);
    Pointer *pointer = &s->pointers[s->pointer_count++];
    pointer->vni = r.vni;
    abi_address(r.address, &pointer->address);
    copy_name(pointer->name, v->trailing, r.name_size);
    return true;
  }
  }
}

static bool build_indexes(Snapshot *s) {
  if (!index_init(&s->network_index, s->network_count) || !index_init(&s->endpoint_index, s->endpoint_count) ||
      !index_init(&s->service_index, s->service_count) || !index_init(&s->port_index, s->port_count) ||
      !index_init(&s->vtep_index, s->node_count + s->endpoint_count) || !index_init(&s->ingress_index, s->node_count) ||
      !index_init(&s->name_index, s->name_count) || !index_init(&s->pointer_index, s->pointer_count))
    return false;
  for (uint32_t i = 0; i < s->network_count; i++) index_put(&s->network_index, s->networks[i].vni, 0, i);
  for (uint32_t i = 0; i < s->endpoint_count; i++) {
    index_put(&s->endpoint_index, s->endpoints[i].vni, s->endpoints[i].address, i);
    if (!index_find(&s->vtep_index, s->endpoints[i].vtep, 0)) index_put(&s->vtep_index, s->endpoints[i].vtep, 0, i);
  }
  for (uint32_t i = 0; i < s->service_count; i++) index_put(&s->service_index, s->services[i].vni, s->services[i].vip, i);
  for (uint32_t i = 0; i < s->port_count; i++) index_put(&s->port_index, s->ports[i].protocol, s->ports[i].published, i);
  for (uint32_t i = 0; i < s->node_count; i++) {
    if (!index_find(&s->vtep_index, s->nodes[i].vtep, 0)) index_put(&s->vtep_index, s->nodes[i].vtep, 0, i);
    if (s->nodes[i].ingress_address) index_put(&s->ingress_index, s->nodes[i].ingress_address, 0, i);
  }
  for (uint32_t i = 0; i < s->name_count; i++) index_put(&s->name_index, s->names[i].vni, name_hash(s->names[i].name), i);
  for (uint32_t i = 0; i < s->pointer_count; i++) index_put(&s->pointer_index, s->pointers[i].vni, s->pointers[i].address, i);
  return true;
}

Snapshot *store_build(const Store *store, uint64_t revision, uint32_t generation, uint32_t vtep, const Snapshot *before) {
  Snapshot *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  uint32_t counts[ROW_POINTER + 1] = {0};
  for (uint32_t i = 0; i < store->bucket_count; i++)
    for (StoredRow *row = store->buckets[i]; row; row = row->next) counts[view(row->bytes).header.kind]++;
  s->revision = revision;
  s->generation = generation;
  s->networks = calloc(counts[ROW_NETWORK] + 1, sizeof *s->networks);
  s->endpoints = calloc(counts[ROW_ENDPOINT] + 1, sizeof *s->endpoints);
  s->services = calloc(counts[ROW_SERVICE] + 1, sizeof *s->services);
  s->ports = calloc(counts[ROW_PORT] + 1, sizeof *s->ports);
  s->nodes = calloc(counts[ROW_NODE] + 1, sizeof *s->nodes);
  s->names = calloc(counts[ROW_NAME] + 1, sizeof *s->names);
  s->pointers = calloc(counts[ROW_POINTER] + 1, sizeof *s->pointers);
  bool ok = s->networks && s->endpoints && s->services && s->ports && s->nodes && s->names && s->pointers;
  for (uint32_t i = 0; ok && i < store->bucket_count; i++) {
    for (StoredRow *row = store->buckets[i]; ok && row; row = row->next) {
      RowView v = view(row->bytes);
      ok = build_row(s, &v, vtep, before);
    }
  }
  if (ok && build_indexes(s)) return s;
  snapshot_free(s);
  return NULL;
}
