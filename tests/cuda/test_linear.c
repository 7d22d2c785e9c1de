/* Dense products on a GPU (compute/cuda/linear*.c, linear_*.cu) against sums in double precision over the same inputs. Without a GPU it says "skipped". */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "compute/cuda/linear.h"
#include "compute/cuda/rows.h"
#include "cuda/device.h"

static int n_failed;
static gr_cuda_linears *fast, *exact, *overlap;

/* One product: x [n_rows, x_step] and W on both sides; heads are pieces of cols and n_kept elements in a row, and the padding lies behind them. */
typedef struct product {
    int32_t n_rows, n_heads, outs, cols, n_kept, x_pad, out_pad;
    bool w_fp32, out_fp32, add, rounded_first;      /* rounded_first: the product may be rounded to bf16 before the addition */
    int64_t x_step, out_step;               /* from here on filled by product_open() */
    size_t n_x, n_out, n_w, out_bytes;
    uint16_t *x, *w;
    float *w_wide;
    void *before, *after;                   /* what out holds before and after, host */
    void *d_x, *d_w, *d_out;
} product;

static const char *name(const product *p) {
    static char text[200];
    snprintf(text, sizeof text, "%d rows x [%d x %d, %d]%s, %d kept, steps +%d +%d, %s%s", p->n_rows, p->n_heads, p->outs, p->cols, p->w_fp32 ? " fp32" : "",
             p->n_kept, p->x_pad, p->out_pad, p->out_fp32 ? "fp32 out" : "bf16 out", p->add ? ", added" : "");
    return text;
}

static void claim(bool holds, const char *what, const product *p) {
    printf("%s %s: %s\n", holds ? "ok    " : "FAILED", what, name(p));
    n_failed += !holds;
}

static void product_open(product *p, uint64_t seed) {
    const int32_t x_width = p->n_heads * (p->cols + p->n_kept), out_width = p->n_heads * (p->outs + p->n_kept);
    p->x_step = x_width + p->x_pad, p->out_step = out_width + p->out_pad;
    p->n_x = (size_t)p->n_rows * (size_t)p->x_step, p->n_out = (size_t)p->n_rows * (size_t)p->out_step;
    p->n_w = (size_t)p->n_heads * (size_t)p->outs * (size_t)p->cols, p->out_bytes = p->n_out * (p->out_fp32 ? 4 : 2);
    p->x = malloc(p->n_x * 2 + 2), p->w = malloc(p->n_w * 2), p->before = malloc(p->out_bytes + 4), p->after = malloc(p->out_bytes + 4);
    fill_bf16(seed + 1, p->x, p->n_x, 1);
    fill_bf16(seed + 2, p->w, p->n_w, 1 / sqrtf((float)p->cols));
    memset(p->before, 0xFF, p->out_bytes);      /* NaN */
    if (p->add) fill_bf16(seed + 3, p->before, p->n_out, 1);
    if (p->w_fp32) {
        gr_rng rng = gr_rng_seed(seed + 4);
        p->w_wide = malloc(p->n_w * 4);
        for (size_t i = 0; i < p->n_w; i++) p->w_wide[i] = from_bf16(p->w[i]) * (float)(1 + 0x1p-9 * gr_rng_uniform(&rng));     /* all bits in use */
    }
    p->d_x = to_device(p->x, p->n_x * 2), p->d_out = to_device(p->before, p->out_bytes);
    p->d_w = p->w_fp32 ? to_device(p->w_wide, p->n_w * 4) : to_device(p->w, p->n_w * 2);
}

static void product_close(product *p) {
    cudaFree(p->d_x), cudaFree(p->d_w), cudaFree(p->d_out);
    free(p->x), free(p->w), free(p->w_wide), free(p->before), free(p->after);
}

