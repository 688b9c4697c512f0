// drop.h: every reason a packet can end for. The number is the metric: append only.
#ifndef SKEIN_DROP_H
#define SKEIN_DROP_H

#define DROP_REASONS(X) \
  X(NONE, "none") \
  X(NOT_CONFIGURED, "not_configured") \
  X(MALFORMED, "malformed") \
  X(ETHERTYPE, "ethertype") \
  X(IPV6, "ipv6") \
  X(MULTICAST, "multicast") \
  X(SPOOFED_MAC, "spoofed_mac") \
  X(SPOOFED_SOURCE, "spoofed_source") \
  X(SPOOFED_PEER, "spoofed_peer") \
  X(UNKNOWN_VTEP, "unknown_vtep") \
  X(UNKNOWN_VNI, "unknown_vni") \
  X(UNKNOWN_DESTINATION, "unknown_destination") \
  X(UNKNOWN_NEIGHBOUR, "unknown_neighbour") \
  X(NOT_LOCAL, "not_local") \
  X(TASK_ISOLATION, "task_isolation") \
  X(NO_BACKEND, "no_backend") \
  X(BACKEND_REMOVED, "backend_removed") \
  X(NO_FLOW, "no_flow") \
  X(FLOW_TABLE_FULL, "flow_table_full") \
  X(FLOW_COLLISION, "flow_collision") \
  X(FRAGMENT_UNKNOWN, "fragment_unknown") \
  X(OFFLOAD, "offload") \
  X(TOO_BIG, "too_big") \
  X(TTL, "ttl") \
  X(ICMP, "icmp") \
  X(PROTOCOL, "protocol") \
  X(VXLAN_HEADER, "vxlan_header") \
  X(ENCRYPTION, "encryption_unsupported") \
  X(LOOP, "loop") \
  X(INTERFACE_WRITE, "interface_write") \
  X(UNDERLAY_BUSY, "underlay_busy") \
  X(UNDERLAY_ERROR, "underlay_error") \
  X(RATE_LIMITED, "rate_limited") \
  X(TRUNCATED, "truncated")

typedef enum DropReason {
#define X(name, text) DROP_##name,
  DROP_REASONS(X)
#undef X
  DROP_REASON_COUNT
} DropReason;

const char *drop_reason_name(DropReason reason);
#endif
