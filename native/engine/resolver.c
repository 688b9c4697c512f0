// resolver.c: see resolver.h.
// Theory: one thread, one epoll, one mutex that is held while an event is handled (microseconds; nothing under it
// blocks). Names the rows know are answered here; others become a Miss, a bounded table of questions that wait for
// the agent.
#include "resolver.h"
#include "../host/nft.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { KIND_UDP = 1, KIND_LISTEN, KIND_CONNECTION, UDP_BATCH = 64, EVENTS = 64, OPEN_TRIES = 8 };

static uint64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint64_t event_data(uint32_t kind, uint32_t index, uint32_t generation) {
  return (uint64_t)kind << 60 | (uint64_t)index << 32 | generation;
}

// Both sockets at one port; port 0 takes a free one.
static bool open_at(int *udp_fd, int *tcp_fd, uint16_t *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(*port)};
  socklen_t size = sizeof address;
  inet_pton(AF_INET, "127.0.0.11", &address.sin_addr);
  int on = 1;
  *udp_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  *tcp_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (*udp_fd >= 0 && *tcp_fd >= 0 && setsockopt(*tcp_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
      bind(*udp_fd, (struct sockaddr *)&address, sizeof address) == 0 &&
      getsockname(*udp_fd, (struct sockaddr *)&address, &size) == 0 &&
      bind(*tcp_fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(*tcp_fd, 64) == 0) {
    *port = ntohs(address.sin_port);
    return true;
  }
  int saved = errno;
  if (*udp_fd >= 0) close(*udp_fd);
  if (*tcp_fd >= 0) close(*tcp_fd);
  errno = saved;
  return false;
}

bool resolver_open_sockets(int *udp_fd, int *tcp_fd) {
  char error[512];
  // A free port for UDP may be taken for TCP.
  for (int tries = 0; tries < OPEN_TRIES; tries++) {
    uint16_t port = 0;
    if (!open_at(udp_fd, tcp_fd, &port)) continue;
    if (nft_lead_dns(port, error, sizeof error)) return true;
    fprintf(stderr, "names are served at port 53 itself, which the task cannot use then: %s\n", error);
    close(*udp_fd);
    close(*tcp_fd);
    break;
  }
  uint16_t port = 53;
  return open_at(udp_fd, tcp_fd, &port);
}

static void close_connection(Resolver *r, Connection *c) {
  if (c->fd < 0) return;
  close(c->fd);
  c->fd = -1;
  c->generation++;
  r->sandboxes[c->sandbox].connections--;
}

// A peer that does not read its answer loses it: the thread never waits for one.
static void send_tcp(Resolver *r, Connection *c, uint8_t *message, uint32_t size) {
  store_be16(message - 2, (uint16_t)size);
  if (send(c->fd, message - 2, size + 2, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size + 2) close_connection(r, c);
}

static void deliver(Resolver *r, const Miss *miss, uint8_t *message, uint32_t size) {
  ResolverSandbox *s = &r->sandboxes[miss->sandbox];
  if (!size || !s->used || s->generation != miss->sandbox_generation) return;
  if (!miss->tcp) {
    sendto(s->udp_fd, message, size, MSG_DONTWAIT, (const struct sockaddr *)&miss->asker, sizeof miss->asker);
    return;
  }
  Connection *c = &r->connections[miss->connection];
  if (c->fd >= 0 && c->generation == miss->connection_generation) send_tcp(r, c, message, size);
}

static void fail(Resolver *r, const Miss *miss, uint8_t code) {
  uint8_t *message = r->out + 2;
  r->refused++;
  deliver(r, miss, message, dns_refuse(miss->query, miss->size, code, message));
}

static void release(Resolver *r, Miss *miss) {
  miss->used = false;
  r->miss_count--;
  r->sandboxes[miss->sandbox].waiting--;
}

// Makes a place for a sandbox that holds few: whoever holds the most loses one.
static void fail_of_greatest(Resolver *r) {
  Miss *victim = NULL;
  for (uint32_t i = 0; i < MISSES_MAX; i++) {
    Miss *miss = &r->misses[i];
    if (miss->used && (!victim || r->sandboxes[miss->sandbox].waiting > r->sandboxes[victim->sandbox].waiting)) victim = miss;
  }
  fail(r, victim, DNS_REFUSED);
  release(r, victim);
}

static void start_miss(Resolver *r, const Miss *asked, const uint8_t *query, uint32_t size) {
  ResolverSandbox *s = &r->sandboxes[asked->sandbox];
  if (!s->forwards) {
    // As Docker's resolver: nobody was asked, so nobody may say that the name does not exist.
    fail(r, asked, DNS_SERVFAIL);
    return;
  }
  if (r->miss_count == MISSES_MAX && s->waiting < MISSES_SANDBOX_FEW) fail_of_greatest(r);
  Miss *miss = NULL;
  bool may = s->waiting < MISSES_SANDBOX_MAX && r->miss_count < MISSES_MAX;
  for (uint32_t i = 0; may && i < MISSES_MAX && !miss; i++) {
    uint32_t place = (r->miss_next + i) % MISSES_MAX;
    if (r->misses[place].used) continue;
    miss = &r->misses[place];
    r->miss_next = place + 1;
    uint32_t id = (miss->id / MISSES_MAX + 1) * MISSES_MAX + place;
    *miss = *asked;
    miss->id = id;
  }
  if (!miss) {
    fail(r, asked, DNS_REFUSED);
    return;
  }
  miss->used = true;
  miss->deadline_ms = now_ms() + MISS_TIMEOUT_MS;
  r->miss_count++;
  s->waiting++;
  r->missed++;
  if (r->send_miss(r->context, miss, s->id, query, size)) return;
  fail(r, miss, DNS_SERVFAIL);
  release(r, miss);
}

static void handle_query(Resolver *r, Miss *asked, const uint8_t *query, uint32_t size) {
  ResolverSandbox *s = &r->sandboxes[asked->sandbox];
  asked->size = size < sizeof asked->query ? size : sizeof asked->query;
  memcpy(asked->query, query, asked->size);
  asked->sandbox_generation = s->generation;
  r->random = mix64(r->random, now_ms());
  DnsAsker asker = {.vnis = s->vnis, .vni_count = s->vni_count, .tcp = asked->tcp, .random = r->random};
  uint32_t answer_size = 0;
  uint8_t *message = r->out + 2;
  switch (dns_answer(r->tables, &asker, query, size, message, DNS_MESSAGE_MAX, &answer_size)) {
  case DNS_ANSWER:
    r->answered++;
    deliver(r, asked, message, answer_size);
    return;
  case DNS_MISS:
    start_miss(r, asked, query, size);
    return;
  case DNS_DROP:
    r->malformed++;
    return;
  }
}

static void on_udp(Resolver *r, uint32_t index) {
  for (int i = 0; i < UDP_BATCH; i++) {
    Miss asked = {.sandbox = index};
    uint8_t query[QUERY_MAX];
    socklen_t length = sizeof asked.asker;
    ssize_t size = recvfrom(r->sandboxes[index].udp_fd, query, sizeof query, MSG_DONTWAIT | MSG_TRUNC,
                            (struct sockaddr *)&asked.asker, &length);
    if (size < 0) return;
    if (size > QUERY_MAX) {
      r->malformed++;
      continue;
    }
    handle_query(r, &asked, query, (uint32_t)size);
  }
}

// A free place, or that of a connection of whoever holds the most, if that is more than this sandbox would then hold.
static Connection *connection_place(Resolver *r, uint32_t index) {
  uint32_t held = r->sandboxes[index].connections, most = held + 1;
  Connection *victim = NULL;
  if (held >= TCP_CONNECTIONS_SANDBOX_MAX) return NULL;
  for (uint32_t i = 0; i < TCP_CONNECTIONS_MAX; i++) {
    Connection *c = &r->connections[i];
    if (c->fd < 0) return c;
    if (r->sandboxes[c->sandbox].connections <= most) continue;
    most = r->sandboxes[c->sandbox].connections;
    victim = c;
  }
  if (!victim) return NULL;
  r->refused++;
  close_connection(r, victim);
  return victim;
}

static void on_listen(Resolver *r, uint32_t index) {
  int fd = accept4(r->sandboxes[index].tcp_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  Connection *c = connection_place(r, index);
  if (!c) {
    r->refused++;
    close(fd);
    return;
  }
  c->fd = fd;
  c->have = 0;
  c->sandbox = index;
  c->deadline_ms = now_ms() + TCP_IDLE_MS;
  r->sandboxes[index].connections++;
  uint32_t place = (uint32_t)(c - r->connections);
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = event_data(KIND_CONNECTION, place, c->generation)};
  if (epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) close_connection(r, c);
}

static void on_connection(Resolver *r, uint32_t index) {
  Connection *c = &r->connections[index];
  ssize_t size = recv(c->fd, c->buffer + c->have, sizeof c->buffer - c->have, MSG_DONTWAIT);
  if (size < 0 && errno == EAGAIN) return;
  if (size <= 0) {
    close_connection(r, c);
    return;
  }
  c->have += (uint32_t)size;
  while (c->fd >= 0 && c->have >= 2) {
    uint32_t length = load_be16(c->buffer);
    if (length > QUERY_MAX || length < DNS_HEADER) {
      r->malformed++;
      close_connection(r, c);
      return;
    }
    if (c->have < 2 + length) return;
    uint8_t query[QUERY_MAX];
    memcpy(query, c->buffer + 2, length);
    c->have -= 2 + length;
    memmove(c->buffer, c->buffer + 2 + length, c->have);
    // A whole question, not a byte now and then, keeps a connection.
    c->deadline_ms = now_ms() + TCP_IDLE_MS;
    Miss asked = {.tcp = true, .sandbox = c->sandbox, .connection = index, .connection_generation = c->generation};
    handle_query(r, &asked, query, length);
  }
}

static void expire(Resolver *r, uint64_t now) {
  for (uint32_t i = 0; i < TCP_CONNECTIONS_MAX; i++)
    if (r->connections[i].fd >= 0 && r->connections[i].deadline_ms < now) close_connection(r, &r->connections[i]);
  for (uint32_t i = 0; i < MISSES_MAX && r->miss_count; i++) {
    if (!r->misses[i].used || r->misses[i].deadline_ms >= now) continue;
    fail(r, &r->misses[i], DNS_SERVFAIL);
    release(r, &r->misses[i]);
  }
}

static void handle_event(Resolver *r, uint64_t data) {
  uint32_t kind = (uint32_t)(data >> 60), index = (uint32_t)(data >> 32) & 0xfffffff, generation = (uint32_t)data;
  if (kind == KIND_CONNECTION) {
    if (r->connections[index].fd >= 0 && r->connections[index].generation == generation) on_connection(r, index);
    return;
  }
  if (!r->sandboxes[index].used || r->sandboxes[index].generation != generation) return;
  if (kind == KIND_UDP) on_udp(r, index);
  else on_listen(r, index);
}

static void *resolver_thread(void *argument) {
  Resolver *r = argument;
  uint64_t expired_ms = 0;
  for (;;) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(r->epoll_fd, events, EVENTS, 1000);
    pthread_mutex_lock(&r->mutex);
    for (int i = 0; i < count; i++) handle_event(r, events[i].data.u64);
    uint64_t now = now_ms();
    if (now - expired_ms >= 500) {
      expire(r, now);
      expired_ms = now;
    }
    pthread_mutex_unlock(&r->mutex);
  }
  return NULL;
}

bool resolver_start(Resolver *r) {
  pthread_mutex_init(&r->mutex, NULL);
  if (getrandom(&r->random, sizeof r->random, 0) < 0) return false;
  for (uint32_t i = 0; i < TCP_CONNECTIONS_MAX; i++) r->connections[i].fd = -1;
  r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  return r->epoll_fd >= 0 && pthread_create(&r->thread, NULL, resolver_thread, r) == 0;
}

void resolver_set_tables(Resolver *r, const Snapshot *tables) {
  pthread_mutex_lock(&r->mutex);
  r->tables = tables;
  pthread_mutex_unlock(&r->mutex);
}

bool resolver_add(Resolver *r, const Sandbox *sandbox, int udp_fd, int tcp_fd) {
  bool ok = false;
  pthread_mutex_lock(&r->mutex);
  for (uint32_t i = 0; i < RESOLVER_SANDBOXES_MAX && !ok; i++) {
    ResolverSandbox *s = &r->sandboxes[i];
    if (s->used) continue;
    uint32_t generation = s->generation + 1;
    *s = (ResolverSandbox){.used = true, .generation = generation, .forwards = sandbox->gateway != NULL, .udp_fd = udp_fd, .tcp_fd = tcp_fd};
    memcpy(s->id, sandbox->id, sizeof s->id);
    for (uint32_t k = 0; k < sandbox->count; k++)
      if (sandbox->interfaces[k].scope < SCOPE_HOST) s->vnis[s->vni_count++] = sandbox->interfaces[k].scope;
    struct epoll_event udp = {.events = EPOLLIN, .data.u64 = event_data(KIND_UDP, i, generation)};
    struct epoll_event tcp = {.events = EPOLLIN, .data.u64 = event_data(KIND_LISTEN, i, generation)};
    ok = epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, udp_fd, &udp) == 0 && epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, tcp_fd, &tcp) == 0;
    s->used = ok;
  }
  pthread_mutex_unlock(&r->mutex);
  if (!ok) {
    close(udp_fd);
    close(tcp_fd);
  }
  return ok;
}

