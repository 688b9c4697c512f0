// control.c: the socket side of the channel: one client at a time (a new one replaces the old), frames in, frames
// out through a bounded buffer. A frame that breaks the format ends the connection, never the process.
#include "control.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

bool control_init(Control *control, Engine *engine, Resolver *resolver, const char *run_directory, char *error, size_t error_size) {
  memset(control, 0, sizeof *control);
  control->engine = engine;
  control->resolver = resolver;
  control->sandboxes = (Sandboxes){.engine = engine, .resolver = resolver};
  snprintf(control->sandboxes.run_directory, sizeof control->sandboxes.run_directory, "%s", run_directory);
  control->client_fd = -1;
  control->input = malloc(sizeof(FrameHeader) + FRAME_SIZE_MAX);
  control->output = malloc(OUTPUT_MAX);
  pthread_mutex_init(&control->output_mutex, NULL);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  control->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  control->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/datapath.sock", run_directory);
  if (length >= (int)sizeof address.sun_path) {
    snprintf(error, error_size, "run directory too long");
    return false;
  }
  unlink(address.sun_path);
  control->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  mode_t mask = umask(0077);
  bool ok = control->input && control->output && store_init(&control->store) && control->listen_fd >= 0 &&
            bind(control->listen_fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(control->listen_fd, 8) == 0;
  umask(mask);
  if (!ok) snprintf(error, error_size, "control socket: %s", strerror(errno));
  return ok;
}

static void close_client(Control *control) {
  if (control->client_fd < 0) return;
  pthread_mutex_lock(&control->output_mutex);
  close(control->client_fd);
  control->client_fd = -1;
  control->connected = false;
  control->output_size = 0;
  pthread_mutex_unlock(&control->output_mutex);
  control->input_size = 0;
  control_drop_staging(control);
  resolver_fail_all(control->resolver);
}

static bool enqueue(Control *control, uint16_t type, uint64_t id, const void *first, uint32_t first_size, const void *second, uint32_t second_size) {
  // What tasks ask for while the agent is slow must not take the room of answers it waits for.
  uint32_t limit = type == FRAME_DNS_MISS ? OUTPUT_MAX / 2 : OUTPUT_MAX;
  FrameHeader header = {.size = first_size + second_size, .type = type, .abi = ABI_VERSION, .id = id};
  pthread_mutex_lock(&control->output_mutex);
  bool ok = control->connected && control->output_size + sizeof header + header.size <= limit;
  if (ok) {
    uint8_t *at = control->output + control->output_size;
    memcpy(at, &header, sizeof header);
    if (first_size) memcpy(at + sizeof header, first, first_size);
    if (second_size) memcpy(at + sizeof header + first_size, second, second_size);
    control->output_size += (uint32_t)sizeof header + header.size;
  }
  pthread_mutex_unlock(&control->output_mutex);
  return ok;
}

void control_send(Control *control, uint16_t type, uint64_t id, const void *first, uint32_t first_size, const void *second, uint32_t second_size) {
  enqueue(control, type, id, first, first_size, second, second_size);
}

bool control_send_miss(void *context, const Miss *miss, const char *sandbox, const uint8_t *query, uint32_t size) {
  Control *control = context;
  DnsMissAbi body = {.id = miss->id, .tcp = miss->tcp};
  memcpy(body.sandbox, sandbox, sizeof body.sandbox);
  if (!enqueue(control, FRAME_DNS_MISS, 0, &body, sizeof body, query, size)) return false;
  uint64_t one = 1;
  return write(control->wake_fd, &one, sizeof one) == sizeof one || errno == EAGAIN;
}

static void flush_output(Control *control) {
  pthread_mutex_lock(&control->output_mutex);
  bool broken = false;
  if (control->client_fd >= 0 && control->output_size) {
    ssize_t sent = send(control->client_fd, control->output, control->output_size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      control->output_size -= (uint32_t)sent;
      memmove(control->output, control->output + sent, control->output_size);
    }
    broken = sent < 0 && errno != EAGAIN;
  }
  pthread_mutex_unlock(&control->output_mutex);
  if (broken) close_client(control);
}

static void handle_input(Control *control) {
  uint32_t at = 0;
  while (control->client_fd >= 0 && control->input_size - at >= sizeof(FrameHeader)) {
    FrameHeader header;
    memcpy(&header, control->input + at, sizeof header);
    if (header.size > FRAME_SIZE_MAX || header.abi != ABI_VERSION) {
      char text[96];
      int length = snprintf(text, sizeof text, "invalid: frame of %u bytes, ABI %u (this is ABI %u)", header.size, header.abi, ABI_VERSION);
      control_send(control, FRAME_ERROR, header.id, text, (uint32_t)length, NULL, 0);
      flush_output(control);
      close_client(control);
      return;
    }
    if (control->input_size - at < sizeof header + header.size) break;
    control_handle(control, &header, control->input + at + sizeof header);
    at += (uint32_t)sizeof header + header.size;
  }
  if (control->client_fd < 0) return;
  control->input_size -= at;
  memmove(control->input, control->input + at, control->input_size);
}

static void read_client(Control *control) {
  uint32_t room = (uint32_t)sizeof(FrameHeader) + FRAME_SIZE_MAX - control->input_size;
  ssize_t size = recv(control->client_fd, control->input + control->input_size, room, MSG_DONTWAIT);
  if (size < 0 && errno == EAGAIN) return;
  if (size <= 0) {
    close_client(control);
    return;
  }
  control->input_size += (uint32_t)size;
  handle_input(control);
}

static void accept_client(Control *control) {
  int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  close_client(control);
  pthread_mutex_lock(&control->output_mutex);
  control->client_fd = fd;
  control->connected = true;
  pthread_mutex_unlock(&control->output_mutex);
}

void control_run(Control *control) {
  while (!control->ending) {
    struct pollfd polls[4] = {{control->signal_fd, POLLIN, 0}, {control->wake_fd, POLLIN, 0}, {control->listen_fd, POLLIN, 0}, {control->client_fd, POLLIN, 0}};
    pthread_mutex_lock(&control->output_mutex);
    if (control->output_size) polls[3].events |= POLLOUT;
    pthread_mutex_unlock(&control->output_mutex);
    if (poll(polls, 4, -1) < 0 && errno != EINTR) return;
    if (polls[0].revents) return;
    uint64_t ignored;
    if (polls[1].revents) (void)!read(control->wake_fd, &ignored, sizeof ignored);
    if (polls[3].revents & (POLLIN | POLLHUP | POLLERR)) read_client(control);
    if (polls[2].revents) accept_client(control);
    flush_output(control);
  }
  for (int i = 0; i < 100 && control->client_fd >= 0 && control->output_size; i++) {
    flush_output(control);
    usleep(1000);
  }
}
