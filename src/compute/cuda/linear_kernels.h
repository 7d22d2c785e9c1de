/* Dense products between the host's choice (linear.c), cuBLASLt (linear_lt.c) and our kernels (linear_*.cu). */
#ifndef GR_COMPUTE_CUDA_LINEAR_KERNELS_H
#define GR_COMPUTE_CUDA_LINEAR_KERNELS_H
#include "compute/cuda/cuda.h"
#include "compute/cuda/linear.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { GR_CUDA_FEW_ROWS = 16 };

/* One product, of n_heads pieces: out[i][h] = part h of W x piece h of x[i]; n_heads is 1 for a plain one. */
typedef struct gr_cuda_product {
    const void *w;                          /* [n_heads, outs, cols] */
    const void *x;                          /* bf16: row i's piece h is at i * x_step + h * x_head_step */
    void *out;                              /* likewise; kept elements behind the outs of a piece */
    int64_t x_step, x_head_step, out_step, out_head_step;
    int32_t n_rows, n_heads, outs, cols, n_kept;
    bool add, out_fp32;
    /* normed products only: outs from `split` on are a second matrix's, with rows of results of their own. Its elements are those shifts further on than if
     * it lay behind the first; split is a multiple of 8, or outs. */
    int32_t split;
    int64_t w_shift, out_shift, out_step_there;
} gr_cuda_product;

/* bf16 matrices. Both add in one order (linear_order.cuh): same bits, whichever computes a row. Few: at most GR_CUDA_FEW_ROWS rows, kept elements copied. */
grace_status gr_cuda_linear_few(const gr_cuda_product *p, int32_t n_processors, bool overlap, cudaStream_t stream);
/* The same of the norm of x, where it fits: plain products of a row or two. */
bool gr_cuda_linear_few_norms(const gr_cuda_product *p);
grace_status gr_cuda_linear_few_normed(const gr_cuda_product *p, const gr_cuda_norming *norm, int32_t n_processors, bool overlap, cudaStream_t stream);
grace_status gr_cuda_linear_tiles(const gr_cuda_product *p, bool overlap, cudaStream_t stream);
/* fp32 matrices; a row's bits depend on that row alone. */
grace_status gr_cuda_linear_fp32(const gr_cuda_product *p, bool overlap, cudaStream_t stream);
grace_status gr_cuda_copy_kept(const gr_cuda_product *p, bool overlap, cudaStream_t stream);

/* cuBLASLt and its algorithms, chosen once per shape and bucket of rows, four buckets an octave. */
typedef struct gr_cuda_lt gr_cuda_lt;
grace_status gr_cuda_lt_open(gr_cuda_lt **out);
void gr_cuda_lt_close(gr_cuda_lt *lt);
bool gr_cuda_lt_takes(const gr_cuda_product *p);        /* everything 16-byte aligned */
grace_status gr_cuda_lt_prepare(gr_cuda_lt *lt, const gr_cuda_product *p, int32_t n_rows_min);      /* buckets of n_rows_min to p->n_rows rows */
grace_status gr_cuda_lt_run(gr_cuda_lt *lt, const gr_cuda_product *p, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
