/* Kernels over rows (compute/cuda/rows.cu) against plain code on the host. Without a GPU it says "skipped". */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "compute/cuda/rows.h"
#include "cuda/device.h"

enum { GAP = 0xFFFF };      /* a bf16 NaN: what lies between rows and behind them, and must stay */

static int n_failed;

static void claim(bool holds, const char *what, int32_t n_rows, int32_t width) {
    if (!holds) printf("FAILED %s: %d rows of %d\n", what, n_rows, width);
    n_failed += !holds;
}

/* ---- values: rows of `width`, `step` apart, in host memory that is a copy of the device's ---- */
static uint16_t *random_rows(uint64_t seed, int32_t n_rows, int32_t width, int64_t step, float scale) {
    size_t n = (size_t)n_rows * (size_t)step;
    uint16_t *x = malloc(n * 2 + 2);
    fill_bf16(seed, x, n, scale);
    for (int32_t i = 0; i < n_rows; i++)
        for (int64_t j = width; j < step; j++) x[i * step + j] = GAP;
    return x;
}

static float *random_vector(uint64_t seed, int32_t n, float middle, float scale) {
    uint16_t *b = random_rows(seed, 1, n, n, scale);
    float *v = malloc(sizeof *v * (size_t)n);
    for (int32_t i = 0; i < n; i++) v[i] = middle + from_bf16(b[i]) * 1.0009765625f;    /* no bf16 */
    free(b);
    return v;
}

static uint16_t *fetch(const void *device, int32_t n_rows, int64_t step) {
    size_t n = (size_t)n_rows * (size_t)step;
    uint16_t *x = malloc(n * 2 + 2);
    to_host(x, device, n * 2);
    return x;
}

static void *poisoned(int32_t n_rows, int64_t step) {
    size_t bytes = (size_t)n_rows * (size_t)step * 2;
    void *d = to_device(NULL, bytes);
    must(cudaMemset(d, 0xFF, bytes) == cudaSuccess, "cudaMemset");
    return d;
}

/* Half a unit in the last place of a bf16 of this size. */
static double half_unit(double x) { return x == 0 ? 0 : ldexp(1, ilogb(x) - 8); }

/* The first wrong place is told. error: of the value beside its rounding, relative. */
static bool near(const char *what, double expected, uint16_t found, double error, int32_t row, int32_t column, double *worst) {
    double off = fabs(from_bf16(found) - expected), bound = half_unit(expected) + error * fabs(expected) + 1e-38;
    if (off / bound > *worst) *worst = off / bound;
    if (off <= bound) return true;
    printf("       %s: row %d, column %d: expected %.9g, found %.9g, error %.3f of the bound\n", what, row, column, expected, (double)from_bf16(found),
           off / bound);
    return false;
}

static bool same(const char *what, const uint16_t *expected, const uint16_t *found, int32_t n_rows, int64_t step) {
    for (int64_t i = 0; i < n_rows * step; i++)
        if (expected[i] != found[i]) {
            printf("       %s: row %lld, column %lld: expected %04x, found %04x\n", what, (long long)(i / step), (long long)(i % step), expected[i],
                   found[i]);
            return false;
        }
    return true;
}

