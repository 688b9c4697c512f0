// nat.c: see nat.h. A complete checksum covers addresses and ports; a partial one (NEEDS_CSUM) holds only the
// pseudo-header sum, so it changes with addresses and not with ports.
#include "nat.h"
#include "csum.h"

static void rewrite_ip(uint8_t *ip, uint32_t source, uint32_t destination) {
  uint16_t sum = load16(ip + 10);
  sum = csum_replace32(sum, load32(ip + 12), source);
  sum = csum_replace32(sum, load32(ip + 16), destination);
  store16(ip + 10, sum);
  store32(ip + 12, source);
  store32(ip + 16, destination);
}

static void rewrite_transport(Packet *p, const FlowKey *to) {
  uint8_t *h = p->frame + p->l4;
  uint8_t *field = p->frame + packet_checksum_offset(p);
  uint16_t sum = load16(field);
  if (p->vnet.flags & VNET_NEEDS_CSUM) {
    sum = csum_replace_partial32(sum, p->source, to->source);
    sum = csum_replace_partial32(sum, p->destination, to->destination);
    store16(field, sum);
  } else if (p->protocol != PROTOCOL_UDP || sum != 0) {
    sum = csum_replace32(sum, p->source, to->source);
    sum = csum_replace32(sum, p->destination, to->destination);
    sum = csum_replace16(sum, p->source_port, to->source_port);
    sum = csum_replace16(sum, p->destination_port, to->destination_port);
    if (sum == 0 && p->protocol == PROTOCOL_UDP) sum = 0xffff;
    store16(field, sum);
  }
  store16(h, to->source_port);
  store16(h + 2, to->destination_port);
  p->source_port = to->source_port;
  p->destination_port = to->destination_port;
}

void nat_rewrite(Packet *p, const FlowKey *to) {
  if (packet_has_ports(p)) rewrite_transport(p, to);
  rewrite_ip(p->frame + p->l3, to->source, to->destination);
  p->source = to->source;
  p->destination = to->destination;
}

void nat_set_macs(Packet *p, const uint8_t source[6], const uint8_t destination[6]) {
  memcpy(p->frame, destination, 6);
  memcpy(p->frame + 6, source, 6);
}

uint32_t nat_embedded_destination(const Packet *p) { return (uint32_t)p->payload + IP_SIZE <= p->head ? load32(p->frame + p->payload + 16) : 0; }

bool nat_embedded_tuple(const Packet *p, FlowKey *tuple) {
  uint32_t at = p->payload;
  if (at + IP_SIZE + 8 > p->head) return false;
  const uint8_t *ip = p->frame + at;
  uint32_t header = (uint32_t)(ip[0] & 15) * 4;
  if (ip[0] >> 4 != 4 || header < IP_SIZE || at + header + 8 > p->head) return false;
  if (load_be16(ip + 6) & 0x1fff) return false;
  memset(tuple, 0, sizeof *tuple);
  tuple->protocol = ip[9];
  tuple->source = load32(ip + 12);
  tuple->destination = load32(ip + 16);
  const uint8_t *l4 = ip + header;
  if (tuple->protocol == PROTOCOL_TCP || tuple->protocol == PROTOCOL_UDP) {
    tuple->source_port = load16(l4);
    tuple->destination_port = load16(l4 + 2);
    return true;
  }
  if (tuple->protocol != PROTOCOL_ICMP || (l4[0] != ICMP_ECHO && l4[0] != ICMP_ECHO_REPLY)) return false;
  tuple->source_port = tuple->destination_port = load16(l4 + 4);
  return true;
}

static void rewrite_embedded_transport(Packet *p, uint8_t *ip, uint8_t *l4, const FlowKey *inner) {
  uint32_t at = (uint32_t)(l4 - p->frame) + (inner->protocol == PROTOCOL_TCP ? 16u : 6u);
  if (at + 2 <= p->head) {
    uint16_t sum = load16(p->frame + at);
    if (inner->protocol != PROTOCOL_UDP || sum != 0) {
      sum = csum_replace32(sum, load32(ip + 12), inner->source);
      sum = csum_replace32(sum, load32(ip + 16), inner->destination);
      sum = csum_replace16(sum, load16(l4), inner->source_port);
      sum = csum_replace16(sum, load16(l4 + 2), inner->destination_port);
      store16(p->frame + at, sum);
    }
  }
  store16(l4, inner->source_port);
  store16(l4 + 2, inner->destination_port);
}

void nat_rewrite_error(Packet *p, const FlowKey *inner, uint32_t source, uint32_t destination) {
  uint8_t *ip = p->frame + p->payload;
  uint8_t *l4 = ip + (ip[0] & 15) * 4;
  if (inner->protocol == PROTOCOL_TCP || inner->protocol == PROTOCOL_UDP) rewrite_embedded_transport(p, ip, l4, inner);
  rewrite_ip(ip, inner->source, inner->destination);
  uint8_t *icmp = p->frame + p->l4;
  store16(icmp + 2, 0);
  store16(icmp + 2, (uint16_t)~csum_fold(csum_add(icmp, p->size - p->l4, 0)));
  rewrite_ip(p->frame + p->l3, source, destination);
  p->source = source;
  p->destination = destination;
}

void nat_clamp_mss(Packet *p, uint16_t mss_max) {
  if (p->protocol != PROTOCOL_TCP || !(p->tcp_flags & TCP_SYN) || p->fragment) return;
  uint32_t i = p->l4 + TCP_SIZE;
  while (i + 1 < p->payload) {
    uint8_t kind = p->frame[i];
    if (kind == 0) return;
    if (kind == 1) {
      i++;
      continue;
    }
    uint8_t length = p->frame[i + 1];
    if (length < 2 || i + length > p->payload) return;
    if (kind == 2 && length == 4) {
      uint16_t mss = load_be16(p->frame + i + 2);
      // An option at an odd offset straddles two checksum words; it is left alone (no stack sends that).
      if (mss <= mss_max || (i & 1) != (p->l4 & 1)) return;
      if (!(p->vnet.flags & VNET_NEEDS_CSUM)) {
        uint8_t *field = p->frame + packet_checksum_offset(p);
        store16(field, csum_replace16(load16(field), htons(mss), htons(mss_max)));
      }
      store_be16(p->frame + i + 2, mss_max);
      return;
    }
    i += length;
  }
}
