// commands.c: what each frame does. Runs on the control thread; the packet thread sees results by engine_call.
#include "../host/conntrack.h"
#include "../host/netns.h"
#include "../host/nft.h"
#include "control.h"
#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { REMOVED_MAX = 64 << 20 };

typedef struct Command { Control *control; uint64_t id; const uint8_t *payload; uint32_t size; } Command;

static void answer(const Command *c, const void *body, uint32_t size) { control_send(c->control, FRAME_OK, c->id, body, size, NULL, 0); }

__attribute__((format(printf, 2, 3))) static void refuse(const Command *c, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  control_send(c->control, FRAME_ERROR, c->id, text, (uint32_t)strlen(text), NULL, 0);
}

void control_drop_staging(Control *control) {
  Staging *s = &control->staging;
  if (s->rows.buckets) store_free(&s->rows);
  free(s->removed);
  *s = (Staging){0};
}

typedef struct Publication { Snapshot *tables; ProgramConfig *config; int underlay_fd, tunnel_fd; TransmitSocket *transmit; int host_fd; uint8_t *host_mac; } Publication;

static void publish_tables(Engine *engine, void *argument) { program_set_tables(&engine->program, argument); }

static void publish_config(Engine *engine, void *argument) {
  Publication *p = argument;
  engine->program.config = *p->config;
  if (p->underlay_fd >= 0) {
    if (engine->underlay_fd >= 0) {
      engine_remove_source(engine, engine->underlay_fd);
      close(engine->underlay_fd);
      for (int i = 0; i < TRANSMIT_SOCKETS; i++) close(engine->transmit[i].fd);
    }
    engine->underlay_fd = p->underlay_fd;
    memcpy(engine->transmit, p->transmit, sizeof engine->transmit);
    engine_add_source(engine, SOURCE_UNDERLAY, p->underlay_fd, NULL);
  }
  if (engine->host_fd < 0) {
    engine->host_fd = p->host_fd;
    engine->tunnel.fd = p->tunnel_fd;
    engine_add_source(engine, SOURCE_HOST, p->host_fd, NULL);
  }
  memcpy(engine->program.host_mac, p->host_mac, 6);
  program_set_tables(&engine->program, engine->program.tables);
}

// The last address of the gateway bridge network stands for the engine.
static uint32_t published_address(uint32_t gateway, uint8_t prefix) { return htonl((ntohl(gateway) | ~(~0u << (32 - prefix))) - 1); }

static void configure(const Command *c) {
  Control *control = c->control;
  ConfigureAbi abi;
  ProgramConfig config = {.configured = true};
  char error[512];
  if (c->size != sizeof abi) return refuse(c, "invalid: configure frame");
  memcpy(&abi, c->payload, sizeof abi);
  if (!abi_address(abi.vtep, &config.vtep) || !abi_address(abi.gateway, &config.gateway)) return refuse(c, "unsupported: IPv6 address");
  if (!config.vtep || !config.gateway || abi.gateway_prefix < 8 || abi.gateway_prefix > 29 || !abi.vxlan_port ||
      abi.underlay_mtu < 576 + VXLAN_OVERHEAD)
    return refuse(c, "invalid: configuration out of range");
  config.gateway_mask = htonl(~0u << (32 - abi.gateway_prefix));
  config.published = published_address(config.gateway, abi.gateway_prefix);
  config.vxlan_port = abi.vxlan_port;
  config.underlay_mtu = abi.underlay_mtu;
  bool moved = !control->configured || memcmp(abi.vtep, control->config.vtep, 16) != 0 || abi.vxlan_port != control->config.vxlan_port;
  if (control->configured && (memcmp(abi.gateway, control->config.gateway, 16) != 0 || abi.gateway_prefix != control->config.gateway_prefix))
    return refuse(c, "failed_precondition: the gateway bridge network cannot change while the data plane runs");
  int underlay_fd = -1;
  TransmitSocket transmit[TRANSMIT_SOCKETS];
  uint8_t host_mac[6];
  memcpy(host_mac, control->engine->program.host_mac, 6);
  int host_fd = control->configured ? 0 : host_tap_open(config.gateway, abi.gateway_prefix, abi.underlay_mtu, host_mac);
  if (host_fd < 0) return refuse(c, "host TAP " HOST_DEVICE ": %s", strerror(-host_fd));
  bool ok = nft_install(&config, abi.gateway_prefix, HOST_DEVICE, error, sizeof error);
  // A firewall's reload may have emptied the set as well.
  if (ok && control->tables) ok = nft_set_ports(control->tables, error, sizeof error);
  if (ok && moved) ok = underlay_open(config.vtep, config.vxlan_port, &underlay_fd, transmit, error, sizeof error);
  if (!ok) {
    if (!control->configured) close(host_fd);
    return refuse(c, "%s", error);
  }
  int tunnel_fd = control->configured ? -1 : tunnel_open();
  Publication publication = {.config = &config, .underlay_fd = underlay_fd, .tunnel_fd = tunnel_fd, .transmit = transmit, .host_fd = host_fd, .host_mac = host_mac};
  engine_call(control->engine, publish_config, &publication);
  control->config = abi;
  control->configured = true;
  answer(c, NULL, 0);
}