/* Rows first .. first + n - 1 to their places in out. */
static void run_rows(gr_cuda_linears *l, const product *p, int32_t first, int32_t n, gr_cuda_stream stream) {
    const gr_cuda_matrix w = {p->d_w, p->n_heads * p->outs, p->cols, p->w_fp32};
    const void *x = (const uint16_t *)p->d_x + first * p->x_step;
    void *out = (char *)p->d_out + first * p->out_step * (p->out_fp32 ? 4 : 2);
    if (p->n_heads > 1 || p->n_kept)
        must(!gr_cuda_linear_heads(l, &w, p->n_heads, p->n_kept, x, p->x_step, p->cols + p->n_kept, n, out, stream), "linear_heads");
    else must(!gr_cuda_linear(l, &w, x, p->x_step, n, p->add, out, p->out_step, p->out_fp32, stream), "linear");
}

static void reset(const product *p) { must(cudaMemcpy(p->d_out, p->before, p->out_bytes, cudaMemcpyHostToDevice) == cudaSuccess, "reset"); }

static void run(gr_cuda_linears *l, product *p) {
    reset(p);
    run_rows(l, p, 0, p->n_rows, NULL);
    to_host(p->after, p->d_out, p->out_bytes);
}

static double value(const product *p, const void *of, size_t i) { return p->out_fp32 ? ((const float *)of)[i] : from_bf16(((const uint16_t *)of)[i]); }

/* ---- within what the roundings explain ----
 * Of the sum: at most one rounding, 2^-23 of what is added up, for every 8 products (the tensor cores add as few as 8 at a time, cutting off) and every
 * segment; of an fp32 matrix one, 2^-24, for every product. Of the result: half a unit of bf16, 2^-8 where the fraction is smallest; the same of the product
 * before it is added, where cuBLASLt does it. */
static double error_of(const product *p, int32_t row, int32_t head, int32_t o) {
    const uint16_t *x = p->x + row * p->x_step + head * (p->cols + p->n_kept);
    const size_t w = ((size_t)head * p->outs + o) * p->cols, at = (size_t)(row * p->out_step) + head * (p->outs + p->n_kept) + o;
    const double old = p->add ? value(p, p->before, at) : 0;
    double sum = old, all = fabs(sum);
    for (int32_t k = 0; k < p->cols; k++) {
        double term = from_bf16(x[k]) * (p->w_fp32 ? (double)p->w_wide[w + k] : from_bf16(p->w[w + k]));
        sum += term, all += fabs(term);
    }
    const double bound = all * (p->w_fp32 ? (p->cols + 16) * 0x1p-24 : (p->cols / 8.0 + 16) * 0x1p-23) + (p->out_fp32 ? 0 : fabs(sum) * 0x1p-8) +
                         (p->rounded_first ? fabs(sum - old) * 0x1p-8 : 0) + 1e-30;
    return fabs(value(p, p->after, at) - sum) / bound;
}

/* All outputs of small products, else corners and some thousands in between. */
static void outputs_are_within_rounding(const product *p) {
    const int64_t n = (int64_t)p->n_rows * p->n_heads * p->outs, n_checked = n < 4000 ? n : 4000;
    double worst = 0;
    int64_t where = 0;
    for (int64_t c = 0; c < n_checked; c++) {
        int64_t i = n_checked == n ? c : (int64_t)((double)(n - 1) * c / (n_checked - 1));
        double error = error_of(p, (int32_t)(i / p->outs / p->n_heads), (int32_t)(i / p->outs % p->n_heads), (int32_t)(i % p->outs));
        if (!(error <= worst)) worst = error, where = i;
    }
    claim(worst <= 1, "outputs are within rounding", p);
    if (n) printf("       worst error %.3f of the bound, at row %d, head %d, output %d\n", worst, (int)(where / p->outs / p->n_heads),
                  (int)(where / p->outs % p->n_heads), (int)(where % p->outs));
}

