// nat.h: rewriting of addresses and ports in place, with incremental checksums.
#ifndef SKEIN_NAT_H
#define SKEIN_NAT_H
#include "flow.h"
#include "packet.h"

// Gives the packet the addresses and ports of `to`. Only addresses for fragments after the first.
void nat_rewrite(Packet *p, const FlowKey *to);
void nat_set_macs(Packet *p, const uint8_t source[6], const uint8_t destination[6]);
// Where the packet that an ICMP error is about was sent to; 0 if the error does not quote that much.
uint32_t nat_embedded_destination(const Packet *p);
// The tuple of the packet an ICMP error is about, as it reads in the error. False: it has none that is whole.
bool nat_embedded_tuple(const Packet *p, FlowKey *tuple);
// Rewrites an ICMP error: inside, `tuple` becomes `inner`; outside, source and destination are set.
void nat_rewrite_error(Packet *p, const FlowKey *inner, uint32_t source, uint32_t destination);
// Lowers the MSS option of a SYN.
void nat_clamp_mss(Packet *p, uint16_t mss_max);
#endif
