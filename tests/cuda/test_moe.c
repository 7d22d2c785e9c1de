/* The kernels of an MoE layer on a GPU (compute/cuda/cuda.c, experts.c, and the .cu files) against plain code on the host. Without a GPU it says
 * "skipped". */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "compute/cuda/experts.h"
#include "cuda/moe_case.h"

static int n_failed;

static void claim(bool holds, const char *what, const moe_case *c) {
    n_failed += !holds;
    printf("%s %s: %s, %d slots, %d rows of %d, width %d, top %d%s%s%s\n", holds ? "ok    " : "FAILED", what, gr_cuda_experts_kernels(c->experts),
           c->n_slots, c->n_rows, c->hidden, c->width, c->top_k, c->biased ? ", biases" : "", c->limit > 0 ? ", limit" : "",
           c->untabled ? ", no tables" : "");
    fflush(stdout);
}

/* ---- grouping: exact ---- */

typedef struct tables { int32_t *first, *row, *pair; } tables;

static tables tables_of(const moe_case *c) {
    size_t n = (size_t)c->n_rows * c->top_k;
    tables t = {malloc(((size_t)c->n_slots + 1) * 4), malloc(n * 4 + 4), malloc(n * 4 + 4)};
    to_host(t.first, c->pairs.first_pair, ((size_t)c->n_slots + 1) * 4);
    to_host(t.row, c->pairs.row_of_pair, n * 4);
    to_host(t.pair, c->pairs.pair_of_choice, n * 4);
    return t;
}

static bool grouping_is_a_stable_sort(const moe_case *c) {
    int64_t n = (int64_t)c->n_rows * c->top_k, wrong = -1;
    tables t = tables_of(c);
    int32_t at = 0;
    for (int32_t s = 0; s < c->n_slots; s++) {
        if (t.first[s] != at) printf("       slot %d begins at %d, expected %d\n", s, t.first[s], at), wrong = 0;
        for (int64_t i = 0; i < n; i++) {
            if (c->slot[i] != s) continue;
            if (wrong < 0 && (t.pair[i] != at || t.row[at] != (int32_t)(i / c->top_k)))
                printf("       choice %ld: pair %d of row %d, expected pair %d of row %d\n", (long)i, t.pair[i], t.row[at], at, (int32_t)(i / c->top_k)),
                    wrong = i;
            at++;
        }
    }
    for (int64_t i = 0; i < n && wrong < 0; i++)
        if (c->slot[i] < 0 && t.pair[i] != -1) printf("       choice %ld has no slot, but pair %d\n", (long)i, t.pair[i]), wrong = i;
    if (t.first[c->n_slots] != at) printf("       %d pairs, expected %d\n", t.first[c->n_slots], at), wrong = 0;
    free(t.first), free(t.row), free(t.pair);
    return wrong < 0;
}

/* ---- experts and combine: within what the roundings of bf16 explain ----
 * Roundings: every intermediate to bf16 (about 2^-9 of itself, at most 2^-8, each independent: their sum is as the root of the sum of squares), an
 * expert's output, and the token's sum. Four times that: an intermediate's error is even over its half unit at most, so seven of its standard deviations. */

static bool all_finite(const uint16_t *out, const moe_case *c) {      /* all were poisoned with NaN */
    for (size_t i = 0; i < (size_t)c->n_rows * c->hidden; i++) {
        if (isfinite(from_bf16(out[i]))) continue;
        printf("       row %zu column %zu is %g\n", i / c->hidden, i % c->hidden, (double)from_bf16(out[i]));
        return false;
    }
    return true;
}

