// nft.c: runs `nft -f -` with a whole transaction: table inet skein of the node's namespace, ip skein_dns of a task's.
// Theory: a packet to one of the node's own addresses and a published port gets the engine's reserved address as
// destination (client address kept) and so is routed to the host TAP; 127.0.0.0/8 sources get the TAP's address,
// because nothing else may leave with them. What leaves the gateway bridge network is masqueraded, and nobody outside
// may start a connection into it but through a published port. Tunnel packets are not worth a conntrack entry each.
#include "nft.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static bool run_nft(const char *script, size_t size, char *error, size_t error_size) {
  int in = memfd_create("nft", MFD_CLOEXEC), out = memfd_create("nft-errors", MFD_CLOEXEC);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  bool ok = in >= 0 && out >= 0 && write(in, script, size) == (ssize_t)size && lseek(in, 0, SEEK_SET) == 0;
  if (ok) {
    posix_spawn_file_actions_adddup2(&actions, in, 0);
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    posix_spawn_file_actions_adddup2(&actions, out, 2);
    char *arguments[] = {"nft", "-f", "-", NULL};
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    pid_t child;
    int result = posix_spawnp(&child, "nft", &actions, &attributes, arguments, environ), status = 0;
    posix_spawnattr_destroy(&attributes);
    ok = result == 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!ok) {
      int length = snprintf(error, error_size, "nft: %s ", result ? strerror(result) : "failed:");
      ssize_t read_size = pread(out, error + length, error_size - (size_t)length - 1, 0);
      if (read_size >= 0) error[length + read_size] = 0;
    }
  } else {
    snprintf(error, error_size, "nft: %s", strerror(errno));
  }
  posix_spawn_file_actions_destroy(&actions);
  if (in >= 0) close(in);
  if (out >= 0) close(out);
  return ok;
}

static void print_address(char out[INET_ADDRSTRLEN], uint32_t address) { inet_ntop(AF_INET, &address, out, INET_ADDRSTRLEN); }

bool nft_install(const ProgramConfig *config, uint8_t gateway_prefix, const char *device, char *error, size_t error_size) {
  char gateway[INET_ADDRSTRLEN], published[INET_ADDRSTRLEN], subnet[INET_ADDRSTRLEN], script[4096];
  print_address(gateway, config->gateway);
  print_address(published, config->published);
  print_address(subnet, config->gateway & config->gateway_mask);
  int size = snprintf(script, sizeof script,
    "add table inet skein\n"
    "add set inet skein ports { type inet_proto . inet_service ; }\n"
    "add chain inet skein prerouting { type nat hook prerouting priority -100 ; }\n"
    "add chain inet skein output { type nat hook output priority -100 ; }\n"
    "add chain inet skein postrouting { type nat hook postrouting priority 100 ; }\n"
    "add chain inet skein forward { type filter hook forward priority 0 ; }\n"
    "add chain inet skein untracked_in { type filter hook prerouting priority -300 ; }\n"
    "add chain inet skein untracked_out { type filter hook output priority -300 ; }\n"
    "flush chain inet skein untracked_in\n"
    "flush chain inet skein untracked_out\n"
    "add rule inet skein untracked_in udp dport %u notrack\n"
    "add rule inet skein untracked_out udp dport %u notrack\n"
    "flush chain inet skein prerouting\n"
    "flush chain inet skein output\n"
    "flush chain inet skein postrouting\n"
    "flush chain inet skein forward\n"
    "add rule inet skein prerouting meta nfproto ipv4 fib daddr type local meta l4proto . th dport @ports dnat ip to %s\n"
    "add rule inet skein output meta nfproto ipv4 fib daddr type local meta l4proto . th dport @ports dnat ip to %s\n"
    "add rule inet skein postrouting oifname \"%s\" ip saddr 127.0.0.0/8 snat ip to %s\n"
    "add rule inet skein postrouting oifname != \"%s\" ip saddr %s/%u masquerade\n"
    "add rule inet skein forward oifname \"%s\" ct state established,related accept\n"
    "add rule inet skein forward oifname \"%s\" ct status dnat accept\n"
    "add rule inet skein forward oifname \"%s\" drop\n",
    config->vxlan_port, config->vxlan_port, published, published, device, gateway, device, subnet, gateway_prefix, device, device, device);
  return run_nft(script, (size_t)size, error, error_size);
}

bool nft_set_ports(const Snapshot *tables, char *error, size_t error_size) {
  size_t room = 256 + (size_t)tables->port_count * 64, size = 0;
  char *script = malloc(room);
  if (!script) {
    snprintf(error, error_size, "nft: no memory");
    return false;
  }
  size += (size_t)snprintf(script, room, "flush set inet skein ports\n");
  for (uint32_t i = 0; i < tables->port_count; i++) {
    const Port *port = &tables->ports[i];
    size += (size_t)snprintf(script + size, room - size, "%s %u . %u", i ? "," : "add element inet skein ports {", port->protocol, port->published);
  }
  if (tables->port_count) size += (size_t)snprintf(script + size, room - size, " }\n");
  bool ok = run_nft(script, size, error, error_size);
  free(script);
  return ok;
}

void nft_remove(void) {
  static const char script[] = "add table inet skein\ndelete table inet skein\n";
  char error[512];
  run_nft(script, sizeof script - 1, error, sizeof error);
}

bool nft_lead_dns(uint16_t port, char *error, size_t error_size) {
  char script[1024];
  int size = snprintf(script, sizeof script,
    "add table ip skein_dns\n"
    "add chain ip skein_dns untracked { type filter hook output priority -300 ; }\n"
    "add chain ip skein_dns output { type filter hook output priority -150 ; }\n"
    "flush chain ip skein_dns untracked\n"
    "flush chain ip skein_dns output\n"
    "add rule ip skein_dns untracked ip daddr 127.0.0.11 meta l4proto { tcp, udp } th dport 53 notrack\n"
    "add rule ip skein_dns untracked ip saddr 127.0.0.11 meta l4proto { tcp, udp } th sport %u notrack\n"
    "add rule ip skein_dns output ip daddr 127.0.0.11 udp dport 53 udp dport set %u\n"
    "add rule ip skein_dns output ip daddr 127.0.0.11 tcp dport 53 tcp dport set %u\n"
    "add rule ip skein_dns output ip saddr 127.0.0.11 udp sport %u udp sport set 53\n"
    "add rule ip skein_dns output ip saddr 127.0.0.11 tcp sport %u tcp sport set 53\n",
    port, port, port, port, port);
  return run_nft(script, (size_t)size, error, error_size);
}
