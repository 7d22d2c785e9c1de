/* Kernels of an MoE layer on one GPU. Activations and weights are bf16, sums fp32. All pointers but the tables of weights are device memory; every call
 * queues work on the stream, needs no number from the device and waits for nothing. */
#ifndef GR_COMPUTE_CUDA_MOE_H
#define GR_COMPUTE_CUDA_MOE_H
#include <stdint.h>

#include "base/status.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gr_cuda_stream;

enum { GR_CUDA_SLOTS_MAX = 256 };

/* ---- grouping: choices by token become pairs by slot ---- */
typedef struct gr_cuda_pairs {
    int32_t n_slots, n_rows, top_k;
    int32_t *first_pair;        /* [n_slots + 1] */
    int32_t *row_of_pair;       /* [n_rows * top_k] by slot, then row, then choice */
    int32_t *pair_of_choice;    /* [n_rows * top_k] */
    int32_t *scratch;           /* [gr_cuda_group_scratch(n_rows * top_k, n_slots)] */
} gr_cuda_pairs;

int64_t gr_cuda_group_scratch(int64_t n_choices, int32_t n_slots);      /* int32 values */
/* slot [n_rows, top_k], each 0 .. n_slots - 1 */
grace_status gr_cuda_group(const int32_t *slot, const gr_cuda_pairs *pairs, gr_cuda_stream stream);

/* ---- experts: SwiGLU of every pair ---- */
typedef struct gr_cuda_experts gr_cuda_experts;

/* One layer's weights of this rank's slots, packed for the tensor cores; borrowed until close.
 *   gate_up [n_slots, width / 64, 2, 64, hidden]: 64 rows of gate, the same 64 of up, and so on
 *   down    [n_slots, hidden, width]
 * n_pairs_max: most pairs in one call. Fails with LIMIT (hidden no multiple of 256, width none of 128, more slots than 256), UNSUPPORTED (the
 * device is no Hopper), MEMORY. */
grace_status gr_cuda_experts_open(const void *gate_up, const void *down, int32_t n_slots, int32_t hidden, int32_t width, int32_t n_pairs_max,
                                  gr_cuda_experts **out);
void gr_cuda_experts_close(gr_cuda_experts *experts);

/* y [n_pairs, hidden] = down(silu(gate x) * up x), x = rows[row_of_pair]. rows [n_rows, hidden]. The intermediate is rounded to bf16, as is y. */
grace_status gr_cuda_experts_run(const gr_cuda_experts *experts, const gr_cuda_pairs *pairs, const void *rows, void *y, gr_cuda_stream stream);

/* out [n_rows, hidden] = residual (NULL: 0) + sum over choices of weight [n_rows, top_k] * y[pair_of_choice], in order of choice, rounded once. */
grace_status gr_cuda_combine(const gr_cuda_pairs *pairs, const float *weight, const void *y, const void *residual, int32_t hidden, void *out,
                             gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
