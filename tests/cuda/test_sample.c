/* Sampling on a GPU (compute/cuda/sample.cu) against the cpu backend's. Without a GPU it says "skipped". */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "compute/compute.h"
#include "compute/cpu/kernels.h"
#include "compute/cuda/sample.h"
#include "cuda/device.h"

static int n_failed, n_near;
static gr_compute *cpu;

typedef enum shape { SHAPE_NORMAL, SHAPE_TIED, SHAPE_PEAK, SHAPE_EQUAL, SHAPE_HOLES } shape;   /* of the logits of a row; holes: half are -infinity */

typedef struct sample_case {
    uint64_t seed;
    int32_t n_rows, vocab;
    int64_t step;
    float *logits, *temperature, *top_p;
    int32_t *top_k, *ids;
    double *u;
    float *d_logits;
    gr_draws d;                     /* device */
    int32_t *d_ids, *d_flaw;
    void *d_scratch;
} sample_case;

static void claim(bool holds, const char *what, const sample_case *c) {
    if (!holds)
        printf("FAILED %s: seed %llu: %d rows of %d, %lld apart\n", what, (unsigned long long)c->seed, c->n_rows, c->vocab, (long long)c->step);
    n_failed += !holds;
}

static float random_logit(gr_rng *rng, shape how) {
    const double x = 4 * (gr_rng_uniform(rng) + gr_rng_uniform(rng) + gr_rng_uniform(rng) - 1.5);
    if (how == SHAPE_HOLES && gr_rng_below(rng, 2)) return -INFINITY;
    if (how == SHAPE_TIED) return (float)rint(2 * x) / 2;
    return how == SHAPE_EQUAL ? -0.25f : (float)(how == SHAPE_PEAK && gr_rng_below(rng, 50) == 0 ? x + 30 : x);
}

static void draw_rule(sample_case *c, int32_t row, gr_rng *rng) {
    static const float temperatures[] = {0, 0.2f, 0.7f, 1, 3}, top_ps[] = {1, 1, 0.95f, 0.9f, 0.5f, 0.01f, 1e-6f};
    const int32_t top_ks[] = {0, 0, 1, 2, 40, 1000, 5000, c->vocab - 1, c->vocab, c->vocab + 5};
    c->temperature[row] = temperatures[gr_rng_below(rng, 5)], c->top_p[row] = top_ps[gr_rng_below(rng, 7)];
    c->top_k[row] = top_ks[gr_rng_below(rng, 10)], c->u[row] = gr_rng_uniform(rng);
}

static sample_case open_case(uint64_t seed, int32_t n_rows, int32_t vocab, int32_t gap, int n_shapes) {
    sample_case c = {.seed = seed, .n_rows = n_rows, .vocab = vocab, .step = vocab + gap};
    const size_t rows = (size_t)n_rows, n = rows * (size_t)c.step;
    gr_rng rng = gr_rng_seed(seed);
    c.logits = malloc(4 * n + 4), c.temperature = malloc(4 * rows + 4), c.top_p = malloc(4 * rows + 4), c.top_k = malloc(4 * rows + 4);
    c.ids = malloc(4 * rows + 4), c.u = malloc(8 * rows + 8);
    for (int32_t row = 0; row < n_rows; row++) {
        const shape how = (shape)(gr_rng_below(&rng, (uint32_t)n_shapes));
        for (int64_t i = 0; i < c.step; i++) c.logits[row * c.step + i] = i < vocab ? random_logit(&rng, how) : NAN;
        draw_rule(&c, row, &rng);
    }
    c.d_logits = to_device(c.logits, 4 * n);
    c.d.temperature = to_device(c.temperature, 4 * rows), c.d.top_p = to_device(c.top_p, 4 * rows), c.d.top_k = to_device(c.top_k, 4 * rows);
    c.d.u = to_device(c.u, 8 * rows);
    c.d_ids = to_device(NULL, 4 * rows), c.d_flaw = to_device(&(int32_t){0}, 4);
    c.d_scratch = to_device(NULL, (size_t)gr_cuda_sample_scratch(n_rows, vocab));
    return c;
}

static void close_case(sample_case *c) {
    void *host[] = {c->logits, c->temperature, c->top_p, c->top_k, c->ids, c->u};
    void *device[] = {c->d_logits, (void *)c->d.temperature, (void *)c->d.top_p, (void *)c->d.top_k, (void *)c->d.u,
                      c->d_ids, c->d_flaw, c->d_scratch};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) cudaFree(device[i]);
}

