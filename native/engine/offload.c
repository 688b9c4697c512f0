// offload.c: see offload.h.
// Theory: a TAP hands over TCP in super-frames of up to 64 KB with a partial checksum. They are cut once, here, into
// packets that share one sendmsg; the receiving side glues them again and hands the TAP one super-frame. Payload is
// never copied: vectors point into the buffer it was read to.
#include "offload.h"
#include "../packet/csum.h"

uint32_t segment_payload_of(const Packet *p, uint32_t packet_max) {
  uint32_t headers = p->payload - ETH_SIZE;
  uint32_t room = packet_max > headers + GSO_SIZE_MIN ? packet_max - headers : GSO_SIZE_MIN;
  return p->vnet.gso_size < room ? p->vnet.gso_size : room;
}

void segmenter_init(Segmenter *s, const Packet *p, uint32_t vni, uint32_t packet_max) {
  *s = (Segmenter){.p = p, .vni = vni, .next = p->payload, .segment_payload = segment_payload_of(p, packet_max)};
  if (p->protocol == PROTOCOL_TCP) s->sequence = load_be32(p->frame + p->l4 + 4);
}

static void write_headers(const Segmenter *s, uint8_t *out, uint32_t payload_size, bool last) {
  const Packet *p = s->p;
  vxlan_encode(out, s->vni);
  out += VXLAN_SIZE;
  memcpy(out, p->frame, p->payload);
  uint8_t *ip = out + p->l3, *l4 = out + p->l4;
  uint32_t l4_size = p->payload - p->l4 + payload_size;
  store_be16(ip + 2, (uint16_t)(p->l4 - p->l3 + l4_size));
  store_be16(ip + 4, (uint16_t)(load_be16(ip + 4) + s->index));
  store16(ip + 10, 0);
  store16(ip + 10, (uint16_t)~csum_fold(csum_add(ip, p->l4 - p->l3, 0)));
  uint32_t field = p->protocol == PROTOCOL_TCP ? 16 : 6;
  if (p->protocol == PROTOCOL_TCP) {
    store_be32(l4 + 4, s->sequence + (s->next - p->payload));
    if (!last) l4[13] &= (uint8_t)~(TCP_FIN | TCP_PSH);
    if (s->index > 0) l4[13] &= (uint8_t)~TCP_CWR;
  } else {
    store_be16(l4 + 4, (uint16_t)l4_size);
  }
  store16(l4 + field, 0);
  uint64_t sum = csum_pseudo(p->source, p->destination, p->protocol, l4_size);
  sum = csum_add(l4, p->payload - p->l4, sum);
  uint16_t checksum = (uint16_t)~csum_fold(csum_add(p->frame + s->next, payload_size, sum));
  if (checksum == 0 && p->protocol == PROTOCOL_UDP) checksum = 0xffff;
  store16(l4 + field, checksum);
}

bool segmenter_next(Segmenter *s, SegmentBatch *batch) {
  const Packet *p = s->p;
  uint32_t headers = VXLAN_SIZE + p->payload;
  batch->count = batch->total = 0;
  batch->segment_size = headers + s->segment_payload;
  while (s->next < p->size && batch->count < SEGMENTS_MAX && batch->total + batch->segment_size <= DATAGRAM_MAX) {
    uint32_t size = p->size - s->next < s->segment_payload ? p->size - s->next : s->segment_payload;
    write_headers(s, batch->headers[batch->count], size, s->next + size == p->size);
    batch->vectors[batch->count * 2] = (struct iovec){batch->headers[batch->count], headers};
    batch->vectors[batch->count * 2 + 1] = (struct iovec){p->frame + s->next, size};
    batch->count++;
    batch->total += headers + size;
    s->next += size;
    s->index++;
  }
  return batch->count > 0;
}

static bool checksum_ok(const Packet *p) {
  uint64_t sum = csum_pseudo(p->source, p->destination, p->protocol, p->size - p->l4);
  return csum_fold(csum_add(p->frame + p->l4, p->size - p->l4, sum)) == 0xffff;
}

// What a kernel leaves in the field for a device that is to go on from there: the packet never was on a real wire.
static bool checksum_partial(const Packet *p) {
  return load16(p->frame + packet_checksum_offset(p)) == csum_fold(csum_pseudo(p->source, p->destination, p->protocol, p->size - p->l4));
}

static bool may_coalesce(const Packet *p, bool verified) {
  return p->ethertype == ETHERTYPE_IPV4 && p->protocol == PROTOCOL_TCP && !p->fragment && p->l4 == ETH_SIZE + IP_SIZE &&
         (p->tcp_flags & ~TCP_PSH) == TCP_ACK && p->size > p->payload && p->head == p->size &&
         p->vnet.gso_type == GSO_NONE && (verified || checksum_partial(p) || checksum_ok(p));
}

bool coalescer_start(Coalescer *c, const Packet *p, uint32_t vni, uint32_t vtep, bool verified) {
  if (p->size - p->payload < GSO_SIZE_MIN || !may_coalesce(p, verified)) return false;
  c->active = true;
  c->vni = vni;
  c->vtep = vtep;
  c->packet = *p;
  c->gso_size = c->payload_size = p->size - p->payload;
  c->next_sequence = load_be32(p->frame + p->l4 + 4) + c->payload_size;
  c->count = 1;
  c->ended = p->tcp_flags & TCP_PSH;
  return true;
}

