#include "compute/cuda/linear.h"

#include <inttypes.h>

#include "base/memory.h"
#include "compute/cuda/linear_kernels.h"
#include "compute/cuda/rows.h"

enum { STEP = 8, BYTES = 16 };      /* of columns and steps, and what kernels load at once */

struct gr_cuda_linears {
    bool overlap;
    int32_t n_processors;
    gr_cuda_lt *lt;                 /* NULL: exact */
};

grace_status gr_cuda_linears_open(bool exact, bool overlap, gr_cuda_linears **out) {
    grace_status st = GRACE_OK;
    gr_cuda_linears *l = NULL;
    int device;
    GR_CALLOC(l, 1);
    l->overlap = overlap;
    GR_TRY(gr_cuda_status(cudaGetDevice(&device), "current device"));
    GR_TRY(gr_cuda_status(cudaDeviceGetAttribute(&l->n_processors, cudaDevAttrMultiProcessorCount, device), "processors"));
    if (!exact) GR_TRY(gr_cuda_lt_open(&l->lt));
    *out = l, l = NULL;
done:
    gr_cuda_linears_close(l);
    return st;
}

void gr_cuda_linears_close(gr_cuda_linears *l) {
    if (!l) return;
    gr_cuda_lt_close(l->lt);
    free(l);
}

/* ---- checks: everything that loads of 16 bytes need ---- */
static bool in_steps(int64_t n) { return n % STEP == 0; }

static grace_status check(const gr_cuda_matrix *w, const gr_cuda_product *p) {
    grace_status st = GRACE_OK;
    GR_CHECK(w->rows >= 1 && w->cols >= 1 && in_steps(w->cols), GRACE_ERR_LIMIT, "cuda: a matrix of %d x %d: columns come in multiples of %d", w->rows, w->cols,
             STEP);
    GR_CHECK(p->n_rows >= 0 && p->n_heads >= 1 && w->rows % p->n_heads == 0, GRACE_ERR_ARG, "cuda: a matrix of %d rows for %d heads and %d rows of x", w->rows,
             p->n_heads, p->n_rows);
    GR_CHECK(in_steps(p->x_step) && in_steps(p->x_head_step), GRACE_ERR_LIMIT,
             "cuda: rows %" PRId64 " and heads %" PRId64 " elements apart: multiples of %d are expected", p->x_step, p->x_head_step, STEP);
    GR_CHECK((uintptr_t)w->data % BYTES == 0 && (uintptr_t)p->x % BYTES == 0, GRACE_ERR_LIMIT, "cuda: matrix at %p, rows at %p: multiples of %d are expected",
             w->data, p->x, BYTES);
    GR_CHECK(!p->add || !p->out_fp32, GRACE_ERR_ARG, "cuda: products are added to bf16 only");
    GR_CHECK(!w->fp32 || p->out_fp32, GRACE_ERR_ARG, "cuda: an fp32 matrix gives fp32 results, bf16 was asked for");
done:
    return st;
}

static bool use_lt(const gr_cuda_linears *l, const gr_cuda_product *p) { return l->lt && p->n_rows > GR_CUDA_FEW_ROWS && gr_cuda_lt_takes(p); }

static grace_status run(gr_cuda_linears *l, const gr_cuda_product *p, cudaStream_t stream) {
    grace_status st = GRACE_OK;
    if (p->n_rows <= GR_CUDA_FEW_ROWS) return gr_cuda_linear_few(p, l->n_processors, l->overlap, stream);
    GR_TRY(use_lt(l, p) ? gr_cuda_lt_run(l->lt, p, stream) : gr_cuda_linear_tiles(p, l->overlap, stream));
    GR_TRY(gr_cuda_copy_kept(p, l->overlap, stream));
done:
    return st;
}

static gr_cuda_product plain_product(const gr_cuda_matrix *w, int32_t n_rows, bool add, bool out_fp32) {
    return (gr_cuda_product){.w = w->data, .x_step = w->cols, .out_step = w->rows, .n_rows = n_rows, .n_heads = 1, .outs = w->rows, .cols = w->cols, .add = add,
                             .out_fp32 = out_fp32};
}

static gr_cuda_product heads_product(const gr_cuda_matrix *w, int32_t n_heads, int32_t n_kept, int32_t n_rows) {
    const int32_t outs = n_heads > 0 ? w->rows / n_heads : 0;
    const int64_t x_piece = w->cols + n_kept, out_piece = outs + n_kept;
    return (gr_cuda_product){.w = w->data, .x_step = n_heads * x_piece, .x_head_step = x_piece, .out_step = n_heads * out_piece, .out_head_step = out_piece,
                             .n_rows = n_rows, .n_heads = n_heads, .outs = outs, .cols = w->cols, .n_kept = n_kept};
}