void resolver_remove(Resolver *r, const char *id) {
  pthread_mutex_lock(&r->mutex);
  for (uint32_t i = 0; i < RESOLVER_SANDBOXES_MAX; i++) {
    ResolverSandbox *s = &r->sandboxes[i];
    if (!s->used || strcmp(s->id, id) != 0) continue;
    s->used = false;
    close(s->udp_fd);
    close(s->tcp_fd);
    for (uint32_t k = 0; k < MISSES_MAX && s->waiting; k++)
      if (r->misses[k].used && r->misses[k].sandbox == i) release(r, &r->misses[k]);
    for (uint32_t k = 0; k < TCP_CONNECTIONS_MAX; k++)
      if (r->connections[k].fd >= 0 && r->connections[k].sandbox == i) close_connection(r, &r->connections[k]);
  }
  pthread_mutex_unlock(&r->mutex);
}

void resolver_reply(Resolver *r, uint32_t id, const uint8_t *answer, uint32_t size) {
  pthread_mutex_lock(&r->mutex);
  Miss *miss = &r->misses[id % MISSES_MAX];
  if (miss->used && miss->id == id) {
    uint8_t *message = r->out + 2;
    if (size < DNS_HEADER || size > DNS_MESSAGE_MAX) {
      fail(r, miss, DNS_SERVFAIL);
    } else {
      memcpy(message, answer, size);
      store16(message, load16(miss->query));
      if (!miss->tcp && size > dns_udp_limit(miss->query, miss->size)) size = dns_truncate(message, size);
      deliver(r, miss, message, size);
    }
    release(r, miss);
  }
  pthread_mutex_unlock(&r->mutex);
}

void resolver_fail_all(Resolver *r) {
  pthread_mutex_lock(&r->mutex);
  for (uint32_t i = 0; i < MISSES_MAX; i++) {
    if (!r->misses[i].used) continue;
    fail(r, &r->misses[i], DNS_SERVFAIL);
    release(r, &r->misses[i]);
  }
  pthread_mutex_unlock(&r->mutex);
}
