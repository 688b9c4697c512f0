// flow.h: the flow table: which NatBinding a connection has and how its replies go back.
//
// A Flow has two keys: key[0] is a packet of the initiator as it arrives here, key[1] a packet of the
// answering side as it arrives here. The translation follows from them: a packet matching key[0] leaves as the
// inverse of key[1], a packet matching key[1] leaves as the inverse of key[0].
//
// Entries live in memory that survives this process (a MAP_SHARED file). Only the packet thread writes. seq is odd
// while an entry's keys are written; `expires_s` and `state` are single stores and need no guard. The index is
// private and rebuilt at adoption.
#ifndef SKEIN_FLOW_H
#define SKEIN_FLOW_H
#include "bytes.h"
#include "drop.h"

// A scope says where a packet arrived: a VNI (below 2^24), the node's own side, or a task's gateway interface.
enum { SCOPE_HOST = 1 << 24, SCOPE_GATEWAY = 2 << 24 };

typedef struct FlowKey {
  uint32_t scope;
  // VTEP a packet from an outside client was tunnelled by; 0 for everything else.
  uint32_t peer;
  uint32_t source, destination;
  uint16_t source_port, destination_port;
  uint32_t protocol;
} FlowKey;
_Static_assert(sizeof(FlowKey) == 24, "FlowKey has no padding: it is compared and hashed as bytes");

typedef enum FlowKind { FLOW_FREE, FLOW_VIP, FLOW_PORT, FLOW_RETURN, FLOW_EGRESS } FlowKind;
typedef enum FlowState { STATE_NEW, STATE_REPLIED, STATE_ESTABLISHED, STATE_CLOSING, STATE_CLOSED } FlowState;

typedef struct Flow {
  uint32_t seq;
  uint8_t kind, state;
  // Bit 0: the initiator sent FIN; bit 1: the other side did.
  uint8_t fins, reserved;
  uint32_t expires_s;
  uint32_t reserved2;
  FlowKey key[2];
} Flow;
_Static_assert(sizeof(Flow) == 64, "Flow is one cache line");

typedef struct FlowFileHeader {
  uint64_t magic;
  uint32_t abi, entry_size, capacity, generation;
  char boot_id[40];
} FlowFileHeader;

typedef struct FlowSlot { uint32_t hash, reference; } FlowSlot;

typedef struct FlowTable {
  FlowFileHeader *header;
  Flow *flows;
  uint32_t capacity, count, free_count, sweep;
  uint32_t *free_list;
  // Generation of tables each flow was last checked against.
  uint32_t *checked;
  FlowSlot *slots;
  uint32_t slot_mask;
  uint64_t seed;
  uint64_t evicted, expired, adopted, torn;
  // 1 when the memory ends with the process, for want of room for a file.
  uint64_t unsaved;
} FlowTable;

typedef struct FlowRef { Flow *flow; int direction; } FlowRef;

size_t flow_memory_size(uint32_t capacity);
// Takes over what the memory holds if it is of this ABI and boot, else starts empty. False: no memory.
bool flow_init(FlowTable *t, void *memory, uint32_t capacity, const char *boot_id, uint64_t seed, uint32_t now_s);
void flow_free(FlowTable *t);
FlowRef flow_find(const FlowTable *t, const FlowKey *key);
bool flow_has(const FlowTable *t, const FlowKey *key);
// NULL: a key is taken. When full, a flow of a small sample is evicted, first of all one of whoever holds the most.
Flow *flow_insert(FlowTable *t, FlowKind kind, const FlowKey key[2], uint32_t now_s);
void flow_remove(FlowTable *t, Flow *flow);
// Advances the state by one packet.
void flow_touch(Flow *flow, int direction, uint8_t tcp_flags, uint32_t now_s);
// Looks at up to budget entries and removes what expired.
void flow_sweep(FlowTable *t, uint32_t now_s, uint32_t budget);
static inline FlowKey flow_inverse(const FlowKey *key) {
  return (FlowKey){.scope = key->scope, .source = key->destination, .destination = key->source,
    .source_port = key->destination_port, .destination_port = key->source_port, .protocol = key->protocol};
}
#endif