/* Every output is written (none is NaN), kept elements are x's, padding is as it was. */
static void places_are_right(const product *p) {
    const int32_t piece = p->outs + p->n_kept;
    const size_t size = p->out_fp32 ? 4 : 2;
    size_t n_wrong = 0, first = 0;
    for (size_t i = 0; i < p->n_out; i++) {
        const int64_t row = (int64_t)i / p->out_step, col = (int64_t)i % p->out_step, head = col / piece, o = col % piece;
        bool good;
        if (col >= (int64_t)p->n_heads * piece) good = memcmp((char *)p->after + i * size, (char *)p->before + i * size, size) == 0;
        else if (o < p->outs) good = isfinite(value(p, p->after, i));
        else good = ((uint16_t *)p->after)[i] == p->x[row * p->x_step + head * (p->cols + p->n_kept) + p->cols + o - p->outs];
        if (!good && n_wrong++ == 0) first = i;
    }
    claim(n_wrong == 0, "outputs, kept elements and padding are in their places", p);
    if (n_wrong) printf("       %zu wrong, the first at row %lld, element %lld: %g\n", n_wrong, (long long)first / p->out_step, (long long)first % p->out_step,
                        value(p, p->after, first));
}

/* Says where `again` differs from what the first run gave. */
static bool same_bits(const product *p, const void *again) {
    const size_t size = p->out_fp32 ? 4 : 2;
    for (size_t i = 0; i < p->n_out; i++)
        if (memcmp((char *)p->after + i * size, (const char *)again + i * size, size)) {
            printf("       row %lld, element %lld: %.9g, then %.9g\n", (long long)i / p->out_step, (long long)i % p->out_step, value(p, p->after, i),
                   value(p, again, i));
            return false;
        }
    return true;
}

static void bits_come_again(gr_cuda_linears *l, const product *p) {
    void *again = malloc(p->out_bytes + 4);
    bool good = true;
    for (int i = 0; i < 3 && good; i++) {
        reset(p);
        run_rows(l, p, 0, p->n_rows, NULL);
        to_host(again, p->d_out, p->out_bytes);
        good = same_bits(p, again);
    }
    if (!good) claim(false, "the same bits again", p);
    free(again);
}

static void check(gr_cuda_linears *l, product p) {
    if (!p.n_heads) p.n_heads = 1;
    p.rounded_first = p.add && l == fast && p.n_rows > 16;
    product_open(&p, 31);
    run(l, &p);
    outputs_are_within_rounding(&p);
    places_are_right(&p);
    bits_come_again(l, &p);
    product_close(&p);
}

/* ---- a row's bits do not depend on the rows beside it: any cut of the rows gives what all at once gave ---- */
static void rows_do_not_depend_on_company(gr_cuda_linears *l, product p) {
    static const int32_t cuts[][6] = {{1}, {2, 1}, {7, 9, 8}, {16, 17}, {33, 5, 64}, {65, 127, 1, 128}, {200, 31, 3, 500, 12}, {1000, 1}};
    if (!p.n_heads) p.n_heads = 1;
    product_open(&p, 77);
    run(l, &p);
    void *again = malloc(p.out_bytes + 4);
    bool good = true;
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts && good; c++) {
        if (cuts[c][0] >= p.n_rows) break;
        reset(&p);
        for (int32_t first = 0, i = 0, n; first < p.n_rows; first += n, i = (i + 1) % 6) {
            n = cuts[c][i] ? cuts[c][i] : cuts[c][i = 0];
            if (n > p.n_rows - first) n = p.n_rows - first;
            run_rows(l, &p, first, n, NULL);
        }
        to_host(again, p.d_out, p.out_bytes);
        good = same_bits(&p, again);
        if (!good) printf("       cut by %d, %d, ...\n", cuts[c][0], cuts[c][1]);
    }
    claim(good, "a row's bits do not depend on its company", &p);
    free(again);
    product_close(&p);
}

/* ---- overlapping kernels, in a stream and in a graph: a chain in which each product reads the one before ---- */
static void run_chain(gr_cuda_linears *l, const product *p, int32_t n, gr_cuda_stream stream) {
    for (int32_t i = 0; i < n; i++) {
        const gr_cuda_matrix w = {(const uint16_t *)p->d_w + (size_t)(i % p->n_heads) * p->outs * p->cols, p->outs, p->cols, false};
        void *from = i % 2 ? p->d_out : p->d_x, *to = i % 2 ? p->d_x : p->d_out;
        must(!gr_cuda_linear(l, &w, from, p->cols, p->n_rows, i % 3 == 2, to, p->cols, false, stream), "linear");
    }
}

