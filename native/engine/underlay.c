// underlay.c: VXLAN over UDP sockets: UDP_SEGMENT out, or whole by tunnel.c; UDP_GRO in.
// Theory: packets arrive on one socket; they leave by several, so that the source port can follow the inner flow.
// A kernel peer behind a virtual device may send one datagram of up to 64 KB with one VXLAN header.
#include "engine.h"
#include "../packet/csum.h"
#include "../packet/liveness.h"
#include <errno.h>
#include <linux/udp.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

// OMIT: never "don't fragment", and the device's MTU counts. A path MTU is learnt from ICMP that anybody can send, and below
// the configured one every super-frame would be refused.
enum { SOCKET_BUFFER = 16 << 20, IP_MTU_DISCOVER_OPTION = 10, IP_PMTUDISC_OMIT_VALUE = 5 };

static int open_socket(uint32_t vtep, uint16_t port) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  int size = SOCKET_BUFFER, discover = IP_PMTUDISC_OMIT_VALUE;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER_OPTION, &discover, sizeof discover);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = vtep};
  if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
  int saved = errno;
  close(fd);
  errno = saved;
  return -1;
}

bool underlay_open(uint32_t vtep, uint16_t port, int *underlay_fd, TransmitSocket transmit[TRANSMIT_SOCKETS], char *error, size_t error_size) {
  int fds[TRANSMIT_SOCKETS + 1], count = 0;
  for (; count <= TRANSMIT_SOCKETS; count++) {
    fds[count] = open_socket(vtep, count == 0 ? port : 0);
    if (fds[count] >= 0) continue;
    snprintf(error, error_size, "cannot bind VXLAN socket, port %u: %s", count == 0 ? port : 0, strerror(errno));
    while (count-- > 0) close(fds[count]);
    return false;
  }
  int on = 1;
  setsockopt(fds[0], SOL_UDP, UDP_GRO, &on, sizeof on);
  *underlay_fd = fds[0];
  int tiny = 1;
  for (int i = 0; i < TRANSMIT_SOCKETS; i++) {
    struct sockaddr_in bound = {0};
    socklen_t size = sizeof bound;
    getsockname(fds[i + 1], (struct sockaddr *)&bound, &size);
    transmit[i] = (TransmitSocket){fds[i + 1], ntohs(bound.sin_port)};
    // Nobody sends to these ports; what does come is not kept.
    setsockopt(fds[i + 1], SOL_SOCKET, SO_RCVBUF, &tiny, sizeof tiny);
  }
  return true;
}

static uint32_t inner_packet_max(const Engine *engine) { return engine->program.config.underlay_mtu - VXLAN_OVERHEAD; }

static void flush(Engine *engine) {
  Coalescer *c = &engine->coalescer;
  if (!c->active) return;
  coalescer_finish(c);
  if (c->count > 1) engine->counters.coalesced += c->count;
  else offload_receive(&c->packet, inner_packet_max(engine)); // Its checksum may be partial.
  Origin origin = {.kind = ORIGIN_VXLAN, .vni = c->vni, .vtep = c->vtep};
  forward(engine, &c->packet, &origin, c->payloads + 1, c->count - 1);
}

static void receive_packet(Engine *engine, uint8_t *data, uint32_t size, uint32_t vtep, bool verified) {
  static const VnetHeader plain;
  uint32_t vni;
  engine->counters.vxlan_rx++;
  engine->counters.vxlan_rx_bytes += size;
  if (!vxlan_decode(data, size, &vni)) {
    engine_count_drop(engine, DROP_VXLAN_HEADER);
    return;
  }
  Packet p;
  DropReason reason = packet_parse(&p, data + VXLAN_SIZE, size - VXLAN_SIZE, size - VXLAN_SIZE, &plain);
  if (reason != DROP_NONE) {
    engine_count_drop(engine, reason);
    return;
  }
  if (coalescer_append(&engine->coalescer, &p, vni, vtep, verified)) return;
  flush(engine);
  if (p.size - ETH_SIZE <= inner_packet_max(engine) && coalescer_start(&engine->coalescer, &p, vni, vtep, verified)) return;
  offload_receive(&p, inner_packet_max(engine));
  Origin origin = {.kind = ORIGIN_VXLAN, .vni = vni, .vtep = vtep};
  forward(engine, &p, &origin, NULL, 0);
}

