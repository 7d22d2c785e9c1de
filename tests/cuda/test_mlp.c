/* MLPs of every row (the entry `mlp`, compute/cuda/mlp.c) against plain code on the host, and beside the grouped kernels where those compute them. Without a
 * GPU it says "skipped". */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/cuda/backend.h"
#include "compute/cuda/rows.h"
#include "cuda/moe_case.h"

enum { ROWS_MAX = 1024 };

/* An MLP as the engine opens it, with the inputs and the reference of a moe_case, whose rows and y the entry takes, too. gate NULL: none. */
typedef struct mlp_case {
    moe_case c;
    bool exact;
    uint16_t *gate, *residual, *found;      /* [hidden], [n_rows, hidden] x2 */
    gr_compute *compute;
    gr_mlps mlp;
    gr_weight *d_gate;
    void *in, *between, *x;
} mlp_case;

static int n_failed;

static void claim(bool holds, const char *what, const mlp_case *t) {
    printf("%s %s: %d rows of %d, width %d%s%s\n", holds ? "ok    " : "FAILED", what, t->c.n_rows, t->c.hidden, t->c.width, t->gate ? ", a gate" : "",
           t->exact ? ", exact" : "");
    fflush(stdout);
    n_failed += !holds;
}

static size_t bytes_of(const mlp_case *t) { return (size_t)t->c.n_rows * t->c.hidden * sizeof(uint16_t); }

/* ---- opening ---- */

/* A model of one such MLP: all else as small as it goes. */
static gr_compute *open_backend(const mlp_case *t) {
    static grace_model_info info;
    gr_compute *compute = NULL;
    info = (grace_model_info){.n_layers = 1, .hidden = t->c.hidden, .vocab = 64, .n_heads = 1, .n_kv_heads = 1, .head_dim = 32, .v_dim = 32, .n_experts = 8,
                              .top_k = 2, .expert_width = 8, .shared_width = t->c.width, .context_max = 16, .rms_eps = 1e-5f, .softmax_scale = 1,
                              .rope = {.dim = 32, .magnitude = 1}, .gate = {.scaling = 1}};
    const gr_cuda_options opt = {.info = &info, .n_rows_max = ROWS_MAX, .n_ranks = 1, .n_draws_max = 1, .kv_tokens = 16, .exact = t->exact};
    must(!gr_compute_cuda_open(&opt, &compute), "backend");
    return compute;
}

/* Gate and up, which lie in blocks in the case's matrix, apart as in a file. */
static void open_mlp(mlp_case *t) {
    const moe_case *c = &t->c;
    const int32_t block = gr_cuda_gate_up_block(c->width);
    const size_t row = (size_t)c->hidden * sizeof(uint16_t);
    uint16_t *apart[2] = {malloc((size_t)c->width * row), malloc((size_t)c->width * row)};
    for (int32_t w = 0; w < c->width; w++)
        for (int up = 0; up < 2; up++)
            memcpy(apart[up] + (size_t)w * c->hidden, c->gate_up + ((size_t)(w / block * 2 + up) * block + w % block) * c->hidden, row);
    const gr_mlp_tensors tensors = {.gate = {.data = apart[0], .rows = c->width, .cols = c->hidden, .dtype = GRACE_BF16},
                                    .up = {.data = apart[1], .rows = c->width, .cols = c->hidden, .dtype = GRACE_BF16},
                                    .down = {.data = c->down, .rows = c->hidden, .cols = c->width, .dtype = GRACE_BF16}};
    const grace_tensor gate = {.data = t->gate, .rows = 1, .cols = c->hidden, .dtype = GRACE_BF16};
    must(!t->compute->ops->mlps_open(t->compute, &tensors, 1, 0, &t->mlp), "mlps_open");
    if (t->gate) must(!t->compute->ops->weight_open(t->compute, &gate, &t->d_gate), "weight_open");
    must(cudaDeviceSynchronize() == cudaSuccess, "weights");
    free(apart[0]), free(apart[1]);
}

