/* Dense products on one GPU: out [n_rows, rows] = x [n_rows, cols] W^T. Activations are bf16, matrices bf16 or fp32, sums fp32; everything is row-major in
 * device memory. Steps are distances between rows in elements. Calls queue work on the stream, allocate nothing, wait for nothing, may be captured, and
 * give the same bits every time; zero rows queue nothing. */
#ifndef GR_COMPUTE_CUDA_LINEAR_H
#define GR_COMPUTE_CUDA_LINEAR_H
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gr_cuda_stream;

typedef struct gr_cuda_matrix {
    const void *data;           /* [rows, cols], 16-byte aligned, cols a multiple of 8 */
    int32_t rows, cols;
    bool fp32;                  /* else bf16 */
} gr_cuda_matrix;

/* What products share: cuBLASLt, its workspace, its algorithms. One stream at a time. */
typedef struct gr_cuda_linears gr_cuda_linears;

/* exact: a row's bits depend on that row and the matrix alone, not on how many rows come with it or where it stands among them. Kernels of ours do all
 * products then; without it cuBLASLt does those of more than 16 rows.
 * overlap: kernels of ours start, and ask for weights, while the kernel before them on the stream still runs (pdl.cuh), so no kernel on the stream may write
 * a matrix.
 * Fails with UNSUPPORTED (no device, cuBLASLt does not start), MEMORY. */
grace_status gr_cuda_linears_open(bool exact, bool overlap, gr_cuda_linears **out);
void gr_cuda_linears_close(gr_cuda_linears *l);

/* Choose the algorithms of a matrix (linear: n_heads 1; linear_heads: out_fp32 false) for up to n_rows_max rows. Without it, the first product of each size
 * chooses, which takes the host about 0.1 ms and may allocate there. Matrices of one shape share what was chosen. */
grace_status gr_cuda_linears_prepare(gr_cuda_linears *l, const gr_cuda_matrix *w, int32_t n_heads, int32_t n_rows_max, bool out_fp32);

/* out = x W^T, and + out when add (bf16 only), rounded once; cuBLASLt may round the product before it adds.
 *   x    [n_rows, cols] bf16, 16-byte aligned, x_step a multiple of 8
 *   out  [n_rows, rows] bf16 or fp32, not overlapping x
 * An fp32 matrix is multiplied in fp32. Fails with LIMIT for other sizes and alignments. */
grace_status gr_cuda_linear(gr_cuda_linears *l, const gr_cuda_matrix *w, const void *x, int64_t x_step, int32_t n_rows, bool add, void *out,
                            int64_t out_step, bool out_fp32, gr_cuda_stream stream);

/* A norm on the way to a product: of x [n_rows, cols], to `to`, as gr_cuda_norm() does. */
typedef struct gr_cuda_norming {
    const float *w;             /* [cols]; NULL: none */
    float eps;
    void *to;                   /* [n_rows, cols], neither x nor out */
} gr_cuda_norming;

/* to = norm(x), then gr_cuda_linear() of that by n = 1 or 2 bf16 matrices of as many columns, with the same bits: of a row or two of up to 2048 columns in
 * one launch. Each out bf16, its rows side by side, as those of x. */
grace_status gr_cuda_norm_linear(gr_cuda_linears *l, const gr_cuda_matrix *w, int32_t n, const gr_cuda_norming *norm, const void *x, int32_t n_rows,
                                 void *const *out, gr_cuda_stream stream);

/* W's rows in n_heads equal parts; part h meets piece h of every row, `cols` elements at x + h * x_head_step; the n_kept elements behind them are copied
 * behind its result.
 *   out  [n_rows, n_heads, rows / n_heads + n_kept] bf16
 * bf16 matrices only; x_head_step, rows / n_heads and n_kept are multiples of 8. */
grace_status gr_cuda_linear_heads(gr_cuda_linears *l, const gr_cuda_matrix *w, int32_t n_heads, int32_t n_kept, const void *x, int64_t x_step,
                                  int64_t x_head_step, int32_t n_rows, void *out, gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