static bool outputs_are_within_rounding(const moe_case *c) {
    size_t n = (size_t)c->n_rows * c->hidden;
    uint16_t *out = malloc(n * 2 + 2);
    double *y = malloc(sizeof *y * (size_t)c->hidden), *magnitude = malloc(sizeof *y * (size_t)c->hidden), worst = 0;
    to_host(out, c->d_out, n * 2);
    bool finite = all_finite(out, c);
    for (int32_t i = 0; i < 5 && c->n_rows > 0; i++) {
        int32_t row = (int32_t)((int64_t)(c->n_rows - 1) * i / 4);
        moe_reference(c, row, y, magnitude);
        for (int32_t h = 0; h < c->hidden; h++) {
            double found = from_bf16(out[(size_t)row * c->hidden + h]), bound = 4 * 0x1p-9 * (magnitude[h] + fabs(y[h])) + 1e-6;
            double error = fabs(found - y[h]) / bound;
            if (!(error <= 1) && worst <= 1) printf("       row %d column %d: %g, expected %g within %g\n", row, h, found, y[h], bound);
            if (!(error <= worst)) worst = error;
        }
    }
    printf("       worst error %.3f of the bound\n", worst);
    free(out), free(y), free(magnitude);
    return finite && worst <= 1;
}

/* ---- bits: the same again, and the same for a row whatever is computed with it ---- */

static bool rows_keep_their_bits(const moe_case *c, int32_t first_row, int32_t n_rows, const uint16_t *whole) {
    size_t from = (size_t)first_row * c->hidden, n = (size_t)n_rows * c->hidden, at = 0;
    uint16_t *part = malloc(n * 2 + 2);
    must(cudaMemset((uint16_t *)c->d_out + from, 0xFF, n * 2) == cudaSuccess, "poison");
    moe_case_run_part(c, first_row, n_rows, NULL);
    to_host(part, (uint16_t *)c->d_out + from, n * 2);
    while (at < n && part[at] == whole[from + at]) at++;
    if (at < n)
        printf("       rows %d and %d on: row %zu column %zu is %g, was %g among all\n", first_row, n_rows, first_row + at / c->hidden, at % c->hidden,
               (double)from_bf16(part[at]), (double)from_bf16(whole[from + at]));
    free(part);
    return at == n;
}

static bool bits_are_a_matter_of_the_row(const moe_case *c) {
    uint16_t *whole = malloc((size_t)c->n_rows * c->hidden * 2 + 2);
    const int32_t n = c->n_rows, parts[][2] = {{0, n}, {0, n}, {0, 1}, {n / 2, 1}, {n / 3, n / 20}, {n / 2, n / 3}, {n - n / 50, n / 50}};
    bool good = true;
    to_host(whole, c->d_out, (size_t)n * c->hidden * 2);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i][0] + parts[i][1] <= n) good = rows_keep_their_bits(c, parts[i][0], parts[i][1], whole) && good;
    free(whole);
    return good;
}

/* All tiles that the kernels have, whichever a run of this size would take. */
static bool tiles_agree(const moe_case *c) {
    static const char *const names[] = {"small", "large"};
    size_t n = (size_t)c->n_rows * c->hidden;
    uint16_t *whole = malloc(n * 2 + 2), *found = malloc(n * 2 + 2);
    bool hopper = strcmp(gr_cuda_experts_kernels(c->experts), "hopper") == 0, good = true;
    to_host(whole, c->d_out, n * 2);
    for (gr_cuda_tiles tiles = GR_CUDA_TILES_SMALL; tiles <= GR_CUDA_TILES_LARGE && n > 0; tiles++) {
        must(cudaMemset(c->d_act, 0xFF, (size_t)c->n_rows * c->top_k * c->width * 2) == cudaSuccess, "poison");
        must(cudaMemset(c->d_y, 0xFF, (size_t)c->n_rows * c->top_k * c->hidden * 2) == cudaSuccess, "poison");
        must(!(hopper ? gr_cuda_experts_hopper : gr_cuda_experts_mma)(c->experts, &c->pairs, c->d_rows, c->d_y, tiles, NULL), "tiles");
        must(!gr_cuda_combine(&c->pairs, c->unweighted ? NULL : c->d_weight, c->d_y, NULL, c->hidden, c->d_out, NULL), "combine");
        to_host(found, c->d_out, n * 2);
        size_t at = 0;
        while (at < n && found[at] == whole[at]) at++;
        if (at < n)
            printf("       %s tiles: row %zu column %zu is %g, was %g\n", names[tiles], at / c->hidden, at % c->hidden, (double)from_bf16(found[at]),
                   (double)from_bf16(whole[at]));
        good = good && at == n;
    }
    free(whole), free(found);
    return good;
}

