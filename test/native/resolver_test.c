// The DNS thread among tasks that mean ill: neither questions nor connections without end take the places of others.
#include "engine/resolver.h"
#include "world.h"
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HOSTILE = 9, QUIET = HOSTILE };
static const uint8_t known[] = {0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'w', 'e', 'b', 0, 0, 1, 0, 1};
static const uint8_t unknown[] = {0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'f', 'o', 'o', 0, 0, 1, 0, 1};
static Resolver resolver;
static Sandbox sandboxes[HOSTILE + 1];
static struct sockaddr_in udp_addresses[HOSTILE + 1], tcp_addresses[HOSTILE + 1];
static int clients[HOSTILE + 1];
static uint32_t quiet_id, sent;

static bool take_miss(void *context, const Miss *miss, const char *id, const uint8_t *query, uint32_t size) {
  (void)context, (void)query, (void)size;
  __atomic_fetch_add(&sent, 1, __ATOMIC_SEQ_CST);
  if (strcmp(id, sandboxes[QUIET].id) == 0) __atomic_store_n(&quiet_id, miss->id, __ATOMIC_SEQ_CST);
  return true;
}

static int bound_socket(int type, struct sockaddr_in *address) {
  int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
  socklen_t size = sizeof *address;
  *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  CHECK(fd >= 0 && bind(fd, (struct sockaddr *)address, size) == 0 && getsockname(fd, (struct sockaddr *)address, &size) == 0);
  return fd;
}

static int connected_socket(int type, const struct sockaddr_in *to) {
  int fd = socket(AF_INET, type, 0);
  CHECK(fd >= 0 && connect(fd, (const struct sockaddr *)to, sizeof *to) == 0);
  return fd;
}

// Bytes of the next answer, 0 for an end, -1 for none in time.
static ssize_t answer(int fd, uint8_t *out, size_t size, int timeout_ms) {
  struct pollfd wait = {.fd = fd, .events = POLLIN};
  if (poll(&wait, 1, timeout_ms) <= 0) return -1;
  ssize_t got = recv(fd, out, size, 0);
  return got < 0 && errno == ECONNRESET ? 0 : got;
}

static void add(uint32_t i) {
  Sandbox *s = &sandboxes[i];
  snprintf(s->id, sizeof s->id, "task%u", i);
  s->count = 1;
  s->interfaces[0].scope = 1;
  s->gateway = &s->interfaces[0];
  int udp = bound_socket(SOCK_DGRAM, &udp_addresses[i]), tcp = bound_socket(SOCK_STREAM, &tcp_addresses[i]);
  CHECK(listen(tcp, 64) == 0 && resolver_add(&resolver, s, udp, tcp));
  clients[i] = connected_socket(SOCK_DGRAM, &udp_addresses[i]);
}

static void test_questions(void) {
  uint8_t out[600];
  for (uint32_t i = 0; i < HOSTILE; i++)
    for (uint32_t k = 0; k < 300; k++) {
      CHECK(send(clients[i], unknown, sizeof unknown, 0) == sizeof unknown);
      if (k % 50 == 49) usleep(2000);
    }
  for (int i = 0; i < 200 && __atomic_load_n(&sent, __ATOMIC_SEQ_CST) < MISSES_MAX; i++) usleep(10000);
  pthread_mutex_lock(&resolver.mutex);
  CHECK(resolver.miss_count == MISSES_MAX && resolver.refused > 0);
  pthread_mutex_unlock(&resolver.mutex);
  CHECK(send(clients[QUIET], unknown, sizeof unknown, 0) == sizeof unknown);
  CHECK(answer(clients[QUIET], out, sizeof out, 300) == -1);
  uint32_t id = __atomic_load_n(&quiet_id, __ATOMIC_SEQ_CST);
  uint8_t reply[sizeof unknown];
  memcpy(reply, unknown, sizeof reply);
  reply[2] |= 0x80;
  resolver_reply(&resolver, id, reply, sizeof reply);
  CHECK(answer(clients[QUIET], out, sizeof out, 1000) == sizeof reply && (out[3] & 15) == DNS_NOERROR);
  // A sandbox that goes takes its questions along.
  pthread_mutex_lock(&resolver.mutex);
  uint32_t before = resolver.miss_count, held = resolver.sandboxes[0].waiting;
  pthread_mutex_unlock(&resolver.mutex);
  resolver_remove(&resolver, sandboxes[0].id);
  CHECK(held > 0 && resolver.miss_count == before - held);
  close(clients[0]);
  add(0);
}

static void test_connections(void) {
  int idle[HOSTILE][40];
  for (uint32_t i = 0; i < HOSTILE; i++)
    for (uint32_t k = 0; k < 40; k++) idle[i][k] = connected_socket(SOCK_STREAM, &tcp_addresses[i]);
  usleep(200000);
  uint8_t message[2 + sizeof known] = {0, sizeof known}, out[600];
  memcpy(message + 2, known, sizeof known);
  int fd = connected_socket(SOCK_STREAM, &tcp_addresses[QUIET]);
  CHECK(send(fd, message, sizeof message, MSG_NOSIGNAL) == sizeof message);
  CHECK(answer(fd, out, sizeof out, 1000) > (ssize_t)sizeof message && (out[5] & 15) == DNS_NOERROR);
  close(fd);
  for (uint32_t i = 0; i < HOSTILE; i++)
    for (uint32_t k = 0; k < 40; k++) close(idle[i][k]);
}

// A byte now and then does not keep a connection.
static void test_slow_connection(void) {
  usleep(200000);
  int fd = connected_socket(SOCK_STREAM, &tcp_addresses[QUIET]);
  usleep(100000);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  pthread_mutex_lock(&resolver.mutex);
  uint32_t found = 0;
  for (uint32_t i = 0; i < TCP_CONNECTIONS_MAX; i++) {
    if (resolver.connections[i].fd < 0) continue;
    resolver.connections[i].deadline_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + 300;
    found++;
  }
  pthread_mutex_unlock(&resolver.mutex);
  CHECK(found == 1);
  uint8_t byte;
  ssize_t end = -1;
  for (int i = 0; i < 25 && end < 0; i++) {
    byte = i == 1 ? 200 : 0; // of a length first
    send(fd, &byte, 1, MSG_NOSIGNAL);
    end = answer(fd, &byte, 1, 100);
  }
  CHECK(end == 0);
  close(fd);
}

int main(void) {
  make_world();
  make_program();
  resolver.send_miss = take_miss;
  CHECK(resolver_start(&resolver));
  resolver_set_tables(&resolver, program.tables);
  for (uint32_t i = 0; i <= HOSTILE; i++) add(i);
  test_questions();
  test_connections();
  test_slow_connection();
  puts("resolver_test: ok");
  return 0;
}
