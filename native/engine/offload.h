// offload.h: cutting super-frames for the wire and gluing what came from it. Pure: bytes in, vectors out.
#ifndef SKEIN_OFFLOAD_H
#define SKEIN_OFFLOAD_H
#include "../packet/packet.h"
#include "../packet/vxlan.h"
#include <sys/uio.h>

enum { SEGMENTS_MAX = 64, SEGMENT_HEADERS_MAX = VXLAN_SIZE + ETH_SIZE + 60 + 60, DATAGRAM_MAX = 65000, COALESCE_MAX = 64,
       ACK_FRAME_MAX = ETH_SIZE + IP_SIZE + TCP_SIZE + 12, ACKS_REPLACED_MAX = 15 };

// Cuts a GSO frame into VXLAN packets, as many at a time as one UDP_SEGMENT send takes.
typedef struct Segmenter {
  const Packet *p;
  uint32_t vni, segment_payload, next, sequence, index;
} Segmenter;
typedef struct SegmentBatch {
  struct iovec vectors[SEGMENTS_MAX * 2];
  uint8_t headers[SEGMENTS_MAX][SEGMENT_HEADERS_MAX];
  // Bytes of every packet but the last, and of all.
  uint32_t count, segment_size, total;
} SegmentBatch;
// Bytes of payload of every packet that a super-frame is cut to but the last.
uint32_t segment_payload_of(const Packet *p, uint32_t packet_max);
void segmenter_init(Segmenter *s, const Packet *p, uint32_t vni, uint32_t packet_max);
// False when nothing is left.
bool segmenter_next(Segmenter *s, SegmentBatch *batch);

// Glues consecutive TCP segments of one flow into a super-frame that is still where they were received.
typedef struct Coalescer {
  bool active;
  uint32_t vni, vtep;
  Packet packet;
  uint32_t next_sequence, gso_size, payload_size, count;
  // A segment shorter than the first, or PSH, ends a super-frame.
  bool ended;
  struct iovec payloads[COALESCE_MAX];
} Coalescer;
// True if the packet may start a super-frame; fills the coalescer. verified: a checksum that covers the whole packet
// was already checked (the outer one of datagrams that the kernel glued: it glues no others), so the inner is not.
bool coalescer_start(Coalescer *c, const Packet *p, uint32_t vni, uint32_t vtep, bool verified);
// True if the packet was appended.
bool coalescer_append(Coalescer *c, const Packet *p, uint32_t vni, uint32_t vtep, bool verified);
// Writes the headers and the virtio header of the super-frame; payloads[1..] follow packet.frame[0..head].
void coalescer_finish(Coalescer *c);

// The last pure acknowledgement of a burst that came from one device at once. A newer one of the same connection takes
// its place: a receiver of super-frames acknowledges each, and every acknowledgement costs as much as a super-frame.
// What says anything else (SACK, a repeated or lower number, ECE, data, other options) is never held nor dropped.
typedef struct HeldAck { bool active; uint32_t replaced; Packet packet; } HeldAck;
bool ack_may_hold(const Packet *p);
// True if p says all that the held one says, and more.
bool ack_supersedes(const HeldAck *held, const Packet *p);

// Sets the virtio header of a packet as a tunnel delivers it: partial checksums and super-frames of kernel peers.
void offload_receive(Packet *p, uint32_t packet_max);
#endif
