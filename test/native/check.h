// check.h: the asserts and packet builders of the C tests. The builders compute checksums naively, word by word in
// network order, so that test and code cannot share a mistake.
#ifndef SKEIN_CHECK_H
#define SKEIN_CHECK_H
#include "packet/program.h"
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition) do { if (!(condition)) { \
  fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); exit(1); } } while (0)

static inline uint64_t test_random(void) {
  static uint64_t state = 0x2545f4914f6cdd1dULL;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

static inline uint16_t naive_sum(const uint8_t *data, size_t size, uint32_t sum) {
  for (size_t i = 0; i < size; i++) {
    sum += i & 1 ? data[i] : (uint32_t)data[i] << 8;
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return (uint16_t)sum;
}

static inline uint32_t ip4(int a, int b, int c, int d) { return htonl((uint32_t)a << 24 | (uint32_t)b << 16 | (uint32_t)c << 8 | (uint32_t)d); }

// The transport checksum of a frame as it should be; true when the frame's own is right.
static inline bool transport_ok(const uint8_t *frame) {
  const uint8_t *ip = frame + 14;
  uint32_t header = (ip[0] & 15) * 4u, total = load_be16(ip + 2), length = total - header;
  if (naive_sum(ip, header, 0) != 0xffff) return false;
  if (ip[9] == 1) return naive_sum(ip + header, length, 0) == 0xffff;
  if (ip[9] == 17 && load16(ip + header + 6) == 0) return true;
  uint32_t sum = naive_sum(ip + 12, 8, 0) + ip[9] + length;
  return naive_sum(ip + header, length, sum) == 0xffff;
}

typedef struct Spec {
  uint32_t source, destination;
  uint16_t source_port, destination_port;
  uint8_t protocol, flags;
  uint32_t payload, sequence;
  bool partial, dont_fragment;
  const uint8_t *source_mac;
} Spec;

// Builds a frame; returns its size.
static inline uint32_t build(uint8_t *out, const Spec *s, VnetHeader *vnet) {
  static const uint8_t mac[6] = {2, 0, 0, 0, 0, 9};
  uint32_t l4 = s->protocol == 6 ? 20 : 8, total = 20 + l4 + s->payload;
  memset(out, 0, 34 + l4);
  memset(vnet, 0, sizeof *vnet);
  memcpy(out, VIP_MAC, 6);
  memcpy(out + 6, s->source_mac ? s->source_mac : mac, 6);
  store_be16(out + 12, 0x0800);
  uint8_t *ip = out + 14, *h = ip + 20;
  ip[0] = 0x45;
  store_be16(ip + 2, (uint16_t)total);
  store_be16(ip + 6, s->dont_fragment ? 0x4000 : 0);
  ip[8] = 64;
  ip[9] = s->protocol;
  store32(ip + 12, s->source);
  store32(ip + 16, s->destination);
  store_be16(ip + 10, (uint16_t)~naive_sum(ip, 20, 0));
  for (uint32_t i = 0; i < s->payload; i++) h[l4 + i] = (uint8_t)test_random();
  uint32_t field = 6;
  if (s->protocol == 1) {
    h[0] = s->flags;
    store_be16(h + 4, s->source_port);
    store_be16(h + 2, (uint16_t)~naive_sum(h, l4 + s->payload, 0));
    return 14 + total;
  }
  store_be16(h, s->source_port);
  store_be16(h + 2, s->destination_port);
  if (s->protocol == 6) {
    store_be32(h + 4, s->sequence);
    h[12] = 5 << 4;
    h[13] = s->flags;
    store_be16(h + 14, 64000);
    field = 16;
  } else store_be16(h + 4, (uint16_t)(l4 + s->payload));
  uint32_t pseudo = naive_sum(ip + 12, 8, 0) + s->protocol + l4 + s->payload;
  if (s->partial) {
    pseudo = (pseudo & 0xffff) + (pseudo >> 16);
    store_be16(h + field, (uint16_t)pseudo);
    vnet->flags = VNET_NEEDS_CSUM;
    vnet->csum_start = 34;
    vnet->csum_offset = (uint16_t)field;
  } else {
    uint16_t sum = (uint16_t)~naive_sum(h, l4 + s->payload, pseudo);
    store_be16(h + field, sum == 0 && s->protocol == 17 ? 0xffff : sum);
  }
  return 14 + total;
}
#endif
