/* grace bench placements: plans of every planner on tokens not seen, what memory buys and what is left on other text, as a document for grace report. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "bench.h"
#include "placements.h"
#include "report/report.h"

enum { KEY_CLUSTER = 0x200, KEY_RATES, KEY_SHAPE, KEY_SEED, KEY_JSON, KEY_COMMIT, KEY_WORKLOAD };

static const struct argp_option options[] = {
    {"cluster", KEY_CLUSTER, "SHAPE", 0, "\"node:2 gpu:2\" or 2x2 (default)", 0},
    {"rates", KEY_RATES, "NAME", 0, "rates of links and GPUs: a preset or a file of 'grace bench net' (docs/simulator.md; default: the first preset)", 0},
    {"shape", KEY_SHAPE, "SHAPE", 0, "the model's sizes: a preset or hidden=...,width=... (default: assumed from the number of experts)", 0},
    {"workload", KEY_WORKLOAD, "B,P,D", 0, "what is replayed and priced: B sequences of P prompt tokens, then D decode steps (default 256,128,16)", 0},
    {"seed", KEY_SEED, "N", 0, "of every planner (default 0)", 0},
    {"output", 'o', "FILE", 0, "the document (default placements.json)", 0},
    {"commit", KEY_COMMIT, "ID", 0, "commit to name in the document", 0},
    {"json", KEY_JSON, 0, 0, "print the document instead of a table", 0},
    {0},
};

typedef struct arguments {
    int argc;
    char **argv;
    const char *output, *commit, *rates, *shape;
    bool json;
    uint64_t seed;
    grace_workload workload;
    grace_cluster cluster;
    int32_t n_traces;
    const char *traces[GR_CASES_TRACES_MAX];
} arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    char end;
    switch (key) {
    case KEY_CLUSTER:
        if (grace_cluster_parse(arg, &a->cluster)) argp_error(state, "--cluster: %s", grace_last_error());
        break;
    case KEY_RATES: a->rates = arg; break;
    case KEY_SHAPE: a->shape = arg; break;
    case KEY_WORKLOAD:
        if (sscanf(arg, "%9d,%9d,%9d%c", &a->workload.sequences, &a->workload.prefill, &a->workload.decode, &end) != 3 || a->workload.sequences < 1 ||
            a->workload.prefill < 1 || a->workload.decode < 0)
            argp_error(state, "--workload: expected sequences, prompt tokens and decode steps, as in 256,128,16, found '%s'", arg);
        break;
    case KEY_SEED: a->seed = (uint64_t)gr_arg_int(state, "seed", arg, 0, INT64_MAX); break;
    case KEY_COMMIT: a->commit = arg; break;
    case KEY_JSON: a->json = true; break;
    case 'o': a->output = arg; break;
    case ARGP_KEY_ARG:
        if (a->n_traces == GR_CASES_TRACES_MAX) argp_error(state, "expected at most %d traces", GR_CASES_TRACES_MAX);
        a->traces[a->n_traces++] = arg;
        break;
    case ARGP_KEY_END:
        if (!a->n_traces) argp_error(state, "expected a trace");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static grace_status add_recipe(gr_placements *p, const char *name, const gr_recipe *recipe, bool strong) {
    grace_plan *plan = NULL;
    grace_status st = gr_recipe_plan(recipe, &p->unit->train, p->cluster, p->seed, &plan);
    if (!st) st = gr_placements_add(p, name, plan, strong);
    grace_plan_free(plan);
    return st;
}

static grace_status add_all(gr_placements *p) {
    static const gr_recipe everywhere = {"replicate-node", GRACE_PLANNER_REPLICATE_NODE, 0, 1.1};
    static const struct { const char *name; gr_recipe_id recipe; } plans[] = {
        {"contiguous", GR_RECIPE_CONTIGUOUS}, {"uniform", GR_RECIPE_UNIFORM},    {"grace", GR_RECIPE_GRACE},          {"eplb", GR_RECIPE_EPLB},
        {"auto", GR_RECIPE_AUTO},             {"auto, 1.25", GR_RECIPE_AUTO_125}, {"auto, 1.5", GR_RECIPE_AUTO_150}};
    grace_status st = GRACE_OK;
    GR_TRY(add_recipe(p, plans[0].name, &gr_recipes[plans[0].recipe], false));
    GR_TRY(add_recipe(p, everywhere.name, &everywhere, false));
    for (size_t i = 1; i < sizeof plans / sizeof *plans; i++) GR_TRY(add_recipe(p, plans[i].name, &gr_recipes[plans[i].recipe],
                                                                                plans[i].recipe == GR_RECIPE_AUTO));
done:
    return st;
}

/* Several traces are domains; else those inside the one trace, if it has several with enough tokens. */
static grace_status add_transfer(gr_placements *p, const arguments *a, const gr_unit *units) {
    grace_status st = GRACE_OK;
    grace_trace_reader *t = NULL;
    gr_unit domains[GR_CASES_TRACES_MAX] = {0};
    int32_t n = 0;
    if (a->n_traces > 1) return gr_placements_transfer(p, units, a->n_traces);
    GR_TRY(grace_trace_reader_open(a->traces[0], &t));
    for (int32_t d = 0; d < grace_trace_n_domains(grace_trace_reader_head(t)) && n < GR_CASES_TRACES_MAX; d++)
        if (gr_unit_open(a->traces[0], grace_trace_domain(grace_trace_reader_head(t), d), &domains[n]) == GRACE_OK) n++;
    if (n > 1) GR_TRY(gr_placements_transfer(p, domains, n));
done:
    for (int32_t i = 0; i < n; i++) gr_unit_close(&domains[i]);
    grace_trace_reader_close(t);
    return st;
}