static void replay(gr_cuda_linears *l, const product *p, int32_t n) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamCreate(&stream) == cudaSuccess && cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess, "capture");
    run_chain(l, p, n, stream);
    must(cudaStreamEndCapture(stream, &graph) == cudaSuccess && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "graph");
    must(cudaGraphLaunch(exec, stream) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess, "replay");
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

static void chains_give_the_same_bits(int32_t n_rows, int32_t width, int32_t n) {
    product p = {.n_rows = n_rows, .n_heads = 5, .outs = width, .cols = width};
    product_open(&p, 5);
    uint16_t *first = malloc(p.n_x * 2 + 2), *again = malloc(p.n_x * 2 + 2);
    gr_cuda_linears *const ways[] = {fast, overlap, fast, overlap};
    bool good = true;
    for (int way = 0; way < 4; way++) {
        must(cudaMemcpy(p.d_x, p.x, p.n_x * 2, cudaMemcpyHostToDevice) == cudaSuccess && cudaMemset(p.d_out, 0, p.out_bytes) == cudaSuccess, "reset");
        if (way < 2) run_chain(ways[way], &p, n, NULL);
        else replay(ways[way], &p, n);
        to_host(way ? again : first, n % 2 ? p.d_out : p.d_x, (size_t)n_rows * width * 2);
        bool same = way == 0 || memcmp(first, again, (size_t)n_rows * width * 2) == 0;
        if (!same) printf("       way %d (1, 3: overlapping; 2, 3: in a graph) differs\n", way);
        good = good && same;
    }
    claim(good && isfinite(from_bf16(first[0])), "a chain of products, overlapping or not, in a graph or not, gives the same bits", &p);
    free(first), free(again);
    product_close(&p);
}

/* ---- norms on the way to products: a chain in which each product reads the norm of the one before, made in its kernel where it can be, and apart ---- */
typedef struct normed { product p; gr_cuda_norming norm; int32_t more_outs; void *more; } normed;      /* more_outs: of a second matrix; more: its results */

/* apart: norm and products as calls of their own, one after the other. */
static void run_normed_chain(gr_cuda_linears *l, const normed *t, int32_t n, bool apart, gr_cuda_stream stream) {
    const product *p = &t->p;
    for (int32_t i = 0; i < n; i++) {
        const gr_cuda_matrix w = {(const uint16_t *)p->d_w + (size_t)(i % p->n_heads) * p->outs * p->cols, p->outs, p->cols, false};
        const gr_cuda_matrix both[2] = {w, {(const uint16_t *)p->d_w + (size_t)((i + 1) % p->n_heads) * p->outs * p->cols, t->more_outs, p->cols, false}};
        void *from = i % 2 ? p->d_out : p->d_x, *to = i % 2 ? p->d_x : p->d_out;
        if (!apart) {
            must(!gr_cuda_norm_linear(l, both, t->more_outs ? 2 : 1, &t->norm, from, p->n_rows, (void *[]){to, t->more}, stream), "norm_linear");
            continue;
        }
        must(!gr_cuda_norm(t->norm.w, t->norm.eps, p->n_rows, p->cols, from, p->cols, NULL, t->norm.to, p->cols, stream), "norm");
        must(cudaStreamSynchronize(stream) == cudaSuccess, "norm");
        must(!gr_cuda_linear(l, &w, t->norm.to, p->cols, p->n_rows, false, to, p->cols, false, stream), "linear");
        if (t->more_outs)
            must(!gr_cuda_linear(l, &both[1], t->norm.to, p->cols, p->n_rows, false, t->more, t->more_outs, false, stream), "linear");
        must(cudaStreamSynchronize(stream) == cudaSuccess, "linear");
    }
}

