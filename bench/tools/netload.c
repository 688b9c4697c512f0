// netload.c: the load generator of `skein bench`: both ends of five measurements, in one program.
//
//   netload serve ADDRESS PORT               stream sink, echo, answer-and-close, datagram counter on PORT .. PORT+3
//   netload stream|rr|crr|udp ADDRESS PORT MS  one slice against such a server; prints one JSON object
//   netload wait ADDRESS PORT MS             until the server accepts connections
//
// Theory: an operation is 64 KB acknowledged (stream), one byte there and back (rr), connect plus one byte there and
// back (crr), one 64-byte datagram received (udp). TCP is cubic at both ends. A slice begins with a warm-up that is
// not timed; "total" counts it too, because CPU time cannot be cut at its end. Latencies are kept one by one.
#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 128 << 10, DATAGRAM = 64, VECTOR = 64, LATENCIES_MAX = 1 << 20, SOCKET_BUFFER = 4 << 20, WARM_UP_MS = 40 };
enum { PORT_STREAM, PORT_ECHO, PORT_CRR, PORT_UDP };
// First bytes of a datagram. The server counts those of one session; a query is answered with the count.
typedef struct Stamp { uint64_t session, query; } Stamp;

static _Noreturn void die(const char *what) {
  fprintf(stderr, "netload: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct sockaddr_in address_of(const char *address, int port) {
  struct sockaddr_in out = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  errno = EINVAL;
  if (port < 1 || port > 65535 || inet_pton(AF_INET, address, &out.sin_addr) != 1) die("address");
  return out;
}

static void set(int fd, int level, int option, int value) {
  if (setsockopt(fd, level, option, &value, sizeof value) < 0) die("setsockopt");
}

static int tcp_socket(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5) < 0) die("TCP_CONGESTION cubic");
  set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  return fd;
}

static int udp_socket(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  set(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER);
  return fd;
}

// ---- server ----

typedef struct Service { struct sockaddr_in address; void (*serve)(int fd); } Service;

static void serve_stream(int fd) {
  char *buffer = malloc(CHUNK);
  while (buffer && recv(fd, buffer, CHUNK, 0) > 0) {}
  free(buffer);
}

static void serve_echo(int fd) {
  char byte;
  while (recv(fd, &byte, 1, 0) == 1 && send(fd, &byte, 1, MSG_NOSIGNAL) == 1) {}
}

static void serve_once(int fd) {
  char byte;
  if (recv(fd, &byte, 1, 0) == 1) (void)!send(fd, &byte, 1, MSG_NOSIGNAL);
}

static void *accept_loop(void *argument) {
  const Service *service = argument;
  int listener = tcp_socket();
  set(listener, SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind(listener, (const struct sockaddr *)&service->address, sizeof service->address) < 0 || listen(listener, 128) < 0) die("listen");
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) continue;
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    service->serve(fd);
    close(fd);
  }
  return NULL;
}