static grace_status print(const arguments *a, const gr_placements *p) {
    gr_buf text = {0};
    grace_status st;
    if (a->json) return gr_print_json(gr_json_share(p->doc));
    st = gr_report_placements_text(p->doc, &text);
    if (!st) fwrite(text.data, 1, text.n, stdout);
    gr_buf_free(&text);
    return st;
}

static grace_status run(const arguments *a) {
    grace_status st = GRACE_OK;
    gr_unit *units = NULL;
    grace_trace *trace = NULL;
    grace_routing *routing = NULL;
    const grace_selection odd = {.sequences = GRACE_SEQUENCES_ODD};
    gr_placements p = {.cluster = a->cluster, .seed = a->seed, .workload = a->workload};
    char title[200];
    GR_CALLOC(units, a->n_traces);
    for (int32_t t = 0; t < a->n_traces; t++) GR_TRY(gr_unit_open(a->traces[t], "", &units[t]));
    const grace_trace_info *info = &units[0].train.profile->info;
    GR_TRY(grace_trace_open(a->traces[0], &trace, NULL));
    GR_TRY(grace_routing_of_trace(trace, &odd, &routing));
    p.unit = &units[0], p.routing = routing;
    GR_TRY(grace_rates_load(a->rates, &p.rates));
    if (a->shape) GR_TRY(grace_shape_parse(a->shape, info, &p.shape));
    else p.shape = grace_shape_assumed(info->n_layers, info->n_experts, info->top_k);
    snprintf(title, sizeof title, "Placements on %dx%d: %s", a->cluster.n_nodes, a->cluster.gpus_per_node, units[0].name);
    gr_placements_open(&p, title, "odd sequences; planned on even ones");
    GR_TRY(gr_bench_origin(p.doc, a->argc, a->argv, NULL, a->commit));
    GR_TRY(add_all(&p));
    GR_TRY(gr_placements_curves(&p));
    GR_TRY(add_transfer(&p, a, units));
    GR_TRY(gr_json_save(p.doc, a->output));
    GR_TRY(print(a, &p));
done:
    gr_placements_close(&p);
    grace_routing_free(routing);
    grace_trace_close(trace);
    for (int32_t t = 0; units && t < a->n_traces; t++) gr_unit_close(&units[t]);
    free(units);
    return st;
}

int gr_bench_placements_main(int argc, char **argv) {
    static const struct argp argp = {options, parse, "TRACE...", "Plans of every planner, made on the even sequences of the first trace and "
                                                                 "measured on its odd ones; "
                                     "rows and predicted time against memory; plans of one domain (or trace) on the others. Draw it with 'grace "
                                     "report'.", 0, 0, 0};
    arguments a = {.argc = argc, .argv = argv, .output = "placements.json", .rates = "h200-25g", .cluster = {2, 2}, .workload = {.sequences = 256,
            .prefill = 128, .decode = 16}};
    gr_arg_parse(&argp, 3, argc, argv, &a);
    grace_status st = run(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
