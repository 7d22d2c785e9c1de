/* Kernels that go over rows of activations once. Activations are bf16, vectors fp32 unless said, sums fp32; widths are multiples of 8 and rows lie
 * on 16 bytes. Every call queues one launch (none for zero rows) and waits for nothing; a row's bits depend on that row alone. Fail with LIMIT, ARG,
 * and with UNSUPPORTED for what CUDA says. */
#ifndef GR_COMPUTE_CUDA_ROWS_H
#define GR_COMPUTE_CUDA_ROWS_H
#include <stdint.h>

#include "base/status.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gr_cuda_stream;

enum { GR_CUDA_WIDTH_MAX = 16384 };     /* of norm and scale_rows */

/* out[i] = table[id[i]], [n_rows, hidden]; a negative id stands for drawn[-1 - id], or, where drawn is NULL, gives zeros. */
grace_status gr_cuda_embed(const void *table, const int32_t *id, const int32_t *drawn, int32_t n_rows, int32_t hidden, void *out, gr_cuda_stream stream);
/* out[i] = in[index[i]], [n_rows, width]; a negative index gives zeros. */
grace_status gr_cuda_gather(const void *in, const int32_t *index, int32_t n_rows, int32_t width, void *out, gr_cuda_stream stream);

/* x += y [n_rows, width] first, unless y is NULL: rounded and stored. Then out = x / sqrt(mean of squares + eps) * w, of the stored x, rounded once.
 * Rows of x and out are x_step and out_step elements apart; out may be x. */
grace_status gr_cuda_norm(const float *w, float eps, int32_t n_rows, int32_t width, void *x, int64_t x_step, const void *y, void *out,
                          int64_t out_step, gr_cuda_stream stream);

/* x[i] += y[i], n elements */
grace_status gr_cuda_add(void *x, const void *y, int64_t n, gr_cuda_stream stream);
/* x[i] += bias [width], rows x_step elements apart */
grace_status gr_cuda_add_bias(const float *bias, int32_t n_rows, int32_t width, void *x, int64_t x_step, gr_cuda_stream stream);
/* act [n_rows, width] = silu(gate) * up of gate_up [n_rows, 2 * width] in fp32: `block` of gate, as many of up, and so on (gr_cuda_gate_up_block()) */
grace_status gr_cuda_swiglu(const float *gate_up, int32_t n_rows, int32_t width, int32_t block, void *act, gr_cuda_stream stream);
/* y[i] *= sigmoid(w x[i]); w [hidden] bf16, x and y [n_rows, hidden] */
grace_status gr_cuda_scale_rows(const void *w, const void *x, int32_t n_rows, int32_t hidden, void *y, gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