/* What a chain of n leaves: its last result, the last norm, and the second matrix's result, NaN behind it. In a graph but where the two are apart. */
static uint16_t *result_of_chain(gr_cuda_linears *l, const normed *t, int32_t n, bool apart) {
    const product *p = &t->p;
    const size_t bytes = (size_t)p->n_rows * (size_t)p->cols * 2;
    uint16_t *result = malloc(3 * bytes + 2);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaMemcpy(p->d_x, p->x, bytes, cudaMemcpyHostToDevice) == cudaSuccess && cudaMemset(p->d_out, 0xFF, bytes) == cudaSuccess, "reset");
    must(cudaMemset(t->more, 0xFF, bytes) == cudaSuccess && cudaMemset(t->norm.to, 0xFF, bytes) == cudaSuccess, "reset");
    must(cudaStreamCreate(&stream) == cudaSuccess, "stream");
    if (apart) run_normed_chain(l, t, n, true, stream);
    else {
        must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "capture");
        run_normed_chain(l, t, n, false, stream);
        must(cudaStreamEndCapture(stream, &graph) == cudaSuccess && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "graph");
        must(cudaGraphLaunch(exec, stream) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess, "replay");
        cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
    }
    cudaStreamDestroy(stream);
    to_host(result, n % 2 ? p->d_out : p->d_x, bytes);
    to_host((char *)result + bytes, t->norm.to, bytes), to_host((char *)result + 2 * bytes, t->more, bytes);
    return result;
}

/* more_outs <= width */
static void two_products_of_a_norm_give_the_same_bits(gr_cuda_linears *l, int32_t n_rows, int32_t width, int32_t n, int32_t more_outs) {
    normed t = {.p = {.n_rows = n_rows, .n_heads = 3, .outs = width, .cols = width}, .more_outs = more_outs};
    float *weights = malloc((size_t)width * sizeof *weights);
    gr_rng rng = gr_rng_seed(9);
    for (int32_t i = 0; i < width; i++) weights[i] = 1 + (float)gr_rng_uniform(&rng);
    product_open(&t.p, 8);
    const size_t elements = (size_t)n_rows * (size_t)width;
    t.norm = (gr_cuda_norming){to_device(weights, (size_t)width * sizeof *weights), 1e-5f, to_device(NULL, elements * 2)};
    t.more = to_device(NULL, elements * 2);
    uint16_t *apart = result_of_chain(l, &t, n, true), *together = result_of_chain(l, &t, n, false);
    size_t first = 0;
    while (first < 3 * elements && apart[first] == together[first]) first++;
    claim(first == 3 * elements && isfinite(from_bf16(apart[0])), "norms on the way to products give the bits of norms apart", &t.p);
    if (first < 3 * elements)
        printf("       %s, row %zu, element %zu: apart %g, together %g\n",
               first < elements ? "result" : first < 2 * elements ? "norm" : "second result (counted over its rows)", first % elements / (size_t)width,
               first % (size_t)width, (double)from_bf16(apart[first]), (double)from_bf16(together[first]));
    free(weights), free(apart), free(together), cudaFree((void *)t.norm.w), cudaFree(t.norm.to), cudaFree(t.more);
    product_close(&t.p);
}

static void norms_on_the_way_give_the_same_bits(gr_cuda_linears *l, int32_t n_rows, int32_t width, int32_t n) {
    two_products_of_a_norm_give_the_same_bits(l, n_rows, width, n, 0);
}

static void check_norms(bool small) {
    norms_on_the_way_give_the_same_bits(overlap, 1, 512, small ? 3 : 20);
    norms_on_the_way_give_the_same_bits(exact, 2, 192, small ? 3 : 20);
    two_products_of_a_norm_give_the_same_bits(overlap, 2, 192, 4, 72);
    norms_on_the_way_give_the_same_bits(overlap, 3, 72, 4);         /* more rows than a kernel normalises */
    if (small) return;
    norms_on_the_way_give_the_same_bits(overlap, 1, 2048, 40);
    norms_on_the_way_give_the_same_bits(exact, 1, 2048, 3);
    norms_on_the_way_give_the_same_bits(overlap, 2, 2048, 41);
    norms_on_the_way_give_the_same_bits(overlap, 1, 1032, 9);       /* segments that are not full, more warps than segments */
    norms_on_the_way_give_the_same_bits(overlap, 2, 1544, 9);
    norms_on_the_way_give_the_same_bits(overlap, 1, 8, 4);
    norms_on_the_way_give_the_same_bits(overlap, 1, 2056, 5);       /* wider than a kernel normalises */
    norms_on_the_way_give_the_same_bits(exact, 40, 2048, 3);
    two_products_of_a_norm_give_the_same_bits(overlap, 1, 2048, 40, 576);
    two_products_of_a_norm_give_the_same_bits(exact, 2, 1544, 5, 129);
    two_products_of_a_norm_give_the_same_bits(overlap, 40, 512, 3, 64);
}

