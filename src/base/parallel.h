/* The same work for many independent things, on all cores. */
#ifndef GR_BASE_PARALLEL_H
#define GR_BASE_PARALLEL_H
#include <stdint.h>

#include "base/status.h"

typedef grace_status (*gr_task)(void *context, int32_t index);

/* task(context, i) for i from 0 to n - 1, in any order and at the same time (OMP_NUM_THREADS; one after the other without OpenMP). Tasks share
 * nothing that any of them changes, so the result does not depend on the number of threads. All run, also after a failure; the failure of the
 * lowest index is returned, with its sentence. */
grace_status gr_parallel(int32_t n, gr_task task, void *context);

#endif
