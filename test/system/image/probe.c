/* probe: the program inside test images and in test hosts. Static, no dependency.
 *   probe serve PORT            TCP: answers "GET ..." with one HTTP response naming host and client, echoes anything
 *                               else; UDP: answers each datagram with "host client-ip".  SIGTERM ends it once nothing comes in any more.
 *   probe hold IP PORT MS       one TCP connection, a line every 20 ms, each echoed; prints "ok N max_gap_ms=G"
 *   probe udp IP PORT           one datagram; prints the answer
 *   probe flood N               prints N numbered lines to stdout, one to stderr, then sleeps
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1000 };

enum { LINGER_MS = 100, LINGER_MAX_MS = 500 };

static volatile sig_atomic_t ending;

static void quit(int signal) { (void)signal; _exit(0); }

/* A server that is told to end answers what has come in already, as a well-behaved one does. */
static void finish(int signal) { (void)signal; ending = 1; }

static long now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int fail(const char *what) {
  printf("failed %s: %s\n", what, strerror(errno));
  return 1;
}

static int listen_on(int type, int port) {
  int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), one = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&a, sizeof a) || (type == SOCK_STREAM && listen(fd, 512))) return -1;
  return fd;
}

/* Returns 0 when the connection is to be closed. */
static int answer(int fd, const char *host) {
  char buffer[65536];
  ssize_t n = recv(fd, buffer, sizeof buffer - 1, 0);
  if (n <= 0) return 0;
  if (n > 4 && !memcmp(buffer, "GET ", 4)) {
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &size)) return 0;
    char body[300], head[500];
    int length = snprintf(body, sizeof body, "%s %s\n", host, inet_ntoa(peer.sin_addr));
    int total = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", length, body);
    send(fd, head, total, MSG_NOSIGNAL);
    return 0;
  }
  for (ssize_t sent = 0; sent < n;) {
    ssize_t k = send(fd, buffer + sent, n - sent, MSG_NOSIGNAL);
    if (k <= 0) return 0;
    sent += k;
  }
  return 1;
}

static int serve(int port) {
  char host[256];
  gethostname(host, sizeof host);
  signal(SIGTERM, finish);
  signal(SIGINT, quit);
  struct pollfd fds[CONNECTIONS_MAX];
  fds[0] = (struct pollfd){.fd = listen_on(SOCK_STREAM, port), .events = POLLIN};
  fds[1] = (struct pollfd){.fd = listen_on(SOCK_DGRAM, port), .events = POLLIN};
  if (fds[0].fd < 0 || fds[1].fd < 0) return fail("listen");
  printf("serving %d\n", port);
  fflush(stdout);
  int count = 2;
  long deadline = 0;
  for (;;) {
    int ready = poll(fds, count, ending ? LINGER_MS : -1);
    if (ready < 0 && errno != EINTR) return fail("poll");
    if (ending && !deadline) deadline = now_ms() + LINGER_MAX_MS;
    if (ending && (ready == 0 || now_ms() > deadline)) return 0;
    if (ready <= 0) continue;
    if (fds[1].revents) {
      char buffer[2048], out[400];
      struct sockaddr_in peer;
      socklen_t size = sizeof peer;
      if (recvfrom(fds[1].fd, buffer, sizeof buffer, 0, (struct sockaddr *)&peer, &size) >= 0) {
        int n = snprintf(out, sizeof out, "%s %s\n", host, inet_ntoa(peer.sin_addr));
        sendto(fds[1].fd, out, n, 0, (struct sockaddr *)&peer, size);
      }
    }
    for (int i = 2; i < count; i++) {
      if (!fds[i].revents || answer(fds[i].fd, host)) continue;
      close(fds[i].fd);
      fds[i--] = fds[--count];
    }
    if (fds[0].revents) {
      int fd = accept4(fds[0].fd, NULL, NULL, SOCK_CLOEXEC);
      if (fd >= 0 && count < CONNECTIONS_MAX) fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
      else if (fd >= 0) close(fd);
    }
  }
}

static struct sockaddr_in target(const char *ip, int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, ip, &a.sin_addr);
  return a;
}

static int hold(const char *ip, int port, long ms) {
  struct sockaddr_in a = target(ip, port);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct timeval patience = {.tv_sec = 10};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect(fd, (struct sockaddr *)&a, sizeof a)) return fail("connect");
  printf("connected\n");
  fflush(stdout);
  long end = now_ms() + ms, gap = 0;
  int count = 0;
  while (now_ms() < end) {
    char line[32], back[32];
    int n = snprintf(line, sizeof line, "line %d\n", count++);
    long sent = now_ms();
    if (send(fd, line, n, MSG_NOSIGNAL) != n) return fail("send");
    for (int got = 0; got < n;) {
      ssize_t k = recv(fd, back + got, n - got, 0);
      if (k <= 0) return fail("recv");
      got += k;
    }
    if (memcmp(line, back, n)) return fail("compare");
    if (now_ms() - sent > gap) gap = now_ms() - sent;
    usleep(20000);
  }
  printf("ok %d max_gap_ms=%ld\n", count, gap);
  return 0;
}

static int udp(const char *ip, int port) {
  struct sockaddr_in a = target(ip, port);
  char buffer[2048];
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct timeval patience = {.tv_sec = 2};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect(fd, (struct sockaddr *)&a, sizeof a) || send(fd, "x", 1, 0) != 1) return fail("send");
  ssize_t n = recv(fd, buffer, sizeof buffer, 0);
  if (n < 0) return fail("recv");
  fwrite(buffer, 1, n, stdout);
  return 0;
}

static void flood(int lines) {
  signal(SIGTERM, quit);
  for (int i = 1; i <= lines; i++) printf("line %d\n", i);
  fflush(stdout);
  fprintf(stderr, "to stderr\n");
  for (;;) pause();
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "serve")) return serve(atoi(argv[2]));
  if (argc == 5 && !strcmp(argv[1], "hold")) return hold(argv[2], atoi(argv[3]), atol(argv[4]));
  if (argc == 4 && !strcmp(argv[1], "udp")) return udp(argv[2], atoi(argv[3]));
  if (argc == 3 && !strcmp(argv[1], "flood")) flood(atoi(argv[2]));
  fprintf(stderr, "usage: probe serve PORT | hold IP PORT MS | udp IP PORT | flood N\n");
  return 2;
}
