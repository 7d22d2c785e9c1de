/* Experts of a row or two: every choice reads its weights by itself, no pairs are grouped, and the sum over a token's choices is made where they are
 * computed. Two launches from slots to the residual stream, with the expert that every row passes in them. */
#ifndef GR_COMPUTE_CUDA_EXPERTS_ONE_H
#define GR_COMPUTE_CUDA_EXPERTS_ONE_H
#include <stdbool.h>

#include "compute/cuda/moe.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { GR_CUDA_ONE_ROWS = 2, GR_CUDA_ONE_TOP_K = 16 };      /* rows up to which it pays; choices it takes */

/* slot, weight [n_rows, top_k], NULL: all 0, all 1. shared: NULL, or one more MLP, that every row passes with weight 1; shared_act [n_rows, its width]. */
typedef struct gr_cuda_one {
    const int32_t *slot;
    const float *weight;
    int32_t n_rows, top_k;
    const gr_cuda_experts *shared;
    void *shared_act;
} gr_cuda_one;

/* Whether these MLPs, routed or shared, are computed for so many rows and choices: no biases, no limit. */
bool gr_cuda_experts_one_fits(const gr_cuda_experts *experts, int32_t n_rows, int32_t top_k);

/* out[row] = residual[row] (NULL: 0) + sum over choices j with a slot >= 0 of weight * MLP(rows[row]) + shared(rows[row]), in order of j, the shared one
 * last. What an MLP gives is rounded to bf16 before it is weighted, and the whole once. rows, residual, out [n_rows, hidden]; out may be residual, not rows.
 * Activations lie in the experts' own scratch. Sums over an index k run in another order than those of gr_cuda_experts_run().
 * Fails with LIMIT where gr_cuda_experts_one_fits() says no, of either, and for two hidden sizes. */
grace_status gr_cuda_experts_one(const gr_cuda_experts *experts, const gr_cuda_one *one, const void *rows, const void *residual, void *out,
                                 gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
