/* grace bench kernels: the cpu kernels beside what the machine can do, in one run. */
#include <stdio.h>
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

static gr_json *row(const arguments *a, const char *kernel, int32_t rows, const gr_bench_time *t, double peak, double bandwidth) {
    double gflops = t->flops / t->median_us * 1e-3, gbs = t->weight_bytes / t->median_us * 1e-3;
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "kernel", kernel);
    gr_json_set_int(o, "rows", rows);
    gr_json_set_real(o, "median_us", t->median_us);
    gr_json_set_real(o, "iqr_us", t->iqr_us);
    gr_json_set_real(o, "gflops", gflops);
    gr_json_set_real(o, "gbs", gbs);
    gr_json_set_real(o, "share_of_peak", gflops / peak);
    gr_json_set_real(o, "share_of_bandwidth", gbs / bandwidth);
    if (!a->json)
        printf("%-8s %5d rows  %9.1f us (iqr %.1f)  %7.1f GFLOP/s, %3.0f %% of peak  %6.2f GB/s of weights, %3.0f %% of bandwidth\n", kernel, rows,
               t->median_us, t->iqr_us, gflops, 100 * gflops / peak, gbs, 100 * gbs / bandwidth);
    return o;
}

static grace_status measure(const arguments *a) {
    static const int32_t row_counts[] = {1, 4, 16, 64, 256, 512};
    grace_status st = GRACE_OK;
    gr_compute *c = NULL;
    gr_bench_time t;
    double peak, bandwidth;
    gr_json *o = gr_json_new_object(), *rows = gr_json_new_array();
    GR_TRY(gr_compute_cpu_open(a->simd, a->threads, &c));
    GR_TRY(gr_bench_peak(c, &peak));
    GR_TRY(gr_bench_bandwidth(c, rotation(), &bandwidth));
    if (!a->json) printf("%s: peak %.1f GFLOP/s fp32 fma, %.2f GB/s read over %zu MiB; weights %d x %d bf16\n", gr_compute_cpu_simd(c), peak, bandwidth,
                         rotation() >> 20, a->out, a->in);
    for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; i++) {
        GR_TRY(gr_bench_linear(c, row_counts[i], a->out, a->in, rotation(), a->repeat, &t));
        gr_json_push(rows, row(a, "linear", row_counts[i], &t, peak, bandwidth));
        GR_TRY(gr_bench_experts(c, row_counts[i], a->out, a->in, rotation(), a->repeat, &t));
        gr_json_push(rows, row(a, "experts", row_counts[i], &t, peak, bandwidth));
    }
    gr_json_set_string(o, "bench", "kernels");
    gr_json_set_string(o, "simd", gr_compute_cpu_simd(c));
    gr_json_set_real(o, "peak_gflops", peak);
    gr_json_set_real(o, "bandwidth_gbs", bandwidth);
    gr_json_set_int(o, "out", a->out);
    gr_json_set_int(o, "in", a->in);
    gr_json_set(o, "rows", rows);
    rows = NULL;
    if (a->json) {
        st = gr_print_json(o);
        o = NULL;
    }
done:
    gr_json_free(rows);
    gr_json_free(o);
    if (c) c->ops->free(c);
    return st;
}

int gr_bench_kernels_main(int argc, char **argv) {
    static const struct argp argp = {options, parse, 0, "Linear and expert kernels beside the machine's measured FMA peak and memory bandwidth.", 0, 0, 0};
    arguments a = {.simd = "auto", .repeat = 201, .out = 2048, .in = 1024};
    gr_arg_parse(&argp, 3, argc, argv, &a);
    grace_status st = measure(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
