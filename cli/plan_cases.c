#include "plan_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "bench.h"
#include "cli.h"
#include "plan/bundle.h"

enum { TEST_BUNDLES = 1 << 16 };

const gr_recipe gr_recipes[GR_N_RECIPES] = {
    [GR_RECIPE_CONTIGUOUS] = {"contiguous", GRACE_PLANNER_CONTIGUOUS, 0, 1.1}, [GR_RECIPE_UNIFORM] = {"uniform", GRACE_PLANNER_UNIFORM, 0, 1.1},
    [GR_RECIPE_GRACE] = {"grace", GRACE_PLANNER_GRACE, 0, 1.1},                [GR_RECIPE_EPLB] = {"eplb", GRACE_PLANNER_EPLB, 0, 1.1},
    [GR_RECIPE_EPLB_125] = {"eplb", GRACE_PLANNER_EPLB, 1.25, 1.1},            [GR_RECIPE_EPLB_150] = {"eplb", GRACE_PLANNER_EPLB, 1.5, 1.1},
    [GR_RECIPE_AUTO] = {"auto", GRACE_PLANNER_AUTO, 0, 1.1},                   [GR_RECIPE_AUTO_125] = {"auto", GRACE_PLANNER_AUTO, 1.25, 1.1},
    [GR_RECIPE_AUTO_150] = {"auto", GRACE_PLANNER_AUTO, 1.5, 1.1},             [GR_RECIPE_UNDER] = {"auto, load under grace", GRACE_PLANNER_AUTO, 0, 0},
    [GR_RECIPE_UNDER_125] = {"auto, load under grace", GRACE_PLANNER_AUTO, 1.25, 0},
    [GR_RECIPE_UNDER_150] = {"auto, load under grace", GRACE_PLANNER_AUTO, 1.5, 0},
};

/* The paper's figures: Table 1, against the first rung, mean of three models on 2 x 2; the last rung is ours. */
const gr_case_rung gr_case_rungs[GR_N_CASE_RUNGS] = {
    {"uniform, flat", GRACE_PLANNER_UNIFORM, GRACE_REPLICATION_NONE, true, GRACE_ROUTE_PRIMARY, 0, 0},
    {"uniform + HSC", GRACE_PLANNER_UNIFORM, GRACE_REPLICATION_NONE, false, GRACE_ROUTE_PRIMARY, -0.356, 1.001},
    {"HG + HSC", GRACE_PLANNER_GRACE, GRACE_REPLICATION_NONE, false, GRACE_ROUTE_PRIMARY, -0.507, 0.471},
    {"HG + FR + WRR", GRACE_PLANNER_GRACE, GRACE_REPLICATION_FIXED, false, GRACE_ROUTE_WRR, -0.416, 0.763},
    {"HG + DR + WRR", GRACE_PLANNER_GRACE, GRACE_REPLICATION_DYNAMIC, false, GRACE_ROUTE_WRR, -0.418, 0.784},
    {"HG + DR + TAR", GRACE_PLANNER_GRACE, GRACE_REPLICATION_DYNAMIC, false, GRACE_ROUTE_TAR, -0.521, 0.572},
    {"auto + TAR", GRACE_PLANNER_AUTO, GRACE_REPLICATION_DYNAMIC, false, GRACE_ROUTE_TAR, 0, 0},
};

int32_t gr_arg_clusters(struct argp_state *state, char *list, grace_cluster *clusters) {
    char *at = NULL;
    int32_t n = 0;
    for (char *item = strtok_r(list, ",", &at); item; item = strtok_r(NULL, ",", &at)) {
        if (n == GR_CASES_CLUSTERS_MAX) argp_error(state, "--clusters: expected at most %d", GR_CASES_CLUSTERS_MAX);
        if (grace_cluster_parse(item, &clusters[n++])) argp_error(state, "--clusters: %s", grace_last_error());
    }
    if (n == 0) argp_error(state, "--clusters: expected a shape");
    return n;
}

/* ---- tokens ---- */

static void half_close(gr_half *h) { grace_profile_free(h->profile), grace_bundles_free(h->bundles); }

static grace_status half_open(grace_trace_reader *t, grace_sequences sequences, const char *domain, int32_t n_max, gr_half *h) {
    grace_status st = GRACE_OK;
    grace_selection which = {.sequences = sequences};
    snprintf(which.domains, sizeof which.domains, "%s", domain);
    GR_TRY(grace_profile_stream(t, &which, &h->profile));
    GR_TRY(grace_bundles_stream(t, &which, false, n_max, &h->bundles));
done:
    return st;
}

/* The last part of a path. */
static const char *short_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

