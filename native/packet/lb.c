// lb.c: weighted round robin over a backend set.
#include "lb.h"

static bool takes_flows(const BackendSet *set, const Backend *b) { return b->weight > 0 && (!b->draining || set->weight == 0); }

void lb_prepare(BackendSet *set) {
  uint64_t weight = 0;
  for (uint32_t i = 0; i < set->count; i++)
    if (!set->backends[i].draining) weight += set->backends[i].weight;
  set->weight = weight > 0xffffffff ? 0xffffffff : (uint32_t)weight;
}

const Backend *lb_pick(BackendSet *set) {
  // The turn walks rounds: in round r every backend with weight > r takes one flow.
  uint32_t highest = 0;
  for (uint32_t i = 0; i < set->count; i++)
    if (takes_flows(set, &set->backends[i]) && set->backends[i].weight > highest) highest = set->backends[i].weight;
  if (!highest) return NULL;
  uint32_t turn = set->turn;
  for (uint32_t tries = 0; tries < 2 * set->count + 1; tries++, turn++) {
    const Backend *b = &set->backends[(turn + set->start) % set->count];
    uint32_t round = (turn / set->count) % highest;
    if (!takes_flows(set, b) || b->weight <= round) continue;
    set->turn = turn + 1;
    return b;
  }
  // Only lighter backends were met in these rounds: start a new cycle, in which each takes one.
  set->turn = 0;
  for (uint32_t i = 0; i < set->count; i++) {
    const Backend *b = &set->backends[(i + set->start) % set->count];
    if (!takes_flows(set, b)) continue;
    set->turn = i + 1;
    return b;
  }
  return NULL;
}

bool lb_drains(const BackendSet *set, uint32_t address) {
  for (uint32_t i = 0; set->weight && i < set->count; i++)
    if (set->backends[i].address == address) return set->backends[i].draining;
  return false;
}

bool lb_contains(const BackendSet *set, uint32_t address) {
  for (uint32_t i = 0; i < set->count; i++)
    if (set->backends[i].address == address) return true;
  return false;
}
