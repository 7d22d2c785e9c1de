/* Experts of a row or two (compute/cuda/experts_one.h) against plain code on the host, and beside the kernels for any number of rows. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/cuda/experts_one.h"
#include "compute/cuda/rows.h"
#include "cuda/moe_case.h"

static int n_failed;

static void claim(bool holds, const char *what, const moe_case *c, const moe_case *shared) {
    printf("%s %s: %d slots, %d rows of %d, width %d, top %d, shared width %d\n", holds ? "ok    " : "FAILED", what, c->n_slots, c->n_rows, c->hidden,
           c->width, c->top_k, shared->width);
    n_failed += !holds;
}

/* shared of width 0: none. */
static void run_one(const moe_case *c, const moe_case *shared, void *x, cudaStream_t stream) {
    const gr_cuda_one one = {c->d_slot, c->d_weight, c->n_rows, c->top_k, shared->experts, shared->d_act};
    must(!gr_cuda_experts_one(c->experts, &one, c->d_rows, x, x, stream), "experts of few rows");
}

/* What the shared MLP gives, on top of y and magnitude. */
static void add_reference(const moe_case *shared, int32_t row, double *y, double *magnitude) {
    double *more = malloc(sizeof *more * (size_t)shared->hidden), *size = malloc(sizeof *size * (size_t)shared->hidden);
    moe_reference(shared, row, more, size);
    for (int32_t h = 0; h < shared->hidden; h++) y[h] += more[h], magnitude[h] += size[h];
    free(more), free(size);
}

/* residual + the reference, with the bound of test_moe and one more rounding, of the sum. */
static bool is_within_rounding(const moe_case *c, const moe_case *shared, const uint16_t *residual, const uint16_t *found) {
    double *y = malloc(sizeof *y * (size_t)c->hidden), *magnitude = malloc(sizeof *y * (size_t)c->hidden), worst = 0;
    for (int32_t row = 0; row < c->n_rows; row++) {
        moe_reference(c, row, y, magnitude);
        if (shared->width) add_reference(shared, row, y, magnitude);
        for (int32_t h = 0; h < c->hidden; h++) {
            const size_t at = (size_t)row * c->hidden + h;
            const double wanted = from_bf16(residual[at]) + y[h], bound = 4 * 0x1p-9 * (magnitude[h] + fabs(y[h]) + fabs(wanted)) + 1e-6;
            const double error = fabs(from_bf16(found[at]) - wanted) / bound;
            if (!(error <= 1) && worst <= 1)
                printf("       row %d column %d: %g, expected %g within %g\n", row, h, (double)from_bf16(found[at]), wanted, bound);
            if (!(error <= worst)) worst = error;
        }
    }
    printf("       worst error %.3f of the bound\n", worst);
    free(y), free(magnitude);
    return worst <= 1;
}

/* Opens an MLP of every row for the rows of c. */
static void open_shared(const moe_case *c, int32_t width, moe_case *shared) {
    *shared = (moe_case){.n_slots = 1, .hidden = c->hidden, .width = width, .n_rows = c->n_rows, .top_k = 1, .unweighted = true, .untabled = true};
    if (!width) return;
    moe_case_open(shared, 41, SPREAD_EVEN);
    memcpy(shared->rows, c->rows, (size_t)c->n_rows * c->hidden * sizeof *c->rows);
}