static void count_datagrams(const struct sockaddr_in *address) {
  static uint8_t data[VECTOR][2048];
  static struct sockaddr_in from[VECTOR];
  struct iovec vectors[VECTOR];
  struct mmsghdr messages[VECTOR];
  int fd = udp_socket();
  if (bind(fd, (const struct sockaddr *)address, sizeof *address) < 0) die("bind");
  Stamp count = {0};
  for (;;) {
    for (int i = 0; i < VECTOR; i++) {
      vectors[i] = (struct iovec){data[i], sizeof data[i]};
      messages[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    int received = recvmmsg(fd, messages, VECTOR, MSG_WAITFORONE, NULL);
    for (int i = 0; i < received; i++) {
      Stamp stamp;
      if (messages[i].msg_len < sizeof stamp) continue;
      memcpy(&stamp, data[i], sizeof stamp);
      if (stamp.session != count.session) count = (Stamp){.session = stamp.session};
      if (stamp.query) sendto(fd, &count, sizeof count, 0, (struct sockaddr *)&from[i], sizeof from[i]);
      else count.query++;
    }
  }
}

static int serve(const char *address, int port) {
  static void (*const services[])(int) = {serve_stream, serve_echo, serve_once};
  static Service all[sizeof services / sizeof *services];
  for (int i = 0; i < PORT_UDP; i++) {
    pthread_t thread;
    all[i] = (Service){address_of(address, port + i), services[i]};
    if (pthread_create(&thread, NULL, accept_loop, &all[i]) != 0) die("thread");
  }
  struct sockaddr_in udp = address_of(address, port + PORT_UDP);
  count_datagrams(&udp);
  return 0;
}

// ---- client ----

static uint32_t *latencies;
static uint32_t latency_count;

static void add_latency(uint64_t ns) {
  if (latency_count < LATENCIES_MAX) latencies[latency_count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static int by_value(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static double percentile_us(double part) {
  if (!latency_count) return 0;
  return latencies[(uint32_t)(part * (latency_count - 1))] / 1e3;
}

// ops and seconds are of the timed part; total is everything that cost CPU time.
static void print_result(double ops, double seconds, double total, double sent) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  qsort(latencies, latency_count, sizeof *latencies, by_value);
  printf("{\"ops\":%.3f,\"seconds\":%.6f,\"total\":%.3f,\"sent\":%.0f,\"p50_us\":%.2f,\"p99_us\":%.2f,\"cpu_s\":%.6f}\n",
         ops, seconds, total, sent, percentile_us(0.5), percentile_us(0.99), cpu);
}

static int connect_to(const struct sockaddr_in *to) {
  int fd = tcp_socket();
  if (connect(fd, (const struct sockaddr *)to, sizeof *to) < 0) die("connect");
  return fd;
}

static uint64_t bytes_acked(int fd) {
  struct tcp_info info;
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0) die("TCP_INFO");
  return info.tcpi_bytes_acked;
}

static void run_stream(const struct sockaddr_in *to, uint64_t slice_ns) {
  int fd = connect_to(to);
  char *buffer = malloc(CHUNK);
  if (!buffer) die("memory");
  // Written, because untouched memory is one shared page of zeroes, which costs nothing to copy.
  for (int i = 0; i < CHUNK; i++) buffer[i] = (char)(i * 31);
  uint64_t begun = now_ns(), timed = 0, at_timed = 0, now;
  while ((now = now_ns()) - begun < slice_ns + WARM_UP_MS * 1000000ull) {
    if (!timed && now - begun >= WARM_UP_MS * 1000000ull) {
      at_timed = bytes_acked(fd);
      timed = now;
    }
    if (send(fd, buffer, CHUNK, MSG_NOSIGNAL) <= 0) die("send");
  }
  uint64_t at_end = bytes_acked(fd);
  double seconds = (double)(now_ns() - timed) / 1e9;
  struct linger reset = {.l_onoff = 1};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  close(fd);
  print_result((double)(at_end - at_timed) / 65536, seconds, (double)at_end / 65536, (double)at_end);
}

static void exchange(int fd) {
  char byte = 'q';
  if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &byte, 1, 0) != 1) die("exchange");
}

static void run_rr(const struct sockaddr_in *to, uint64_t slice_ns) {
  int fd = connect_to(to);
  uint64_t begun = now_ns(), timed = 0, total = 0;
  while (!timed || now_ns() - timed < slice_ns) {
    uint64_t before = now_ns();
    if (!timed && before - begun >= WARM_UP_MS * 1000000ull) timed = before;
    exchange(fd);
    if (timed) add_latency(now_ns() - before);
    total++;
  }
  print_result(latency_count, (double)(now_ns() - timed) / 1e9, (double)total, (double)total);
}

static void run_crr(const struct sockaddr_in *to, uint64_t slice_ns) {
  uint64_t begun = now_ns(), timed = 0, total = 0;
  while (!timed || now_ns() - timed < slice_ns) {
    uint64_t before = now_ns();
    if (!timed && before - begun >= WARM_UP_MS * 1000000ull) timed = before;
    int fd = connect_to(to);
    exchange(fd);
    if (timed) add_latency(now_ns() - before);
    // The server closes first, so that TIME_WAIT stays there and local ports do not run out.
    char byte;
    if (recv(fd, &byte, 1, 0) != 0) die("close");
    close(fd);
    total++;
  }
  print_result(latency_count, (double)(now_ns() - timed) / 1e9, (double)total, (double)total);
}

static uint64_t ask_count(int fd, uint64_t session) {
  Stamp stamp = {session, 1}, answer;
  for (int tries = 0; tries < 50; tries++) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    (void)!send(fd, &stamp, sizeof stamp, 0);
    if (poll(&wait, 1, 100) > 0 && recv(fd, &answer, sizeof answer, MSG_DONTWAIT) == sizeof answer && answer.session == session) return answer.query;
  }
  errno = ETIMEDOUT;
  die("count");
}

