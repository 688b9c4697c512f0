// conntrack.c: see conntrack.h. ctnetlink: a dump of all entries, then one deletion each.
#include "conntrack.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ANSWER_SIZE = 1 << 16, TUPLE_MAX = 128, UDP = 17 };

// Addresses and ports in network order. raw is the attribute as the kernel gave it.
typedef struct Tuple { uint32_t source, destination; uint16_t source_port, destination_port; uint8_t protocol; } Tuple;
typedef struct Found { uint16_t size; uint8_t raw[TUPLE_MAX]; } Found;
typedef struct List { Found *items; uint32_t count, room; } List;
typedef struct Request {
  struct nlmsghdr header;
  struct nfgenmsg family;
  uint8_t attributes[TUPLE_MAX];
} Request;

// The next attribute of a sequence that ends at `end`; NULL: none.
static const struct nlattr *attribute_at(const uint8_t *at, const uint8_t *end) {
  const struct nlattr *a = (const struct nlattr *)at;
  if (end - at < (ptrdiff_t)sizeof *a || a->nla_len < sizeof *a || a->nla_len > end - at) return NULL;
  return a;
}

static const struct nlattr *find(const uint8_t *at, const uint8_t *end, uint16_t type) {
  for (const struct nlattr *a; at < end && (a = attribute_at(at, end)); at += NLA_ALIGN(a->nla_len))
    if ((a->nla_type & NLA_TYPE_MASK) == type) return a;
  return NULL;
}

static const struct nlattr *find_in(const struct nlattr *parent, uint16_t type) {
  return parent ? find((const uint8_t *)(parent + 1), (const uint8_t *)parent + parent->nla_len, type) : NULL;
}

static bool read_value(const struct nlattr *parent, uint16_t type, void *out, uint16_t size) {
  const struct nlattr *a = find_in(parent, type);
  if (!a || a->nla_len < sizeof *a + size) return false;
  memcpy(out, a + 1, size);
  return true;
}

static bool read_tuple(const struct nlattr *tuple, Tuple *out) {
  const struct nlattr *ip = find_in(tuple, CTA_TUPLE_IP), *protocol = find_in(tuple, CTA_TUPLE_PROTO);
  return read_value(ip, CTA_IP_V4_SRC, &out->source, 4) && read_value(ip, CTA_IP_V4_DST, &out->destination, 4) &&
         read_value(protocol, CTA_PROTO_NUM, &out->protocol, 1) && out->protocol == UDP &&
         read_value(protocol, CTA_PROTO_SRC_PORT, &out->source_port, 2) && read_value(protocol, CTA_PROTO_DST_PORT, &out->destination_port, 2);
}

static bool is_wanted(const Tuple *asked, const Tuple *reply, const PortSet *ports, uint32_t published) {
  if (!port_set_has(ports, ntohs(asked->destination_port))) return false;
  bool plain = reply->source == asked->destination && reply->destination == asked->source &&
               reply->source_port == asked->destination_port && reply->destination_port == asked->source_port;
  return plain || reply->source == published;
}

static bool append(List *list, const struct nlattr *tuple) {
  if (tuple->nla_len > TUPLE_MAX) return true;
  if (list->count == list->room) {
    uint32_t room = list->room ? list->room * 2 : 64;
    Found *grown = realloc(list->items, room * sizeof *grown);
    if (!grown) return false;
    list->items = grown;
    list->room = room;
  }
  Found *found = &list->items[list->count++];
  found->size = tuple->nla_len;
  memcpy(found->raw, tuple, tuple->nla_len);
  return true;
}

static int request(int fd, uint8_t type, uint16_t flags, const Found *tuple) {
  Request r = {.header = {.nlmsg_len = NLMSG_LENGTH(sizeof r.family), .nlmsg_type = (NFNL_SUBSYS_CTNETLINK << 8) | type,
    .nlmsg_flags = NLM_F_REQUEST | flags}, .family = {.nfgen_family = AF_INET, .version = NFNETLINK_V0}};
  if (tuple) {
    memcpy(r.attributes, tuple->raw, tuple->size);
    r.header.nlmsg_len += NLA_ALIGN(tuple->size);
  }
  return send(fd, &r, r.header.nlmsg_len, 0) < 0 ? -errno : 0;
}

// Takes one datagram of a dump. 1: more to come; 0: the end.
static int take_answer(int fd, uint8_t *answer, const PortSet *ports, uint32_t published, List *list) {
  ssize_t size = recv(fd, answer, ANSWER_SIZE, 0);
  if (size < 0) return -errno;
  uint32_t left = (uint32_t)size;
  for (struct nlmsghdr *h = (struct nlmsghdr *)answer; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
    if (h->nlmsg_type == NLMSG_DONE) return 0;
    if (h->nlmsg_type == NLMSG_ERROR) return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
    if (h->nlmsg_len < NLMSG_LENGTH(sizeof(struct nfgenmsg))) return -EPROTO;
    const uint8_t *start = (const uint8_t *)NLMSG_DATA(h) + NLMSG_ALIGN(sizeof(struct nfgenmsg)), *end = (const uint8_t *)h + h->nlmsg_len;
    const struct nlattr *asked = find(start, end, CTA_TUPLE_ORIG), *reply = find(start, end, CTA_TUPLE_REPLY);
    Tuple a, b;
    if (asked && reply && read_tuple(asked, &a) && read_tuple(reply, &b) && is_wanted(&a, &b, ports, published) && !append(list, asked)) return -ENOMEM;
  }
  return 1;
}

int conntrack_forget_udp(const PortSet *ports, uint32_t published) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
  uint8_t *answer = malloc(ANSWER_SIZE);
  List list = {0};
  int result = fd < 0 || !answer ? -errno : request(fd, IPCTNL_MSG_CT_GET, NLM_F_DUMP, NULL);
  if (result == 0) while ((result = take_answer(fd, answer, ports, published, &list)) > 0) {}
  int forgotten = 0;
  for (uint32_t i = 0; result == 0 && i < list.count; i++) {
    result = request(fd, IPCTNL_MSG_CT_DELETE, NLM_F_ACK, &list.items[i]);
    if (result < 0 || recv(fd, answer, ANSWER_SIZE, 0) < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr))) break;
    // An entry may have ended by itself meanwhile.
    if (((const struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error == 0) forgotten++;
  }
  free(list.items);
  free(answer);
  if (fd >= 0) close(fd);
  return result < 0 ? result : forgotten;
}