static void check_shared(int32_t n_slots, int32_t hidden, int32_t width, int32_t n_rows, int32_t top_k, spread how, int32_t shared_width) {
    moe_case c = {.n_slots = n_slots, .hidden = hidden, .width = width, .n_rows = n_rows, .top_k = top_k}, shared;
    moe_case_open(&c, 23, how);
    open_shared(&c, shared_width, &shared);
    const size_t n = (size_t)n_rows * hidden, bytes = n * sizeof(uint16_t);
    uint16_t *residual = malloc(bytes + 2), *found = malloc(bytes + 2), *again = malloc(bytes + 2);
    fill_bf16(5, residual, n, 1);
    void *x = to_device(residual, bytes);
    run_one(&c, &shared, x, NULL);
    to_host(found, x, bytes);
    claim(is_within_rounding(&c, &shared, residual, found), "outputs are within rounding", &c, &shared);
    must(cudaMemcpy(x, residual, bytes, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
    run_one(&c, &shared, x, NULL);
    to_host(again, x, bytes);
    claim(!memcmp(found, again, bytes), "the same bits again", &c, &shared);
    cudaFree(x);
    free(residual), free(found), free(again);
    moe_case_close(&c);
    if (shared_width) moe_case_close(&shared);
}

static void check(int32_t n_slots, int32_t hidden, int32_t width, int32_t n_rows, int32_t top_k, spread how) {
    check_shared(n_slots, hidden, width, n_rows, top_k, how, 0);
}

/* ---- a chain of layers, as the engine has it: the choices of each are written right before it, by a kernel that lets the next start, and each adds to
 * the stream that the one before left. What starts early must not read what is not finished ---- */
enum { CHAIN = 12 };

typedef struct chain { const moe_case *c, *shared; int32_t *chosen, *number; void *x; } chain;      /* chosen: slots of two layers, in turn; number: 0, 1 */

static void queue_chain(const chain *t, cudaStream_t stream, bool wait) {
    const moe_case *c = t->c;
    for (int32_t i = 0; i < CHAIN; i++) {
        const gr_cuda_one one = {c->d_slot, c->d_weight, c->n_rows, c->top_k, t->shared->experts, t->shared->d_act};
        must(!gr_cuda_gather(t->chosen, t->number + i % 2, 1, 2 * c->n_rows * c->top_k, c->d_slot, stream), "slots");
        must(!gr_cuda_experts_one(c->experts, &one, c->d_rows, t->x, t->x, stream), "experts of few rows");
        if (wait) must(cudaStreamSynchronize(stream) == cudaSuccess, "wait");
        must(!gr_cuda_experts_one(c->experts, &one, t->x, NULL, c->d_rows, stream), "experts of few rows");
        if (wait) must(cudaStreamSynchronize(stream) == cudaSuccess, "wait");
    }
}

static void a_chain_in_a_graph_gives_the_bits_of_one_by_one(int32_t n_rows, int32_t top_k, int32_t shared_width) {
    moe_case c = {.n_slots = 16, .hidden = 512, .width = 192, .n_rows = n_rows, .top_k = top_k}, shared;
    moe_case_open(&c, 29, SPREAD_EVEN);
    open_shared(&c, shared_width, &shared);
    const size_t bytes = (size_t)n_rows * (size_t)c.hidden * sizeof *c.rows, n = (size_t)n_rows * (size_t)top_k;
    uint16_t *found[2] = {malloc(bytes), malloc(bytes)};
    int32_t *both = malloc(2 * n * sizeof *both);
    for (size_t i = 0; i < n; i++) both[i] = c.slot[i], both[n + i] = (c.slot[i] + 1) % c.n_slots;
    const chain t = {&c, &shared, to_device(both, 2 * n * sizeof *both), to_device((const int32_t[]){0, 1}, 8), to_device(c.rows, bytes)};
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamCreate(&stream) == cudaSuccess, "stream");
    queue_chain(&t, stream, true);
    to_host(found[0], t.x, bytes);
    must(cudaMemcpy(t.x, c.rows, bytes, cudaMemcpyHostToDevice) == cudaSuccess, "reset");
    must(cudaMemcpy(c.d_rows, c.rows, bytes, cudaMemcpyHostToDevice) == cudaSuccess, "reset");
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "capture");
    queue_chain(&t, stream, false);
    must(cudaStreamEndCapture(stream, &graph) == cudaSuccess && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "graph");
    must(cudaGraphLaunch(exec, stream) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess, "replay");
    to_host(found[1], t.x, bytes);
    claim(!memcmp(found[0], found[1], bytes), "a chain in a graph gives the bits of one by one", &c, &shared);
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
    cudaFree(t.chosen), cudaFree(t.number), cudaFree(t.x);
    free(found[0]), free(found[1]), free(both);
    moe_case_close(&c);
    if (shared_width) moe_case_close(&shared);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (no_gpu("experts of a row or two")) return SKIPPED;
    check(4, 256, 128, 1, 2, SPREAD_EVEN);
    check(4, 256, 128, 0, 2, SPREAD_EVEN);
    check(8, 192, 48, 2, 3, SPREAD_EVEN);
    check(8, 192, 24, 2, 8, SPREAD_ONE);
    check(16, 320, 200, 2, 5, SPREAD_GAPS);
    check(1, 256, 704, 2, 1, SPREAD_EVEN);
    check(3, 256, 88, 2, 1, SPREAD_EVEN);
    check_shared(4, 256, 128, 1, 2, SPREAD_EVEN, 256);
    check_shared(16, 320, 200, 2, 5, SPREAD_GAPS, 72);
    check_shared(8, 192, 24, 2, 8, SPREAD_ONE, 1000);
    a_chain_in_a_graph_gives_the_bits_of_one_by_one(1, 8, 384);
    a_chain_in_a_graph_gives_the_bits_of_one_by_one(2, 8, 0);
    if (!strcmp(mode, "small")) return n_failed > 0;
    check(64, 2048, 1024, 1, 8, SPREAD_EVEN);
    check(64, 2048, 1408, 2, 6, SPREAD_SKEWED);
    check(128, 2048, 768, 1, 8, SPREAD_GAPS);
    check_shared(64, 2048, 1408, 1, 6, SPREAD_EVEN, 2816);
    check_shared(64, 2048, 1408, 2, 6, SPREAD_GAPS, 2816);
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