bool coalescer_append(Coalescer *c, const Packet *p, uint32_t vni, uint32_t vtep, bool verified) {
  if (!c->active || c->ended || c->count == COALESCE_MAX || c->vni != vni || c->vtep != vtep) return false;
  const Packet *first = &c->packet;
  uint32_t size = p->size - p->payload;
  if (p->source != first->source || p->destination != first->destination || p->protocol != first->protocol) return false;
  if (p->payload != first->payload || size > c->gso_size || c->payload_size + size + p->payload > 65535) return false;
  const uint8_t *a = first->frame, *b = p->frame;
  if (memcmp(a, b, 16) != 0 || memcmp(a + 20, b + 20, 4) != 0) return false; // MACs, type, TOS; fragment bits, TTL, protocol
  a += first->l4;
  b += p->l4;
  if (memcmp(a, b, 4) != 0 || load_be32(b + 4) != c->next_sequence || memcmp(a + 8, b + 8, 5) != 0) return false; // ports, ack, offset
  if (memcmp(a + 14, b + 14, 2) != 0 || memcmp(a + 18, b + 18, p->payload - p->l4 - 18u) != 0) return false; // window, urgent, options
  if (!may_coalesce(p, verified)) return false;
  c->payloads[c->count++] = (struct iovec){p->frame + p->payload, size};
  c->payload_size += size;
  c->next_sequence += size;
  c->packet.tcp_flags |= p->tcp_flags;
  c->ended = size < c->gso_size || (p->tcp_flags & TCP_PSH);
  return true;
}

void coalescer_finish(Coalescer *c) {
  Packet *p = &c->packet;
  c->active = false;
  if (c->count == 1) return;
  uint8_t *ip = p->frame + p->l3, *tcp = p->frame + p->l4;
  p->size = p->payload + c->payload_size;
  store_be16(ip + 2, (uint16_t)(p->size - p->l3));
  store16(ip + 10, 0);
  store16(ip + 10, (uint16_t)~csum_fold(csum_add(ip, IP_SIZE, 0)));
  tcp[13] = p->tcp_flags;
  store16(tcp + 16, csum_fold(csum_pseudo(p->source, p->destination, PROTOCOL_TCP, p->size - p->l4)));
  p->vnet = (VnetHeader){.flags = VNET_NEEDS_CSUM, .gso_type = GSO_TCPV4, .header_size = p->payload,
    .gso_size = (uint16_t)c->gso_size, .csum_start = p->l4, .csum_offset = 16};
}

bool ack_may_hold(const Packet *p) {
  if (p->ethertype != ETHERTYPE_IPV4 || p->protocol != PROTOCOL_TCP || p->fragment || p->l4 != ETH_SIZE + IP_SIZE) return false;
  if (p->tcp_flags != TCP_ACK || p->size != p->payload || p->head != p->size || p->vnet.gso_type != GSO_NONE) return false;
  const uint8_t *tcp = p->frame + p->l4;
  uint32_t options = p->payload - p->l4 - (uint32_t)TCP_SIZE;
  // Low nibble: reserved bits, one of them AccECN's.
  if (tcp[12] & 15) return false;
  return options == 0 || (options == 12 && load_be32(tcp + TCP_SIZE) == 0x0101080a);
}

bool ack_supersedes(const HeldAck *held, const Packet *p) {
  const Packet *old = &held->packet;
  if (!held->active || held->replaced == ACKS_REPLACED_MAX || p->size != old->size || !ack_may_hold(p)) return false;
  const uint8_t *a = old->frame, *b = p->frame;
  if (memcmp(a, b, 16) != 0 || memcmp(a + 20, b + 20, 4) != 0 || memcmp(a + 26, b + 26, 8) != 0) return false; // MACs, type, TOS; fragment bits, TTL, protocol; addresses
  a += old->l4;
  b += p->l4;
  if (memcmp(a, b, 8) != 0) return false; // ports, sequence
  uint32_t advance = load_be32(b + 8) - load_be32(a + 8);
  return advance > 0 && advance < 1u << 31;
}

void offload_receive(Packet *p, uint32_t packet_max) {
  if (p->ethertype != ETHERTYPE_IPV4 || p->fragment || !packet_has_ports(p)) return;
  uint32_t at = packet_checksum_offset(p);
  uint16_t pseudo = csum_fold(csum_pseudo(p->source, p->destination, p->protocol, p->size - p->l4));
  uint16_t field = load16(p->frame + at);
  bool partial = field == pseudo;
  bool super = p->protocol == PROTOCOL_TCP && p->size - ETH_SIZE > packet_max && !(p->tcp_flags & (TCP_SYN | TCP_RST));
  if (super && !partial) {
    // A complete checksum is verified before it is replaced by the partial one that GSO asks for.
    if (!checksum_ok(p)) return;
    store16(p->frame + at, pseudo);
    partial = true;
  }
  if (!partial) return;
  p->vnet.flags = VNET_NEEDS_CSUM;
  p->vnet.csum_start = p->l4;
  p->vnet.csum_offset = p->protocol == PROTOCOL_TCP ? 16 : 6;
  if (!super) return;
  uint32_t headers = p->payload - ETH_SIZE;
  p->vnet.gso_type = GSO_TCPV4;
  p->vnet.gso_size = (uint16_t)(packet_max - headers);
  p->vnet.header_size = p->payload;
}