/* ---- copies ---- */
static void check_gather(uint64_t seed, int32_t n_rows, int32_t width) {
    enum { FROM = 37 };
    gr_rng rng = gr_rng_seed(seed);
    uint16_t *in = random_rows(seed, FROM, width, width, 1), *expected = calloc((size_t)n_rows * (size_t)width + 1, 2);
    int32_t *index = malloc(4 * (size_t)n_rows + 4);
    for (int32_t i = 0; i < n_rows; i++) {
        index[i] = (int32_t)gr_rng_below(&rng, FROM + 1) - 1;
        if (index[i] >= 0) memcpy(expected + (int64_t)i * width, in + (int64_t)index[i] * width, (size_t)width * 2);
    }
    void *d_in = to_device(in, FROM * (size_t)width * 2), *d_index = to_device(index, 4 * (size_t)n_rows), *d_out = poisoned(n_rows, width);
    must(gr_cuda_gather(d_in, d_index, n_rows, width, d_out, NULL) == GRACE_OK, "gather");
    uint16_t *out = fetch(d_out, n_rows, width);
    claim(same("gather", expected, out, n_rows, width), "gather copies rows, zeros for a negative index", n_rows, width);
    must(cudaMemset(d_out, 0xFF, (size_t)n_rows * (size_t)width * 2) == cudaSuccess, "cudaMemset");
    must(gr_cuda_embed(d_in, d_index, NULL, n_rows, width, d_out, NULL) == GRACE_OK, "embed");
    free(out), out = fetch(d_out, n_rows, width);
    claim(same("embed", expected, out, n_rows, width), "embed copies rows, zeros for a negative id", n_rows, width);
    int32_t drawn[FROM];
    for (int32_t i = 0; i < FROM; i++) drawn[i] = index[i % (n_rows ? n_rows : 1)] < 0 || n_rows == 0 ? 0 : index[i % n_rows];
    for (int32_t i = 0; i < n_rows; i++) {
        if (i % 2 == 0) index[i] = -1 - i % FROM;
        const int32_t id = index[i] < 0 ? drawn[-1 - index[i]] : index[i];
        memcpy(expected + (int64_t)i * width, in + (int64_t)id * width, (size_t)width * 2);
    }
    void *d_ids = to_device(index, 4 * (size_t)n_rows), *d_drawn = to_device(drawn, sizeof drawn);
    must(gr_cuda_embed(d_in, d_ids, d_drawn, n_rows, width, d_out, NULL) == GRACE_OK, "embed");
    free(out), out = fetch(d_out, n_rows, width);
    claim(same("embed", expected, out, n_rows, width), "a negative id stands for one that was drawn", n_rows, width);
    cudaFree(d_ids), cudaFree(d_drawn);
    free(in), free(expected), free(index), free(out), cudaFree(d_in), cudaFree(d_index), cudaFree(d_out);
}

/* ---- norm ---- */
typedef struct norm_case {
    int32_t n_rows, width;
    int64_t x_step, out_step;
    float eps;
    uint16_t *x, *y;        /* y NULL: none */
    float *w;
    void *d_x, *d_y, *d_w, *d_out;
} norm_case;

static norm_case open_norm(uint64_t seed, int32_t n_rows, int32_t width, bool with_y, bool in_place, int32_t gap) {
    norm_case c = {.n_rows = n_rows, .width = width, .x_step = width + gap, .out_step = width + (in_place ? gap : 2 * gap), .eps = 1e-5f};
    c.x = random_rows(seed, n_rows, width, c.x_step, 3);
    if (n_rows > 2) for (int32_t j = 0; j < width; j++) c.x[2 * c.x_step + j] = 0;      /* a row of zeros */
    c.y = with_y ? random_rows(seed + 1, n_rows, width, width, 2) : NULL;
    c.w = random_vector(seed + 2, width, 1, 0.5f);
    c.d_x = to_device(c.x, (size_t)n_rows * (size_t)c.x_step * 2);
    c.d_y = with_y ? to_device(c.y, (size_t)n_rows * (size_t)width * 2) : NULL;
    c.d_w = to_device(c.w, 4 * (size_t)width);
    c.d_out = in_place ? c.d_x : poisoned(n_rows, c.out_step);
    return c;
}

static void close_norm(norm_case *c) {
    if (c->d_out != c->d_x) cudaFree(c->d_out);
    free(c->x), free(c->y), free(c->w), cudaFree(c->d_x), cudaFree(c->d_y), cudaFree(c->d_w);
}

static void add_rows(norm_case *c) {
    for (int32_t i = 0; i < c->n_rows && c->y; i++)
        for (int32_t j = 0; j < c->width; j++) {
            uint16_t *x = &c->x[i * c->x_step + j];
            *x = to_bf16(from_bf16(*x) + from_bf16(c->y[(int64_t)i * c->width + j]));
        }
}

static bool norm_is_right(const norm_case *c, const uint16_t *out, double *worst) {
    for (int32_t i = 0; i < c->n_rows; i++) {
        double squares = 0;
        for (int32_t j = 0; j < c->width; j++) squares += pow(from_bf16(c->x[i * c->x_step + j]), 2);
        double scale = 1 / sqrt(squares / c->width + (double)c->eps);
        for (int32_t j = 0; j < c->width; j++) {
            const double expected = from_bf16(c->x[i * c->x_step + j]) * scale * (double)c->w[j];
            if (!near("norm", expected, out[i * c->out_step + j], 4e-6, i, j, worst)) return false;
        }
        for (int64_t j = c->width; j < c->out_step; j++)
            if (out[i * c->out_step + j] != GAP) return printf("       norm: row %d: wrote behind the row, at %lld\n", i, (long long)j), false;
    }
    return true;
}

