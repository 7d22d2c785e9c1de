/* grace bench agreement: the MoE time a ladder measured beside the time the cost model predicts for the same plans, and whether they order alike. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "bench.h"
#include "ladder_json.h"

enum { KEY_TRACE = 0x200, KEY_RATES, KEY_CHUNK, KEY_PLANS, KEY_JSON, KEY_COMMIT };

static const struct argp_option options[] = {
    {"model", 'm', "DIR", 0, "the ladder's model folder", 0},
    {"trace", KEY_TRACE, "FILE", 0, "routing to predict from, e.g. the ladder's own --trace", 0},
    {"rates", KEY_RATES, "RATES", 0, "of the machine the ladder ran on ('grace bench net'), or a preset", 0},
    {"plans", KEY_PLANS, "DIR", 0, "where the ladder's plans are now, as rung-0.json and on (default: where it wrote them)", 0},
    {"batch-tokens", KEY_CHUNK, "N", 0, "as the ladder ran (default 512)", 0},
    {"output", 'o', "FILE", 0, "also as JSON", 0},
    {"commit", KEY_COMMIT, "ID", 0, "commit to name in the output", 0},
    {"json", KEY_JSON, 0, 0, "print one JSON object", 0},
    {0},
};

typedef struct arguments { const char *ladder, *model, *trace, *rates, *plans, *output, *commit; int32_t chunk; bool json; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'm': a->model = arg; break;
    case KEY_TRACE: a->trace = arg; break;
    case KEY_RATES: a->rates = arg; break;
    case KEY_PLANS: a->plans = arg; break;
    case KEY_CHUNK: a->chunk = (int32_t)gr_arg_int(state, "batch-tokens", arg, 1, 1 << 20); break;
    case KEY_COMMIT: a->commit = arg; break;
    case 'o': a->output = arg; break;
    case KEY_JSON: a->json = true; break;
    case ARGP_KEY_ARG:
        if (a->ladder) argp_error(state, "expected one ladder, found '%s' too", arg);
        a->ladder = arg;
        break;
    case ARGP_KEY_END:
        if (!a->ladder || !a->model || !a->trace || !a->rates) argp_error(state, "expected a ladder's JSON, --model, --trace and --rates");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

typedef struct rung { double measured_s, predicted_s; } rung;
typedef struct world {
    gr_json *ladder;
    grace_trace *trace;
    grace_routing *routing;
    grace_model *model;
    grace_shape shape;
    grace_rates rates;
    grace_workload workload;
    gr_ladder_run runs[GR_LADDER_RUNGS_MAX];
    rung rungs[GR_LADDER_RUNGS_MAX];
    int32_t n;
} world;

/* ---- in ---- */

static grace_status open_world(const arguments *a, world *w) {
    grace_status st = GRACE_OK;
    bool truncated;
    GR_TRY(gr_json_load(a->ladder, &w->ladder));
    GR_TRY(gr_ladder_read(w->ladder, a->ladder, w->runs, &w->n, &w->workload));
    w->workload.chunk = a->chunk;
    GR_TRY(grace_trace_open(a->trace, &w->trace, &truncated));
    GR_TRY(grace_routing_of_trace(w->trace, NULL, &w->routing));
    GR_TRY(grace_model_open(a->model, &w->model));
    w->shape = grace_shape_of_model(grace_model_describe(w->model));
    GR_TRY(grace_rates_load(a->rates, &w->rates));
done:
    return st;
}

static void close_world(world *w) {
    gr_json_free(w->ladder);
    grace_routing_free(w->routing);
    grace_trace_close(w->trace);
    grace_model_close(w->model);
}

/* ---- predicted ---- */

static grace_status load_plan(const arguments *a, const gr_ladder_run *run, int32_t index, grace_plan **out) {
    char moved[4096];
    snprintf(moved, sizeof moved, "%s/rung-%d.json", a->plans ? a->plans : "", index);
    return grace_plan_load(a->plans ? moved : run->plan, out);
}

