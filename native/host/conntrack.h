// conntrack.h: forgetting what the host's connection tracking remembers of UDP ports.
#ifndef SKEIN_CONNTRACK_H
#define SKEIN_CONNTRACK_H
#include <stdbool.h>
#include <stdint.h>

typedef struct PortSet { uint8_t bits[8192]; } PortSet;
static inline void port_set_add(PortSet *set, uint16_t port) { set->bits[port >> 3] |= (uint8_t)(1 << (port & 7)); }
static inline bool port_set_has(const PortSet *set, uint16_t port) { return set->bits[port >> 3] >> (port & 7) & 1; }

// Deletes IPv4 UDP entries to these ports that were sent to the address `published`, or were not translated at all:
// translation is decided at a flow's first packet, and a client that goes on sending would keep the decision of before
// the port came or went. Returns how many, or a negative errno.
int conntrack_forget_udp(const PortSet *ports, uint32_t published);
#endif
