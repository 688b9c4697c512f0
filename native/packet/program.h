// program.h: the packet program: one parsed frame and where it came from in, a Verdict out. No system calls.
// It rewrites the frame in place when the verdict sends it on.
#ifndef SKEIN_PROGRAM_H
#define SKEIN_PROGRAM_H
#include "flow.h"
#include "nat.h"
#include "reply.h"
#include "snapshot.h"

struct Sandbox;
typedef struct ErrorBudget { uint32_t second, left; } ErrorBudget;
typedef struct Interface {
  // VNI of an overlay interface, SCOPE_GATEWAY of a gateway interface.
  uint32_t scope;
  uint32_t addresses[INTERFACE_ADDRESSES_MAX];
  uint8_t prefixes[INTERFACE_ADDRESSES_MAX];
  uint32_t address_count;
  uint8_t mac[6];
  uint16_t mtu;
  // Only the packet thread uses it.
  ErrorBudget errors;
  struct Sandbox *sandbox;
  char name[16];
  // TAP; the program does not touch it.
  int fd;
} Interface;

typedef struct Sandbox {
  char id[SANDBOX_ID_SIZE];
  uint32_t count;
  Interface interfaces[SANDBOX_INTERFACES_MAX];
  // Null for tasks that have internal networks only.
  Interface *gateway;
  // Its DNS port was taken; the next attach tries again.
  bool nameless;
} Sandbox;

// Addresses of this node's interfaces, by scope; replaced whole when a sandbox comes or goes.
typedef struct Locals { Index index; Interface **interfaces; uint32_t count; } Locals;

typedef enum OriginKind { ORIGIN_INTERFACE, ORIGIN_HOST, ORIGIN_VXLAN } OriginKind;
typedef struct Origin { OriginKind kind; Interface *interface; uint32_t vni, vtep; } Origin;

// REPLY: Program.reply goes back to the origin. DROP with DROP_NONE: consumed.
typedef enum VerdictKind { VERDICT_DROP, VERDICT_REPLY, VERDICT_INTERFACE, VERDICT_HOST, VERDICT_VXLAN } VerdictKind;
typedef struct Verdict { VerdictKind kind; DropReason reason; Interface *interface; uint32_t vni, vtep; } Verdict;

typedef struct ProgramConfig {
  bool configured;
  uint32_t vtep, gateway, gateway_mask;
  // Address in the gateway bridge network that published packets are sent to by the host's rules.
  uint32_t published;
  uint16_t underlay_mtu, vxlan_port;
} ProgramConfig;

enum { FRAGMENTS_MAX = 1024, FRAGMENT_TIMEOUT_S = 30, ERRORS_PER_SECOND_MAX = 1000 };
typedef struct Target { uint32_t scope, peer, address; } Target;
typedef struct Fragment {
  FlowKey key;
  uint32_t expires_s;
  bool rewrite;
  FlowKey to;
  Target target;
} Fragment;

typedef struct Program {
  ProgramConfig config;
  Snapshot *tables;
  const Locals *locals;
  FlowTable flows;
  // Of the tables: the ingress network and this node's address in it.
  uint32_t ingress_vni, ingress_address;
  uint32_t now_s;
  // Of errors to the node's own side and to tunnels.
  ErrorBudget errors;
  uint64_t random;
  uint64_t clients_rewritten;
  uint8_t host_mac[6];
  Fragment fragments[FRAGMENTS_MAX];
  uint32_t reply_size;
  uint8_t reply[REPLY_SIZE_MAX + 64];
} Program;

extern const uint8_t VIP_MAC[6], GATEWAY_MAC[6];
void program_set_tables(Program *program, Snapshot *tables);
Verdict program_run(Program *program, Packet *p, const Origin *origin);
Interface *locals_find(const Locals *locals, uint32_t scope, uint32_t address);
#endif