static void check(moe_case c, spread how) {
    moe_case_open(&c, 17, how);
    moe_case_run(&c, NULL);
    must(cudaDeviceSynchronize() == cudaSuccess, "run");
    if (!c.untabled) claim(grouping_is_a_stable_sort(&c), "grouping is a stable sort", &c);
    claim(outputs_are_within_rounding(&c), "outputs are within rounding", &c);
    if (strcmp(gr_cuda_experts_kernels(c.experts), "plain") != 0) claim(tiles_agree(&c), "all tiles give the same bits", &c);
    claim(bits_are_a_matter_of_the_row(&c), "a row has the same bits again and in any company", &c);
    moe_case_close(&c);
}

/* ---- opening ---- */

static void opening(const char *what, gr_cuda_experts_options options, grace_status expected, const char *kernels) {
    gr_cuda_experts *e = NULL;
    uint16_t *some = to_device(NULL, (size_t)4 << 20);
    options.gate_up = options.down = options.act = some;
    grace_status found = gr_cuda_experts_open(&options, &e);
    const char *name = found ? "nothing" : gr_cuda_experts_kernels(e);
    bool good = found == expected && (found || strcmp(name, kernels) == 0);
    printf("%s opening %s: status %d, %s, expected %d, %s%s%s\n", good ? "ok    " : "FAILED", what, found, name, expected, expected ? "nothing" : kernels,
           found ? ": " : "", found ? grace_last_error() : "");
    n_failed += !good;
    gr_cuda_experts_close(e);
    cudaFree(some);
}

static void check_opening(void) {
    const gr_cuda_experts_options fit = {.n_slots = 2, .hidden = 256, .width = 128, .n_pairs_max = 8};
    gr_cuda_experts_options o = fit;
    o.width = 24;
    opening("a width that is no multiple of 64", o, GRACE_OK, "mma");
    o.kernels = GR_CUDA_KERNELS_HOPPER;
    opening("the same for hopper", o, GRACE_ERR_LIMIT, "");
    o = fit, o.kernels = GR_CUDA_KERNELS_MMA;
    opening("mma kernels for sizes that others take", o, GRACE_OK, "mma");
    o = fit, o.kernels = GR_CUDA_KERNELS_PLAIN;
    opening("plain kernels for sizes that others take", o, GRACE_OK, "plain");
    o = fit, o.hidden = 100;
    opening("a hidden size of 100", o, GRACE_ERR_LIMIT, "");
    o = fit, o.n_slots = 257;
    opening("257 slots", o, GRACE_ERR_LIMIT, "");
    o = fit, o.n_slots = 0;
    opening("no slots", o, GRACE_ERR_LIMIT, "");
}

/* ---- cases ---- */

/* Every kernel: few rows, slots without rows, sizes that fill no tile, an ordinary MLP. Small enough for a sanitizer. */
static void check_small(gr_cuda_kernels kernels) {
    const moe_case small = {.n_slots = 4, .hidden = 256, .width = 128, .top_k = 2, .kernels = kernels};
    const int32_t n_rows[] = {0, 3, 150};
    for (int i = 0; i < 3; i++) {
        moe_case c = small;
        c.n_rows = n_rows[i];
        check(c, i < 2 ? SPREAD_EVEN : SPREAD_GAPS);
    }
    check((moe_case){.n_slots = 5, .hidden = 328, .width = 192, .n_rows = 90, .top_k = 3, .kernels = kernels}, SPREAD_SKEWED);
    check((moe_case){.n_slots = 1, .hidden = 256, .width = 704, .n_rows = 70, .top_k = 1, .kernels = kernels, .unweighted = true, .untabled = true},
          SPREAD_EVEN);
}