static uint32_t gro_size(struct msghdr *message, uint32_t size) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
    int value;
    if (c->cmsg_level != SOL_UDP || c->cmsg_type != UDP_GRO || c->cmsg_len < CMSG_LEN(sizeof value)) continue;
    memcpy(&value, CMSG_DATA(c), sizeof value);
    if (value > 0 && (uint32_t)value < size) return (uint32_t)value;
  }
  return size;
}

static bool answer_liveness(Engine *engine, uint8_t *data, uint32_t size, const struct sockaddr_in *from) {
  if (!liveness_answer(data, size)) return false;
  // One that cannot be sent now is a lost one: it is asked again.
  if (sendto(engine->underlay_fd, data, size, MSG_DONTWAIT, (const struct sockaddr *)from, sizeof *from) == (ssize_t)size)
    engine->counters.liveness_answered++;
  return true;
}

void underlay_receive(Engine *engine) {
  // Super-frames are forwarded a few at a time, while they are in the cache.
  int most = engine->receives_large ? RECEIVE_BATCH_LARGE : RECEIVE_BATCH;
  for (int i = 0; i < most; i++) {
    engine->vectors[i] = (struct iovec){engine->buffers[i] + HEADROOM, BUFFER_SIZE - HEADROOM};
    engine->messages[i].msg_hdr = (struct msghdr){.msg_name = &engine->addresses[i], .msg_namelen = sizeof engine->addresses[i],
      .msg_iov = &engine->vectors[i], .msg_iovlen = 1, .msg_control = engine->control[i], .msg_controllen = sizeof engine->control[i]};
  }
  int count = recvmmsg(engine->underlay_fd, engine->messages, (unsigned)most, MSG_DONTWAIT, NULL);
  if (count > 0) engine->receives_large = engine->messages[count - 1].msg_len >= LARGE_SIZE;
  for (int i = 0; i < count; i++) {
    struct msghdr *message = &engine->messages[i].msg_hdr;
    uint32_t size = engine->messages[i].msg_len;
    if (message->msg_flags & MSG_TRUNC) {
      engine_count_drop(engine, DROP_TRUNCATED);
      continue;
    }
    uint32_t step = gro_size(message, size);
    uint8_t *data = engine->buffers[i] + HEADROOM;
    for (uint32_t at = 0; at < size; at += step) {
      uint32_t part = size - at < step ? size - at : step;
      if (!answer_liveness(engine, data + at, part, &engine->addresses[i]))
        receive_packet(engine, data + at, part, engine->addresses[i].sin_addr.s_addr, step < size);
    }
  }
  flush(engine);
}

static bool send_vectors(Engine *engine, int fd, uint32_t vtep, struct iovec *vectors, uint32_t count, uint32_t segment) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(engine->program.config.vxlan_port), .sin_addr.s_addr = vtep};
  _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(uint16_t))] = {0};
  struct msghdr message = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = vectors, .msg_iovlen = count};
  if (segment) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_UDP;
    c->cmsg_type = UDP_SEGMENT;
    c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    uint16_t size = (uint16_t)segment;
    memcpy(CMSG_DATA(c), &size, sizeof size);
  }
  ssize_t sent = sendmsg(fd, &message, MSG_DONTWAIT);
  if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
    // Bounded patience: dropping a super-frame costs its flow far more than 2 ms.
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    if (poll(&wait, 1, 2) > 0) sent = sendmsg(fd, &message, MSG_DONTWAIT);
    if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
      engine_count_drop(engine, DROP_UNDERLAY_BUSY);
      return false;
    }
  }
  if (sent < 0) return false;
  engine->counters.vxlan_tx++;
  engine->counters.vxlan_tx_bytes += (uint64_t)sent;
  return true;
}

static bool send_whole(Engine *engine, const Packet *p, uint32_t vni, uint32_t vtep, uint16_t source_port) {
  const ProgramConfig *config = &engine->program.config;
  TunnelRoute route = {.source = config->vtep, .destination = vtep, .vni = vni, .source_port = source_port, .destination_port = config->vxlan_port};
  TunnelResult result = tunnel_send(&engine->tunnel, p, &route, segment_payload_of(p, inner_packet_max(engine)), engine->program.now_s);
  if (result == TUNNEL_REFUSED) engine->counters.tunnel_refused++;
  if (result != TUNNEL_SENT) return false;
  engine->counters.tunnelled++;
  engine->counters.vxlan_tx++;
  engine->counters.vxlan_tx_bytes += VXLAN_SIZE + p->size;
  return true;
}

