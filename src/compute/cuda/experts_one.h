/* Experts of a row or two: every choice reads its weights by itself, no pairs are grouped, and the sum over a token's choices is made where they are
 * computed. Two launches from slots to the residual stream. */
#ifndef GR_COMPUTE_CUDA_EXPERTS_ONE_H
#define GR_COMPUTE_CUDA_EXPERTS_ONE_H
#include <stdbool.h>

#include "compute/cuda/moe.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { GR_CUDA_ONE_ROWS = 2, GR_CUDA_ONE_TOP_K = 16 };      /* rows up to which it pays; choices it takes */

/* Of a layer's MLPs: up    act[c] = silu(gate x) * (up x) of choice c = row * top_k + j, for all choices with a slot >= 0;
 *                    down  out[row] = residual[row] (NULL: 0) + sum over j of weight[c] * (down act[c]), each product rounded to bf16 first, in order of j,
 *                          rounded once.
 * rows, residual, out [n_rows, hidden]; slot, weight [n_rows, top_k], NULL: all 0, all 1; act is the experts' own scratch. Sums over an index k run in
 * another order than those of gr_cuda_experts_run(). Fail with LIMIT where gr_cuda_experts_one_fits() says no: biases, a limit, more rows or choices. */
typedef struct gr_cuda_one { const int32_t *slot; const float *weight; int32_t n_rows, top_k; } gr_cuda_one;

bool gr_cuda_experts_one_fits(const gr_cuda_experts *experts, int32_t n_rows, int32_t top_k);
grace_status gr_cuda_experts_one_up(const gr_cuda_experts *experts, const gr_cuda_one *one, const void *rows, gr_cuda_stream stream);
grace_status gr_cuda_experts_one_down(const gr_cuda_experts *experts, const gr_cuda_one *one, const void *residual, void *out,
                                      gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