static void check_norm(uint64_t seed, int32_t n_rows, int32_t width, bool with_y, bool in_place, int32_t gap, double *worst) {
    norm_case c = open_norm(seed, n_rows, width, with_y, in_place, gap);
    must(gr_cuda_norm(c.d_w, c.eps, n_rows, width, c.d_x, c.x_step, c.d_y, c.d_out, c.out_step, NULL) == GRACE_OK, "norm");
    add_rows(&c);
    uint16_t *x = fetch(c.d_x, n_rows, c.x_step), *out = fetch(c.d_out, n_rows, c.out_step);
    if (!in_place) claim(same("norm, x", c.x, x, n_rows, c.x_step), "norm stores the rounded sum", n_rows, width);
    claim(norm_is_right(&c, out, worst), with_y ? "norm of a sum is within rounding" : "norm is within rounding", n_rows, width);
    free(x), free(out), close_norm(&c);
}

/* Every row alone gives the bits it has among all. */
static void check_norm_alone(uint64_t seed, int32_t n_rows, int32_t width) {
    norm_case c = open_norm(seed, n_rows, width, false, false, 8);
    must(gr_cuda_norm(c.d_w, c.eps, n_rows, width, c.d_x, c.x_step, NULL, c.d_out, c.out_step, NULL) == GRACE_OK, "norm");
    uint16_t *all = fetch(c.d_out, n_rows, c.out_step);
    must(cudaMemset(c.d_out, 0xFF, (size_t)n_rows * (size_t)c.out_step * 2) == cudaSuccess, "cudaMemset");
    for (int32_t i = 0; i < n_rows; i++) {
        uint16_t *x = (uint16_t *)c.d_x + i * c.x_step, *out = (uint16_t *)c.d_out + i * c.out_step;
        must(gr_cuda_norm(c.d_w, c.eps, 1, width, x, c.x_step, NULL, out, c.out_step, NULL) == GRACE_OK, "norm of one row");
    }
    uint16_t *alone = fetch(c.d_out, n_rows, c.out_step);
    claim(same("norm alone", all, alone, n_rows, c.out_step), "a row's norm has the same bits alone and among others", n_rows, width);
    free(all), free(alone), close_norm(&c);
}

/* ---- sums ---- */
static void check_add(uint64_t seed, int32_t n_rows, int32_t width) {
    uint16_t *x = random_rows(seed, n_rows, width, width, 5), *y = random_rows(seed + 1, n_rows, width, width, 1);
    size_t n = (size_t)n_rows * (size_t)width;
    void *d_x = to_device(x, n * 2), *d_y = to_device(y, n * 2);
    must(gr_cuda_add(d_x, d_y, (int64_t)n, NULL) == GRACE_OK, "add");
    for (size_t i = 0; i < n; i++) x[i] = to_bf16(from_bf16(x[i]) + from_bf16(y[i]));
    uint16_t *out = fetch(d_x, n_rows, width);
    claim(same("add", x, out, n_rows, width), "add rounds the sum once", n_rows, width);
    free(x), free(y), free(out), cudaFree(d_x), cudaFree(d_y);
}

static void check_add_bias(uint64_t seed, int32_t n_rows, int32_t width, int64_t step) {
    uint16_t *x = random_rows(seed, n_rows, width, step, 5);
    float *bias = random_vector(seed + 1, width, 0, 2);
    void *d_x = to_device(x, (size_t)n_rows * (size_t)step * 2), *d_bias = to_device(bias, 4 * (size_t)width);
    must(gr_cuda_add_bias(d_bias, n_rows, width, d_x, step, NULL) == GRACE_OK, "add_bias");
    for (int32_t i = 0; i < n_rows; i++)
        for (int32_t j = 0; j < width; j++) x[i * step + j] = to_bf16(from_bf16(x[i * step + j]) + bias[j]);
    uint16_t *out = fetch(d_x, n_rows, step);
    claim(same("add_bias", x, out, n_rows, step), "a bias is added to every row and to nothing else", n_rows, width);
    free(x), free(bias), free(out), cudaFree(d_x), cudaFree(d_bias);
}