static void send_segments(Engine *engine, const Packet *p, uint32_t vni, uint32_t vtep, int fd) {
  Segmenter segmenter;
  SegmentBatch *batch = &engine->batch;
  segmenter_init(&segmenter, p, vni, inner_packet_max(engine));
  while (segmenter_next(&segmenter, batch)) {
    engine->counters.segmented += batch->count;
    if (!engine->no_segment) {
      if (send_vectors(engine, fd, vtep, batch->vectors, batch->count * 2, batch->count > 1 ? batch->segment_size : 0)) continue;
      if (errno != EIO && errno != EINVAL && errno != EOPNOTSUPP) {
        if (errno != EAGAIN && errno != ENOBUFS) engine_count_drop(engine, DROP_UNDERLAY_ERROR);
        continue;
      }
      // The device below cannot checksum, or the kernel is older than 4.18: one send a packet from now on.
      engine->no_segment = true;
    }
    for (uint32_t i = 0; i < batch->count; i++)
      if (!send_vectors(engine, fd, vtep, batch->vectors + 2 * i, 2, 0)) engine_count_drop(engine, DROP_UNDERLAY_ERROR);
  }
}

// RFC 7348 forbids fragmenting the outer packet, so an inner packet that may be cut is cut here.
static void send_fragments(Engine *engine, Packet *p, uint32_t vni, uint32_t vtep, int fd) {
  uint32_t header = p->l4 - p->l3;
  uint32_t room = (inner_packet_max(engine) - header) & ~7u;
  uint32_t total = p->size - p->l4;
  uint8_t *ip = p->frame + p->l3;
  uint16_t flags = load_be16(ip + 6);
  uint8_t head[VXLAN_SIZE + ETH_SIZE + 60];
  for (uint32_t at = 0; at < total; at += room) {
    uint32_t size = total - at < room ? total - at : room;
    vxlan_encode(head, vni);
    memcpy(head + VXLAN_SIZE, p->frame, p->l4);
    uint8_t *out = head + VXLAN_SIZE + ETH_SIZE;
    store_be16(out + 2, (uint16_t)(header + size));
    bool more = at + size < total || (flags & 0x2000);
    store_be16(out + 6, (uint16_t)(((flags & 0x1fff) + at / 8) | (more ? 0x2000 : 0)));
    store16(out + 10, 0);
    store16(out + 10, (uint16_t)~csum_fold(csum_add(out, header, 0)));
    struct iovec vectors[2] = {{head, VXLAN_SIZE + p->l4}, {p->frame + p->l4 + at, size}};
    if (!send_vectors(engine, fd, vtep, vectors, 2, 0)) engine_count_drop(engine, DROP_UNDERLAY_ERROR);
  }
}

void underlay_send(Engine *engine, Packet *p, uint32_t vni, uint32_t vtep) {
  if (engine->underlay_fd < 0) {
    engine_count_drop(engine, DROP_NOT_CONFIGURED);
    return;
  }
  const TransmitSocket *transmit = &engine->transmit[vxlan_flow_hash(p) % TRANSMIT_SOCKETS];
  int fd = transmit->fd;
  if (p->vnet.gso_type) {
    if (!send_whole(engine, p, vni, vtep, transmit->port)) send_segments(engine, p, vni, vtep, fd);
    return;
  }
  packet_complete_checksum(p);
  if (p->size - ETH_SIZE > inner_packet_max(engine)) {
    send_fragments(engine, p, vni, vtep, fd);
    return;
  }
  // Every frame stands behind headroom, so the header goes right before it and one vector does.
  uint8_t *start = p->frame - VXLAN_SIZE;
  vxlan_encode(start, vni);
  struct iovec vector = {start, VXLAN_SIZE + p->size};
  if (!send_vectors(engine, fd, vtep, &vector, 1, 0)) engine_count_drop(engine, DROP_UNDERLAY_ERROR);
}
