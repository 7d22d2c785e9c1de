/* What of this process lies in memory, for benches that judge it. */
#ifndef GRACE_CLI_RESIDENT_H
#define GRACE_CLI_RESIDENT_H
#include <stdint.h>

#include "grace/status.h"

/* Bytes: of its own (heap, stacks, written data); mapped from files (weights, programs, libraries) or shared; the largest sum so far. */
typedef struct gr_resident { int64_t own, mapped, peak; } gr_resident;

/* Fails with UNSUPPORTED where the system does not say. */
grace_status gr_resident_now(gr_resident *out);

#endif
