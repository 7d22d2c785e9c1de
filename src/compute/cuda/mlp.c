/* MLPs of every row, a dense layer's and that of the expert which all tokens use, by the number of rows. Of a row or two the weights stream past
 * (experts_one.cu). Of few, two dense products, each cut as suits its shape, with SwiGLU between them; of many, and wherever a row's bits may not depend on
 * how many there are, the grouped kernels with one slot. */
#include "compute/cuda/backend.h"
#include "compute/cuda/rows.h"

enum { TILE_ROWS = 64, TILE_OUTS = 128 };       /* the grouped kernels' small tiles */

/* Few: small tiles of `down` leave processors without one. */
static int32_t few_rows(const gr_cuda *c, int32_t n_processors) {
    const int32_t across = (c->info.hidden + TILE_OUTS - 1) / TILE_OUTS, most = (n_processors - 1) / across * TILE_ROWS;
    return most < c->opt.n_rows_max ? most : c->opt.n_rows_max;
}

grace_status gr_cuda_mlp_open(gr_cuda *c) {
    grace_status st = GRACE_OK;
    const int32_t width = c->info.dense_width > c->info.shared_width ? c->info.dense_width : c->info.shared_width;
    int n_processors;
    if (!gr_cuda_goes_by_rows(c) || width == 0) return GRACE_OK;
    GR_TRY(gr_cuda_status(cudaDeviceGetAttribute(&n_processors, cudaDevAttrMultiProcessorCount, c->device), "processors"));
    c->product_rows = few_rows(c, n_processors);
    GR_TRY(gr_cuda_alloc(&c->gate_up, (size_t)c->product_rows * 2 * (size_t)width * sizeof *c->gate_up, "activations of MLPs"));
done:
    return st;
}

static gr_cuda_matrix gate_up_of(const gr_cuda_mlps *m) { return (gr_cuda_matrix){m->gate_up, 2 * m->width, m->hidden, false}; }
static gr_cuda_matrix down_of(const gr_cuda_mlps *m) { return (gr_cuda_matrix){m->down, m->hidden, m->width, false}; }

static bool products_pay(const gr_cuda *c, const gr_cuda_mlps *m, int32_t n_rows) {
    return n_rows <= c->product_rows && !m->gate_up_bias && !m->down_bias;
}

grace_status gr_cuda_mlp_prepare(gr_cuda *c, const gr_cuda_mlps *m) {
    grace_status st = GRACE_OK;
    const gr_cuda_matrix gate_up = gate_up_of(m), down = down_of(m);
    if (!products_pay(c, m, 1)) return GRACE_OK;
    GR_TRY(gr_cuda_linears_prepare(c->linears, &gate_up, 1, c->product_rows, true));
    GR_TRY(gr_cuda_linears_prepare(c->linears, &down, 1, c->product_rows, false));
done:
    return st;
}

/* Nothing is rounded before SwiGLU, as in the grouped kernels. */
static grace_status run_products(gr_cuda *c, const gr_cuda_mlps *m, const void *in, int32_t n_rows, bool add, void *out) {
    grace_status st = GRACE_OK;
    const gr_cuda_matrix gate_up = gate_up_of(m), down = down_of(m);
    GR_TRY(gr_cuda_linear(c->linears, &gate_up, in, m->hidden, n_rows, false, c->gate_up, gate_up.rows, true, c->stream));
    GR_TRY(gr_cuda_swiglu(c->gate_up, n_rows, m->width, gr_cuda_gate_up_block(m->width), c->act, c->stream));
    GR_TRY(gr_cuda_linear(c->linears, &down, c->act, m->width, n_rows, add, out, m->hidden, false, c->stream));
done:
    return st;
}

/* Without a gate the last kernel adds to the stream itself, where it can. */
grace_status gr_cuda_mlp(gr_compute *base, const gr_mlp_rows *r) {
    grace_status st = GRACE_OK;
    gr_cuda *c = gr_cuda_of(base);
    const gr_cuda_mlps *m = r->mlp->packed;
    const int32_t n = r->n_rows;
    const gr_cuda_one each = {.n_rows = n, .top_k = 1};
    const gr_cuda_pairs every = {.n_slots = 1, .n_rows = n, .top_k = 1, .spares = c->spares};
    const bool singles = gr_cuda_singles_pay(c, n, 1), products = !singles && products_pay(c, m, n), adds = !r->gate && (singles || products);
    void *out = adds ? r->x : r->between;
    if (singles) GR_TRY(gr_cuda_experts_one(m->experts, &each, r->in, adds ? r->x : NULL, out, c->stream));
    else if (products) GR_TRY(run_products(c, m, r->in, n, adds, out));
    else GR_TRY(gr_cuda_experts_run(m->experts, &every, r->in, out, c->stream));
    if (r->gate) GR_TRY(gr_cuda_scale_rows(r->gate->data, r->in, n, m->hidden, r->between, c->stream));
    if (!adds) GR_TRY(gr_cuda_add(r->x, r->between, (int64_t)n * m->hidden, c->stream));
done:
    return st;
}
