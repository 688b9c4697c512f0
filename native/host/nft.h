// nft.h: the host's rules that lead published ports and egress into and out of the engine.
#ifndef SKEIN_NFT_H
#define SKEIN_NFT_H
#include "../packet/program.h"

// Installs base rules (chains are kept if they exist, so that running connections keep their translation).
bool nft_install(const ProgramConfig *config, uint8_t gateway_prefix, const char *device, char *error, size_t error_size);
// Makes the set of published ports exactly that of the tables.
bool nft_set_ports(const Snapshot *tables, char *error, size_t error_size);
void nft_remove(void);
// In the calling thread's namespace: what is sent to 127.0.0.11:53 comes to `port` there, and its answers from port 53.
// Without conntrack; repeated calls replace each other.
bool nft_lead_dns(uint16_t port, char *error, size_t error_size);
#endif
