/* grace plan: a trace and a cluster to a placement. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "cli.h"
#include "plan/cut.h"

enum { KEY_CLUSTER = 0x200, KEY_PLANNER, KEY_GROUPING, KEY_REPLICATION, KEY_R, KEY_SEED, KEY_DOMAIN, KEY_SEQUENCES, KEY_JSON };

static const struct argp_option options[] = {
    {"cluster", KEY_CLUSTER, "SHAPE", 0, "\"node:2 gpu:2\" or 2x2 (default)", 0},
    {"planner", KEY_PLANNER, "NAME", 0, "grace (default: the paper's), uniform (balanced spectral groups, no nodes, no replicas) or contiguous", 0},
    {"grouping", KEY_GROUPING, "KIND", 0, "grace, inside a node: controlled (default), free or uniform", 0},
    {"replication", KEY_REPLICATION, "KIND", 0, "grace: dynamic (default), fixed or none", 0},
    {"ratio", KEY_R, "R", 0, "grace: group sizes may differ from the mean by this share (default: chosen at the knee)", 0},
    {"seed", KEY_SEED, "N", 0, "of the clustering (default 0)", 0},
    {"domain", KEY_DOMAIN, "NAME", 0, "only this domain of the trace", 0},
    {"sequences", KEY_SEQUENCES, "WHICH", 0, "all (default), even or odd ones", 0},
    {"output", 'o', "FILE", 0, "the plan (default plan.json)", 0},
    {"json", KEY_JSON, 0, 0, "print one JSON object", 0},
    {0},
};

typedef struct arguments {
    grace_plan_options plan;
    grace_cluster cluster;
    const char *trace, *output, *domain;
    int32_t parity;
    bool json;
    const char *only_grace;         /* an option given that means something for the planner grace only */
} arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    static const char *const planners[] = {"contiguous", "uniform", "grace"}, *const groupings[] = {"controlled", "free", "uniform"},
                            *const replications[] = {"none", "fixed", "dynamic"}, *const sequences[] = {"all", "even", "odd"};
    arguments *a = state->input;
    switch (key) {
    case KEY_CLUSTER:
        if (grace_cluster_parse(arg, &a->cluster)) argp_error(state, "--cluster: %s", grace_last_error());
        break;
    case KEY_PLANNER: a->plan.planner = (grace_planner)gr_arg_choice(state, "planner", arg, planners, 3); break;
    case KEY_GROUPING: a->plan.grouping = (grace_grouping)gr_arg_choice(state, "grouping", arg, groupings, 3); a->only_grace = "grouping"; break;
    case KEY_REPLICATION: a->plan.replication = (grace_replication)gr_arg_choice(state, "replication", arg, replications, 3); a->only_grace = "replication"; break;
    case KEY_R: a->plan.r = gr_arg_number(state, "ratio", arg, 0, 1); a->only_grace = "ratio"; break;
    case KEY_SEED: a->plan.seed = (uint64_t)gr_arg_int(state, "seed", arg, 0, INT64_MAX); break;
    case KEY_DOMAIN: a->domain = arg; break;
    case KEY_SEQUENCES: a->parity = gr_arg_choice(state, "sequences", arg, sequences, 3) - 1; break;
    case 'o': a->output = arg; break;
    case KEY_JSON: a->json = true; break;
    case ARGP_KEY_ARG:
        if (a->trace) argp_error(state, "expected one trace, found '%s' too", arg);
        a->trace = arg;
        break;
    case ARGP_KEY_END:
        if (!a->trace) argp_error(state, "expected a trace");
        if (a->only_grace && a->plan.planner != GRACE_PLANNER_GRACE) argp_error(state, "--%s is for --planner grace", a->only_grace);
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static grace_status find_domain(const grace_trace *trace, const char *name, int32_t *domain) {
    *domain = -1;
    if (!name) return GRACE_OK;
    for (int32_t d = 0; d < grace_trace_n_domains(trace); d++)
        if (strcmp(grace_trace_domain(trace, d), name) == 0) {
            *domain = d;
            return GRACE_OK;
        }
    return gr_fail(GRACE_ERR_ARG, "the trace has no domain '%s'", name);
}

static int32_t n_secondary(const grace_plan *plan) {
    int32_t n = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) n += plan->layers[l].n_slots - plan->n_experts;
    return n;
}