static mlp_case open_case(int32_t n_rows, int32_t hidden, int32_t width, bool gated, bool exact) {
    mlp_case t = {.c = {.n_slots = 1, .hidden = hidden, .width = width, .n_rows = n_rows, .top_k = 1, .unweighted = true, .untabled = true}, .exact = exact};
    moe_case_open(&t.c, 37, SPREAD_EVEN);
    const size_t n = (size_t)n_rows * hidden;
    t.gate = gated ? malloc((size_t)hidden * sizeof *t.gate) : NULL;
    t.residual = malloc(bytes_of(&t) + 2), t.found = malloc(bytes_of(&t) + 2);
    if (gated) fill_bf16(43, t.gate, (size_t)hidden, 1 / sqrtf((float)hidden));
    fill_bf16(47, t.residual, n, 1);
    t.compute = open_backend(&t);
    open_mlp(&t);
    t.in = t.c.d_rows, t.between = t.c.d_y, t.x = to_device(t.residual, bytes_of(&t));
    return t;
}

static void close_case(mlp_case *t) {
    const gr_compute_ops *ops = t->compute->ops;
    ops->mlps_close(t->compute, &t->mlp);
    ops->weight_close(t->compute, t->d_gate);
    ops->free(t->compute);
    cudaFree(t->x);
    free(t->gate), free(t->residual), free(t->found);
    moe_case_close(&t->c);
}

/* ---- running ---- */

static grace_status queue(void *user) {
    const mlp_case *t = user;
    const gr_mlp_rows m = {.mlp = &t->mlp, .gate = t->d_gate, .n_rows = t->c.n_rows, .in = t->in, .between = t->between, .x = t->x};
    return t->compute->ops->mlp(t->compute, &m);
}

/* On the residual again, into `to`. key: as a recorded step; 0: kernel by kernel. */
static void run(mlp_case *t, int32_t key, uint16_t *to) {
    must(cudaMemcpy(t->x, t->residual, bytes_of(t), cudaMemcpyHostToDevice) == cudaSuccess, "reset");
    must(cudaMemset(t->between, 0xFF, bytes_of(t)) == cudaSuccess, "poison");
    must(cudaDeviceSynchronize() == cudaSuccess, "reset");
    must(!(key ? t->compute->ops->replay(t->compute, key, queue, t) : queue(t)), "mlp");
    to_host(to, t->x, bytes_of(t));
}

/* ---- claims ---- */

static double opened_by(const mlp_case *t, int32_t row) {
    double z = 0;
    if (!t->gate) return 1;
    for (int32_t h = 0; h < t->c.hidden; h++) z += (double)from_bf16(t->gate[h]) * from_bf16(t->c.rows[(size_t)row * t->c.hidden + h]);
    return 1 / (1 + exp(-z));
}

/* The bound of test_moe for what the MLP gives, with its rounding, and two more: of that times the gate, and of the sum with the residual. */
static bool is_within_rounding(const mlp_case *t) {
    const int32_t hidden = t->c.hidden, step = t->c.n_rows > 8 ? t->c.n_rows / 8 : 1;
    double *y = malloc(sizeof *y * (size_t)hidden), *magnitude = malloc(sizeof *y * (size_t)hidden), worst = 0;
    for (int32_t i = 0; i < t->c.n_rows; i += step) {
        const int32_t row = i + step < t->c.n_rows ? i : t->c.n_rows - 1;
        const double by = opened_by(t, row);
        moe_reference(&t->c, row, y, magnitude);
        for (int32_t h = 0; h < hidden; h++) {
            const size_t at = (size_t)row * hidden + h;
            const double wanted = from_bf16(t->residual[at]) + by * y[h], bound = 4 * 0x1p-9 * (by * (magnitude[h] + 2 * fabs(y[h])) + fabs(wanted)) + 1e-6;
            const double error = fabs(from_bf16(t->found[at]) - wanted) / bound;
            if (!(error <= 1) && worst <= 1)
                printf("       row %d column %d: %g, expected %g within %g\n", row, h, (double)from_bf16(t->found[at]), wanted, bound);
            if (!(error <= worst)) worst = error;
        }
    }
    printf("       worst error %.3f of the bound\n", worst);
    free(y), free(magnitude);
    return worst <= 1;
}

