// drop.c: the names of drop reasons.
#include "drop.h"

const char *drop_reason_name(DropReason reason) {
  static const char *const names[] = {
#define X(name, text) text,
    DROP_REASONS(X)
#undef X
  };
  return (unsigned)reason < DROP_REASON_COUNT ? names[reason] : "invalid";
}
