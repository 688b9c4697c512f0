// tunnel.c: see tunnel.h.
// Theory: a TAP of the node's own namespace takes a whole VXLAN packet with a GSO header that says where the inner and
// outer headers are, and the kernel forwards it to the peer: what its own VXLAN device does, checksums and cutting left
// to the last device. A write is processed before it returns, so the order with the UDP sockets is kept. Forwarding is
// at the mercy of the machine's firewall (Docker drops by default), which the write does not report; so the first
// super-frame of each second is checked against the kernel's count of packets that left, and sent again by the sockets
// if it was not among them; so is the next, and after a few the sockets have it for a while.
#include "tunnel.h"
#include "../host/netlink.h"
#include "../host/netns.h"
#include "../packet/csum.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

// Linux 6.17; the headers of Debian 12 lack them.
enum { TUN_UDP_TUNNEL_GSO = 0x080, TUN_UDP_TUNNEL_GSO_CSUM = 0x100 };
enum { VNET_UDP_TUNNEL_CSUM = 8, GSO_UDP_TUNNEL_IPV4 = 0x20, DEVICE_MTU = 65521, OUTER_TTL = 65, RETRY_S = 10, MISSES_MAX = 3 };
static const uint8_t device_mac[6] = {0x02, 0x5b, 0x45, 0x49, 0x4e, 0x04};

static int open_device(const char *name) {
  int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK), header_size = sizeof(TunnelVnetHeader);
  if (fd < 0) return -1;
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_UDP_TUNNEL_GSO | TUN_UDP_TUNNEL_GSO_CSUM;
  if (ioctl(fd, TUNSETIFF, &request) == 0 && ioctl(fd, TUNSETVNETHDRSZ, &header_size) == 0 && ioctl(fd, TUNSETOFFLOAD, offloads) == 0) return fd;
  close(fd);
  return -1;
}

bool tunnel_supported(void) {
  int fd = open_device("skeinprobe%d");
  if (fd >= 0) close(fd);
  return fd >= 0;
}

int tunnel_open(void) {
  if (getenv(TUNNEL_OFF_VARIABLE)) return -1;
  int fd = open_device(TUNNEL_DEVICE), netlink = netlink_open();
  if (fd >= 0) {
    // The source of what comes out of it is an address of this node, which is what these two are to refuse.
    static const char *const settings[][2] = {{"rp_filter", "0"}, {"accept_local", "1"}, {"forwarding", "1"}, {"send_redirects", "0"}};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) sysctl_interface(TUNNEL_DEVICE, settings[i][0], settings[i][1]);
    sysctl_write("net.ipv6.conf." TUNNEL_DEVICE ".disable_ipv6", "1");
    LinkSettings link = {.mac = device_mac, .mtu = DEVICE_MTU, .no_arp = true};
    if (netlink < 0 || netlink_set_link(netlink, (int)if_nametoindex(TUNNEL_DEVICE), &link) < 0) {
      close(fd);
      fd = -1;
    }
  }
  if (netlink >= 0) close(netlink);
  return fd;
}