// Reads interfaces and their addresses; returns the bytes read, 0 for a bad frame.
static uint32_t read_interfaces(const Command *c, const AttachAbi *abi, Sandbox *sandbox) {
  uint32_t at = sizeof *abi;
  for (uint32_t i = 0; i < abi->interface_count; i++) {
    InterfaceAbi in;
    if (c->size - at < sizeof in) return 0;
    memcpy(&in, c->payload + at, sizeof in);
    at += sizeof in;
    Interface *interface = &sandbox->interfaces[sandbox->count++];
    if (in.address_count > INTERFACE_ADDRESSES_MAX || c->size - at < in.address_count * sizeof(AddressAbi)) return 0;
    if (!in.ifname[0] || memchr(in.ifname, 0, sizeof in.ifname) == NULL || strchr(in.ifname, '/') || strchr(in.ifname, '.')) return 0;
    if (in.vni >= 1 << 24 || in.mtu < 576 || (in.mac[0] & 1)) return 0;
    memcpy(interface->name, in.ifname, sizeof interface->name);
    memcpy(interface->mac, in.mac, 6);
    interface->scope = in.is_gateway ? (uint32_t)SCOPE_GATEWAY : in.vni;
    interface->mtu = in.mtu;
    for (uint32_t k = 0; k < in.address_count; k++) {
      AddressAbi address;
      memcpy(&address, c->payload + at, sizeof address);
      at += sizeof address;
      if (address.prefix > 32 || !abi_address(address.address, &interface->addresses[k])) return 0;
      interface->prefixes[k] = address.prefix;
      interface->address_count++;
    }
  }
  return at;
}

static void attach(const Command *c) {
  Control *control = c->control;
  AttachAbi abi;
  if (c->size < sizeof abi) return refuse(c, "invalid: attach frame");
  memcpy(&abi, c->payload, sizeof abi);
  if (!control->configured) return refuse(c, "failed_precondition: not configured");
  if (!sandbox_id_ok(abi.id) || abi.interface_count > SANDBOX_INTERFACES_MAX) return refuse(c, "invalid: sandbox");
  Sandbox *wanted = calloc(1, sizeof *wanted);
  char *sysctls = calloc(1, abi.sysctl_size + 1u);
  char path[300], error[512];
  uint32_t at = wanted ? read_interfaces(c, &abi, wanted) : 0;
  if (!wanted || !sysctls || !at || c->size - at != abi.sysctl_size) {
    refuse(c, "invalid: interfaces of sandbox %s", abi.id);
  } else {
    memcpy(sysctls, c->payload + at, abi.sysctl_size);
    memcpy(wanted->id, abi.id, sizeof wanted->id);
    uint32_t gateway;
    abi_address(control->config.gateway, &gateway);
    if (sandbox_attach(&control->sandboxes, wanted, control->config.underlay_mtu, gateway, sysctls, path, sizeof path, error, sizeof error))
      answer(c, path, (uint32_t)strlen(path));
    else refuse(c, "%s", error);
  }
  free(wanted);
  free(sysctls);
}

