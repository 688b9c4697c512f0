// packet.c: parsing of Ethernet, IPv4, TCP, UDP and ICMP headers.
// Theory: a frame comes from a task or a peer and may be anything, its virtio header too. Every length is
// checked here once; the rest of the program uses offsets that this file vouches for.
#include "packet.h"
#include "csum.h"

static DropReason parse_transport(Packet *p) {
  uint32_t room = p->head - p->l4;
  uint32_t rest = p->size - p->l4;
  const uint8_t *h = p->frame + p->l4;
  switch (p->protocol) {
  case PROTOCOL_TCP: {
    if (room < TCP_SIZE) return DROP_MALFORMED;
    uint32_t header = (uint32_t)(h[12] >> 4) * 4;
    if (header < TCP_SIZE || header > room) return DROP_MALFORMED;
    p->tcp_flags = h[13];
    p->payload = (uint16_t)(p->l4 + header);
    break;
  }
  case PROTOCOL_UDP: {
    if (room < UDP_SIZE) return DROP_MALFORMED;
    uint32_t length = load_be16(h + 4);
    if (length < UDP_SIZE) return DROP_MALFORMED;
    if (!p->fragment && length > rest) return DROP_MALFORMED;
    p->payload = (uint16_t)(p->l4 + UDP_SIZE);
    break;
  }
  case PROTOCOL_ICMP:
    if (room < ICMP_SIZE) return DROP_MALFORMED;
    p->icmp_type = h[0];
    p->payload = (uint16_t)(p->l4 + ICMP_SIZE);
    if (p->icmp_type == ICMP_ECHO || p->icmp_type == ICMP_ECHO_REPLY)
      p->source_port = p->destination_port = load16(h + 4);
    return DROP_NONE;
  default:
    p->payload = p->l4;
    return DROP_NONE;
  }
  p->source_port = load16(h);
  p->destination_port = load16(h + 2);
  return DROP_NONE;
}

// The virtio header must agree with the packet: a task can write any through a packet socket.
static DropReason check_offload(const Packet *p) {
  const VnetHeader *v = &p->vnet;
  uint8_t gso = v->gso_type & (uint8_t)~GSO_ECN;
  bool partial = v->flags & VNET_NEEDS_CSUM;
  if (partial) {
    if (p->fragment || (p->protocol != PROTOCOL_TCP && p->protocol != PROTOCOL_UDP)) return DROP_OFFLOAD;
    if (v->csum_start != p->l4 || v->csum_offset != (p->protocol == PROTOCOL_TCP ? 16 : 6)) return DROP_OFFLOAD;
  }
  // The ECN bit alone names no kind; taken for one, it would be cut to pieces of gso_size bytes, which may be none.
  if (gso == GSO_NONE) return v->gso_type ? DROP_OFFLOAD : DROP_NONE;
  if (!partial || v->gso_size < GSO_SIZE_MIN || p->size <= p->payload) return DROP_OFFLOAD;
  if (gso == GSO_TCPV4) return p->protocol == PROTOCOL_TCP && !(p->tcp_flags & (TCP_SYN | TCP_RST)) ? DROP_NONE : DROP_OFFLOAD;
  if (gso == GSO_UDP_L4) return p->protocol == PROTOCOL_UDP ? DROP_NONE : DROP_OFFLOAD;
  return DROP_OFFLOAD;
}

DropReason packet_parse(Packet *p, uint8_t *frame, uint32_t head, uint32_t size, const VnetHeader *vnet) {
  memset(p, 0, sizeof *p);
  p->frame = frame;
  p->head = head < size ? head : size;
  p->size = size;
  p->vnet = *vnet;
  if (size > FRAME_MAX || p->head < ETH_SIZE) return DROP_MALFORMED;
  p->ethertype = load_be16(frame + 12);
  p->l3 = p->l4 = p->payload = ETH_SIZE;
  if (p->ethertype != ETHERTYPE_IPV4) {
    if (p->ethertype == ETHERTYPE_ARP) return p->head >= ETH_SIZE + ARP_SIZE ? DROP_NONE : DROP_MALFORMED;
    return p->ethertype == ETHERTYPE_IPV6 ? DROP_IPV6 : DROP_ETHERTYPE;
  }
  if (p->head < ETH_SIZE + IP_SIZE) return DROP_MALFORMED;
  const uint8_t *ip = frame + ETH_SIZE;
  uint32_t header = (uint32_t)(ip[0] & 15) * 4, total = load_be16(ip + 2);
  if (ip[0] >> 4 != 4 || header < IP_SIZE || ETH_SIZE + header > p->head) return DROP_MALFORMED;
  if (total < header || ETH_SIZE + total > size) return DROP_MALFORMED;
  p->size = ETH_SIZE + total;
  if (p->head > p->size) p->head = p->size;
  uint16_t fragment = load_be16(ip + 6);
  p->dont_fragment = fragment & 0x4000;
  p->fragment = fragment & 0x3fff;
  p->fragment_first = p->fragment && !(fragment & 0x1fff);
  p->ip_id = load16(ip + 4);
  p->protocol = ip[9];
  p->source = load32(ip + 12);
  p->destination = load32(ip + 16);
  p->l4 = (uint16_t)(ETH_SIZE + header);
  p->payload = p->l4;
  if (!p->fragment || p->fragment_first) {
    DropReason reason = parse_transport(p);
    if (reason != DROP_NONE) return reason;
  }
  return check_offload(p);
}

uint32_t packet_checksum_offset(const Packet *p) {
  if (!packet_has_ports(p)) return 0;
  return p->l4 + (p->protocol == PROTOCOL_TCP ? 16u : 6u);
}

void packet_complete_checksum(Packet *p) {
  if (!(p->vnet.flags & VNET_NEEDS_CSUM)) return;
  uint32_t at = packet_checksum_offset(p);
  // The field holds the pseudo-header sum, so summing the segment with it in place completes it.
  uint16_t sum = (uint16_t)~csum_fold(csum_add(p->frame + p->l4, p->size - p->l4, 0));
  if (sum == 0 && p->protocol == PROTOCOL_UDP) sum = 0xffff;
  store16(p->frame + at, sum);
  p->vnet.flags &= (uint8_t)~VNET_NEEDS_CSUM;
}