static void run_udp(const struct sockaddr_in *to, uint64_t slice_ns) {
  int fd = udp_socket();
  if (connect(fd, (const struct sockaddr *)to, sizeof *to) < 0) die("connect");
  uint8_t data[DATAGRAM] = {0};
  Stamp stamp = {.session = (now_ns() << 8 ^ (uint64_t)getpid()) | 1};
  // The first query makes the path known (ARP) and starts the session at the server.
  ask_count(fd, stamp.session);
  memcpy(data, &stamp, sizeof stamp);
  struct iovec vector = {data, sizeof data};
  struct mmsghdr messages[32];
  for (int i = 0; i < 32; i++) messages[i].msg_hdr = (struct msghdr){.msg_iov = &vector, .msg_iovlen = 1};
  uint64_t begun = now_ns(), sent = 0;
  while (now_ns() - begun < slice_ns) {
    int count = sendmmsg(fd, messages, 32, 0);
    if (count > 0) sent += (uint64_t)count;
  }
  // What is still in queues a moment later counts as received late, so the clock goes on until then.
  uint64_t received = ask_count(fd, stamp.session), before;
  double seconds = (double)(now_ns() - begun) / 1e9;
  do {
    before = received;
    usleep(20000);
    received = ask_count(fd, stamp.session);
  } while (received != before);
  print_result((double)received, seconds, (double)received, (double)sent);
}

static int wait_for(const struct sockaddr_in *to, uint64_t slice_ns) {
  for (uint64_t begun = now_ns(); now_ns() - begun < slice_ns; usleep(20000)) {
    int fd = tcp_socket();
    int result = connect(fd, (const struct sockaddr *)to, sizeof *to);
    close(fd);
    if (result == 0) return 0;
  }
  errno = ETIMEDOUT;
  die("server");
}

int main(int count, char **arguments) {
  if (count == 4 && strcmp(arguments[1], "serve") == 0) return serve(arguments[2], atoi(arguments[3]));
  if (count != 5) {
    fprintf(stderr, "usage: netload serve ADDRESS PORT | stream|rr|crr|udp|wait ADDRESS PORT MS\n");
    return 2;
  }
  int port = atoi(arguments[3]);
  uint64_t slice_ns = (uint64_t)atoi(arguments[4]) * 1000000;
  if (!(latencies = malloc(LATENCIES_MAX * sizeof *latencies))) die("memory");
  // Touched now, so that no page fault is timed later.
  memset(latencies, 1, LATENCIES_MAX * sizeof *latencies);
  static const struct { const char *name; int port; void (*run)(const struct sockaddr_in *, uint64_t); } modes[] = {
    {"stream", PORT_STREAM, run_stream}, {"rr", PORT_ECHO, run_rr}, {"crr", PORT_CRR, run_crr}, {"udp", PORT_UDP, run_udp}};
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
    if (strcmp(arguments[1], modes[i].name) != 0) continue;
    struct sockaddr_in to = address_of(arguments[2], port + modes[i].port);
    modes[i].run(&to, slice_ns);
    return 0;
  }
  struct sockaddr_in to = address_of(arguments[2], port + PORT_ECHO);
  return wait_for(&to, slice_ns);
}
