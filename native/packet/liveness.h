// liveness.h: "are you there?" between nodes, on the VXLAN port: the I bit of RFC 7348 is clear, so a VXLAN device that gets
// one drops it. 24 bytes: 0, "SKL", kind, three zeros, 16 bytes that come back as they are. An answer is never longer than
// what was asked and is not answered, so nothing is amplified and no two nodes can be set at each other.
#ifndef SKEIN_LIVENESS_H
#define SKEIN_LIVENESS_H
#include "bytes.h"
#include <stdbool.h>
#include <stddef.h>

enum { LIVENESS_SIZE = 24, LIVENESS_MAGIC = 0x00534b4c, LIVENESS_ASK = 1, LIVENESS_ANSWER = 2 };

// Turns a question into its answer, in place; false when it is none.
static inline bool liveness_answer(uint8_t *data, size_t size) {
  if (size != LIVENESS_SIZE || load_be32(data) != LIVENESS_MAGIC || load_be32(data + 4) != (uint32_t)LIVENESS_ASK << 24) return false;
  data[4] = LIVENESS_ANSWER;
  return true;
}
#endif