static void run(const sample_case *c, bool with_draws, int32_t *ids) {
    must(cudaMemset(c->d_ids, 0xFF, 4 * (size_t)c->n_rows) == cudaSuccess, "cudaMemset");
    const gr_draws *draws = with_draws ? &c->d : NULL;
    must(gr_cuda_sample(c->d_logits, c->step, c->n_rows, c->vocab, draws, c->d_ids, c->d_flaw, c->d_scratch, NULL) == GRACE_OK, "sample");
    to_host(ids, c->d_ids, 4 * (size_t)c->n_rows);
}

static int32_t flaw_of(const sample_case *c) {
    int32_t flaw;
    to_host(&flaw, c->d_flaw, 4);
    return flaw;
}

/* ---- greedy ---- */
static int32_t largest(const float *x, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static void check_greedy(uint64_t seed, int32_t n_rows, int32_t vocab, int32_t gap) {
    sample_case c = open_case(seed, n_rows, vocab, gap, SHAPE_HOLES);
    bool good = true;
    run(&c, false, c.ids);
    for (int32_t row = 0; row < n_rows && good; row++) {
        const int32_t expected = largest(c.logits + row * c.step, vocab);
        good = c.ids[row] == expected;
        if (!good) printf("       row %d: expected %d (%g), found %d\n", row, expected, (double)c.logits[row * c.step + expected], c.ids[row]);
    }
    claim(good, "greedy rows get the lowest id of the largest logit", &c);
    claim(flaw_of(&c) == 0, "finite logits are no flaw", &c);
    close_case(&c);
}

static void check_zeros(void) {
    sample_case c = open_case(3, 1, 5000, 0, 1);
    for (int32_t i = 0; i < 5000; i++) c.logits[i] = i == 77 ? -0.0f : i == 4500 ? 0.0f : -1;
    must(cudaMemcpy(c.d_logits, c.logits, 4 * 5000, cudaMemcpyHostToDevice) == cudaSuccess, "cudaMemcpy");
    run(&c, false, c.ids);
    claim(c.ids[0] == 77, "-0 and 0 are a tie", &c);
    close_case(&c);
}

static void check_flaw(float bad, int32_t at, bool with_draws) {
    sample_case c = open_case(9, 5, 9001, 3, 1);
    for (int32_t i = 0; i < c.vocab; i++)
        if (i == at || at < 0) c.logits[3 * c.step + i] = bad;
    must(cudaMemcpy(c.d_logits, c.logits, 4 * 5 * (size_t)c.step, cudaMemcpyHostToDevice) == cudaSuccess, "cudaMemcpy");
    run(&c, with_draws, c.ids);
    claim(flaw_of(&c) == 4, "the flaw names the row", &c);
    claim(c.ids[3] == 0, "a flawed row's id is 0", &c);
    close_case(&c);
}

/* ---- draws ---- */
static const float *sorted_by;
static int before(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return sorted_by[x] != sorted_by[y] ? (sorted_by[x] < sorted_by[y]) - (sorted_by[x] > sorted_by[y]) : (x > y) - (x < y);
}

static double sum_of(const float *p, const int32_t *order, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)p[order[i]];
    return sum;
}

/* How far u or a cut's bound lies from a boundary of the running sum, as a share of the total: where that is within rounding, another id may be
 * drawn. */
static double distance_to_boundary(const sample_case *c, int32_t row) {
    const float temperature = c->temperature[row], top_p = c->top_p[row];
    const int32_t top_k = c->top_k[row];
    const float *x = c->logits + row * c->step, most = x[largest(x, c->vocab)];
    float *p = malloc(4 * (size_t)c->vocab);
    int32_t *order = malloc(4 * (size_t)c->vocab), n = c->vocab;
    for (int32_t i = 0; i < n; i++) p[i] = (x[i] - most) / temperature, order[i] = i;
    gr_kernels_portable.exp(p, n);
    sorted_by = p;
    if ((top_k > 0 && top_k < n) || top_p < 1) qsort(order, (size_t)n, sizeof *order, before);
    if (top_k > 0 && top_k < n) n = top_k;
    double total = sum_of(p, order, n), sum = 0, nearest = 1, enough = top_p < 1 ? (double)top_p * total : INFINITY;
    for (int32_t i = 0; i < n; i++) {
        sum += (double)p[order[i]];
        nearest = fmin(nearest, fabs(sum - enough) / total);
        if (sum >= enough) total = sum, n = i + 1;
    }
    sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += (double)p[order[i]];
        nearest = fmin(nearest, fabs(sum / total - c->u[row]));
    }
    free(p), free(order);
    return nearest;
}

