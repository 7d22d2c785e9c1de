#include "compute/cpu/bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "compute/cpu/cpu.h"

enum { TRIES = 7, PATTERN_VALUES = 1 << 20, HUGE_PAGE = 1 << 21 };

/* Always on all threads. */
static void run_on_all(const gr_cpu *cpu, gr_cpu_task run, void *args) { gr_cpu_for(cpu, cpu->n_threads, INT64_MAX, run, args); }

/* ---- the machine ---- */
typedef struct burn_args { const gr_kernels *k; int64_t n; double *flops; } burn_args;     /* flops [n_threads] */

static void burn_task(void *args, int64_t task, int32_t thread) {
    const burn_args *b = args;
    (void)thread;
    b->flops[task] = b->k->burn(b->n, 0.25f);
}

grace_status gr_bench_peak(gr_compute *c, double *gflops) {
    grace_status st = GRACE_OK;
    const gr_cpu *cpu = gr_cpu_of(c);
    burn_args b = {.k = cpu->k, .n = 2000000};
    double best = 0;
    GR_CALLOC(b.flops, cpu->n_threads);
    for (int try = 0; try < TRIES; try++) {
        const double start = gr_now_us();
        run_on_all(cpu, burn_task, &b);
        const double us = gr_now_us() - start;
        double flops = 0;
        for (int32_t i = 0; i < cpu->n_threads; i++) flops += b.flops[i];
        if (flops / us > best) best = flops / us;
    }
    *gflops = best * 1e-3;
done:
    free(b.flops);
    return st;
}

typedef struct read_args { const gr_cpu *cpu; float *x; int64_t n_per_task; float *sums; } read_args;     /* sums [n_tasks] */

static void read_task(void *args, int64_t task, int32_t thread) {
    const read_args *r = args;
    (void)thread;
    r->sums[task] = r->cpu->k->read(r->x + task * r->n_per_task, r->n_per_task);
}

/* Zeroed memory on large pages where the system gives them. Touched by the fillers. */
static grace_status big_alloc(size_t bytes, void **out) {
    grace_status st = GRACE_OK;
    void *p = NULL;
    GR_CHECK(!posix_memalign(&p, HUGE_PAGE, bytes ? bytes : 1), GRACE_ERR_MEMORY, "no memory for %zu bytes", bytes);
    madvise(p, bytes, MADV_HUGEPAGE);       /* a wish: small pages work too */
    *out = p;
done:
    return st;
}

grace_status gr_bench_bandwidth(gr_compute *c, size_t bytes, double *gbs) {
    grace_status st = GRACE_OK;
    enum { N_PER_TASK = 64 * 1024 };        /* 256 KiB, like the blocks of a weight */
    read_args r = {.cpu = gr_cpu_of(c), .n_per_task = N_PER_TASK};
    const int64_t n_tasks = (int64_t)(bytes / sizeof(float) / N_PER_TASK);
    double best = 0;
    GR_CHECK(n_tasks >= 1, GRACE_ERR_ARG, "%zu bytes to read, expected at least %zu", bytes, N_PER_TASK * sizeof(float));
    GR_CALLOC(r.sums, n_tasks);
    GR_TRY(big_alloc((size_t)n_tasks * N_PER_TASK * sizeof(float), (void **)&r.x));
    memset(r.x, 0, (size_t)n_tasks * N_PER_TASK * sizeof(float));
    for (int try = 0; try < TRIES; try++) {
        const double start = gr_now_us();
        gr_cpu_for(r.cpu, n_tasks, INT64_MAX, read_task, &r);
        const double rate = (double)n_tasks * N_PER_TASK * sizeof(float) / (gr_now_us() - start);
        if (rate > best) best = rate;
    }
    *gbs = best * 1e-3;
done:
    free(r.sums);
    free(r.x);
    return st;
}

/* ---- weights to rotate over: one large array of bf16, cut into matrices ---- */
typedef struct rotation {
    uint16_t *values;
    int32_t n;                  /* sets of weights */
    int32_t per_set;            /* matrices of a set, all with the same number of values */
    gr_weight **weights;        /* [n * per_set] */
} rotation;

typedef struct fill_args { uint16_t *to; const uint16_t *pattern; size_t n; } fill_args;

static void fill_task(void *args, int64_t task, int32_t thread) {
    const fill_args *f = args;
    const size_t first = (size_t)task * PATTERN_VALUES, n = f->n - first < PATTERN_VALUES ? f->n - first : PATTERN_VALUES;
    (void)thread;
    memcpy(f->to + first, f->pattern, n * sizeof *f->to);
}

/* Random bf16 in +-[1/64, 1/32), repeated every PATTERN_VALUES: the kernels do not care, and a gigabyte is there in half a second. */
static grace_status fill(const gr_cpu *cpu, uint16_t *to, size_t n) {
    grace_status st = GRACE_OK;
    uint16_t *pattern = NULL;
    gr_rng rng = gr_rng_seed(1);
    GR_CALLOC(pattern, PATTERN_VALUES);
    for (int32_t i = 0; i < PATTERN_VALUES; i++) pattern[i] = (uint16_t)(0x3c80 | (gr_rng_next(&rng) & 0x807f));
    fill_args f = {to, pattern, n};
    gr_cpu_for(cpu, gr_ceil_div((int64_t)n, PATTERN_VALUES), INT64_MAX, fill_task, &f);
done:
    free(pattern);
    return st;
}

static void rotation_free(gr_compute *c, rotation *r) {
    if (r->weights)
        for (int32_t i = 0; i < r->n * r->per_set; i++) c->ops->weight_close(c, r->weights[i]);
    free(r->weights);
    free(r->values);
}