/* ---- scale_rows: the product's error is that of a sum of `width` terms in fp32, at most 40 one after the other ---- */
static void check_scale(uint64_t seed, int32_t n_rows, int32_t width, double *worst) {
    uint16_t *w = random_rows(seed, 1, width, width, 2 / sqrtf((float)width)), *x = random_rows(seed + 1, n_rows, width, width, 1);
    uint16_t *y = random_rows(seed + 2, n_rows, width, width, 1);
    size_t bytes = (size_t)n_rows * (size_t)width * 2;
    void *d_w = to_device(w, (size_t)width * 2), *d_x = to_device(x, bytes), *d_y = to_device(y, bytes);
    must(gr_cuda_scale_rows(d_w, d_x, n_rows, width, d_y, NULL) == GRACE_OK, "scale_rows");
    uint16_t *out = fetch(d_y, n_rows, width);
    bool good = true;
    for (int32_t i = 0; i < n_rows && good; i++) {
        double product = 0, size = 0;
        for (int32_t j = 0; j < width; j++) {
            double term = (double)from_bf16(w[j]) * (double)from_bf16(x[(int64_t)i * width + j]);
            product += term, size += fabs(term);
        }
        double by = 1 / (1 + exp(-product)), error = 2e-6 + 41 * 0x1p-24 * size;
        for (int32_t j = 0; j < width && good; j++) {
            const int64_t at = (int64_t)i * width + j;
            good = near("scale_rows", from_bf16(y[at]) * by, out[at], error, i, j, worst);
        }
    }
    claim(good, "scaled rows are within rounding", n_rows, width);
    free(w), free(x), free(y), free(out), cudaFree(d_w), cudaFree(d_x), cudaFree(d_y);
}

static void check_refusals(void) {
    float w = 0;
    uint16_t x = 0;
    claim(gr_cuda_norm(&w, 0, 1, 12, &x, 16, NULL, &x, 16, NULL) == GRACE_ERR_ARG, "a width that is no multiple of 8 is refused", 1, 12);
    claim(gr_cuda_norm(&w, 0, 1, 16, &x, 8, NULL, &x, 16, NULL) == GRACE_ERR_ARG, "rows that overlap are refused", 1, 16);
    claim(gr_cuda_norm(&w, 0, 1, 16, &x, 20, NULL, &x, 16, NULL) == GRACE_ERR_ARG, "rows off 16 bytes are refused", 1, 16);
    claim(gr_cuda_norm(&w, 0, 1, 32768, &x, 32768, NULL, &x, 32768, NULL) == GRACE_ERR_LIMIT, "a norm too wide is refused", 1, 32768);
    claim(gr_cuda_gather(&x, NULL, 1, 4, &x, NULL) == GRACE_ERR_ARG, "a gather of half vectors is refused", 1, 4);
    claim(gr_cuda_add(&x, &x, 4, NULL) == GRACE_ERR_ARG, "a sum of half a vector is refused", 1, 4);
}

static void check_width(uint64_t seed, int32_t n_rows, int32_t width, double *worst) {
    check_gather(seed, n_rows, width);
    for (int kind = 0; kind < 4; kind++) check_norm(seed + 10 + (uint64_t)kind, n_rows, width, kind & 1, kind & 2, kind == 1 ? 0 : 24, worst);
    check_add(seed + 20, n_rows, width);
    check_add_bias(seed + 30, n_rows, width, width + 8);
    check_scale(seed + 40, n_rows, width, worst);
}

/* "small": only what a sanitizer gets through in seconds. */
int main(int argc, char **argv) {
    static const int32_t widths[] = {8, 24, 48, 192, 256, 264, 512, 576, 1024, 1032, 2048, 4096, 7168, 16384};
    static const int32_t rows[] = {0, 1, 3, 37};
    bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    double worst = 0;
    if (no_gpu("kernels over rows")) return SKIPPED;
    check_refusals();
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            if (!small || (rows[r] <= 3 && widths[w] <= 4096)) check_width(1000 * w + 100 * r, rows[r], widths[w], &worst);
    check_norm_alone(1, 9, 192);
    check_norm_alone(2, 9, 512);
    check_norm_alone(3, 9, 2048);
    if (!small) {
        check_width(5, 5000, 64, &worst);
        check_width(6, 3000, 2048, &worst);
        check_norm_alone(4, 300, 7168);
    }
    printf("%d failed; worst error %.3f of the bound\n", n_failed, worst);
    return n_failed > 0;
}