static void read_id(const Command *c, char id[SANDBOX_ID_SIZE]) {
  memset(id, 0, SANDBOX_ID_SIZE);
  if (c->size < SANDBOX_ID_SIZE) memcpy(id, c->payload, c->size);
}

static void detach(const Command *c) {
  char id[SANDBOX_ID_SIZE];
  read_id(c, id);
  if (!sandbox_id_ok(id)) return refuse(c, "invalid: sandbox id");
  sandbox_detach(&c->control->sandboxes, id);
  answer(c, NULL, 0);
}

static DIR *open_namespaces(const Control *control) {
  char path[300];
  snprintf(path, sizeof path, "%s/netns", control->sandboxes.run_directory);
  return opendir(path);
}

static void sandboxes(const Command *c) {
  static char text[SANDBOXES_MAX * 2 * SANDBOX_ID_SIZE];
  uint32_t size = 0;
  DIR *directory = open_namespaces(c->control);
  for (struct dirent *entry; directory && (entry = readdir(directory));) {
    if (!sandbox_id_ok(entry->d_name) || size + SANDBOX_ID_SIZE + 1 > sizeof text) continue;
    size += (uint32_t)sprintf(text + size, "%s\n", entry->d_name);
  }
  if (directory) closedir(directory);
  answer(c, text, size);
}

static void apply_begin(const Command *c) {
  Control *control = c->control;
  ApplyBeginAbi abi;
  if (c->size != sizeof abi) return refuse(c, "invalid: begin frame");
  memcpy(&abi, c->payload, sizeof abi);
  control_drop_staging(control);
  control->staging = (Staging){.active = true, .replace = abi.replace, .revision = abi.revision};
  if (!store_init(&control->staging.rows)) return refuse(c, "no memory");
  answer(c, NULL, 0);
}

static void apply_rows(const Command *c) {
  Control *control = c->control;
  if (!control->staging.active) return refuse(c, "failed_precondition: no update begun");
  char error[600];
  for (uint32_t at = 0; at < c->size;) {
    RowHeader header;
    if (!row_check(c->payload + at, c->size - at, error, sizeof error)) {
      control_drop_staging(control);
      return refuse(c, "%s", error);
    }
    memcpy(&header, c->payload + at, sizeof header);
    if (!store_put(&control->staging.rows, c->payload + at)) {
      control_drop_staging(control);
      return refuse(c, "resource_exhausted: too many rows");
    }
    at += header.size;
  }
  answer(c, NULL, 0);
}

// Keys, each ended by a newline; kept until the commit.
static void apply_remove(const Command *c) {
  Staging *s = &c->control->staging;
  if (!s->active) return refuse(c, "failed_precondition: no update begun");
  uint8_t *grown = s->removed_size + c->size > REMOVED_MAX ? NULL : realloc(s->removed, s->removed_size + c->size + 1);
  if (!grown) {
    control_drop_staging(c->control);
    return refuse(c, "resource_exhausted: removed keys");
  }
  s->removed = grown;
  memcpy(s->removed + s->removed_size, c->payload, c->size);
  s->removed_size += c->size;
  answer(c, NULL, 0);
}

static bool same_ports(const Snapshot *a, const Snapshot *b) {
  if (!a || a->port_count != b->port_count) return false;
  for (uint32_t i = 0; i < b->port_count; i++)
    if (!snapshot_port(a, b->ports[i].protocol, b->ports[i].published)) return false;
  return true;
}

// What a firewall's reload removed is made again, and what failed is tried again with the next rows.
static bool set_ports(Control *control, const Snapshot *tables, char *error, size_t error_size) {
  bool ok = nft_set_ports(tables, error, error_size);
  if (!ok && control->configured)
    ok = nft_install(&control->engine->program.config, control->config.gateway_prefix, HOST_DEVICE, error, error_size) &&
         nft_set_ports(tables, error, error_size);
  control->ports_missing = !ok;
  return ok;
}

