// resolver.h: the DNS thread: 127.0.0.11:53 of every sandbox. It never touches the packet thread.
#ifndef SKEIN_RESOLVER_H
#define SKEIN_RESOLVER_H
#include "../packet/dns.h"
#include "../packet/program.h"
#include <pthread.h>

// Of the whole node, and of one sandbox: no task may take the places of all others. One that holds less than FEW gets a
// place in a full table.
enum { RESOLVER_SANDBOXES_MAX = 2048, MISSES_MAX = 1024, MISSES_SANDBOX_MAX = 128, MISSES_SANDBOX_FEW = 16, TCP_CONNECTIONS_MAX = 256,
       TCP_CONNECTIONS_SANDBOX_MAX = 32, MISS_TIMEOUT_MS = 10000, TCP_IDLE_MS = 10000, QUERY_MAX = 2048 };

typedef struct ResolverSandbox {
  bool used, forwards;
  uint32_t generation;
  char id[SANDBOX_ID_SIZE];
  uint32_t vnis[SANDBOX_INTERFACES_MAX], vni_count;
  int udp_fd, tcp_fd;
  // Questions that wait for the agent, and TCP connections.
  uint32_t waiting, connections;
} ResolverSandbox;

typedef struct Miss {
  bool used, tcp;
  // Low bits: place in the table; high bits: a count, so that a late reply finds nothing.
  uint32_t id;
  uint32_t sandbox, sandbox_generation, connection, connection_generation;
  struct sockaddr_in asker;
  uint64_t deadline_ms;
  uint32_t size;
  uint8_t query[DNS_UDP_MIN];
} Miss;

typedef struct Connection {
  int fd;
  uint32_t generation, sandbox, have;
  uint64_t deadline_ms;
  uint8_t buffer[2 + QUERY_MAX];
} Connection;

typedef struct Resolver {
  pthread_mutex_t mutex;
  pthread_t thread;
  int epoll_fd;
  const Snapshot *tables;
  ResolverSandbox sandboxes[RESOLVER_SANDBOXES_MAX];
  Connection connections[TCP_CONNECTIONS_MAX];
  Miss misses[MISSES_MAX];
  uint32_t miss_count, miss_next;
  uint64_t random;
  uint8_t out[2 + DNS_MESSAGE_MAX];
  // Sends a miss to the agent; false when it is away. Called with the mutex held; must not block.
  bool (*send_miss)(void *context, const Miss *miss, const char *sandbox, const uint8_t *query, uint32_t size);
  void *context;
  uint64_t answered, missed, refused, malformed;
} Resolver;

bool resolver_start(Resolver *resolver);
void resolver_set_tables(Resolver *resolver, const Snapshot *tables);
bool resolver_add(Resolver *resolver, const Sandbox *sandbox, int udp_fd, int tcp_fd);
void resolver_remove(Resolver *resolver, const char *id);
void resolver_reply(Resolver *resolver, uint32_t id, const uint8_t *answer, uint32_t size);
// The agent went away: what it was asked is answered with SERVFAIL.
void resolver_fail_all(Resolver *resolver);
// Opens the sockets in the calling thread's namespace, at a port that 127.0.0.11:53 is led to: a task may be a DNS server
// itself, on port 53 of all addresses. False with errno.
bool resolver_open_sockets(int *udp_fd, int *tcp_fd);
#endif