grace_status gr_unit_open(const char *path, const char *domain, gr_unit *out) {
    grace_status st = GRACE_OK;
    grace_trace_reader *t = NULL;
    gr_unit u = {0};
    GR_TRY(grace_trace_reader_open(path, &t));
    GR_TRY(half_open(t, GRACE_SEQUENCES_EVEN, domain, GRACE_BUNDLES_DEFAULT, &u.train));
    GR_TRY(half_open(t, GRACE_SEQUENCES_ODD, domain, TEST_BUNDLES, &u.test));
    GR_CHECK(u.train.profile->n_tokens > 0 && u.test.profile->n_tokens > 0, GRACE_ERR_ARG, "%s: expected tokens in even and odd sequences%s%s, found none",
             path, domain[0] ? " of " : "", domain);
    snprintf(u.model, sizeof u.model, "%s", u.train.profile->info.model);
    if (domain[0]) snprintf(u.name, sizeof u.name, "%s", domain);
    else snprintf(u.name, sizeof u.name, "%.40s %.40s", u.model, short_name(path));
    *out = u;
    memset(&u, 0, sizeof u);
done:
    gr_unit_close(&u);
    grace_trace_reader_close(t);
    return st;
}

void gr_unit_close(gr_unit *u) { half_close(&u->train), half_close(&u->test); }

/* ---- plans ---- */

grace_status gr_recipe_plan(const gr_recipe *r, const gr_half *train, grace_cluster cluster, uint64_t seed, grace_plan **out) {
    grace_plan_options opt = grace_plan_defaults();
    opt.planner = r->planner, opt.memory = r->memory, opt.balance = r->balance, opt.bundles = train->bundles, opt.seed = seed;
    return grace_plan_build(train->profile, cluster, &opt, out);
}

grace_status gr_recipe_run(const gr_recipe *r, const gr_unit *u, grace_cluster cluster, uint64_t seed, gr_result *out) {
    grace_status st = GRACE_OK;
    grace_plan *plan = NULL;
    *out = (gr_result){.there = grace_cluster_ranks(cluster) <= u->train.profile->info.n_experts};
    if (!out->there) return st;
    double start = gr_now_us();
    GR_TRY(gr_recipe_plan(r, &u->train, cluster, seed, &plan));
    out->ms = (gr_now_us() - start) * 1e-3;
    GR_TRY(gr_quality_measure(plan, GRACE_ROUTE_TAR, u->test.bundles, u->test.profile, &out->q));
done:
    grace_plan_free(plan);
    return st;
}

static grace_status run_rung(const gr_case_rung *r, const gr_unit *u, grace_cluster cluster, uint64_t seed, gr_rows_cost *rows) {
    grace_status st = GRACE_OK;
    grace_plan_options opt = grace_plan_defaults();
    grace_plan *plan = NULL;
    gr_quality q;
    opt.planner = r->planner, opt.replication = r->replication, opt.bundles = u->train.bundles, opt.seed = seed;
    GR_TRY(grace_plan_build(u->train.profile, cluster, &opt, &plan));
    GR_TRY(gr_quality_measure(plan, r->route, u->test.bundles, u->test.profile, &q));
    *rows = r->flat ? (gr_rows_cost){.cross = q.rows.flat_cross, .intra = q.rows.flat_intra} : q.rows;
done:
    grace_plan_free(plan);
    return st;
}

grace_status gr_case_rungs_run(const gr_unit *u, grace_cluster cluster, uint64_t seed, gr_rows_cost *rows) {
    grace_status st = GRACE_OK;
    for (int i = 0; i < GR_N_CASE_RUNGS; i++) GR_TRY(run_rung(&gr_case_rungs[i], u, cluster, seed, &rows[i]));
done:
    return st;
}

/* ---- moves ---- */

enum { MOVES = 16, REPEAT_MAX = 101 };

/* The first layer only, borrowed. */
static gr_half first_layer(const gr_half *h, grace_profile *profile, grace_bundles *bundles) {
    *profile = *h->profile, *bundles = *h->bundles;
    profile->info.n_layers = bundles->n_layers = 1;
    return (gr_half){profile, bundles};
}

grace_status gr_replan_layer(const gr_unit *u, grace_cluster cluster, int32_t repeat, double *median_us) {
    grace_status st = GRACE_OK;
    grace_profile profiles[2];
    grace_bundles bundles[2];
    gr_half train = first_layer(&u->train, &profiles[0], &bundles[0]), test = first_layer(&u->test, &profiles[1], &bundles[1]);
    grace_plan_options opt = grace_plan_defaults();
    grace_plan *before = NULL, *after = NULL;
    double us[REPEAT_MAX];
    GR_CHECK(repeat >= 1 && repeat <= REPEAT_MAX, GRACE_ERR_ARG, "expected 1 to %d repeats, found %d", REPEAT_MAX, repeat);
    GR_TRY(gr_recipe_plan(&gr_recipes[GR_RECIPE_AUTO_125], &train, cluster, 0, &before));
    opt.planner = GRACE_PLANNER_AUTO, opt.bundles = test.bundles, opt.from = before, opt.max_moves = MOVES;
    for (int32_t i = 0; i < repeat; i++) {
        double start = gr_cpu_us();
        GR_TRY(grace_plan_build(test.profile, cluster, &opt, &after));
        us[i] = gr_cpu_us() - start;
        grace_plan_free(after), after = NULL;
    }
    *median_us = gr_bench_median(us, repeat);
done:
    grace_plan_free(before), grace_plan_free(after);
    return st;
}

