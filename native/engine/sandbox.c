// sandbox.c: see sandbox.h.
// Theory: devices are persistent, so attaching a sandbox that exists opens them again with everything the kernel kept
// and changes only what differs; a changed MAC or a new address would break connections.
#include "sandbox.h"
#include "../host/netlink.h"
#include "../host/netns.h"
#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { GSO_MAX_SIZE = 62000 };

typedef struct Setup {
  Sandbox *sandbox;
  uint32_t gateway;
  const char *sysctls;
  bool existed, ok;
  int udp_fd, tcp_fd;
  char *error;
  size_t error_size;
} Setup;

bool sandbox_id_ok(const char *id) {
  size_t length = strnlen(id, SANDBOX_ID_SIZE);
  if (!length || length == SANDBOX_ID_SIZE || id[0] == '.') return false;
  for (size_t i = 0; i < length; i++) {
    char c = id[i];
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.')) return false;
  }
  return true;
}

static void namespace_sysctls(const Setup *setup) {
  sysctl_interface("all", "rp_filter", "0");
  sysctl_interface("default", "rp_filter", "0");
  sysctl_interface("all", "arp_evict_nocarrier", "0");
  sysctl_interface("default", "arp_evict_nocarrier", "0");
  // IPv6 is not carried yet; without this every device sends neighbour discovery that would only be dropped.
  sysctl_write("net.ipv6.conf.default.disable_ipv6", "1");
  // Tasks may bind low ports without capabilities and ping without raw sockets, as under Docker.
  sysctl_write("net.ipv4.ip_unprivileged_port_start", "0");
  sysctl_write("net.ipv4.ping_group_range", "0 2147483647");
  const char *at = setup->sysctls;
  while (*at) {
    char line[512];
    size_t length = strcspn(at, "\n");
    if (length < sizeof line) {
      memcpy(line, at, length);
      line[length] = 0;
      char *value = strchr(line, '=');
      if (value) {
        *value++ = 0;
        if (strncmp(line, "net.", 4) != 0 || !sysctl_write(line, value)) fprintf(stderr, "sysctl %s refused\n", line);
      }
    }
    at += length + (at[length] == '\n');
  }
}

static bool failed(Setup *setup, const char *step, const char *name, int code) {
  snprintf(setup->error, setup->error_size, "%s %s: %s", step, name, strerror(code < 0 ? -code : code));
  return false;
}

static bool setup_interface(Setup *setup, Interface *interface, int netlink) {
  if (interface->fd < 0) {
    interface->fd = tap_open(interface->name);
    if (interface->fd < 0) return failed(setup, "TAP", interface->name, interface->fd);
  }
  int ifindex = (int)if_nametoindex(interface->name);
  if (!ifindex) return failed(setup, "interface", interface->name, errno);
  sysctl_interface(interface->name, "rp_filter", "0");
  sysctl_interface(interface->name, "arp_evict_nocarrier", "0");
  LinkSettings link = {.mtu = interface->mtu, .gso_max_size = GSO_MAX_SIZE};
  if (!link_has_mac(interface->name, interface->mac)) link.mac = interface->mac;
  int result = netlink_set_link(netlink, ifindex, &link);
  if (result == -EINVAL || result == -EOPNOTSUPP) {
    link.gso_max_size = 0;
    result = netlink_set_link(netlink, ifindex, &link);
  }
  if (result < 0) return failed(setup, "link", interface->name, result);
  for (uint32_t i = 0; i < interface->address_count; i++) {
    result = netlink_add_address(netlink, ifindex, interface->addresses[i], interface->prefixes[i]);
    if (result < 0) return failed(setup, "address", interface->name, result);
  }
  if (interface->scope != SCOPE_GATEWAY) return true;
  result = netlink_set_default_route(netlink, ifindex, setup->gateway);
  return result < 0 ? failed(setup, "default route", interface->name, result) : true;
}

static void setup_namespace(void *argument) {
  Setup *setup = argument;
  namespace_sysctls(setup);
  int netlink = netlink_open();
  if (netlink < 0) {
    failed(setup, "netlink", "", errno);
    return;
  }
  LinkSettings loopback = {.mtu = 65536};
  setup->ok = netlink_set_link(netlink, (int)if_nametoindex("lo"), &loopback) == 0;
  for (uint32_t i = 0; setup->ok && i < setup->sandbox->count; i++) setup->ok = setup_interface(setup, &setup->sandbox->interfaces[i], netlink);
  if (setup->ok && !resolver_open_sockets(&setup->udp_fd, &setup->tcp_fd)) {
    failed(setup, "127.0.0.11:53 of", setup->sandbox->id, errno);
    // While no data plane ran, the task itself may have taken the port. It loses its names, not its connections.
    setup->ok = setup->existed;
    setup->udp_fd = setup->tcp_fd = -1;
  }
  close(netlink);
}

