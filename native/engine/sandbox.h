// sandbox.h: makes and removes what a task's namespace consists of, and the node's own TAP. Control thread only.
#ifndef SKEIN_SANDBOX_H
#define SKEIN_SANDBOX_H
#include "engine.h"
#include "resolver.h"

#define HOST_DEVICE "skein0"
enum { SANDBOXES_MAX = RESOLVER_SANDBOXES_MAX };

typedef struct Sandboxes {
  Engine *engine;
  Resolver *resolver;
  char run_directory[200];
  Sandbox *list[SANDBOXES_MAX];
  uint32_t count;
  Locals *locals;
} Sandboxes;

// Takes ownership of nothing: `wanted` is copied. sysctls is "name=value\n" text. Idempotent.
bool sandbox_attach(Sandboxes *all, const Sandbox *wanted, uint16_t underlay_mtu, uint32_t gateway, const char *sysctls,
                    char *path, size_t path_size, char *error, size_t error_size);
void sandbox_detach(Sandboxes *all, const char *id);
bool sandbox_id_ok(const char *id);
// The node's TAP; returns its descriptor or a negative errno.
int host_tap_open(uint32_t gateway, uint8_t prefix, uint16_t mtu, uint8_t mac[6]);
void host_tap_remove(int fd);
#endif