/* ---- transfer ---- */

static grace_status cross_rows(const grace_plan *plan, const gr_half *test, double *cross) {
    gr_quality q;
    grace_status st = gr_quality_measure(plan, GRACE_ROUTE_TAR, test->bundles, test->profile, &q);
    if (!st) *cross = q.rows.cross;
    return st;
}

grace_status gr_transfer(const gr_unit *units, int32_t n, grace_cluster cluster, uint64_t seed, double *kept) {
    grace_status st = GRACE_OK;
    grace_plan *plain = NULL, *ours = NULL;
    double *base = NULL, *rows = kept;      /* rows [n, n] until they become shares in place */
    GR_CALLOC(base, n);
    for (int32_t i = 0; i < n; i++) {
        grace_plan_free(plain), grace_plan_free(ours);
        plain = ours = NULL;
        GR_TRY(gr_recipe_plan(&gr_recipes[GR_RECIPE_CONTIGUOUS], &units[i].train, cluster, seed, &plain));
        GR_TRY(gr_recipe_plan(&gr_recipes[GR_RECIPE_AUTO_125], &units[i].train, cluster, seed, &ours));
        GR_TRY(cross_rows(plain, &units[i].test, &base[i]));
        for (int32_t j = 0; j < n; j++) GR_TRY(cross_rows(ours, &units[j].test, &rows[i * n + j]));
    }
    for (int32_t j = 0; j < n; j++) {
        double own = base[j] - rows[j * n + j];
        for (int32_t i = 0; i < n; i++) kept[i * n + j] = own > 0 ? (base[j] - rows[i * n + j]) / own : 1;
    }
done:
    grace_plan_free(plain), grace_plan_free(ours);
    free(base);
    return st;
}

/* ---- what is asked for ---- */

error_t gr_case_parse(int key, char *arg, struct argp_state *state) {
    gr_case_arguments *a = state->input;
    switch (key) {
    case GR_CASE_CLUSTERS: a->n_clusters = gr_arg_clusters(state, arg, a->clusters); break;
    case GR_CASE_SEED: a->seed = (uint64_t)gr_arg_int(state, "seed", arg, 0, INT64_MAX); break;
    case GR_CASE_MOVED_ROWS: a->moved_rows = gr_arg_number(state, "moved-rows", arg, 1e-9, 1e9); break;
    case GR_CASE_CHUNK: a->chunk = (int32_t)gr_arg_int(state, "chunk", arg, 1, 1 << 20); break;
    case GR_CASE_COMMIT: a->commit = arg; break;
    case GR_CASE_JSON: a->json = true; break;
    case 'o': a->output = arg; break;
    case ARGP_KEY_ARG:
        if (a->n_traces == GR_CASES_TRACES_MAX) argp_error(state, "expected at most %d traces", GR_CASES_TRACES_MAX);
        a->traces[a->n_traces++] = arg;
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static void take_golden_traces(gr_case_arguments *a) {
    static const char *const golden[] = {"tests/golden/tiny-olmoe/traces/prose", "tests/golden/tiny-olmoe/traces/code", "tests/golden/tiny-olmoe/traces/math"};
    for (a->n_traces = 0; a->n_traces < 3; a->n_traces++) a->traces[a->n_traces] = golden[a->n_traces];
}

int gr_case_main(const struct argp *argp, const char *bench, gr_case_arguments *a, grace_status (*measure)(const gr_case_arguments *a, gr_json *doc)) {
    grace_status st = GRACE_OK;
    gr_json *doc = gr_json_new_object();
    gr_arg_parse(argp, 3, a->argc, a->argv, a);
    if (a->n_traces == 0) take_golden_traces(a);
    gr_json_set_string(doc, "bench", bench);
    GR_TRY(gr_bench_origin(doc, a->argc, a->argv, NULL, a->commit));
    GR_TRY(measure(a, doc));
    if (a->output) GR_TRY(gr_json_save(doc, a->output));
    if (a->json) st = gr_print_json(gr_json_share(doc));
done:
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    gr_json_free(doc);
    return st ? 1 : 0;
}
