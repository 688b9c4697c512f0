// reply.h: packets the data plane itself answers with: ARP, ICMP echo, ICMP errors, TCP resets.
// Each writes a whole Ethernet frame to `out` (REPLY_SIZE_MAX bytes) and returns its size, 0 when it must stay silent.
#ifndef SKEIN_REPLY_H
#define SKEIN_REPLY_H
#include "packet.h"

enum { REPLY_SIZE_MAX = FRAME_MAX };

uint32_t reply_arp(uint8_t *out, const Packet *p, const uint8_t mac[6]);
// An echo request turned round.
uint32_t reply_echo(uint8_t *out, const Packet *p, const uint8_t mac[6]);
// An error about the packet, sent by `source`. rest is the second word of the ICMP header (MTU for code 4).
uint32_t reply_icmp_error(uint8_t *out, const Packet *p, const uint8_t mac[6], uint32_t source, uint8_t type, uint8_t code, uint16_t mtu);
uint32_t reply_tcp_reset(uint8_t *out, const Packet *p, const uint8_t mac[6]);
#endif