grace_status gr_cuda_linears_prepare(gr_cuda_linears *l, const gr_cuda_matrix *w, int32_t n_heads, int32_t n_rows_max, bool out_fp32) {
    grace_status st = GRACE_OK;
    gr_cuda_product p = n_heads == 1 ? plain_product(w, n_rows_max, false, out_fp32) : heads_product(w, n_heads, 0, n_rows_max);
    GR_TRY(check(w, &p));
    if (!w->fp32 && use_lt(l, &p)) GR_TRY(gr_cuda_lt_prepare(l->lt, &p, GR_CUDA_FEW_ROWS + 1));
done:
    return st;
}

grace_status gr_cuda_linear(gr_cuda_linears *l, const gr_cuda_matrix *w, const void *x, int64_t x_step, int32_t n_rows, bool add, void *out,
                            int64_t out_step, bool out_fp32, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    gr_cuda_product p = plain_product(w, n_rows, add, out_fp32);
    p.x = x, p.x_step = x_step, p.out = out, p.out_step = out_step;
    GR_TRY(check(w, &p));
    GR_CHECK(x_step >= w->cols && out_step >= w->rows, GRACE_ERR_ARG, "cuda: rows of %d and %d elements, but %" PRId64 " and %" PRId64 " apart", w->cols,
             w->rows, x_step, out_step);
    if (n_rows == 0) goto done;
    GR_TRY(w->fp32 ? gr_cuda_linear_fp32(&p, l->overlap, stream) : run(l, &p, stream));
done:
    return st;
}

/* Elements from a to b, which need not be of one allocation. */
static int64_t elements_between(const void *a, const void *b) { return ((int64_t)(intptr_t)b - (int64_t)(intptr_t)a) / (int64_t)sizeof(uint16_t); }

/* p of w[0], with w[1] behind it. */
static void add_matrix(gr_cuda_product *p, const gr_cuda_matrix *w, void *const *out) {
    p->outs += w[1].rows;
    p->w_shift = elements_between(w[0].data, w[1].data) - (int64_t)w[0].rows * w[0].cols;
    p->out_shift = elements_between(out[0], out[1]) - w[0].rows;
    p->out_step_there = w[1].rows;
}

grace_status gr_cuda_norm_linear(gr_cuda_linears *l, const gr_cuda_matrix *w, int32_t n, const gr_cuda_norming *norm, const void *x, int32_t n_rows,
                                 void *const *out, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    gr_cuda_product p = plain_product(&w[0], n_rows, false, false);
    p.x = x, p.out = out[0], p.split = p.outs;
    for (int32_t i = 0; i < n; i++) GR_TRY(check(&w[i], &p));
    GR_CHECK(n == 1 || (n == 2 && w[1].cols == w[0].cols), GRACE_ERR_ARG, "cuda: %d matrices for one norm, of %d and %d columns", n, w[0].cols, w[n - 1].cols);
    if (n_rows > 0 && gr_cuda_linear_few_norms(&p) && (n == 1 || in_steps(w[0].rows))) {
        if (n == 2) add_matrix(&p, w, out);
        return gr_cuda_linear_few_normed(&p, norm, l->n_processors, l->overlap, stream);
    }
    GR_TRY(gr_cuda_norm(norm->w, norm->eps, n_rows, w[0].cols, (void *)x, w[0].cols, NULL, norm->to, w[0].cols, stream));
    for (int32_t i = 0; i < n; i++)
        GR_TRY(gr_cuda_linear(l, &w[i], norm->to, w[i].cols, n_rows, false, out[i], w[i].rows, false, stream));
done:
    return st;
}

grace_status gr_cuda_linear_heads(gr_cuda_linears *l, const gr_cuda_matrix *w, int32_t n_heads, int32_t n_kept, const void *x, int64_t x_step,
                                  int64_t x_head_step, int32_t n_rows, void *out, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    gr_cuda_product p = heads_product(w, n_heads, n_kept, n_rows);
    p.x = x, p.x_step = x_step, p.x_head_step = x_head_step, p.out = out;
    GR_TRY(check(w, &p));
    GR_CHECK(in_steps(p.outs) && in_steps(n_kept) && (uintptr_t)out % BYTES == 0, GRACE_ERR_LIMIT,
             "cuda: heads of %d and %d kept elements to %p: multiples of %d, and of %d bytes, are expected", p.outs, n_kept, out, STEP, BYTES);
    GR_CHECK(!w->fp32, GRACE_ERR_ARG, "cuda: products by head take bf16 matrices, this one is fp32");
    if (n_rows > 0) GR_TRY(run(l, &p, stream));
done:
    return st;
}
