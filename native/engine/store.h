// store.h: the rows as the agent sent them, by key, and the snapshot built from them. Control thread only.
#ifndef SKEIN_STORE_H
#define SKEIN_STORE_H
#include "../packet/snapshot.h"

typedef struct StoredRow { struct StoredRow *next; uint32_t hash, size; uint8_t bytes[]; } StoredRow;
typedef struct Store { StoredRow **buckets; uint32_t bucket_count, count; } Store;

bool store_init(Store *store);
void store_free(Store *store);
// Checks everything about one row on the wire; false with a text.
bool row_check(const uint8_t *row, uint32_t size, char *error, size_t error_size);
// Copies a checked row in, replacing the one of its key. False: no memory or too many.
bool store_put(Store *store, const uint8_t *row);
void store_remove(Store *store, const char *key, uint32_t key_size);
// Builds tables of all rows for the node of that VTEP; round-robin positions are taken over from `before`. NULL: no memory.
Snapshot *store_build(const Store *store, uint64_t revision, uint32_t generation, uint32_t vtep, const Snapshot *before);
// 16-byte address to IPv4; false for IPv6. The unspecified address gives 0.
bool abi_address(const uint8_t address[16], uint32_t *out);
#endif
