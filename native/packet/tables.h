// tables.h: the ABI between the agent and the data plane. Packed, little endian, addresses 16 bytes (IPv4 mapped).
//
// A frame is FrameHeader and `size` bytes of payload. A row on the wire is RowHeader, the fixed struct of its kind,
// the key, then the trailing elements its counts promise. `skein-datapath --abi` prints sizes and offsets, and a test
// compares them with src/io/datapath/layout.ts. Change anything here: raise ABI_VERSION.
#ifndef SKEIN_TABLES_H
#define SKEIN_TABLES_H
#include <stdint.h>

enum { ABI_VERSION = 1, FRAME_SIZE_MAX = 1 << 20, KEY_SIZE_MAX = 400, NAME_SIZE_MAX = 255, SANDBOX_ID_SIZE = 64,
       SANDBOX_INTERFACES_MAX = 32, INTERFACE_ADDRESSES_MAX = 4, SUBNETS_MAX = 8, BACKENDS_MAX = 4096, ROWS_MAX = 1 << 20 };

enum FrameType { FRAME_HELLO = 1, FRAME_CONFIGURE, FRAME_ATTACH, FRAME_DETACH, FRAME_SANDBOXES, FRAME_APPLY_BEGIN,
                 FRAME_APPLY_ROWS, FRAME_APPLY_REMOVE, FRAME_APPLY_COMMIT, FRAME_COUNTERS, FRAME_DESTROY, FRAME_DNS_REPLY,
                 FRAME_OK = 64, FRAME_ERROR, FRAME_DNS_MISS };
enum RowKind { ROW_NETWORK = 1, ROW_ENDPOINT, ROW_SERVICE, ROW_PORT, ROW_NODE, ROW_NAME, ROW_POINTER };
enum NetworkFlag { NETWORK_INTERNAL = 1, NETWORK_INGRESS = 2, NETWORK_ENCRYPTED = 4 };
enum BackendFlag { BACKEND_DRAINING = 1 };

// struct, then X(type, name, array) for each field; array is empty for a scalar.
#define ABI_STRUCTS(S) S(FrameHeader) S(RowHeader) S(NetworkRow) S(SubnetAbi) S(EndpointRow) S(ServiceRow) S(BackendAbi) \
  S(PortRow) S(NodeRow) S(NameRow) S(PointerRow) S(ConfigureAbi) S(AttachAbi) S(InterfaceAbi) S(AddressAbi) S(ApplyBeginAbi) \
  S(DnsMissAbi) S(DnsReplyAbi)
#define FrameHeader_FIELDS(X) X(uint32_t, size, ) X(uint16_t, type, ) X(uint16_t, abi, ) X(uint64_t, id, )
#define RowHeader_FIELDS(X) X(uint32_t, size, ) X(uint16_t, kind, ) X(uint16_t, key_size, )
// Trailing: SubnetAbi * subnet_count, name.
#define NetworkRow_FIELDS(X) X(uint32_t, vni, ) X(uint32_t, mtu, ) X(uint16_t, flags, ) X(uint16_t, subnet_count, ) X(uint16_t, name_size, )
#define SubnetAbi_FIELDS(X) X(uint8_t, address, [16]) X(uint8_t, gateway, [16]) X(uint8_t, prefix, )
#define EndpointRow_FIELDS(X) X(uint32_t, vni, ) X(uint8_t, address, [16]) X(uint8_t, vtep, [16]) X(uint8_t, mac, [6])
// Trailing: BackendAbi * backend_count.
#define ServiceRow_FIELDS(X) X(uint32_t, vni, ) X(uint8_t, vip, [16]) X(uint32_t, backend_count, )
#define BackendAbi_FIELDS(X) X(uint8_t, address, [16]) X(uint32_t, weight, ) X(uint32_t, flags, )
#define PortRow_FIELDS(X) X(uint8_t, protocol, ) X(uint8_t, host_mode, ) X(uint16_t, published, ) X(uint16_t, target, ) X(uint32_t, backend_count, )
#define NodeRow_FIELDS(X) X(uint8_t, vtep, [16]) X(uint8_t, ingress_address, [16])
// Trailing: 16 bytes * address_count, name.
#define NameRow_FIELDS(X) X(uint32_t, vni, ) X(uint16_t, address_count, ) X(uint16_t, name_size, )
// Trailing: name.
#define PointerRow_FIELDS(X) X(uint32_t, vni, ) X(uint8_t, address, [16]) X(uint16_t, name_size, )
#define ConfigureAbi_FIELDS(X) X(uint8_t, vtep, [16]) X(uint8_t, gateway, [16]) X(uint8_t, gateway_prefix, ) X(uint16_t, vxlan_port, ) X(uint16_t, underlay_mtu, )
// Trailing: interface_count times InterfaceAbi and its address_count AddressAbi, then "name=value\n" text. The gateway interface has is_gateway set and comes last.
#define AttachAbi_FIELDS(X) X(char, id, [64]) X(uint16_t, interface_count, ) X(uint16_t, sysctl_size, )
#define InterfaceAbi_FIELDS(X) X(char, ifname, [16]) X(uint32_t, vni, ) X(uint8_t, mac, [6]) X(uint16_t, mtu, ) X(uint8_t, is_gateway, ) X(uint8_t, address_count, )
#define AddressAbi_FIELDS(X) X(uint8_t, address, [16]) X(uint8_t, prefix, )
#define ApplyBeginAbi_FIELDS(X) X(uint64_t, revision, ) X(uint8_t, replace, )
// Trailing: the query.
#define DnsMissAbi_FIELDS(X) X(uint32_t, id, ) X(uint8_t, tcp, ) X(char, sandbox, [64])
// Trailing: the answer.
#define DnsReplyAbi_FIELDS(X) X(uint32_t, id, )

#define ABI_FIELD(type, name, array) type name array;
#define ABI_DEFINE(s) typedef struct __attribute__((packed)) s { s##_FIELDS(ABI_FIELD) } s;
ABI_STRUCTS(ABI_DEFINE)
_Static_assert(sizeof(FrameHeader) == 16, "FrameHeader");
_Static_assert(sizeof(RowHeader) == 8, "RowHeader");
#endif
