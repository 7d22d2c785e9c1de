/* grace bench plan: how long planning a trace takes. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/status.h"
#include "bench.h"
#include "cli.h"

enum { KEY_CLUSTER = 0x200, KEY_REPEAT, KEY_JSON, REPEAT_MAX = 101 };

static const struct argp_option options[] = {
    {"cluster", KEY_CLUSTER, "SHAPE", 0, "\"node:2 gpu:2\" or 2x2 (default)", 0},
    {"repeat", KEY_REPEAT, "N", 0, "runs after one warm-up (default 7)", 0},
    {"json", KEY_JSON, 0, 0, "print one JSON object", 0},
    {0},
};

typedef struct arguments { grace_cluster cluster; const char *trace; int32_t repeat; bool json; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case KEY_CLUSTER:
        if (grace_cluster_parse(arg, &a->cluster)) argp_error(state, "--cluster: %s", grace_last_error());
        break;
    case KEY_REPEAT: a->repeat = (int32_t)gr_arg_int(state, "repeat", arg, 1, REPEAT_MAX); break;
    case KEY_JSON: a->json = true; break;
    case ARGP_KEY_ARG: a->trace = arg; break;
    case ARGP_KEY_END:
        if (!a->trace) argp_error(state, "expected a trace");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* us [repeat] ascending, after one warm-up. */
static grace_status time_planning(const arguments *a, const grace_profile *profile, double *us) {
    grace_status st = GRACE_OK;
    for (int i = -1; i < a->repeat; i++) {
        grace_plan_options opt = grace_plan_defaults();
        grace_plan *plan = NULL;
        double start = gr_now_us();
        GR_TRY(grace_plan_build(profile, a->cluster, &opt, &plan));
        if (i >= 0) us[i] = gr_now_us() - start;
        grace_plan_free(plan);
    }
    qsort(us, (size_t)a->repeat, sizeof *us, by_value);
done:
    return st;
}

static grace_status print(const arguments *a, const grace_profile *profile, double profile_us, const double *us) {
    int32_t n_ranks = grace_cluster_ranks(a->cluster);
    if (!a->json) {
        printf("plan: %d layers x %d experts, %lld tokens, %d ranks: %.1f ms (%.1f to %.1f), reading and counting the trace %.1f ms\n",
               profile->info.n_layers, profile->info.n_experts, (long long)profile->n_tokens, n_ranks, us[a->repeat / 2] * 1e-3, us[0] * 1e-3,
               us[a->repeat - 1] * 1e-3, profile_us * 1e-3);
        return GRACE_OK;
    }
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "bench", "plan");
    gr_json_set_int(o, "layers", profile->info.n_layers);
    gr_json_set_int(o, "experts", profile->info.n_experts);
    gr_json_set_int(o, "tokens", profile->n_tokens);
    gr_json_set_int(o, "ranks", n_ranks);
    gr_json_set_real(o, "profile_us", profile_us);
    gr_json_set_real(o, "median_us", us[a->repeat / 2]);
    gr_json_set_real(o, "min_us", us[0]);
    gr_json_set_real(o, "max_us", us[a->repeat - 1]);
    return gr_print_json(o);
}

static grace_status measure(const arguments *a) {
    grace_status st = GRACE_OK;
    grace_trace_reader *trace = NULL;
    grace_profile *profile = NULL;
    double us[REPEAT_MAX], start = gr_now_us(), profile_us;
    GR_TRY(grace_trace_reader_open(a->trace, &trace));
    GR_TRY(grace_profile_stream(trace, NULL, &profile));
    profile_us = gr_now_us() - start;
    GR_CHECK(profile->n_tokens > 0, GRACE_ERR_ARG, "%s: expected tokens to plan from, found none", a->trace);
    GR_TRY(time_planning(a, profile, us));
    st = print(a, profile, profile_us, us);
done:
    grace_profile_free(profile);
    grace_trace_reader_close(trace);
    return st;
}

int gr_bench_plan_main(int argc, char **argv) {
    static const struct argp argp = {options, parse, "TRACE", "Time to plan a trace with the paper's planner, choice of the ratio included.", 0, 0, 0};
    arguments a = {.cluster = {2, 2}, .repeat = 7};
    gr_arg_parse(&argp, 3, argc, argv, &a);
    grace_status st = measure(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
