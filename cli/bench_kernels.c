/* grace bench kernels: the cpu kernels beside what the machine can do, in one run. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "bench.h"
#include "cli.h"
#include "compute/cpu/bench.h"

enum { KEY_THREADS = 0x200, KEY_SIMD, KEY_REPEAT, KEY_OUT, KEY_IN, KEY_JSON };

static const struct argp_option options[] = {
    {"threads", KEY_THREADS, "N", 0, "threads (default: OMP_NUM_THREADS or all cores)", 0},
    {"simd", KEY_SIMD, "LEVEL", 0, "auto (default), portable, avx2 or avx512", 0},
    {"repeat", KEY_REPEAT, "N", 0, "timed calls (default 201)", 0},
    {"out", KEY_OUT, "N", 0, "rows of the weights (default 2048)", 0},
    {"in", KEY_IN, "N", 0, "columns of the weights (default 1024)", 0},
    {"json", KEY_JSON, 0, 0, "print one JSON object", 0},
    {0},
};

typedef struct arguments { const char *simd; int32_t threads, repeat, out, in; bool json; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case KEY_THREADS: a->threads = (int32_t)gr_arg_int(state, "threads", arg, 1, 1024); break;
    case KEY_SIMD: a->simd = arg; break;
    case KEY_REPEAT: a->repeat = (int32_t)gr_arg_int(state, "repeat", arg, 3, 100000); break;
    case KEY_OUT: a->out = (int32_t)gr_arg_int(state, "out", arg, 1, 1 << 16); break;
    case KEY_IN: a->in = (int32_t)gr_arg_int(state, "in", arg, 1, 1 << 16); break;
    case KEY_JSON: a->json = true; break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* Four times the last-level cache, so that weights come from memory; 256 MiB when the cache's size is not known. */
static size_t rotation(void) {
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return cache > 0 ? 4 * (size_t)cache : (size_t)256 << 20;
}

typedef struct ceilings { double gflops, gbs; } ceilings;
typedef struct measured { const char *kernel; int32_t rows; gr_bench_time time; ceilings top; } measured;

enum { N_ROW_COUNTS = 6, N_MEASURED = 2 * N_ROW_COUNTS };

static grace_status raise_ceilings(gr_compute *c, ceilings *top) {
    grace_status st = GRACE_OK;
    ceilings now;
    GR_TRY(gr_bench_peak(c, &now.gflops));
    GR_TRY(gr_bench_bandwidth(c, rotation(), &now.gbs));
    if (now.gflops > top->gflops) top->gflops = now.gflops;
    if (now.gbs > top->gbs) top->gbs = now.gbs;
done:
    return st;
}

/* Clocks drift, on shared machines by half: a kernel is held against the better of the ceilings measured just before and just after it. */
static grace_status measure_one(const arguments *a, gr_compute *c, measured *m) {
    grace_status st = GRACE_OK;
    bool linear = strcmp(m->kernel, "linear") == 0;
    GR_TRY(raise_ceilings(c, &m->top));
    GR_TRY((linear ? gr_bench_linear : gr_bench_experts)(c, m->rows, a->out, a->in, rotation(), a->repeat, &m->time));
    GR_TRY(raise_ceilings(c, &m->top));
done:
    return st;
}

static grace_status measure(const arguments *a, gr_compute *c, measured *m) {
    static const int32_t row_counts[N_ROW_COUNTS] = {1, 4, 16, 64, 256, 512};
    grace_status st = GRACE_OK;
    gr_progress progress = gr_progress_start("kernels", "kernels", N_MEASURED);
    for (int i = 0; i < N_MEASURED; i++) {
        m[i] = (measured){.kernel = i % 2 == 0 ? "linear" : "experts", .rows = row_counts[i / 2]};
        GR_TRY(measure_one(a, c, &m[i]));
        gr_progress_update(&progress, i + 1);
    }
done:
    gr_progress_end(&progress);
    return st;
}

static double gflops_of(const measured *m) { return m->time.flops / m->time.median_us * 1e-3; }
static double gbs_of(const measured *m) { return m->time.weight_bytes / m->time.median_us * 1e-3; }

static void print_text(const arguments *a, const gr_compute *c, const measured *m) {
    printf("%s: weights %d x %d bf16, rotated over %zu MiB; ceilings (fp32 fma peak, read bandwidth) measured beside each kernel\n",
           gr_compute_cpu_simd(c), a->out, a->in, rotation() >> 20);
    for (int i = 0; i < N_MEASURED; i++)
        printf("%-8s %5d rows  %9.1f us (iqr %.1f)  %7.1f of %7.1f GFLOP/s (%3.0f %%)  %6.2f of %6.2f GB/s (%3.0f %%)\n", m[i].kernel, m[i].rows,
               m[i].time.median_us, m[i].time.iqr_us, gflops_of(&m[i]), m[i].top.gflops, 100 * gflops_of(&m[i]) / m[i].top.gflops, gbs_of(&m[i]),
               m[i].top.gbs, 100 * gbs_of(&m[i]) / m[i].top.gbs);
}

static grace_status print_json(const arguments *a, const gr_compute *c, const measured *m) {
    gr_json *o = gr_json_new_object(), *rows = gr_json_new_array();
    for (int i = 0; i < N_MEASURED; i++) {
        gr_json *r = gr_json_new_object();
        gr_json_set_string(r, "kernel", m[i].kernel);
        gr_json_set_int(r, "rows", m[i].rows);
        gr_json_set_real(r, "median_us", m[i].time.median_us);
        gr_json_set_real(r, "iqr_us", m[i].time.iqr_us);
        gr_json_set_real(r, "gflops", gflops_of(&m[i]));
        gr_json_set_real(r, "gbs", gbs_of(&m[i]));
        gr_json_set_real(r, "peak_gflops", m[i].top.gflops);
        gr_json_set_real(r, "bandwidth_gbs", m[i].top.gbs);
        gr_json_set_real(r, "share_of_peak", gflops_of(&m[i]) / m[i].top.gflops);
        gr_json_set_real(r, "share_of_bandwidth", gbs_of(&m[i]) / m[i].top.gbs);
        gr_json_push(rows, r);
    }
    gr_json_set_string(o, "bench", "kernels");
    gr_json_set_string(o, "simd", gr_compute_cpu_simd(c));
    gr_json_set_int(o, "out", a->out);
    gr_json_set_int(o, "in", a->in);
    gr_json_set(o, "rows", rows);
    return gr_print_json(o);
}

static grace_status bench(const arguments *a) {
    grace_status st = GRACE_OK;
    gr_compute *c = NULL;
    measured m[N_MEASURED];
    GR_TRY(gr_compute_cpu_open(a->simd, a->threads, &c));
    GR_TRY(measure(a, c, m));
    if (a->json) st = print_json(a, c, m);
    else print_text(a, c, m);
done:
    if (c) c->ops->free(c);
    return st;
}

int gr_bench_kernels_main(int argc, char **argv) {
    static const struct argp argp = {options, parse, 0, "Linear and expert kernels beside the machine's measured FMA peak and memory bandwidth.", 0, 0, 0};
    arguments a = {.simd = "auto", .repeat = 201, .out = 2048, .in = 1024};
    gr_arg_parse(&argp, 3, argc, argv, &a);
    grace_status st = bench(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