static grace_status predict(const arguments *a, world *w, int32_t index, rung *out) {
    grace_status st = GRACE_OK;
    const gr_ladder_run *run = &w->runs[index];
    grace_plan *plan = NULL;
    grace_sim *sim = NULL;
    GR_TRY(load_plan(a, run, index, &plan));
    grace_sim_options opt = {.plan = plan, .route = run->route, .exchange = run->exchange, .workload = &w->workload, .shape = &w->shape, .rates = &w->rates};
    GR_TRY(grace_sim_run(w->routing, &opt, &sim));
    out->measured_s = run->moe_us * 1e-6;
    out->predicted_s = sim->prefill.total - sim->prefill.dense + sim->decode.total - sim->decode.dense;
done:
    grace_sim_free(sim);
    grace_plan_free(plan);
    return st;
}

static grace_status predict_all(const arguments *a, world *w) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < w->n && !st; i++) st = predict(a, w, i, &w->rungs[i]);
    return st;
}

/* Pairs in the same order less pairs in the other, over all pairs. */
static double kendall_tau(const rung *r, int32_t n) {
    int32_t score = 0;
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < i; j++) {
            double both = (r[i].measured_s - r[j].measured_s) * (r[i].predicted_s - r[j].predicted_s);
            score += (both > 0) - (both < 0);
        }
    return 2.0 * score / (n * (n - 1));
}

/* ---- out ---- */

static grace_status put(const arguments *a, const world *w, double tau, int argc, char **argv) {
    gr_json *o = gr_json_new_object(), *rungs = gr_json_new_array();
    const char *ladder = "", *commit = "";
    gr_json_set_int(o, "grace_agreement", 1);
    grace_status st = gr_bench_origin(o, argc, argv, NULL, a->commit);
    gr_json_is_string(gr_json_get(w->ladder, "command"), &ladder, NULL);
    gr_json_is_string(gr_json_get(w->ladder, "commit"), &commit, NULL);
    gr_json_set_string(o, "ladder_command", ladder);
    gr_json_set_string(o, "ladder_commit", commit);
    gr_json_set_real(o, "kendall_tau", tau);
    for (int32_t i = 0; i < w->n; i++) {
        gr_json *r = gr_json_new_object();
        gr_json_set_string(r, "name", w->runs[i].name);
        gr_json_set_real(r, "moe_measured_s", w->rungs[i].measured_s);
        gr_json_set_real(r, "moe_predicted_s", w->rungs[i].predicted_s);
        gr_json_push(rungs, r);
    }
    gr_json_set(o, "rungs", rungs);
    if (!st && a->output) st = gr_json_save(o, a->output);
    if (!st && a->json) return gr_print_json(o);
    gr_json_free(o);
    return st;
}

static void print_table(const world *w, double tau) {
    printf("%-28s %12s %12s %8s\n", "rung", "measured s", "predicted s", "ratio");
    for (int32_t i = 0; i < w->n; i++)
        printf("%-28s %12.3f %12.3f %8.2f\n", w->runs[i].name, w->rungs[i].measured_s, w->rungs[i].predicted_s,
               w->rungs[i].predicted_s / w->rungs[i].measured_s);
    printf("MoE time, all steps; Kendall tau of the two orders %.3f\n", tau);
}

int gr_bench_agreement_main(int argc, char **argv) {
    static const struct argp argp = {options, parse, "LADDER.json", "Does the cost model order a ladder's plans as they were measured?", 0, 0, 0};
    arguments a = {.chunk = 512};
    world w = {0};
    gr_arg_parse(&argp, 3, argc, argv, &a);
    grace_status st = open_world(&a, &w);
    if (!st) st = predict_all(&a, &w);
    double tau = st ? 0 : kendall_tau(w.rungs, w.n);
    if (!st && !a.json) print_table(&w, tau);
    if (!st) st = put(&a, &w, tau, argc, argv);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    close_world(&w);
    return st ? 1 : 0;
}