/* ---- bad input ---- */
static void refuses(grace_status st, const char *expected) {
    bool good = st != GRACE_OK && strstr(grace_last_error(), expected);
    printf("%s bad input is refused: %s\n", good ? "ok    " : "FAILED", st ? grace_last_error() : "it was taken");
    n_failed += !good;
}

static void bad_input_is_refused(gr_cuda_linears *l) {
    char *d = to_device(NULL, 1 << 16);
    const gr_cuda_matrix good = {d, 16, 32, false}, odd = {d, 16, 12, false}, wide = {d, 16, 32, true}, shifted = {d + 2, 16, 32, false};
    refuses(gr_cuda_linear(l, &odd, d, 16, 1, false, d, 16, false, NULL), "16 x 12");
    refuses(gr_cuda_linear(l, &shifted, d, 32, 1, false, d, 16, false, NULL), "multiples of 16");
    refuses(gr_cuda_linear(l, &good, d, 36, 1, false, d, 16, false, NULL), "36");
    refuses(gr_cuda_linear(l, &good, d + 2, 32, 1, false, d, 16, false, NULL), "multiples of 16");
    refuses(gr_cuda_linear(l, &good, d, 24, 1, false, d, 16, false, NULL), "24");
    refuses(gr_cuda_linear(l, &good, d, 32, 1, true, d, 16, true, NULL), "bf16 only");
    refuses(gr_cuda_linear(l, &wide, d, 32, 1, false, d, 16, false, NULL), "fp32");
    refuses(gr_cuda_linear_heads(l, &good, 3, 0, d, 96, 32, 1, d, NULL), "3 heads");
    refuses(gr_cuda_linear_heads(l, &good, 2, 4, d, 80, 40, 1, d, NULL), "4 kept");
    refuses(gr_cuda_linear_heads(l, &good, 2, 0, d, 80, 36, 1, d, NULL), "36");
    cudaFree(d);
}

static void check_random(gr_cuda_linears *l, gr_rng *rng, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        product p = {.n_rows = (int32_t)gr_rng_below(rng, 200), .outs = 1 + (int32_t)gr_rng_below(rng, 300), .cols = 8 + 8 * (int32_t)gr_rng_below(rng, 90)};
        if (gr_rng_below(rng, 2)) p.n_rows %= 20;
        p.x_pad = 8 * (int32_t)gr_rng_below(rng, 3), p.out_pad = (int32_t)gr_rng_below(rng, 3);
        p.w_fp32 = gr_rng_below(rng, 4) == 0, p.out_fp32 = p.w_fp32 || gr_rng_below(rng, 2), p.add = !p.out_fp32 && gr_rng_below(rng, 2);
        check(l, p);
        product h = {.n_rows = p.n_rows, .n_heads = 1 + (int32_t)gr_rng_below(rng, 5), .outs = 8 + p.outs / 8 * 8, .cols = p.cols,
                     .n_kept = 8 * (int32_t)gr_rng_below(rng, 3), .x_pad = p.x_pad};
        check(l, h);
    }
}

