// tunnel.h: sends a TCP super-frame as one packet that is cut by the device which puts it on the wire, or never.
#ifndef SKEIN_TUNNEL_H
#define SKEIN_TUNNEL_H
#include "../packet/packet.h"
#include "../packet/vxlan.h"

#define TUNNEL_DEVICE "skeintx0"
// Set to anything, it keeps every super-frame on the UDP sockets.
#define TUNNEL_OFF_VARIABLE "SKEIN_NO_TUNNEL_GSO"

// virtio_net_hdr_v1_hash_tunnel of Linux 6.17. Order of bytes: the host's for what VnetHeader has, else little endian.
typedef struct __attribute__((packed)) TunnelVnetHeader {
  VnetHeader base;
  uint16_t buffer_count;
  uint32_t hash;
  uint16_t hash_report, padding, outer_l4, inner_l3;
} TunnelVnetHeader;
_Static_assert(sizeof(TunnelVnetHeader) == 24, "virtio_net_hdr_v1_hash_tunnel");

enum { TUNNEL_OUTER_SIZE = ETH_SIZE + IP_SIZE + UDP_SIZE + VXLAN_SIZE, TUNNEL_HEADROOM = sizeof(TunnelVnetHeader) + TUNNEL_OUTER_SIZE };

typedef struct TunnelRoute { uint32_t source, destination, vni; uint16_t source_port, destination_port, ip_id; } TunnelRoute;

// fd -1: there is none. retry_s: not to be used before.
typedef struct Tunnel { int fd; uint32_t checked_s, retry_s, misses; uint16_t ip_id; } Tunnel;
typedef enum TunnelResult { TUNNEL_SENT, TUNNEL_UNFIT, TUNNEL_REFUSED } TunnelResult;

// True if this kernel's TAPs take such packets. Makes a device for a moment.
bool tunnel_supported(void);
// Makes the device in the calling thread's namespace; -1 if it cannot be had. It lasts as long as the descriptor.
int tunnel_open(void);
// Pure: writes all that stands before the frame, TUNNEL_HEADROOM bytes; false if the packet cannot go this way.
bool tunnel_encode(const Packet *p, const TunnelRoute *route, uint32_t segment_payload);
TunnelResult tunnel_send(Tunnel *tunnel, const Packet *p, TunnelRoute *route, uint32_t segment_payload, uint32_t now_s);
#endif
