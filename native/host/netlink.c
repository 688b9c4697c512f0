// netlink.c: see netlink.h. One request, one acknowledgement; runs in the namespace the socket was opened in.
#include "netlink.h"
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct Request { _Alignas(struct nlmsghdr) uint8_t bytes[512]; } Request;

int netlink_open(void) { return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE); }

static void *start(Request *request, uint16_t type, uint16_t flags, size_t body_size) {
  memset(request, 0, sizeof *request);
  struct nlmsghdr *h = (struct nlmsghdr *)request->bytes;
  h->nlmsg_len = NLMSG_LENGTH(body_size);
  h->nlmsg_type = type;
  h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
  return NLMSG_DATA(h);
}

static void add(Request *request, uint16_t type, const void *data, uint16_t size) {
  struct nlmsghdr *h = (struct nlmsghdr *)request->bytes;
  struct rtattr *attribute = (struct rtattr *)(request->bytes + NLMSG_ALIGN(h->nlmsg_len));
  attribute->rta_type = type;
  attribute->rta_len = (uint16_t)RTA_LENGTH(size);
  memcpy(RTA_DATA(attribute), data, size);
  h->nlmsg_len = NLMSG_ALIGN(h->nlmsg_len) + RTA_ALIGN(attribute->rta_len);
}

static int exchange(int fd, Request *request) {
  struct nlmsghdr *h = (struct nlmsghdr *)request->bytes;
  if (send(fd, h, h->nlmsg_len, 0) < 0) return -errno;
  _Alignas(struct nlmsghdr) uint8_t answer[4096];
  ssize_t size = recv(fd, answer, sizeof answer, 0);
  if (size < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr))) return size < 0 ? -errno : -EPROTO;
  const struct nlmsghdr *reply = (const struct nlmsghdr *)answer;
  if (reply->nlmsg_type != NLMSG_ERROR) return -EPROTO;
  return ((const struct nlmsgerr *)NLMSG_DATA(reply))->error;
}

int netlink_set_link(int fd, int ifindex, const LinkSettings *settings) {
  Request request;
  struct ifinfomsg *link = start(&request, RTM_NEWLINK, 0, sizeof *link);
  link->ifi_index = ifindex;
  link->ifi_flags = IFF_UP | (settings->no_arp ? IFF_NOARP : 0);
  link->ifi_change = IFF_UP | (settings->no_arp ? IFF_NOARP : 0);
  if (settings->mac) add(&request, IFLA_ADDRESS, settings->mac, 6);
  add(&request, IFLA_MTU, &settings->mtu, sizeof settings->mtu);
  if (settings->gso_max_size) add(&request, IFLA_GSO_MAX_SIZE, &settings->gso_max_size, sizeof settings->gso_max_size);
  return exchange(fd, &request);
}

int netlink_add_address(int fd, int ifindex, uint32_t address, uint8_t prefix) {
  Request request;
  struct ifaddrmsg *message = start(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sizeof *message);
  message->ifa_family = AF_INET;
  message->ifa_prefixlen = prefix;
  message->ifa_index = (uint32_t)ifindex;
  add(&request, IFA_LOCAL, &address, sizeof address);
  add(&request, IFA_ADDRESS, &address, sizeof address);
  int result = exchange(fd, &request);
  return result == -EEXIST ? 0 : result;
}

int netlink_set_default_route(int fd, int ifindex, uint32_t gateway) {
  Request request;
  struct rtmsg *route = start(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof *route);
  route->rtm_family = AF_INET;
  route->rtm_table = RT_TABLE_MAIN;
  route->rtm_protocol = RTPROT_STATIC;
  route->rtm_scope = RT_SCOPE_UNIVERSE;
  route->rtm_type = RTN_UNICAST;
  add(&request, RTA_GATEWAY, &gateway, sizeof gateway);
  add(&request, RTA_OIF, &ifindex, sizeof ifindex);
  return exchange(fd, &request);
}
