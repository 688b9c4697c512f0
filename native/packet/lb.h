// lb.h: which backend a new flow gets.
#ifndef SKEIN_LB_H
#define SKEIN_LB_H
#include "bytes.h"

typedef struct Backend { uint32_t address, weight; bool draining; } Backend;
typedef struct BackendSet {
  Backend *backends;
  uint32_t count;
  // Sum of weights of those that take new flows.
  uint32_t weight;
  // Where this node's rounds begin: not the same on all nodes, or they would all try the same backend first.
  uint32_t start;
  // Round-robin position; only the packet thread writes it.
  uint32_t turn;
} BackendSet;

// Fills in weight. Backends that only drain are used when nothing else is left.
void lb_prepare(BackendSet *set);
// Smooth enough round robin: consecutive flows go to consecutive backends, each as often as its weight. NULL: none.
const Backend *lb_pick(BackendSet *set);
// Whether this backend drains and others take new flows.
bool lb_drains(const BackendSet *set, uint32_t address);
bool lb_contains(const BackendSet *set, uint32_t address);
#endif