/* Many rows: full tiles and their ends, gaps, one slot for all. */
static void check_many(gr_cuda_kernels kernels) {
    check((moe_case){.n_slots = 4, .hidden = 256, .width = 128, .n_rows = 400, .top_k = 2, .kernels = kernels}, SPREAD_EVEN);
    check((moe_case){.n_slots = 16, .hidden = 512, .width = 256, .n_rows = 40, .top_k = 4, .kernels = kernels}, SPREAD_SKEWED);
    check((moe_case){.n_slots = 8, .hidden = 512, .width = 384, .n_rows = 700, .top_k = 2, .kernels = kernels}, SPREAD_GAPS);
    check((moe_case){.n_slots = 16, .hidden = 512, .width = 256, .n_rows = 1300, .top_k = 2, .kernels = kernels}, SPREAD_ONE);
    check((moe_case){.n_slots = 5, .hidden = 328, .width = 192, .n_rows = 600, .top_k = 3, .kernels = kernels}, SPREAD_EVEN);
}

/* Sizes that fit no tile, biases, limits: what the Hopper kernels leave to others. */
static void check_odd(gr_cuda_kernels kernels) {
    check((moe_case){.n_slots = 7, .hidden = 192, .width = 24, .n_rows = 50, .top_k = 3, .kernels = kernels}, SPREAD_GAPS);
    check((moe_case){.n_slots = 3, .hidden = 8, .width = 8, .n_rows = 20, .top_k = 2, .kernels = kernels}, SPREAD_EVEN);
    check((moe_case){.n_slots = 6, .hidden = 136, .width = 128, .n_rows = 60, .top_k = 2, .biased = true, .limit = 0.7f, .kernels = kernels}, SPREAD_EVEN);
    check((moe_case){.n_slots = 6, .hidden = 136, .width = 72, .n_rows = 200, .top_k = 4, .biased = true, .unweighted = true, .kernels = kernels},
          SPREAD_GAPS);
}

static void check_models(gr_cuda_kernels kernels) {
    check((moe_case){.n_slots = 64, .hidden = 2048, .width = 1024, .n_rows = 1, .top_k = 8, .kernels = kernels}, SPREAD_EVEN);
    check((moe_case){.n_slots = 64, .hidden = 2048, .width = 1024, .n_rows = 100, .top_k = 8, .kernels = kernels}, SPREAD_SKEWED);
    check((moe_case){.n_slots = 64, .hidden = 2048, .width = 1408, .n_rows = 256, .top_k = 6, .kernels = kernels}, SPREAD_EVEN);
    check((moe_case){.n_slots = 128, .hidden = 2048, .width = 768, .n_rows = 300, .top_k = 8, .kernels = kernels}, SPREAD_SKEWED);
    check((moe_case){.n_slots = 64, .hidden = 2048, .width = 1024, .n_rows = 1500, .top_k = 8, .kernels = kernels}, SPREAD_SKEWED);
    check((moe_case){.n_slots = 64, .hidden = 2048, .width = 1408, .n_rows = 2000, .top_k = 6, .kernels = kernels}, SPREAD_GAPS);
    check((moe_case){.n_slots = 16, .hidden = 512, .width = 256, .n_rows = 4097, .top_k = 2, .kernels = kernels}, SPREAD_ONE);
    check((moe_case){.n_slots = 1, .hidden = 2048, .width = 10944, .n_rows = 300, .top_k = 1, .kernels = kernels, .unweighted = true, .untabled = true},
          SPREAD_EVEN);
}

/* "small": only what a sanitizer gets through in seconds. */
int main(int argc, char **argv) {
    bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    if (no_gpu("kernels of an MoE layer")) return SKIPPED;
    check_opening();
    const gr_cuda_kernels all[] = {GR_CUDA_KERNELS_AUTO, GR_CUDA_KERNELS_MMA, GR_CUDA_KERNELS_PLAIN};
    for (int i = 0; i < 3; i++) check_small(all[i]);
    check_odd(GR_CUDA_KERNELS_MMA);
    check_odd(GR_CUDA_KERNELS_PLAIN);
    for (int i = 0; i < 3 && !small; i++) check_many(all[i]);
    if (!small) check_models(GR_CUDA_KERNELS_AUTO), check_models(GR_CUDA_KERNELS_MMA);
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
