// engine.c: the packet thread: waits, reads, forwards; nothing in it allocates or blocks.
#include "engine.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PACKET_NICE = -10 };

static uint32_t now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return (uint32_t)t.tv_sec;
}

bool engine_init(Engine *engine, void *flow_memory, uint32_t flow_capacity, const char *boot_id) {
  uint64_t seeds[2];
  if (getrandom(seeds, sizeof seeds, 0) != sizeof seeds) return false;
  memset(engine, 0, sizeof *engine);
  engine->underlay_fd = engine->host_fd = engine->tunnel.fd = -1;
  engine->program.random = seeds[1];
  engine->program.now_s = now_s();
  if (!flow_init(&engine->program.flows, flow_memory, flow_capacity, boot_id, seeds[0], engine->program.now_s)) return false;
  for (int i = 0; i < RECEIVE_BATCH; i++)
    if (!(engine->buffers[i] = malloc(BUFFER_SIZE))) return false;
  if (!(engine->tap_buffer = malloc(BUFFER_SIZE + HEADROOM))) return false;
  if (!(engine->held_buffer = malloc(HEADROOM + ACK_FRAME_MAX))) return false;
  engine->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  engine->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  pthread_mutex_init(&engine->call_mutex, NULL);
  pthread_cond_init(&engine->call_done, NULL);
  return engine->epoll_fd >= 0 && engine->call_fd >= 0 && engine_add_source(engine, SOURCE_CALLS, engine->call_fd, NULL);
}

bool engine_add_source(Engine *engine, SourceKind kind, int fd, Interface *interface) {
  Source *source = calloc(1, sizeof *source);
  if (!source) return false;
  *source = (Source){.kind = kind, .fd = fd, .interface = interface, .next = engine->sources};
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
  if (epoll_ctl(engine->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
    free(source);
    return false;
  }
  engine->sources = source;
  return true;
}

void engine_remove_source(Engine *engine, int fd) {
  for (Source **at = &engine->sources; *at; at = &(*at)->next) {
    Source *source = *at;
    if (source->fd != fd) continue;
    epoll_ctl(engine->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    *at = source->next;
    free(source);
    return;
  }
}

void engine_call(Engine *engine, void (*run)(Engine *, void *), void *argument) {
  EngineCall call = {.run = run, .argument = argument};
  uint64_t one = 1;
  pthread_mutex_lock(&engine->call_mutex);
  engine->call = &call;
  if (write(engine->call_fd, &one, sizeof one) < 0 && errno != EAGAIN) abort();
  while (!call.done) pthread_cond_wait(&engine->call_done, &engine->call_mutex);
  pthread_mutex_unlock(&engine->call_mutex);
}

static void run_call(Engine *engine) {
  uint64_t count;
  if (read(engine->call_fd, &count, sizeof count) < 0) return;
  pthread_mutex_lock(&engine->call_mutex);
  EngineCall *call = engine->call;
  engine->call = NULL;
  if (call) {
    call->run(engine, call->argument);
    call->done = true;
    pthread_cond_broadcast(&engine->call_done);
  }
  pthread_mutex_unlock(&engine->call_mutex);
}

static void flush_held(Engine *engine, const Origin *origin) {
  if (!engine->held.active) return;
  engine->held.active = false;
  forward(engine, &engine->held.packet, origin, NULL, 0);
}

// Forwards a frame, or keeps it while the device may have a newer one that makes it superfluous.
static void take_frame(Engine *engine, Packet *p, const Origin *origin) {
  HeldAck *held = &engine->held;
  uint32_t replaced = 0;
  if (ack_supersedes(held, p)) {
    replaced = held->replaced + 1;
    engine->counters.acks_thinned++;
  } else {
    flush_held(engine, origin);
    if (!ack_may_hold(p)) {
      forward(engine, p, origin, NULL, 0);
      return;
    }
  }
  *held = (HeldAck){.active = true, .replaced = replaced, .packet = *p};
  held->packet.frame = engine->held_buffer + HEADROOM;
  memcpy(held->packet.frame, p->frame, p->size);
}

static void read_tap(Engine *engine, const Source *source) {
  Origin origin = {.kind = source->kind == SOURCE_HOST ? ORIGIN_HOST : ORIGIN_INTERFACE, .interface = source->interface};
  uint8_t *buffer = engine->tap_buffer + HEADROOM;
  bool gone = false;
  for (int i = 0; i < TAP_BATCH; i++) {
    ssize_t size = read(source->fd, buffer, BUFFER_SIZE - HEADROOM);
    // The device was deleted, by its task or with its namespace: epoll would report that without end.
    gone = size < 0 && errno == EBADFD;
    if (size < (ssize_t)sizeof(VnetHeader)) break;
    VnetHeader vnet;
    memcpy(&vnet, buffer, sizeof vnet);
    uint32_t frame_size = (uint32_t)size - sizeof vnet;
    if (source->kind == SOURCE_HOST) {
      engine->counters.host_rx++;
      engine->counters.host_rx_bytes += frame_size;
    } else {
      engine->counters.interface_rx++;
      engine->counters.interface_rx_bytes += frame_size;
    }
    Packet p;
    DropReason reason = packet_parse(&p, buffer + sizeof vnet, frame_size, frame_size, &vnet);
    if (reason == DROP_NONE) take_frame(engine, &p, &origin);
    else engine_count_drop(engine, reason);
  }
  flush_held(engine, &origin);
  if (gone) engine_remove_source(engine, source->fd);
}

// A kernel's data plane runs in softirqs, before any process; among busy tasks this thread must not queue as one of
// them. Where the scheduler groups tasks by session, it is the group's weight that counts. SCHED_BATCH: being woken does
// not interrupt whoever sent, so the sender goes to sleep or fills a burst first: fewer context switches either way.
// Refusals change nothing but speed.
static void set_priority(void) {
  struct sched_param none = {0};
  (void)!sched_setscheduler(0, SCHED_BATCH, &none);
  (void)!setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), PACKET_NICE);
  if (getsid(0) != getpid()) return;
  int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  (void)!dprintf(fd, "%d", PACKET_NICE);
  close(fd);
}

static void *packet_thread(void *argument) {
  Engine *engine = argument;
  struct epoll_event events[EVENTS_MAX];
  uint32_t swept_s = 0;
  set_priority();
  for (;;) {
    int count = epoll_wait(engine->epoll_fd, events, EVENTS_MAX, 1000);
    engine->program.now_s = now_s();
    bool called = false;
    for (int i = 0; i < count; i++) {
      Source *source = events[i].data.ptr;
      if (source->kind == SOURCE_CALLS) called = true;
      else if (source->kind == SOURCE_UNDERLAY) underlay_receive(engine);
      else read_tap(engine, source);
    }
    // Last, because a call may free the sources of the other events.
    if (called) run_call(engine);
    if (swept_s != engine->program.now_s) {
      swept_s = engine->program.now_s;
      flow_sweep(&engine->program.flows, swept_s, 4096);
    }
  }
  return NULL;
}

bool engine_start(Engine *engine) { return pthread_create(&engine->thread, NULL, packet_thread, engine) == 0; }
