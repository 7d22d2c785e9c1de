/* GPUs for tests of the exchange between them on machines without one: CUDA's memory calls on memory that all processes of a test share, and the kernels that
 * src/run/exchange_gpus*.c calls as plain C, which do their work when they are called and wait as the kernels wait. Each process is a rank with a GPU. */
#ifndef GR_TESTS_FAKE_GPU_H
#define GR_TESTS_FAKE_GPU_H
#include "compute/cuda/backend.h"

/* Before the ranks of a job are forked: memory for so many. Closed in each process, or where no rank is any more. */
void fake_gpus_open(int32_t n_ranks, size_t bytes_each);
void fake_gpus_close(void);

typedef struct fake_gpu {
    int32_t rank, node;             /* this process; memory of other nodes cannot be opened */
    int32_t gpu;                    /* ranks with the same number share it */
    int32_t fails_at;               /* the call, from 1, of those that can fail for want of memory that does; 0: none */
    int64_t choices_max;            /* room for pairs, as the backend has it */
    /* counted */
    int32_t n_calls;                /* that can fail for want of memory */
    int32_t n_live;                 /* things that were made and not yet given back: memory, pinned memory, streams, events, attached memory */
    int64_t device_bytes;           /* of device memory, now */
    bool gave_up;                   /* a kernel's wait: what it waited for is not there, and rows may be anything */
} fake_gpu;
extern fake_gpu fake;

/* Memory of this rank that another still had open when it was freed, since the last question. */
int32_t fake_gpu_freed_open(void);

/* A backend that the exchange can ask. */
gr_compute *fake_compute(void);
#endif
