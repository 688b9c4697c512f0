// bytes.h: unaligned access. Packet words are kept in memory (network) order unless a name says host.
#ifndef SKEIN_BYTES_H
#define SKEIN_BYTES_H
#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t load16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t load32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t load64(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline void store16(void *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void store32(void *p, uint32_t v) { memcpy(p, &v, 4); }
static inline uint16_t load_be16(const void *p) { return ntohs(load16(p)); }
static inline uint32_t load_be32(const void *p) { return ntohl(load32(p)); }
static inline void store_be16(void *p, uint16_t v) { store16(p, htons(v)); }
static inline void store_be32(void *p, uint32_t v) { store32(p, htonl(v)); }

// A keyed mix; the key is random per process, so that a task cannot aim at one hash chain.
static inline uint64_t mix64(uint64_t h, uint64_t word) {
  h = (h ^ word) * 0x9fb21c651e98df25ULL;
  return h ^ (h >> 29);
}
#endif