static void add_absent(PortSet *out, const Snapshot *of, const Snapshot *in) {
  for (uint32_t i = 0; of && i < of->port_count; i++)
    if (of->ports[i].protocol == PROTOCOL_UDP && (!in || !snapshot_port(in, PROTOCOL_UDP, of->ports[i].published))) port_set_add(out, of->ports[i].published);
}

// UDP clients that go on sending must notice that a port came or went.
static void forget_changed(const Control *control, const Snapshot *before, const Snapshot *after) {
  PortSet changed = {0};
  static const PortSet none;
  // The first tables of a process change nothing: what is published was published by the one before it.
  if (!before) return;
  add_absent(&changed, before, after);
  add_absent(&changed, after, before);
  uint32_t gateway;
  if (memcmp(&changed, &none, sizeof changed) == 0 || !control->configured || !abi_address(control->config.gateway, &gateway)) return;
  int result = conntrack_forget_udp(&changed, published_address(gateway, control->config.gateway_prefix));
  if (result < 0) fprintf(stderr, "conntrack: %s\n", strerror(-result));
}

// Moves staged rows into the store. Removals come first: a key in both lists stays.
static bool merge(Control *control) {
  Staging *s = &control->staging;
  if (s->replace) {
    store_free(&control->store);
    control->store = s->rows;
    s->rows = (Store){0};
    return true;
  }
  for (uint32_t at = 0; at < s->removed_size;) {
    const uint8_t *end = memchr(s->removed + at, '\n', s->removed_size - at);
    uint32_t size = end ? (uint32_t)(end - s->removed) - at : s->removed_size - at;
    store_remove(&control->store, (const char *)s->removed + at, size);
    at += size + 1;
  }
  for (uint32_t i = 0; i < s->rows.bucket_count; i++)
    for (StoredRow *row = s->rows.buckets[i]; row; row = row->next)
      if (!store_put(&control->store, row->bytes)) return false;
  return true;
}

static void apply_commit(const Command *c) {
  Control *control = c->control;
  if (!control->staging.active) return refuse(c, "failed_precondition: no update begun");
  uint64_t revision = control->staging.revision;
  bool ok = merge(control);
  control_drop_staging(control);
  uint32_t vtep;
  abi_address(control->config.vtep, &vtep);
  Snapshot *tables = ok ? store_build(&control->store, revision, ++control->generation, vtep, control->tables) : NULL;
  if (!tables) return refuse(c, "resource_exhausted: tables");
  Snapshot *before = control->tables;
  engine_call(control->engine, publish_tables, tables);
  resolver_set_tables(control->resolver, tables);
  control->tables = tables;
  char error[512];
  ok = (!control->ports_missing && same_ports(before, tables)) || set_ports(control, tables, error, sizeof error);
  if (ok) forget_changed(control, before, tables);
  snapshot_free(before);
  if (!ok) return refuse(c, "%s", error);
  answer(c, &revision, sizeof revision);
}

typedef struct CounterCopy { Counters counters; uint64_t flows, evicted, expired, adopted, torn, unsaved, rewritten; } CounterCopy;

static void copy_counters(Engine *engine, void *argument) {
  const FlowTable *t = &engine->program.flows;
  *(CounterCopy *)argument = (CounterCopy){.counters = engine->counters, .flows = t->count, .evicted = t->evicted,
    .expired = t->expired, .adopted = t->adopted, .torn = t->torn, .unsaved = t->unsaved, .rewritten = engine->program.clients_rewritten};
}