static void spread(const double *load, int32_t n, double *max_over_mean) {
    double sum = 0, most = 0;
    for (int32_t r = 0; r < n; r++) {
        sum += load[r];
        if (load[r] > most) most = load[r];
    }
    *max_over_mean = sum > 0 ? most * n / sum : 0;
}

static void print_table(const arguments *a, const grace_plan *plan, double inside_gpu, double inside_node, double us) {
    printf("%s: %s for node:%d gpu:%d, %d layers, %d experts, %d replicas, %.0f ms\n", a->output, plan->planner, plan->cluster.n_nodes,
           plan->cluster.gpus_per_node, plan->n_layers, plan->n_experts, n_secondary(plan), us * 1e-3);
    printf("affinity kept inside a GPU %.1f %%, inside a node %.1f %%", 100 * inside_gpu, 100 * inside_node);
    if (plan->r >= 0) printf("; ratio %.3f%s", plan->r, plan->n_knee ? " (the knee)" : "");
    printf("\nlayer  slots  replicas  max/mean load before -> after\n");
    for (int32_t l = 0; l < plan->n_layers; l++) {
        double before, after;
        spread(plan->layers[l].load_before, grace_cluster_ranks(plan->cluster), &before);
        spread(plan->layers[l].load_after, grace_cluster_ranks(plan->cluster), &after);
        printf("%5d  %5d  %8d  %13.2f -> %.2f\n", l, plan->layers[l].n_slots, plan->layers[l].n_slots - plan->n_experts, before, after);
    }
}

static grace_status print_json(const arguments *a, const grace_plan *plan, double inside_gpu, double inside_node, double us) {
    gr_json *o = gr_json_new_object(), *layers = gr_json_new_array();
    gr_json_set_string(o, "plan", a->output);
    gr_json_set_string(o, "planner", plan->planner);
    gr_json_set_int(o, "replicas", n_secondary(plan));
    gr_json_set_real(o, "ratio", plan->r);
    gr_json_set_real(o, "affinity_inside_gpu", inside_gpu);
    gr_json_set_real(o, "affinity_inside_node", inside_node);
    gr_json_set_real(o, "planning_us", us);
    for (int32_t l = 0; l < plan->n_layers; l++) {
        gr_json *layer = gr_json_new_object();
        gr_json_set_int(layer, "slots", plan->layers[l].n_slots);
        gr_json_set_reals(layer, "load_before", plan->layers[l].load_before, (size_t)grace_cluster_ranks(plan->cluster));
        gr_json_set_reals(layer, "load_after", plan->layers[l].load_after, (size_t)grace_cluster_ranks(plan->cluster));
        gr_json_push(layers, layer);
    }
    gr_json_set(o, "layers", layers);
    return gr_print_json(o);
}

static grace_status plan_trace(const arguments *a) {
    grace_status st = GRACE_OK;
    grace_trace *trace = NULL;
    grace_profile *profile = NULL;
    grace_plan *plan = NULL;
    int32_t domain;
    double start, us, inside_gpu, inside_node;
    GR_TRY(grace_trace_open(a->trace, &trace, NULL));
    GR_TRY(find_domain(trace, a->domain, &domain));
    GR_TRY(grace_profile_build(trace, domain, a->parity, &profile));
    GR_CHECK(profile->n_tokens > 0, GRACE_ERR_ARG, "%s: expected tokens to plan from, found none%s", a->trace,
             domain >= 0 || a->parity >= 0 ? " in the selection" : "");
    start = gr_now_us();
    GR_TRY(grace_plan_build(profile, a->cluster, &a->plan, &plan));
    us = gr_now_us() - start;
    GR_TRY(gr_plan_cut(plan, profile, &inside_gpu, &inside_node));
    GR_TRY(grace_plan_save(plan, a->output));
    if (a->json) st = print_json(a, plan, inside_gpu, inside_node, us);
    else print_table(a, plan, inside_gpu, inside_node, us);
done:
    grace_plan_free(plan);
    grace_profile_free(profile);
    grace_trace_close(trace);
    return st;
}

int gr_cmd_plan(int argc, char **argv) {
    static const struct argp argp = {options, parse, "TRACE", "Turn a trace into a placement: which rank holds which experts and copies of which.", 0, 0, 0};
    arguments a = {.plan = grace_plan_defaults(), .cluster = {2, 2}, .output = "plan.json", .parity = -1};
    gr_arg_parse(&argp, 2, argc, argv, &a);
    grace_status st = plan_trace(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
