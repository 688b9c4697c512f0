// packet.h: one Ethernet frame and what was parsed of it. The frame's headers are contiguous in
// frame[0..head]; the payload may continue elsewhere (a coalesced super-frame), size counts all of it.
// Nothing reads a header byte that packet_parse did not check.
#ifndef SKEIN_PACKET_H
#define SKEIN_PACKET_H
#include "bytes.h"
#include "drop.h"

// virtio_net_hdr as the TAP device speaks it (10 bytes, host order).
typedef struct __attribute__((packed)) VnetHeader {
  uint8_t flags, gso_type;
  uint16_t header_size, gso_size, csum_start, csum_offset;
} VnetHeader;
_Static_assert(sizeof(VnetHeader) == 10, "virtio_net_hdr");

enum { VNET_NEEDS_CSUM = 1, GSO_NONE = 0, GSO_TCPV4 = 1, GSO_UDP_L4 = 5, GSO_ECN = 0x80, GSO_SIZE_MIN = 32 };
enum { ETH_SIZE = 14, ARP_SIZE = 28, IP_SIZE = 20, ICMP_SIZE = 8, UDP_SIZE = 8, TCP_SIZE = 20, FRAME_MAX = 65535 + ETH_SIZE };
enum { ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_ARP = 0x0806, ETHERTYPE_IPV6 = 0x86dd };
enum { PROTOCOL_ICMP = 1, PROTOCOL_TCP = 6, PROTOCOL_UDP = 17 };
enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_PSH = 8, TCP_ACK = 16, TCP_CWR = 128 };
enum { ICMP_ECHO_REPLY = 0, ICMP_UNREACHABLE = 3, ICMP_ECHO = 8, ICMP_TIME_EXCEEDED = 11, ICMP_PARAMETER = 12 };

typedef struct Packet {
  uint8_t *frame;
  uint32_t head, size;
  VnetHeader vnet;
  uint16_t ethertype;
  // Offsets of the network header, transport header and what follows it.
  uint16_t l3, l4, payload;
  uint8_t protocol, tcp_flags, icmp_type;
  bool fragment, fragment_first, dont_fragment;
  uint16_t ip_id;
  // Network order. ICMP echo: both ports are the identifier.
  uint32_t source, destination;
  uint16_t source_port, destination_port;
} Packet;

// Parses a frame of which head bytes are contiguous. Cuts Ethernet padding off.
DropReason packet_parse(Packet *p, uint8_t *frame, uint32_t head, uint32_t size, const VnetHeader *vnet);
static inline bool packet_is_icmp_error(const Packet *p) {
  return p->protocol == PROTOCOL_ICMP && (!p->fragment || p->fragment_first) &&
         (p->icmp_type == ICMP_UNREACHABLE || p->icmp_type == ICMP_TIME_EXCEEDED || p->icmp_type == ICMP_PARAMETER);
}
static inline bool packet_has_ports(const Packet *p) {
  return (!p->fragment || p->fragment_first) && (p->protocol == PROTOCOL_TCP || p->protocol == PROTOCOL_UDP);
}
// Offset of the transport checksum field, 0 when there is none.
uint32_t packet_checksum_offset(const Packet *p);
// Completes a partial checksum of a frame that is contiguous and is not to be segmented.
void packet_complete_checksum(Packet *p);
#endif
