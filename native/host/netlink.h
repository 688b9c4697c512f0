// netlink.h: the few rtnetlink requests the data plane makes. All idempotent; 0 or a negative errno.
#ifndef SKEIN_NETLINK_H
#define SKEIN_NETLINK_H
#include <stdbool.h>
#include <stdint.h>

typedef struct LinkSettings { const uint8_t *mac; uint32_t mtu, gso_max_size; bool no_arp; } LinkSettings;
int netlink_open(void);
// Also brings the link up.
int netlink_set_link(int fd, int ifindex, const LinkSettings *settings);
int netlink_add_address(int fd, int ifindex, uint32_t address, uint8_t prefix);
int netlink_set_default_route(int fd, int ifindex, uint32_t gateway);
#endif