static void check_all(bool small) {
    static const int32_t rows[] = {0, 1, 300, 3, 8, 17, 16, 64, 11, 65};
    gr_rng rng = gr_rng_seed(2026);
    printf("random shapes from seed 2026\n");
    check_random(fast, &rng, small ? 2 : 40);
    check_random(exact, &rng, small ? 1 : 20);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i += small ? 3 : 1) {
        check(i % 2 ? fast : exact, (product){.n_rows = rows[i], .outs = 192, .cols = 192, .add = true});
        check(i % 2 ? exact : fast, (product){.n_rows = rows[i], .outs = 64, .cols = 48, .n_heads = 4, .n_kept = 16});
        check(fast, (product){.n_rows = rows[i], .outs = 64, .cols = 520, .w_fp32 = true, .out_fp32 = true, .x_pad = 8, .out_pad = 3});
    }
    if (small) return;
    for (size_t i = 1; i < sizeof rows / sizeof *rows; i++) {
        check(fast, (product){.n_rows = rows[i], .outs = 2048, .cols = 4096, .add = true});
        check(fast, (product){.n_rows = rows[i], .outs = 3072 + 576, .cols = 2048});
        check(fast, (product){.n_rows = rows[i], .outs = 2048, .cols = 10944, .add = true, .x_pad = 64});      /* more segments than warps */
        check(fast, (product){.n_rows = rows[i], .outs = 512, .cols = 128, .n_heads = 16, .n_kept = 64});      /* to the latent and back */
        check(fast, (product){.n_rows = rows[i], .outs = 128, .cols = 512, .n_heads = 16});
    }
    check(fast, (product){.n_rows = 2, .outs = 151936, .cols = 2048, .out_fp32 = true});
    check(fast, (product){.n_rows = 40, .outs = 50304, .cols = 2048, .out_fp32 = true});
    check(fast, (product){.n_rows = 4096, .outs = 2048, .cols = 2048, .add = true});
    check(exact, (product){.n_rows = 1500, .outs = 2048, .cols = 2048, .add = true});
    check(fast, (product){.n_rows = 2000, .outs = 64, .cols = 2048, .w_fp32 = true, .out_fp32 = true});
}

static void check_company(bool small) {
    rows_do_not_depend_on_company(fast, (product){.n_rows = 16, .outs = 200, .cols = 776, .add = true});
    rows_do_not_depend_on_company(fast, (product){.n_rows = small ? 12 : 70, .outs = 72, .cols = 328, .w_fp32 = true, .out_fp32 = true});
    rows_do_not_depend_on_company(exact, (product){.n_rows = small ? 35 : 150, .outs = 136, .cols = 600, .out_fp32 = true});
    rows_do_not_depend_on_company(exact, (product){.n_rows = small ? 18 : 70, .outs = 64, .cols = 304, .n_heads = 3, .n_kept = 8});
    if (small) return;
    rows_do_not_depend_on_company(exact, (product){.n_rows = 4096, .outs = 2048, .cols = 2048, .out_fp32 = true});
    rows_do_not_depend_on_company(exact, (product){.n_rows = 1100, .outs = 512, .cols = 10944, .out_fp32 = true});
    rows_do_not_depend_on_company(exact, (product){.n_rows = 1100, .outs = 2048, .cols = 4096, .add = true});
    rows_do_not_depend_on_company(exact, (product){.n_rows = 300, .outs = 512, .cols = 128, .n_heads = 16, .n_kept = 64});
}

/* "small": only what a sanitizer gets through in seconds. */
int main(int argc, char **argv) {
    bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    if (no_gpu("dense products")) return SKIPPED;
    must(!gr_cuda_linears_open(false, false, &fast) && !gr_cuda_linears_open(true, false, &exact) && !gr_cuda_linears_open(false, true, &overlap), "open");
    const gr_cuda_matrix square = {NULL, 512, 512, false};
    must(!gr_cuda_linears_prepare(fast, &square, 1, 40, false) && !gr_cuda_linears_prepare(overlap, &square, 1, 40, false), "prepare");
    check_all(small);
    check_company(small);
    chains_give_the_same_bits(1, 512, small ? 5 : 41);
    chains_give_the_same_bits(13, 512, small ? 6 : 42);
    chains_give_the_same_bits(40, 512, small ? 5 : 41);
    check_norms(small);
    bad_input_is_refused(fast);
    gr_cuda_linears_close(fast), gr_cuda_linears_close(exact), gr_cuda_linears_close(overlap);
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
