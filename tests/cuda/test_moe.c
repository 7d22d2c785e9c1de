/* The kernels of an MoE layer on a GPU (compute/cuda/cuda.c, experts.c, and the .cu files) against plain code on the host. Without a GPU it says
 * "skipped". */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/moe_case.h"

static int n_failed;

static void claim(bool holds, const char *what, const moe_case *c) {
    printf("%s %s: %d slots, %d rows of %d, width %d, top %d\n", holds ? "ok    " : "FAILED", what, c->n_slots, c->n_rows, c->hidden, c->width, c->top_k);
    n_failed += !holds;
}

/* ---- grouping: exact ---- */

static bool grouping_is_a_stable_sort(const moe_case *c) {
    size_t n = (size_t)c->n_rows * c->top_k;
    int32_t *first = malloc(((size_t)c->n_slots + 1) * 4), *row = malloc(n * 4 + 4), *pair = malloc(n * 4 + 4), at = 0;
    bool good = true;
    must(cudaMemcpy(first, c->pairs.first_pair, ((size_t)c->n_slots + 1) * 4, cudaMemcpyDeviceToHost) == cudaSuccess, "copy");
    must(cudaMemcpy(row, c->pairs.row_of_pair, n * 4, cudaMemcpyDeviceToHost) == cudaSuccess, "copy");
    must(cudaMemcpy(pair, c->pairs.pair_of_choice, n * 4, cudaMemcpyDeviceToHost) == cudaSuccess, "copy");
    for (int32_t s = 0; s < c->n_slots; s++) {
        good = good && first[s] == at;
        for (size_t i = 0; i < n; i++)
            if (c->slot[i] == s) {
                good = good && pair[i] == at && row[at] == (int32_t)(i / (size_t)c->top_k);
                at++;
            }
    }
    good = good && first[c->n_slots] == at && (size_t)at == n;
    free(first), free(row), free(pair);
    return good;
}

/* ---- experts and combine: within what the roundings of bf16 explain ----
 * Roundings: every intermediate to bf16 (half a unit, 2^-9, each independent: their sum grows with the root of the width), an expert's output, and the
 * token's sum. Four times that. */
static bool outputs_are_within_rounding(const moe_case *c, double *worst) {
    size_t n = (size_t)c->n_rows * c->hidden;
    uint16_t *out = malloc(n * 2 + 2);
    double *y = malloc(sizeof *y * (size_t)c->hidden), *magnitude = malloc(sizeof *y * (size_t)c->hidden);
    must(cudaMemcpy(out, c->d_out, n * 2, cudaMemcpyDeviceToHost) == cudaSuccess, "copy");
    *worst = 0;
    bool finite = true;
    for (size_t i = 0; i < n; i++) finite = finite && isfinite(from_bf16(out[i]));     /* all were poisoned with NaN */
    for (int32_t i = 0; i < 5 && c->n_rows > 0; i++) {
        int32_t row = (int32_t)((int64_t)(c->n_rows - 1) * i / 4);
        moe_reference(c, row, y, magnitude);
        for (int32_t h = 0; h < c->hidden; h++) {
            double error = fabs(from_bf16(out[(size_t)row * c->hidden + h]) - y[h]) / (4 * 0x1p-9 * (magnitude[h] + fabs(y[h])) + 1e-6);
            if (!(error <= *worst)) *worst = error;
        }
    }
    free(out), free(y), free(magnitude);
    return finite && *worst <= 1;
}

static uint64_t sum_of(const void *device, size_t bytes) {
    unsigned char *host = malloc(bytes + 1);
    uint64_t hash = 1469598103934665603u;
    must(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost) == cudaSuccess, "copy");
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ host[i]) * 1099511628211u;
    free(host);
    return hash;
}

static void check(int32_t n_slots, int32_t hidden, int32_t width, int32_t n_rows, int32_t top_k, spread how) {
    moe_case c = {.n_slots = n_slots, .hidden = hidden, .width = width, .n_rows = n_rows, .top_k = top_k};
    double worst;
    moe_case_open(&c, 17, how);
    moe_case_run(&c, NULL);
    must(cudaDeviceSynchronize() == cudaSuccess, "run");
    claim(grouping_is_a_stable_sort(&c), "grouping is a stable sort", &c);
    bool good = outputs_are_within_rounding(&c, &worst);
    claim(good, "outputs are within rounding", &c);
    printf("       worst error %.3f of the bound\n", worst);
    uint64_t once = sum_of(c.d_out, (size_t)n_rows * hidden * 2);
    for (int i = 0; i < 5; i++) {
        moe_case_run(&c, NULL);
        if (sum_of(c.d_out, (size_t)n_rows * hidden * 2) != once) claim(false, "the same bits again", &c);
    }
    moe_case_close(&c);
}

/* "small": only what a sanitizer gets through in seconds. */
int main(int argc, char **argv) {
    bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    if (no_gpu("kernels of an MoE layer")) return SKIPPED;
    check(4, 256, 128, 3, 2, SPREAD_EVEN);
    check(4, 256, 128, 0, 2, SPREAD_EVEN);
    check(4, 256, 128, 400, 2, SPREAD_EVEN);          /* large tiles, fewer of them than processors */
    check(16, 512, 256, 40, 4, SPREAD_SKEWED);
    check(8, 512, 384, 700, 2, SPREAD_EVEN);
    check(16, 512, 256, 1300, 2, SPREAD_ONE);
    if (small) return n_failed > 0;
    check(64, 2048, 1024, 1, 8, SPREAD_EVEN);
    check(64, 2048, 1024, 100, 8, SPREAD_SKEWED);
    check(64, 2048, 1408, 256, 6, SPREAD_EVEN);
    check(128, 2048, 768, 300, 8, SPREAD_SKEWED);
    check(64, 2048, 1024, 1500, 8, SPREAD_SKEWED);
    check(64, 2048, 1408, 2000, 6, SPREAD_EVEN);
    check(16, 512, 256, 4097, 2, SPREAD_ONE);
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