/* shapes [per_set] rows, cols of each matrix. At least two sets. */
static grace_status rotation_build(gr_compute *c, const int32_t shapes[][2], int32_t per_set, size_t bytes, rotation *r) {
    grace_status st = GRACE_OK;
    const int64_t per_matrix = (int64_t)shapes[0][0] * shapes[0][1];
    const int64_t n = gr_ceil_div((int64_t)(bytes / sizeof *r->values), per_matrix * per_set);
    GR_CHECK(n <= INT32_MAX / per_set, GRACE_ERR_LIMIT, "%lld weights to rotate over, expected at most %d", (long long)n, INT32_MAX / per_set);
    r->n = n < 2 ? 2 : (int32_t)n;
    r->per_set = per_set;
    GR_CALLOC(r->weights, r->n * per_set);
    GR_TRY(big_alloc((size_t)r->n * (size_t)(per_set * per_matrix) * sizeof *r->values, (void **)&r->values));
    GR_TRY(fill(gr_cpu_of(c), r->values, (size_t)r->n * (size_t)(per_set * per_matrix)));
    for (int32_t i = 0; i < r->n * per_set; i++) {
        const grace_tensor t = {.data = r->values + i * per_matrix, .rows = shapes[i % per_set][0], .cols = shapes[i % per_set][1], .dtype = GRACE_BF16};
        GR_TRY(c->ops->weight_open(c, &t, &r->weights[i]));
    }
done:
    return st;
}

/* ---- timing ---- */
static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarise(double *us, int32_t n, gr_bench_time *t) {
    qsort(us, (size_t)n, sizeof *us, by_value);
    t->median_us = n % 2 ? us[n / 2] : (us[n / 2 - 1] + us[n / 2]) / 2;
    t->iqr_us = us[n - 1 - n / 4] - us[n / 4];
}

typedef struct bench_data { rotation weights; float *in, *out; double *us; } bench_data;

static void bench_data_free(gr_compute *c, bench_data *d) {
    rotation_free(c, &d->weights);
    free(d->in);
    free(d->out);
    free(d->us);
}

static grace_status bench_data_build(gr_compute *c, const int32_t shapes[][2], int32_t per_set, int32_t rows, int32_t in, int32_t out, size_t rotate_bytes,
                                     int32_t repeats, bench_data *d) {
    grace_status st = GRACE_OK;
    gr_rng rng = gr_rng_seed(2);
    GR_CHECK(rows >= 1 && in >= 1 && out >= 1 && repeats >= 3, GRACE_ERR_ARG, "%d rows, %d x %d, %d repeats: expected positive sizes, repeats >= 3",
             rows, out, in, repeats);
    GR_TRY(rotation_build(c, shapes, per_set, rotate_bytes, &d->weights));
    GR_CALLOC(d->in, (int64_t)rows * in);
    GR_CALLOC(d->out, (int64_t)rows * out);
    GR_CALLOC(d->us, repeats);
    for (int64_t i = 0; i < (int64_t)rows * in; i++) d->in[i] = (float)(2 * gr_rng_uniform(&rng) - 1);
done:
    return st;
}

grace_status gr_bench_linear(gr_compute *c, int32_t rows, int32_t out, int32_t in, size_t rotate_bytes, int32_t repeats, gr_bench_time *t) {
    grace_status st = GRACE_OK;
    const int32_t shapes[][2] = {{out, in}};
    bench_data d = {0};
    GR_TRY(bench_data_build(c, shapes, 1, rows, in, out, rotate_bytes, repeats, &d));
    for (int32_t i = -2; i < repeats; i++) {        /* two to warm up */
        const gr_weight *w = d.weights.weights[(i + 2) % d.weights.n];
        const double start = gr_now_us();
        GR_TRY(c->ops->linear(c, w, d.in, rows, d.out));
        if (i >= 0) d.us[i] = gr_now_us() - start;
    }
    summarise(d.us, repeats, t);
    t->flops = 2.0 * rows * out * in;
    t->weight_bytes = 2.0 * out * in;
done:
    bench_data_free(c, &d);
    return st;
}

static grace_status run_expert(gr_compute *c, const bench_data *d, int32_t set, int32_t rows) {
    gr_weight *const *w = d->weights.weights + 3 * (set % d->weights.n);
    const gr_mlp mlp = {.gate = w[0], .up = w[1], .down = w[2]};
    const int32_t first_pair[] = {0, rows};
    const gr_experts e = {.n_slots = 1, .slots = &mlp, .first_pair = first_pair, .in = d->in, .out = d->out};
    return c->ops->experts(c, &e);
}

grace_status gr_bench_experts(gr_compute *c, int32_t rows, int32_t width, int32_t hidden, size_t rotate_bytes, int32_t repeats, gr_bench_time *t) {
    grace_status st = GRACE_OK;
    const int32_t shapes[][2] = {{width, hidden}, {width, hidden}, {hidden, width}};
    bench_data d = {0};
    GR_TRY(bench_data_build(c, shapes, 3, rows, hidden, hidden, rotate_bytes, repeats, &d));
    for (int32_t i = -2; i < repeats; i++) {
        const double start = gr_now_us();
        GR_TRY(run_expert(c, &d, i + 2, rows));
        if (i >= 0) d.us[i] = gr_now_us() - start;
    }
    summarise(d.us, repeats, t);
    t->flops = 6.0 * rows * width * hidden;
    t->weight_bytes = 6.0 * width * hidden;
done:
    bench_data_free(c, &d);
    return st;
}
