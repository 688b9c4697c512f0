// control.h: the agent's channel: a unix socket that takes configuration, sandboxes and rows.
#ifndef SKEIN_CONTROL_H
#define SKEIN_CONTROL_H
#include "sandbox.h"
#include "store.h"

enum { OUTPUT_MAX = 8 << 20 };

typedef struct Staging { bool active, replace; uint64_t revision; Store rows; uint8_t *removed; uint32_t removed_size, removed_room; } Staging;

typedef struct Control {
  Engine *engine;
  Resolver *resolver;
  Sandboxes sandboxes;
  Store store;
  Staging staging;
  Snapshot *tables;
  uint32_t generation;
  int listen_fd, client_fd, wake_fd, signal_fd;
  // ports_missing: the last attempt to publish them failed.
  bool configured, ending, ports_missing;
  ConfigureAbi config;
  uint8_t *input;
  uint32_t input_size;
  // Shared with the resolver thread.
  pthread_mutex_t output_mutex;
  uint8_t *output;
  uint32_t output_size;
  bool connected;
} Control;

bool control_init(Control *control, Engine *engine, Resolver *resolver, const char *run_directory, char *error, size_t error_size);
// Serves until SIGTERM or a destroy frame.
void control_run(Control *control);
bool control_send_miss(void *context, const Miss *miss, const char *sandbox, const uint8_t *query, uint32_t size);
// commands.c: carries out one frame and answers it.
void control_handle(Control *control, const FrameHeader *header, const uint8_t *payload);
void control_send(Control *control, uint16_t type, uint64_t id, const void *first, uint32_t first_size, const void *second, uint32_t second_size);
void control_drop_staging(Control *control);
#endif