static bool has_the_same_bits(mlp_case *t, int32_t key) {
    uint16_t *again = malloc(bytes_of(t) + 2);
    run(t, key, again);
    const bool same = !memcmp(again, t->found, bytes_of(t));
    free(again);
    return same;
}

/* Those of the grouped kernels with one slot, scaled and added by kernels of their own. */
static bool has_the_bits_of_grouped_kernels(mlp_case *t) {
    const size_t n = bytes_of(t) / sizeof(uint16_t);
    uint16_t *other = malloc(bytes_of(t) + 2);
    must(cudaMemcpy(t->x, t->residual, bytes_of(t), cudaMemcpyHostToDevice) == cudaSuccess, "reset");
    must(!gr_cuda_experts_run(t->c.experts, &t->c.pairs, t->in, t->c.d_y, NULL), "experts");
    if (t->d_gate) must(!gr_cuda_scale_rows(t->d_gate->data, t->in, t->c.n_rows, t->c.hidden, t->c.d_y, NULL), "scale_rows");
    must(!gr_cuda_add(t->x, t->c.d_y, (int64_t)n, NULL), "add");
    to_host(other, t->x, bytes_of(t));
    const bool same = !memcmp(other, t->found, bytes_of(t));
    free(other);
    return same;
}

static void check(int32_t n_rows, int32_t hidden, int32_t width, bool gated) {
    mlp_case t = open_case(n_rows, hidden, width, gated, false);
    run(&t, 0, t.found);
    claim(is_within_rounding(&t), "outputs are within rounding", &t);
    claim(has_the_same_bits(&t, 0), "the same bits again", &t);
    claim(has_the_same_bits(&t, 1) && has_the_same_bits(&t, 1), "the same bits in a graph", &t);
    close_case(&t);
}

/* Where the grouped kernels compute: exact mode, more rows than few. */
static void check_grouped(int32_t n_rows, int32_t hidden, int32_t width, bool gated, bool exact) {
    mlp_case t = open_case(n_rows, hidden, width, gated, exact);
    run(&t, 0, t.found);
    claim(has_the_bits_of_grouped_kernels(&t), "the bits of the grouped kernels", &t);
    close_case(&t);
}

/* The last rows that are few, as tiles of 64 x 128 are counted, and the first that are not. */
static void few_ends_where_small_tiles_fill_the_processors(int32_t hidden, int32_t width) {
    int n_processors, device;
    must(cudaGetDevice(&device) == cudaSuccess, "device");
    must(cudaDeviceGetAttribute(&n_processors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess, "processors");
    int32_t few = 0, across = (hidden + 127) / 128;
    while (few < ROWS_MAX - 1 && (few + 1 + 63) / 64 * across < n_processors) few++;
    mlp_case t = open_case(few + 1, hidden, width, false, false);
    const gr_cuda *c = gr_cuda_of(t.compute);
    claim(c->product_rows == few, "few are those whose small tiles leave processors idle", &t);
    close_case(&t);
    check(few, hidden, width, false);
    check_grouped(few + 1, hidden, width, false, false);
}

/* "small": only what a sanitizer gets through in seconds. */
int main(int argc, char **argv) {
    static const int32_t n_rows[] = {0, 1, 2, 3, 16, 17, 64, 65, 200};
    const bool small = argc > 1 && !strcmp(argv[1], "small");
    if (no_gpu("MLPs of every row")) return SKIPPED;
    for (size_t i = 0; i < sizeof n_rows / sizeof *n_rows; i += small ? 3 : 1)
        for (int gated = 0; gated < 2; gated++) {
            check(n_rows[i], 256, 704, gated);
            check(n_rows[i], 328, 72, gated);
            check_grouped(n_rows[i], 256, 128, gated, true);
        }
    if (!small) {
        check(64, 2048, 2816, false);
        check(64, 2048, 2816, true);
        check(17, 2048, 10944, false);
        few_ends_where_small_tiles_fill_the_processors(2048, 1408);
    }
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
