// flow.c: see flow.h. Open addressing with linear probing over a private index of (hash, entry, direction);
// deletion shifts back, so there are no tombstones. The index has four slots an entry (two are used at most).
#include "flow.h"
#include "packet.h"
#include <stdlib.h>

enum { FLOW_ABI = 1, HEADER_SIZE = 4096, EVICTION_SAMPLE = 16, EVICTION_SHARE = 4 };
#define FLOW_MAGIC 0x53574f4c4e4b5331ULL

enum { TIMEOUT_TCP_NEW_S = 60, TIMEOUT_TCP_ESTABLISHED_S = 5 * 86400, TIMEOUT_TCP_HALF_CLOSED_S = 600,
       TIMEOUT_TCP_CLOSED_S = 30, TIMEOUT_TCP_RESET_S = 10, TIMEOUT_UDP_NEW_S = 30, TIMEOUT_UDP_S = 180, TIMEOUT_ICMP_S = 30 };

size_t flow_memory_size(uint32_t capacity) { return HEADER_SIZE + (size_t)capacity * sizeof(Flow); }

static uint32_t key_hash(const FlowTable *t, const FlowKey *key) {
  uint64_t words[3];
  memcpy(words, key, sizeof words);
  uint64_t h = mix64(mix64(mix64(t->seed, words[0]), words[1]), words[2]);
  return (uint32_t)(h >> 32);
}

static bool key_equal(const FlowKey *a, const FlowKey *b) { return memcmp(a, b, sizeof *a) == 0; }

FlowRef flow_find(const FlowTable *t, const FlowKey *key) {
  uint32_t hash = key_hash(t, key);
  for (uint32_t i = hash & t->slot_mask;; i = (i + 1) & t->slot_mask) {
    const FlowSlot *s = &t->slots[i];
    if (!s->reference) return (FlowRef){NULL, 0};
    if (s->hash != hash) continue;
    Flow *flow = &t->flows[(s->reference - 1) >> 1];
    int direction = (s->reference - 1) & 1;
    if (key_equal(&flow->key[direction], key)) return (FlowRef){flow, direction};
  }
}

bool flow_has(const FlowTable *t, const FlowKey *key) { return flow_find(t, key).flow != NULL; }

static void index_add(FlowTable *t, uint32_t entry, int direction) {
  uint32_t hash = key_hash(t, &t->flows[entry].key[direction]);
  uint32_t i = hash & t->slot_mask;
  while (t->slots[i].reference) i = (i + 1) & t->slot_mask;
  t->slots[i] = (FlowSlot){hash, (entry << 1 | (uint32_t)direction) + 1};
}

static void index_remove(FlowTable *t, uint32_t entry, int direction) {
  uint32_t reference = (entry << 1 | (uint32_t)direction) + 1;
  uint32_t i = key_hash(t, &t->flows[entry].key[direction]) & t->slot_mask;
  while (t->slots[i].reference != reference) {
    if (!t->slots[i].reference) return;
    i = (i + 1) & t->slot_mask;
  }
  // Shift back every follower that may stand nearer to its home.
  uint32_t hole = i;
  for (uint32_t k = (i + 1) & t->slot_mask; t->slots[k].reference; k = (k + 1) & t->slot_mask) {
    uint32_t home = t->slots[k].hash & t->slot_mask;
    if (((k - home) & t->slot_mask) >= ((k - hole) & t->slot_mask)) {
      t->slots[hole] = t->slots[k];
      hole = k;
    }
  }
  t->slots[hole].reference = 0;
}