typedef struct LocalsChange { Locals *locals, *old; Sandbox *added, *removed; } LocalsChange;

static void change_locals(Engine *engine, void *argument) {
  LocalsChange *change = argument;
  if (change->removed)
    for (uint32_t i = 0; i < change->removed->count; i++) engine_remove_source(engine, change->removed->interfaces[i].fd);
  if (change->added)
    for (uint32_t i = 0; i < change->added->count; i++)
      engine_add_source(engine, SOURCE_INTERFACE, change->added->interfaces[i].fd, &change->added->interfaces[i]);
  engine->program.locals = change->locals;
}

static void free_locals(Locals *locals) {
  if (!locals) return;
  free(locals->index.slots);
  free(locals->interfaces);
  free(locals);
}

// Publishes the set of local addresses after the list changed.
static bool publish(Sandboxes *all, Sandbox *added, Sandbox *removed) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < all->count; i++)
    for (uint32_t k = 0; k < all->list[i]->count; k++) count += all->list[i]->interfaces[k].address_count;
  Locals *locals = calloc(1, sizeof *locals);
  if (!locals || !index_init(&locals->index, count) || !(locals->interfaces = calloc(count + 1, sizeof(Interface *)))) {
    free_locals(locals);
    return false;
  }
  for (uint32_t i = 0; i < all->count; i++) {
    for (uint32_t k = 0; k < all->list[i]->count; k++) {
      Interface *interface = &all->list[i]->interfaces[k];
      for (uint32_t a = 0; a < interface->address_count; a++) {
        locals->interfaces[locals->count] = interface;
        index_put(&locals->index, interface->scope, interface->addresses[a], locals->count++);
      }
    }
  }
  LocalsChange change = {.locals = locals, .added = added, .removed = removed};
  engine_call(all->engine, change_locals, &change);
  free_locals(all->locals);
  all->locals = locals;
  return true;
}

static Sandbox *find(const Sandboxes *all, const char *id) {
  for (uint32_t i = 0; i < all->count; i++)
    if (strcmp(all->list[i]->id, id) == 0) return all->list[i];
  return NULL;
}

static void unlist(Sandboxes *all, const Sandbox *sandbox) {
  for (uint32_t i = 0; i < all->count; i++)
    if (all->list[i] == sandbox) all->list[i] = all->list[--all->count];
}

static void close_devices(Sandbox *sandbox, bool destroy) {
  for (uint32_t i = 0; i < sandbox->count; i++) {
    int fd = sandbox->interfaces[i].fd;
    if (fd < 0) continue;
    if (destroy) (void)!ioctl(fd, TUNSETPERSIST, 0);
    close(fd);
  }
}

// Takes over open devices of the sandbox as it was; those that are not wanted any more are removed.
static void take_over(Sandbox *sandbox, Sandbox *old) {
  for (uint32_t i = 0; i < old->count; i++) {
    for (uint32_t k = 0; k < sandbox->count && old->interfaces[i].fd >= 0; k++) {
      if (strcmp(sandbox->interfaces[k].name, old->interfaces[i].name) != 0) continue;
      sandbox->interfaces[k].fd = old->interfaces[i].fd;
      old->interfaces[i].fd = -1;
    }
  }
  close_devices(old, true);
}

static Sandbox *copy_sandbox(const Sandbox *wanted) {
  Sandbox *sandbox = malloc(sizeof *sandbox);
  if (!sandbox) return NULL;
  *sandbox = *wanted;
  sandbox->gateway = NULL;
  for (uint32_t i = 0; i < sandbox->count; i++) {
    sandbox->interfaces[i].sandbox = sandbox;
    sandbox->interfaces[i].fd = -1;
    if (sandbox->interfaces[i].scope == SCOPE_GATEWAY) sandbox->gateway = &sandbox->interfaces[i];
  }
  return sandbox;
}

static bool same_interface(const Interface *a, const Interface *b) {
  return a->scope == b->scope && a->mtu == b->mtu && a->address_count == b->address_count && strcmp(a->name, b->name) == 0 &&
         memcmp(a->mac, b->mac, sizeof a->mac) == 0 && memcmp(a->addresses, b->addresses, sizeof a->addresses) == 0 &&
         memcmp(a->prefixes, b->prefixes, sizeof a->prefixes) == 0;
}

static bool same_sandbox(const Sandbox *a, const Sandbox *b) {
  if (a->count != b->count) return false;
  for (uint32_t i = 0; i < a->count; i++)
    if (!same_interface(&a->interfaces[i], &b->interfaces[i])) return false;
  return true;
}

