// vxlan.h: the VXLAN header of RFC 7348: flags (bit I), 24-bit VNI, reserved bits zero.
#ifndef SKEIN_VXLAN_H
#define SKEIN_VXLAN_H
#include "packet.h"

enum { VXLAN_SIZE = 8, VXLAN_OVERHEAD = 20 + 8 + 8 + 14 };

static inline void vxlan_encode(uint8_t *header, uint32_t vni) {
  store_be32(header, 0x08000000);
  store_be32(header + 4, vni << 8);
}

// False for a header without the I bit; other bits are ignored on receipt, as the RFC asks.
static inline bool vxlan_decode(const uint8_t *header, size_t size, uint32_t *vni) {
  if (size < VXLAN_SIZE || !(header[0] & 0x08)) return false;
  *vni = load_be32(header + 4) >> 8;
  return true;
}

// Entropy for the outer source port: the same for all packets of one inner flow.
static inline uint32_t vxlan_flow_hash(const Packet *p) {
  uint64_t h = mix64(0x51ed270b, ((uint64_t)p->source << 32) | p->destination);
  if (!p->fragment) h = mix64(h, ((uint64_t)p->protocol << 32) | ((uint32_t)p->source_port << 16) | p->destination_port);
  return (uint32_t)(h >> 32);
}
#endif
