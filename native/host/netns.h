// netns.h: network namespaces, TAP devices and sysctls of sandboxes and of the node.
#ifndef SKEIN_NETNS_H
#define SKEIN_NETNS_H
#include "../packet/program.h"

// Runs a function on a short-lived thread inside the namespace at `path` (NULL: the process's own).
bool netns_run(const char *path, void (*run)(void *), void *argument, char *error, size_t error_size);
bool netns_exists(const char *path);
// Makes a namespace bound to `path`, or leaves the one that is there. False with a text.
bool netns_create(const char *path, char *error, size_t error_size);
void netns_remove(const char *path);
// Opens (or takes over) a persistent TAP in the calling thread's namespace; negative errno.
int tap_open(const char *name);
// True when the device is new to this name or has another address.
bool link_has_mac(const char *name, const uint8_t mac[6]);
bool sysctl_write(const char *name, const char *value);
bool sysctl_interface(const char *interface, const char *name, const char *value);
#endif