bool sandbox_attach(Sandboxes *all, const Sandbox *wanted, uint16_t underlay_mtu, uint32_t gateway, const char *sysctls,
                    char *path, size_t path_size, char *error, size_t error_size) {
  (void)underlay_mtu;
  snprintf(path, path_size, "%s/netns/%s", all->run_directory, wanted->id);
  bool existed = netns_exists(path);
  if (!netns_create(path, error, error_size)) return false;
  Sandbox *old = find(all, wanted->id);
  // An agent that restarted repeats every attach; what is there already is not touched.
  if (old && existed && !old->nameless && same_sandbox(old, wanted)) return true;
  if (!old && all->count == SANDBOXES_MAX) {
    snprintf(error, error_size, "too many sandboxes");
    return false;
  }
  Sandbox *sandbox = copy_sandbox(wanted);
  if (!sandbox) {
    snprintf(error, error_size, "no memory");
    return false;
  }
  if (old) {
    // Off the packet thread first: its interfaces are about to change hands.
    unlist(all, old);
    publish(all, NULL, old);
    take_over(sandbox, old);
    resolver_remove(all->resolver, old->id);
    free(old);
  }
  Setup setup = {.sandbox = sandbox, .gateway = gateway, .sysctls = sysctls, .existed = existed, .udp_fd = -1, .tcp_fd = -1, .error = error, .error_size = error_size};
  bool ok = netns_run(path, setup_namespace, &setup, error, error_size) && setup.ok;
  if (ok) {
    sandbox->nameless = setup.udp_fd < 0;
    if (sandbox->nameless) fprintf(stderr, "%s\n", error);
    all->list[all->count++] = sandbox;
    ok = publish(all, sandbox, NULL);
    if (!ok) snprintf(error, error_size, "no memory");
    if (ok && !sandbox->nameless && !resolver_add(all->resolver, sandbox, setup.udp_fd, setup.tcp_fd)) {
      snprintf(error, error_size, "resolver is full");
      sandbox_detach(all, wanted->id);
      return false;
    }
  }
  if (ok) return true;
  unlist(all, sandbox);
  close_devices(sandbox, false);
  free(sandbox);
  return false;
}

void sandbox_detach(Sandboxes *all, const char *id) {
  char path[512];
  Sandbox *sandbox = find(all, id);
  if (sandbox) {
    unlist(all, sandbox);
    publish(all, NULL, sandbox);
    resolver_remove(all->resolver, id);
    close_devices(sandbox, true);
    free(sandbox);
  }
  snprintf(path, sizeof path, "%s/netns/%s", all->run_directory, id);
  netns_remove(path);
}

int host_tap_open(uint32_t gateway, uint8_t prefix, uint16_t mtu, uint8_t mac[6]) {
  static const uint8_t host_mac[6] = {0x02, 0x5b, 0x45, 0x49, 0x4e, 0x03};
  memcpy(mac, host_mac, 6);
  int fd = tap_open(HOST_DEVICE);
  if (fd < 0) return fd;
  int ifindex = (int)if_nametoindex(HOST_DEVICE), netlink = netlink_open();
  sysctl_write("net.ipv4.ip_forward", "1");
  // Loose, not off: the stricter of "all" and the device counts, and "all" is the machine owner's to set.
  static const char *const settings[][2] = {{"rp_filter", "2"}, {"route_localnet", "1"}, {"arp_evict_nocarrier", "0"},
    {"send_redirects", "0"}, {"accept_redirects", "0"}, {"forwarding", "1"}, {"accept_local", "1"}};
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) sysctl_interface(HOST_DEVICE, settings[i][0], settings[i][1]);
  sysctl_write("net.ipv6.conf." HOST_DEVICE ".disable_ipv6", "1");
  LinkSettings link = {.mac = link_has_mac(HOST_DEVICE, host_mac) ? NULL : host_mac, .mtu = mtu, .gso_max_size = GSO_MAX_SIZE, .no_arp = true};
  int result = netlink < 0 ? -errno : netlink_set_link(netlink, ifindex, &link);
  if (result == -EINVAL || result == -EOPNOTSUPP) {
    link.gso_max_size = 0;
    result = netlink_set_link(netlink, ifindex, &link);
  }
  if (result == 0) result = netlink_add_address(netlink, ifindex, gateway, prefix);
  if (netlink >= 0) close(netlink);
  if (result == 0) return fd;
  close(fd);
  return result;
}

void host_tap_remove(int fd) {
  if (fd < 0) return;
  (void)!ioctl(fd, TUNSETPERSIST, 0);
  close(fd);
}
