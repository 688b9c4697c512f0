// csum.c: see csum.h. The long sum adds 32-bit words into 64-bit lanes, which the compiler vectorises.
#include "csum.h"

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t sum_words(const uint8_t *data, size_t count) {
  uint64_t lanes[16] = {0};
  size_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (size_t k = 0; k < 16; k++) lanes[k] += load32(data + 4 * (i + k));
  uint64_t sum = 0;
  for (size_t k = 0; k < 16; k++) sum += (lanes[k] & 0xffffffff) + (lanes[k] >> 32);
  for (; i < count; i++) sum += load32(data + 4 * i);
  return sum;
}

uint64_t csum_add(const void *data, size_t size, uint64_t sum) {
  const uint8_t *p = data;
  sum = (sum & 0xffffffff) + (sum >> 32);
  size_t words = size / 4;
  if (words) {
    uint64_t more = sum_words(p, words);
    sum += (more & 0xffffffff) + (more >> 32);
  }
  p += 4 * words;
  size -= 4 * words;
  if (size >= 2) {
    sum += load16(p);
    p += 2;
    size -= 2;
  }
  if (size) {
    uint8_t last[2] = {*p, 0};
    sum += load16(last);
  }
  return sum;
}

uint16_t csum_fold(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)sum;
}

uint64_t csum_pseudo(uint32_t source, uint32_t destination, uint8_t protocol, uint32_t length) {
  return (uint64_t)source + destination + htons(protocol) + htons((uint16_t)length);
}

uint16_t csum_replace16(uint16_t checksum, uint16_t old_word, uint16_t new_word) {
  // RFC 1624, equation 3: C' = ~(~C + ~m + m').
  return (uint16_t)~csum_fold((uint64_t)(uint16_t)~checksum + (uint16_t)~old_word + new_word);
}

uint16_t csum_replace32(uint16_t checksum, uint32_t old_word, uint32_t new_word) {
  return (uint16_t)~csum_fold((uint64_t)(uint16_t)~checksum + (uint32_t)~old_word + new_word);
}

uint16_t csum_replace_partial32(uint16_t sum, uint32_t old_word, uint32_t new_word) {
  return csum_fold((uint64_t)sum + (uint32_t)~old_word + new_word);
}