static bool row_is_right(const sample_case *c, int32_t row) {
    const gr_draws one = {c->temperature + row, c->top_p + row, c->top_k + row, c->u + row};
    int32_t expected;
    must(cpu->ops->sample(cpu, c->logits + row * c->step, 1, c->vocab, &one, &expected) == GRACE_OK, "the cpu's sample");
    if (c->ids[row] == expected) return true;
    const double distance = c->ids[row] >= 0 && c->ids[row] < c->vocab ? distance_to_boundary(c, row) : 1;
    n_near++;
    printf("       row %d: temperature %g, top_k %d, top_p %g, u %.17g: expected %d, found %d, nearest boundary %.3g away\n", row,
           (double)*one.temperature, *one.top_k, (double)*one.top_p, *one.u, expected, c->ids[row], distance);
    return *one.temperature > 0 && distance < 1e-11;
}

static void check_draws(uint64_t seed, int32_t n_rows, int32_t vocab, int32_t gap) {
    sample_case c = open_case(seed, n_rows, vocab, gap, SHAPE_HOLES + 1);
    int32_t *again = malloc(4 * (size_t)n_rows + 4);
    bool good = true;
    for (int32_t row = 0; row < n_rows; row++) c.logits[row * c.step + vocab / 2] = 1;      /* no row is all holes */
    must(cudaMemcpy(c.d_logits, c.logits, 4 * (size_t)n_rows * (size_t)c.step, cudaMemcpyHostToDevice) == cudaSuccess, "cudaMemcpy");
    run(&c, true, c.ids);
    for (int32_t row = 0; row < n_rows; row++) good = row_is_right(&c, row) && good;
    claim(good, "draws are the cpu's", &c);
    run(&c, true, again);
    claim(memcmp(c.ids, again, 4 * (size_t)n_rows) == 0, "the same ids again", &c);
    for (int32_t row = 0; row < n_rows; row++) {
        const gr_draws one = {c.d.temperature + row, c.d.top_p + row, c.d.top_k + row, c.d.u + row};
        must(gr_cuda_sample(c.d_logits + row * c.step, c.step, 1, vocab, &one, c.d_ids + row, c.d_flaw, c.d_scratch, NULL) == GRACE_OK, "one row");
    }
    to_host(again, c.d_ids, 4 * (size_t)n_rows);
    claim(memcmp(c.ids, again, 4 * (size_t)n_rows) == 0, "a row's id is the same alone and among others", &c);
    claim(flaw_of(&c) == 0, "finite logits are no flaw", &c);
    free(again), close_case(&c);
}

static void check_refusals(void) {
    sample_case c = {.n_rows = 1, .vocab = 0};
    float x = 0;
    int32_t id = 0;
    claim(gr_cuda_sample(&x, 8, 1, 0, NULL, &id, &id, &x, NULL) == GRACE_ERR_LIMIT, "no logits are refused", &c);
    claim(gr_cuda_sample(&x, 8, 1, 9, NULL, &id, &id, &x, NULL) == GRACE_ERR_ARG, "rows that overlap are refused", &c);
}

/* "small": only what a sanitizer gets through in seconds. */
int main(int argc, char **argv) {
    bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    static const int32_t vocabs[] = {1, 2, 3, 5, 31, 1000, 4096, 4097, 12345};
    if (no_gpu("sampling")) return SKIPPED;
    must(gr_compute_cpu_open("portable", 1, &cpu) == GRACE_OK, "the cpu backend");
    check_refusals();
    for (uint64_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++)
        for (int32_t rows = 0; rows < 8; rows += 1 + 2 * rows) check_greedy(i, rows, vocabs[i], (int32_t)i % 5);
    check_zeros();
    check_flaw(NAN, 5000, false), check_flaw(-NAN, 0, true), check_flaw(INFINITY, 9000, true);
    check_flaw(-INFINITY, -1, false), check_flaw(-INFINITY, -1, true);
    for (uint64_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++)
        if (!small || i % 2 == 1) check_draws(100 + i, small ? 3 : 64, vocabs[i], (int32_t)i % 3);
    if (!small) {
        check_greedy(50, 33, 151936, 0);
        check_greedy(51, 600, 50304, 0);
        check_draws(200, 64, 50304, 0);
        check_draws(201, 40, 151936, 1);
    }
    printf("%d failed; %d draws within rounding of a boundary\n", n_failed, n_near);
    cpu->ops->free(cpu);
    return n_failed > 0;
}