static void counters(const Command *c) {
  CounterCopy copy;
  char text[8192];
  engine_call(c->control->engine, copy_counters, &copy);
  const Counters *n = &copy.counters;
  Resolver *r = c->control->resolver;
  const struct { const char *name; uint64_t value; } values[] = {
    {"interface.rx_packets", n->interface_rx}, {"interface.rx_bytes", n->interface_rx_bytes},
    {"interface.tx_packets", n->interface_tx}, {"interface.tx_bytes", n->interface_tx_bytes},
    {"vxlan.rx_packets", n->vxlan_rx}, {"vxlan.rx_bytes", n->vxlan_rx_bytes}, {"vxlan.tx_packets", n->vxlan_tx},
    {"vxlan.tx_bytes", n->vxlan_tx_bytes}, {"host.rx_packets", n->host_rx}, {"host.rx_bytes", n->host_rx_bytes},
    {"host.tx_packets", n->host_tx}, {"host.tx_bytes", n->host_tx_bytes}, {"replies", n->replies},
    {"offload.coalesced", n->coalesced}, {"offload.segmented", n->segmented}, {"offload.tunnelled", n->tunnelled},
    {"offload.tunnel_refused", n->tunnel_refused}, {"offload.acks_thinned", n->acks_thinned},
    {"liveness.answered", n->liveness_answered}, {"flows", copy.flows},
    {"flows.evicted", copy.evicted}, {"flows.expired", copy.expired}, {"flows.adopted", copy.adopted}, {"flows.torn", copy.torn},
    {"flows.unsaved", copy.unsaved}, {"clients_rewritten", copy.rewritten}, {"dns.answered", r->answered}, {"dns.missed", r->missed},
    {"dns.refused", r->refused}, {"dns.malformed", r->malformed}, {"revision", c->control->tables ? c->control->tables->revision : 0}};
  size_t size = 0;
  for (size_t i = 0; i < sizeof values / sizeof *values; i++)
    size += (size_t)snprintf(text + size, sizeof text - size, "%s %llu\n", values[i].name, (unsigned long long)values[i].value);
  for (int i = 1; i < DROP_REASON_COUNT; i++)
    size += (size_t)snprintf(text + size, sizeof text - size, "drop.%s %llu\n", drop_reason_name(i), (unsigned long long)n->drops[i]);
  answer(c, text, (uint32_t)size);
}

static void destroy(const Command *c) {
  Control *control = c->control;
  char path[300];
  while (control->sandboxes.count) {
    char id[SANDBOX_ID_SIZE];
    memcpy(id, control->sandboxes.list[0]->id, sizeof id);
    sandbox_detach(&control->sandboxes, id);
  }
  // Sandboxes that were left on disk by a process before this one.
  DIR *directory = open_namespaces(control);
  for (struct dirent *entry; directory && (entry = readdir(directory));)
    if (sandbox_id_ok(entry->d_name)) sandbox_detach(&control->sandboxes, entry->d_name);
  if (directory) closedir(directory);
  nft_remove();
  if (!control->configured) {
    host_tap_remove(tap_open(HOST_DEVICE));
  } else host_tap_remove(control->engine->host_fd);
  static const char *const files[] = {"netns", "flows", "datapath.sock", "datapath.pid"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    snprintf(path, sizeof path, "%s/%s", control->sandboxes.run_directory, files[i]);
    if (i == 0) rmdir(path);
    else unlink(path);
  }
  control->ending = true;
  answer(c, NULL, 0);
}

void control_handle(Control *control, const FrameHeader *header, const uint8_t *payload) {
  Command c = {.control = control, .id = header->id, .payload = payload, .size = header->size};
  switch (header->type) {
  case FRAME_HELLO: {
    uint32_t pid = (uint32_t)getpid();
    return answer(&c, &pid, sizeof pid);
  }
  case FRAME_CONFIGURE: return configure(&c);
  case FRAME_ATTACH: return attach(&c);
  case FRAME_DETACH: return detach(&c);
  case FRAME_SANDBOXES: return sandboxes(&c);
  case FRAME_APPLY_BEGIN: return apply_begin(&c);
  case FRAME_APPLY_ROWS: return apply_rows(&c);
  case FRAME_APPLY_REMOVE: return apply_remove(&c);
  case FRAME_APPLY_COMMIT: return apply_commit(&c);
  case FRAME_COUNTERS: return counters(&c);
  case FRAME_DESTROY: return destroy(&c);
  case FRAME_DNS_REPLY: {
    DnsReplyAbi reply;
    if (c.size < sizeof reply) return;
    memcpy(&reply, c.payload, sizeof reply);
    resolver_reply(control->resolver, reply.id, c.payload + sizeof reply, c.size - sizeof reply);
    return;
  }
  default: return refuse(&c, "unimplemented: frame type %u", header->type);
  }
}