static void write_begin(Flow *flow) {
  __atomic_store_n(&flow->seq, flow->seq | 1, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void write_end(Flow *flow) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  __atomic_store_n(&flow->seq, flow->seq + 1, __ATOMIC_RELAXED);
}

static bool key_plausible(const FlowKey *k) {
  return k->scope <= SCOPE_GATEWAY && k->protocol <= 255;
}

// Rebuilds index and free list; entries that were half written, ended or make no sense become free.
static void adopt(FlowTable *t, uint32_t now_s) {
  for (uint32_t i = t->capacity; i-- > 0;) {
    Flow *f = &t->flows[i];
    bool torn = f->seq & 1;
    bool valid = !torn && f->kind > FLOW_FREE && f->kind <= FLOW_EGRESS && f->state <= STATE_CLOSED &&
                 f->expires_s > now_s && f->expires_s <= now_s + TIMEOUT_TCP_ESTABLISHED_S &&
                 key_plausible(&f->key[0]) && key_plausible(&f->key[1]) && !key_equal(&f->key[0], &f->key[1]) &&
                 !flow_has(t, &f->key[0]) && !flow_has(t, &f->key[1]);
    if (torn) t->torn++;
    if (valid) {
      index_add(t, i, 0);
      index_add(t, i, 1);
      t->count++;
      t->adopted++;
      continue;
    }
    if (torn || f->kind != FLOW_FREE) {
      uint32_t seq = f->seq;
      memset(f, 0, sizeof *f);
      f->seq = (seq + 1) & ~1u;
    }
    t->free_list[t->free_count++] = i;
  }
}

bool flow_init(FlowTable *t, void *memory, uint32_t capacity, const char *boot_id, uint64_t seed, uint32_t now_s) {
  memset(t, 0, sizeof *t);
  uint32_t slots = 4;
  while (slots < capacity * 4) slots *= 2;
  t->capacity = capacity;
  t->seed = seed;
  t->header = memory;
  t->flows = (Flow *)((uint8_t *)memory + HEADER_SIZE);
  t->slot_mask = slots - 1;
  t->slots = calloc(slots, sizeof *t->slots);
  t->free_list = calloc(capacity, sizeof *t->free_list);
  t->checked = calloc(capacity, sizeof *t->checked);
  if (!t->slots || !t->free_list || !t->checked) return false;
  FlowFileHeader want = {.magic = FLOW_MAGIC, .abi = FLOW_ABI, .entry_size = sizeof(Flow), .capacity = capacity};
  strncpy(want.boot_id, boot_id, sizeof want.boot_id - 1);
  want.generation = t->header->generation;
  if (memcmp(t->header, &want, sizeof want) != 0) memset(memory, 0, flow_memory_size(capacity));
  want.generation = t->header->generation + 1;
  *t->header = want;
  adopt(t, now_s);
  return true;
}

void flow_free(FlowTable *t) {
  free(t->slots);
  free(t->free_list);
  free(t->checked);
}

void flow_remove(FlowTable *t, Flow *flow) {
  uint32_t entry = (uint32_t)(flow - t->flows);
  index_remove(t, entry, 0);
  index_remove(t, entry, 1);
  write_begin(flow);
  flow->kind = FLOW_FREE;
  write_end(flow);
  t->free_list[t->free_count++] = entry;
  t->count--;
}

static bool same_initiator(const FlowKey *a, const FlowKey *b) { return a->source == b->source && a->scope == b->scope; }

// The one of a sample that expires first; of one initiator only if `of` is given.
static Flow *expires_first(Flow *const sample[EVICTION_SAMPLE], const FlowKey *of) {
  Flow *first = NULL;
  for (uint32_t i = 0; i < EVICTION_SAMPLE; i++) {
    if (of && !same_initiator(&sample[i]->key[0], of)) continue;
    if (!first || sample[i]->expires_s < first->expires_s) first = sample[i];
  }
  return first;
}

static uint32_t held_by(Flow *const sample[EVICTION_SAMPLE], const FlowKey *initiator) {
  uint32_t held = 0;
  for (uint32_t i = 0; i < EVICTION_SAMPLE; i++) held += same_initiator(&sample[i]->key[0], initiator);
  return held;
}

// A random sample of a full table shows who fills it. Whoever holds the most pays for its own new flows; others cost the
// flow that expires first, as long as that is no established connection: then, too, the one who holds the most pays.
static void evict_one(FlowTable *t, const FlowKey *asking) {
  Flow *sample[EVICTION_SAMPLE];
  const FlowKey *holder = NULL;
  uint32_t most = 0;
  for (uint32_t i = 0; i < EVICTION_SAMPLE; i++)
    sample[i] = &t->flows[(mix64(mix64(t->seed, t->evicted * EVICTION_SAMPLE + i), i + 1) >> 32) % t->capacity];
  for (uint32_t i = 0; i < EVICTION_SAMPLE; i++) {
    uint32_t held = held_by(sample, &sample[i]->key[0]);
    if (held <= most) continue;
    most = held;
    holder = &sample[i]->key[0];
  }
  Flow *victim = expires_first(sample, NULL);
  if (most >= EVICTION_SHARE && held_by(sample, asking) == most) victim = expires_first(sample, asking);
  else if (most >= EVICTION_SHARE && victim->state == STATE_ESTABLISHED) victim = expires_first(sample, holder);
  flow_remove(t, victim);
  t->evicted++;
}

Flow *flow_insert(FlowTable *t, FlowKind kind, const FlowKey key[2], uint32_t now_s) {
  if (key_equal(&key[0], &key[1]) || flow_has(t, &key[0]) || flow_has(t, &key[1])) return NULL;
  if (!t->free_count) evict_one(t, &key[0]);
  uint32_t entry = t->free_list[--t->free_count];
  Flow *flow = &t->flows[entry];
  write_begin(flow);
  flow->kind = (uint8_t)kind;
  flow->state = STATE_NEW;
  flow->fins = 0;
  flow->key[0] = key[0];
  flow->key[1] = key[1];
  flow->expires_s = now_s + TIMEOUT_ICMP_S;
  write_end(flow);
  t->checked[entry] = 0;
  index_add(t, entry, 0);
  index_add(t, entry, 1);
  t->count++;
  return flow;
}

static uint32_t touch_tcp(Flow *flow, int direction, uint8_t flags) {
  if (flags & TCP_RST) flow->state = STATE_CLOSED;
  if (flow->state == STATE_CLOSED) return flags & TCP_RST ? TIMEOUT_TCP_RESET_S : TIMEOUT_TCP_CLOSED_S;
  if (flags & TCP_FIN) flow->fins |= (uint8_t)(1 << direction);
  if (flow->fins == 3) {
    flow->state = STATE_CLOSED;
    return TIMEOUT_TCP_CLOSED_S;
  }
  if (flow->fins) {
    flow->state = STATE_CLOSING;
    return TIMEOUT_TCP_HALF_CLOSED_S;
  }
  if (direction == 1 && flow->state == STATE_NEW) flow->state = STATE_REPLIED;
  // Established once the initiator answers the other side, or when it was first seen in the middle.
  if (direction == 0 && flow->state == STATE_REPLIED && (flags & (TCP_ACK | TCP_SYN)) == TCP_ACK) flow->state = STATE_ESTABLISHED;
  return flow->state == STATE_ESTABLISHED ? TIMEOUT_TCP_ESTABLISHED_S : TIMEOUT_TCP_NEW_S;
}

void flow_touch(Flow *flow, int direction, uint8_t tcp_flags, uint32_t now_s) {
  uint32_t timeout_s = TIMEOUT_ICMP_S;
  if (flow->key[0].protocol == PROTOCOL_TCP) {
    timeout_s = touch_tcp(flow, direction, tcp_flags);
  } else if (flow->key[0].protocol == PROTOCOL_UDP) {
    if (direction == 1) flow->state = STATE_REPLIED;
    timeout_s = flow->state == STATE_REPLIED ? TIMEOUT_UDP_S : TIMEOUT_UDP_NEW_S;
  }
  if (flow->expires_s != now_s + timeout_s) flow->expires_s = now_s + timeout_s;
}

void flow_sweep(FlowTable *t, uint32_t now_s, uint32_t budget) {
  for (uint32_t i = 0; i < budget && i < t->capacity; i++) {
    Flow *flow = &t->flows[t->sweep];
    t->sweep = (t->sweep + 1) % t->capacity;
    if (flow->kind == FLOW_FREE || flow->expires_s > now_s) continue;
    flow_remove(t, flow);
    t->expired++;
  }
}
