// engine.h: the userspace engine: one packet thread over TAP devices and UDP sockets.
//
// Ownership: after engine_start everything in Engine belongs to the packet thread, except `calls`. Other threads
// change the engine by engine_call, which runs a function on the packet thread between two batches and waits for it;
// so the packet loop never sees half an update and what it replaced may be freed when engine_call returns.
#ifndef SKEIN_ENGINE_H
#define SKEIN_ENGINE_H
#include "../packet/program.h"
#include "offload.h"
#include "tunnel.h"
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

enum { RECEIVE_BATCH = 32, RECEIVE_BATCH_LARGE = 4, LARGE_SIZE = 16384, TAP_BATCH = 32, TRANSMIT_SOCKETS = 8, BUFFER_SIZE = 65536 + 512, HEADROOM = 128, EVENTS_MAX = 64 };

typedef enum SourceKind { SOURCE_CALLS, SOURCE_UNDERLAY, SOURCE_HOST, SOURCE_INTERFACE } SourceKind;
typedef struct Source { SourceKind kind; int fd; Interface *interface; struct Source *next; bool dead; } Source;

typedef struct Counters {
  uint64_t drops[DROP_REASON_COUNT];
  uint64_t interface_rx, interface_rx_bytes, interface_tx, interface_tx_bytes;
  uint64_t vxlan_rx, vxlan_rx_bytes, vxlan_tx, vxlan_tx_bytes;
  uint64_t host_rx, host_rx_bytes, host_tx, host_tx_bytes;
  uint64_t replies, coalesced, segmented, tunnelled, tunnel_refused, acks_thinned, liveness_answered;
} Counters;

typedef struct TransmitSocket { int fd; uint16_t port; } TransmitSocket;

struct Engine;
typedef struct EngineCall { void (*run)(struct Engine *engine, void *argument); void *argument; bool done; } EngineCall;

typedef struct Engine {
  Program program;
  Counters counters;
  int epoll_fd, underlay_fd, host_fd;
  TransmitSocket transmit[TRANSMIT_SOCKETS];
  Tunnel tunnel;
  bool no_segment;
  Source *sources;
  Coalescer coalescer;
  SegmentBatch batch;
  uint8_t *buffers[RECEIVE_BATCH];
  struct mmsghdr messages[RECEIVE_BATCH];
  bool receives_large;
  struct iovec vectors[RECEIVE_BATCH];
  struct sockaddr_in addresses[RECEIVE_BATCH];
  uint8_t control[RECEIVE_BATCH][64];
  uint8_t *tap_buffer;
  HeldAck held;
  uint8_t *held_buffer;
  pthread_t thread;
  int call_fd;
  pthread_mutex_t call_mutex;
  pthread_cond_t call_done;
  EngineCall *call;
} Engine;

bool engine_init(Engine *engine, void *flow_memory, uint32_t flow_capacity, const char *boot_id);
bool engine_start(Engine *engine);
void engine_call(Engine *engine, void (*run)(Engine *, void *), void *argument);
// The following run on the packet thread (inside engine_call).
bool engine_add_source(Engine *engine, SourceKind kind, int fd, Interface *interface);
void engine_remove_source(Engine *engine, int fd);

// underlay.c
bool underlay_open(uint32_t vtep, uint16_t port, int *underlay_fd, TransmitSocket transmit[TRANSMIT_SOCKETS], char *error, size_t error_size);
void underlay_receive(Engine *engine);
void underlay_send(Engine *engine, Packet *p, uint32_t vni, uint32_t vtep);
// forward.c: runs the program on a packet and carries out the verdict; more are the vectors of payload after head.
void forward(Engine *engine, Packet *p, const Origin *origin, const struct iovec *more, uint32_t more_count);
void engine_count_drop(Engine *engine, DropReason reason);
#endif
