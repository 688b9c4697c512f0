// csum.h: Internet checksums (RFC 1071, RFC 1624). All 16-bit words are in memory order: the one's
// complement sum does not care about byte order as long as it is the same everywhere.
#ifndef SKEIN_CSUM_H
#define SKEIN_CSUM_H
#include "bytes.h"

// Adds bytes to a running sum; data must start at an even offset of what is summed.
uint64_t csum_add(const void *data, size_t size, uint64_t sum);
uint16_t csum_fold(uint64_t sum);
// The pseudo-header sum of TCP or UDP over IPv4, not folded. length is in host order.
uint64_t csum_pseudo(uint32_t source, uint32_t destination, uint8_t protocol, uint32_t length);
// A complete checksum after a word of what it covers changed.
uint16_t csum_replace16(uint16_t checksum, uint16_t old_word, uint16_t new_word);
uint16_t csum_replace32(uint16_t checksum, uint32_t old_word, uint32_t new_word);
// The same for a partial checksum, which holds the plain pseudo-header sum.
uint16_t csum_replace_partial32(uint16_t sum, uint32_t old_word, uint32_t new_word);
#endif
