/* Kernels of an MoE layer on one GPU. Activations and weights are bf16, sums fp32. All pointers but the tables of weights are device memory; every call
 * queues work on the stream, needs no number from the device and waits for nothing. */
#ifndef GR_COMPUTE_CUDA_MOE_H
#define GR_COMPUTE_CUDA_MOE_H
#include <stdbool.h>
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
    int32_t *first_pair;        /* [n_slots + 1]; the last is the number of pairs */
    int32_t *row_of_pair;       /* [n_rows * top_k] by slot, then row, then choice */
    int32_t *pair_of_choice;    /* [n_rows * top_k], -1: none */
    int32_t *scratch;           /* [gr_cuda_group_scratch(n_rows * top_k, n_slots)] */
    bool spares;                /* gr_cuda_experts_run() leaves processors to kernels that move rows beside it (gr_cuda_processors()) */
} gr_cuda_pairs;                /* of one slot and one choice all may be NULL: every row is the pair of its number, as an ordinary MLP has it */

int64_t gr_cuda_group_scratch(int64_t n_choices, int32_t n_slots);      /* int32 values */
/* slot [n_rows, top_k], each below n_slots; a negative one makes no pair. No slots: no pairs. */
grace_status gr_cuda_group(const int32_t *slot, const gr_cuda_pairs *pairs, gr_cuda_stream stream);

/* ---- experts: SwiGLU of every pair ---- */
typedef enum gr_cuda_kernels { GR_CUDA_KERNELS_AUTO, GR_CUDA_KERNELS_HOPPER, GR_CUDA_KERNELS_MMA, GR_CUDA_KERNELS_PLAIN } gr_cuda_kernels;

typedef struct gr_cuda_experts gr_cuda_experts;

/* One layer's weights of this rank's slots; all pointers are borrowed until close. */
typedef struct gr_cuda_experts_options {
    gr_cuda_kernels kernels;        /* AUTO: the fastest that takes these sizes on this device */
    int32_t n_slots, hidden, width; /* sizes are multiples of 8 */
    const void *gate_up;            /* [n_slots, width / b, 2, b, hidden]: b rows of gate, the same b of up, and so on; b = gr_cuda_gate_up_block(width) */
    const void *down;               /* [n_slots, hidden, width] */
    const float *gate_up_bias;      /* [n_slots, width / b, 2, b]; NULL: none */
    const float *down_bias;         /* [n_slots, hidden]; NULL: none */
    float swiglu_limit;             /* grace_model_info */
    void *act;                      /* [n_pairs_max, width] scratch of a run: layers that run one after the other share it */
    int32_t n_pairs_max;            /* most pairs in a run */
} gr_cuda_experts_options;

int32_t gr_cuda_gate_up_block(int32_t width);       /* 64, or the whole width where that is no multiple of 64 */

/* Fails with LIMIT (sizes that the chosen kernels do not take), UNSUPPORTED (the device cannot run them), MEMORY. */
grace_status gr_cuda_experts_open(const gr_cuda_experts_options *options, gr_cuda_experts **out);
void gr_cuda_experts_close(gr_cuda_experts *experts);
const char *gr_cuda_experts_kernels(const gr_cuda_experts *experts);    /* "hopper", "mma" or "plain": what runs */

/* y [n_pairs, hidden] = down(silu(gate x) * up x), x = rows[row_of_pair]. rows [n_rows, hidden]. The intermediate is rounded to bf16, as is y.
 * The bits of a pair depend on its row, its slot and the kernels chosen at open alone, not on the pairs beside it. */
grace_status gr_cuda_experts_run(const gr_cuda_experts *experts, const gr_cuda_pairs *pairs, const void *rows, void *y, gr_cuda_stream stream);

/* out [n_rows, hidden] = residual (NULL: 0) + sum over choices of weight [n_rows, top_k] (NULL: 1) * y[pair_of_choice], in order of choice, rounded once.
 * A choice without a pair adds nothing. */
grace_status gr_cuda_combine(const gr_cuda_pairs *pairs, const float *weight, const void *y, const void *residual, int32_t hidden, void *out,
                             gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
