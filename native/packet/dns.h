// dns.h: answers to DNS questions from the rows (RFC 1035, EDNS0 of RFC 6891). Pure; core/dns is the oracle.
#ifndef SKEIN_DNS_H
#define SKEIN_DNS_H
#include "snapshot.h"

enum { DNS_HEADER = 12, DNS_UDP_MIN = 512, DNS_MESSAGE_MAX = 65535, DNS_TTL_S = 10 };
enum { DNS_NOERROR = 0, DNS_FORMERR = 1, DNS_SERVFAIL = 2, DNS_NXDOMAIN = 3, DNS_NOTIMP = 4, DNS_REFUSED = 5 };

// Who asks: the VNIs of its sandbox in interface order.
typedef struct DnsAsker { const uint32_t *vnis; uint32_t vni_count; bool tcp; uint64_t random; } DnsAsker;
typedef enum DnsResult { DNS_ANSWER, DNS_MISS, DNS_DROP } DnsResult;

// Writes an answer of *out_size bytes at most out_max, or says that the rows do not know (MISS) or that
// the bytes are no question (DROP).
DnsResult dns_answer(const Snapshot *tables, const DnsAsker *asker, const uint8_t *query, uint32_t size, uint8_t *out,
                     uint32_t out_max, uint32_t *out_size);
// The question with an error code and no records. 0: not even a question.
uint32_t dns_refuse(const uint8_t *query, uint32_t size, uint8_t code, uint8_t *out);
// Bytes of an answer the asker takes over UDP.
uint32_t dns_udp_limit(const uint8_t *query, uint32_t size);
// Cuts an answer down to its question and sets TC.
uint32_t dns_truncate(uint8_t *answer, uint32_t size);
#endif
