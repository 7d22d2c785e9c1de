/* Experts of a row or two (compute/cuda/experts_one.h) against plain code on the host, and beside the kernels for any number of rows. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/cuda/experts_one.h"
#include "cuda/moe_case.h"

static int n_failed;

static void claim(bool holds, const char *what, const moe_case *c) {
    printf("%s %s: %d slots, %d rows of %d, width %d, top %d\n", holds ? "ok    " : "FAILED", what, c->n_slots, c->n_rows, c->hidden, c->width, c->top_k);
    n_failed += !holds;
}

static void run_one(const moe_case *c, void *x, cudaStream_t stream) {
    const gr_cuda_one one = {c->d_slot, c->d_weight, c->n_rows, c->top_k};
    must(!gr_cuda_experts_one_up(c->experts, &one, c->d_rows, stream), "up");
    must(!gr_cuda_experts_one_down(c->experts, &one, x, x, stream), "down");
}

/* residual + the reference, with the bound of test_moe and one more rounding, of the sum. */
static bool is_within_rounding(const moe_case *c, const uint16_t *residual, const uint16_t *found) {
    double *y = malloc(sizeof *y * (size_t)c->hidden), *magnitude = malloc(sizeof *y * (size_t)c->hidden), worst = 0;
    for (int32_t row = 0; row < c->n_rows; row++) {
        moe_reference(c, row, y, magnitude);
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

static void check(int32_t n_slots, int32_t hidden, int32_t width, int32_t n_rows, int32_t top_k, spread how) {
    moe_case c = {.n_slots = n_slots, .hidden = hidden, .width = width, .n_rows = n_rows, .top_k = top_k};
    moe_case_open(&c, 23, how);
    const size_t n = (size_t)n_rows * hidden, bytes = n * sizeof(uint16_t);
    uint16_t *residual = malloc(bytes + 2), *found = malloc(bytes + 2), *again = malloc(bytes + 2);
    fill_bf16(5, residual, n, 1);
    void *x = to_device(residual, bytes);
    run_one(&c, x, NULL);
    to_host(found, x, bytes);
    claim(is_within_rounding(&c, residual, found), "outputs are within rounding", &c);
    must(cudaMemcpy(x, residual, bytes, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
    run_one(&c, x, NULL);
    to_host(again, x, bytes);
    claim(!memcmp(found, again, bytes), "the same bits again", &c);
    cudaFree(x);
    free(residual), free(found), free(again);
    moe_case_close(&c);
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
    if (!strcmp(mode, "small")) return n_failed > 0;
    check(64, 2048, 1024, 1, 8, SPREAD_EVEN);
    check(64, 2048, 1408, 2, 6, SPREAD_SKEWED);
    check(128, 2048, 768, 1, 8, SPREAD_GAPS);
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