bool tunnel_encode(const Packet *p, const TunnelRoute *route, uint32_t segment_payload) {
  if ((p->vnet.gso_type & ~GSO_ECN) != GSO_TCPV4 || !(p->vnet.flags & VNET_NEEDS_CSUM) || p->protocol != PROTOCOL_TCP) return false;
  uint32_t size = IP_SIZE + UDP_SIZE + VXLAN_SIZE + p->size;
  if (size > 65535 || p->size <= p->payload) return false;
  uint8_t *ethernet = p->frame - TUNNEL_OUTER_SIZE, *ip = ethernet + ETH_SIZE, *udp = ip + IP_SIZE;
  TunnelVnetHeader vnet = {.base = {.flags = VNET_NEEDS_CSUM | VNET_UDP_TUNNEL_CSUM, .gso_type = p->vnet.gso_type | GSO_UDP_TUNNEL_IPV4,
    .header_size = (uint16_t)(TUNNEL_OUTER_SIZE + p->payload), .gso_size = (uint16_t)segment_payload,
    .csum_start = (uint16_t)(TUNNEL_OUTER_SIZE + p->l4), .csum_offset = 16},
    .outer_l4 = htole16(ETH_SIZE + IP_SIZE), .inner_l3 = htole16((uint16_t)(TUNNEL_OUTER_SIZE + p->l3))};
  memcpy(ethernet - sizeof vnet, &vnet, sizeof vnet);
  memcpy(ethernet, device_mac, 6);
  memset(ethernet + 6, 0, 6);
  store_be16(ethernet + 12, ETHERTYPE_IPV4);
  ip[0] = 0x45;
  ip[1] = 0;
  store_be16(ip + 2, (uint16_t)size);
  store_be16(ip + 4, route->ip_id);
  store16(ip + 6, 0);
  ip[8] = OUTER_TTL;
  ip[9] = PROTOCOL_UDP;
  store16(ip + 10, 0);
  memcpy(ip + 12, &route->source, 4);
  memcpy(ip + 16, &route->destination, 4);
  store16(ip + 10, (uint16_t)~csum_fold(csum_add(ip, IP_SIZE, 0)));
  store_be16(udp, route->source_port);
  store_be16(udp + 2, route->destination_port);
  store_be16(udp + 4, (uint16_t)(size - IP_SIZE));
  // Of the pseudo header alone: whoever cuts the packet, or the peer's kernel, goes on from there.
  store16(udp + 6, csum_fold(csum_pseudo(route->source, route->destination, PROTOCOL_UDP, size - IP_SIZE)));
  vxlan_encode(udp + UDP_SIZE, route->vni);
  return true;
}

// Packets that left the IP layer, without those that began in this node: what was forwarded, and not only received for
// it. False if the kernel does not say.
static bool forwarded_count(int64_t *count) {
  char text[4096], *rest[2], *lines[2];
  int fd = open("/proc/thread-self/net/snmp", O_RDONLY | O_CLOEXEC), found = 0;
  if (fd < 0) return false;
  ssize_t size = read(fd, text, sizeof text - 1);
  close(fd);
  if (size <= 0) return false;
  text[size] = 0;
  // The first two lines: names, values.
  if (!(lines[0] = strtok_r(text, "\n", &rest[0])) || !(lines[1] = strtok_r(NULL, "\n", &rest[0]))) return false;
  *count = 0;
  for (;;) {
    char *name = strtok_r(lines[0], " ", &rest[0]), *value = strtok_r(lines[1], " ", &rest[1]);
    if (!name || !value) return found == 2;
    lines[0] = lines[1] = NULL;
    int sign = strcmp(name, "OutTransmits") == 0 ? 1 : strcmp(name, "OutRequests") == 0 ? -1 : 0;
    found += sign != 0;
    *count += sign * strtoll(value, NULL, 10);
  }
}

TunnelResult tunnel_send(Tunnel *tunnel, const Packet *p, TunnelRoute *route, uint32_t segment_payload, uint32_t now_s) {
  if (tunnel->fd < 0 || now_s < tunnel->retry_s) return TUNNEL_UNFIT;
  route->ip_id = tunnel->ip_id;
  if (!tunnel_encode(p, route, segment_payload)) return TUNNEL_UNFIT;
  // Each packet it is cut to has an identification of its own.
  tunnel->ip_id = (uint16_t)(tunnel->ip_id + (p->size - p->payload + segment_payload - 1) / segment_payload);
  int64_t before = 0, after = 0;
  bool check = tunnel->checked_s != now_s;
  if (check && !forwarded_count(&before)) {
    tunnel->retry_s = now_s + RETRY_S;
    return TUNNEL_UNFIT;
  }
  ssize_t sent = write(tunnel->fd, p->frame - TUNNEL_HEADROOM, TUNNEL_HEADROOM + p->size);
  if (sent >= 0 && (!check || (forwarded_count(&after) && after > before))) {
    tunnel->checked_s = now_s;
    tunnel->misses = 0;
    return TUNNEL_SENT;
  }
  // One miss may be another packet that was counted halfway.
  if (++tunnel->misses >= MISSES_MAX) {
    tunnel->misses = 0;
    tunnel->retry_s = now_s + RETRY_S;
  }
  return TUNNEL_REFUSED;
}
