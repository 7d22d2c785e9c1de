/* grace sim: what plans would move, compute and take, on any cluster, from recorded or made-up routing. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "cli.h"
#include "interop/interop.h"
#include "plan/tables.h"
#include "sim_json.h"

enum { KEY_PLAN = 0x200, KEY_CLUSTER, KEY_WORKLOAD, KEY_CHUNK, KEY_ROUTE, KEY_EXCHANGE, KEY_EXACT, KEY_RATES, KEY_SHAPE, KEY_TOKENS, KEY_MADE_UP, KEY_JSON };
enum { PLANS_MAX = 32 };

static const struct argp_option options[] = {
    {"plan", KEY_PLAN, "PLAN", 0, "a plan's file, or contiguous (default), replicate-node, tiled:R (every R ranks hold all experts); may be given often", 0},
    {"cluster", KEY_CLUSTER, "SHAPE", 0, "for plans that are no files, e.g. 4x8 (default: the first file's, else 2x2)", 0},
    {"workload", KEY_WORKLOAD, "B,P,D", 0, "B sequences of P prompt tokens, then D decode steps (default: the trace's own steps; 256,128,16 "
     "where it has none)", 0},
    {"chunk", KEY_CHUNK, "N", 0, "prompt rows a rank computes in one step (default: all at once)", 0},
    {"exchange", KEY_EXCHANGE, "KIND", 0, "hsc (default), flat or per-expert", 0},
    {"route", KEY_ROUTE, "POLICY", 0, "tar (default), tar-entry, joint, wrr or primary", 0},
    {"exact", KEY_EXACT, 0, 0, "every expert's row comes home unsummed", 0},
    {"rates", KEY_RATES, "RATES", 0, "a file of 'grace bench net', or a preset: h200-25g (default), h200-1g, -10g, -100g, -400g, h100-25g, -100g, -400g, "
     "a100-25g, cpu, "
     "cpu-100mbit, cpu-1gbit", 0},
    {"model", 'm', "DIR", 0, "model folder, for widths and bytes", 0},
    {"shape", KEY_SHAPE, "SHAPE", 0, "the same without a folder: olmoe-1b-7b, deepseek-v2-lite, qwen3-30b-a3b, gpt-oss-20b, deepseek-v3, or "
     "\"hidden=N,width=N,...\" (default: the one that the routing fits, else widths of olmoe-1b-7b)", 0},
    {"tokens", KEY_TOKENS, "WHICH", 0, "of the trace: all (default), even, odd, domain:NAME, \"odd domain:NAME\"", 0},
    {"synthetic", KEY_MADE_UP, "HOW", 0, "instead of a trace: \"experts=256,top_k=8,layers=4,zipf=0.5,seed=1\"", 0},
    {"json", KEY_JSON, 0, 0, "print one JSON object (docs/simulator.md)", 0},
    {0},
};

typedef struct arguments {
    const char *trace, *rates, *model, *shape;
    const char *plans[PLANS_MAX];
    int32_t n_plans;
    grace_cluster cluster;          /* 0 nodes: not given */
    grace_workload workload;        /* 0 sequences: not given */
    grace_selection tokens;
    grace_synthetic made_up;        /* 0 layers: not asked for */
    grace_route route;
    grace_exchange exchange;
    bool exact, json;
} arguments;

static void parse_workload(struct argp_state *state, const char *text, grace_workload *w) {
    char end;
    if (sscanf(text, "%9d,%9d,%9d%c", &w->sequences, &w->prefill, &w->decode, &end) != 3 || w->sequences < 1 || w->prefill < 0 || w->decode < 0)
        argp_error(state, "--workload: expected SEQUENCES,PREFILL,DECODE, found '%s'", text);
}

static void parse_made_up(struct argp_state *state, const char *text, grace_synthetic *s) {
    char name[16], end;
    double value;
    int n;
    *s = (grace_synthetic){.n_layers = 4, .n_experts = 256, .top_k = 8, .seed = 1};
    for (const char *at = text; *at; at += n, at += *at == ',') {
        if (sscanf(at, "%15[a-z_]=%lf%n%c", name, &value, &n, &end) < 2 || (at[n] && at[n] != ',') || !(value >= 0 && value <= 1 << 20))
            argp_error(state, "--synthetic: expected NAME=NUMBER, found '%s'", at);
        if (strcmp(name, "experts") == 0) s->n_experts = (int32_t)value;
        else if (strcmp(name, "top_k") == 0) s->top_k = (int32_t)value;
        else if (strcmp(name, "layers") == 0) s->n_layers = (int32_t)value;
        else if (strcmp(name, "zipf") == 0) s->zipf = value;
        else if (strcmp(name, "seed") == 0) s->seed = (uint64_t)value;
        else argp_error(state, "--synthetic: expected experts, top_k, layers, zipf or seed, found '%s'", name);
        if (strcmp(name, "zipf") && value != floor(value)) argp_error(state, "--synthetic: expected a whole number of %s, found %g", name, value);
    }
    if (s->n_layers < 1) argp_error(state, "--synthetic: expected at least 1 layer, found %d", s->n_layers);
}

static void check_together(struct argp_state *state, arguments *a) {
    if (!a->trace == !a->made_up.n_layers) argp_error(state, "expected a trace or --synthetic");
    if (a->model && a->shape) argp_error(state, "--model and --shape say the same: give one");
    if (a->workload.chunk && !a->workload.sequences) argp_error(state, "--chunk is for --workload");
    if (!a->n_plans) a->plans[a->n_plans++] = "contiguous";
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    static const char *const exchanges[] = {"per-expert", "flat", "hsc"}, *const routes[GRACE_N_ROUTES] = {"primary", "wrr", "tar", "tar-entry", "joint"};
    arguments *a = state->input;
    switch (key) {
    case KEY_PLAN:
        if (a->n_plans == PLANS_MAX) argp_error(state, "more than %d plans", PLANS_MAX);
        a->plans[a->n_plans++] = arg;
        break;
    case KEY_CLUSTER:
        if (grace_cluster_parse(arg, &a->cluster)) argp_error(state, "--cluster: %s", grace_last_error());
        break;
    case KEY_WORKLOAD: parse_workload(state, arg, &a->workload); break;
    case KEY_CHUNK: a->workload.chunk = (int32_t)gr_arg_int(state, "chunk", arg, 1, 1 << 20); break;
    case KEY_EXCHANGE: a->exchange = (grace_exchange)gr_arg_choice(state, "exchange", arg, exchanges, 3); break;
    case KEY_ROUTE: a->route = (grace_route)gr_arg_choice(state, "route", arg, routes, GRACE_N_ROUTES); break;
    case KEY_EXACT: a->exact = true; break;
    case KEY_RATES: a->rates = arg; break;
    case 'm': a->model = arg; break;
    case KEY_SHAPE: a->shape = arg; break;
    case KEY_TOKENS:
        if (grace_selection_parse(arg, &a->tokens)) argp_error(state, "--tokens: %s", grace_last_error());
        break;
    case KEY_MADE_UP: parse_made_up(state, arg, &a->made_up); break;
    case KEY_JSON: a->json = true; break;
    case ARGP_KEY_ARG:
        if (a->trace) argp_error(state, "expected one trace, found '%s' too", arg);
        a->trace = arg;
        break;
    case ARGP_KEY_END: check_together(state, a); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- plans that are no files ---- */

/* Every `tile` ranks hold all experts, in equal runs; the primaries are dealt out over the tiles. */
static grace_status make_tiled(const grace_trace_info *i, grace_cluster cluster, int32_t tile, const char *name, grace_plan **out) {
    grace_status st = GRACE_OK;
    int32_t n_ranks = grace_cluster_ranks(cluster), n_tiles = n_ranks / tile, n = i->n_experts;
    int32_t *rank_of_expert = NULL;
    gr_copy *copies = NULL;
    grace_plan *plan = NULL;
    GR_CALLOC(rank_of_expert, n);
    GR_CALLOC(copies, (size_t)n * (size_t)n_tiles);
    GR_TRY(gr_plan_new(i->n_layers, n, i->top_k, cluster, &plan));
    for (int32_t e = 0, n_copies = 0; e < n; e++) {
        int32_t at = (int32_t)((int64_t)e * tile / n);
        rank_of_expert[e] = e % n_tiles * tile + at;
        for (int32_t t = 0; t < n_tiles; t++)
            if (t != e % n_tiles) copies[n_copies++] = (gr_copy){e, t * tile + at};
    }
    for (int32_t l = 0; l < i->n_layers; l++) GR_TRY(gr_plan_place(plan, l, rank_of_expert, copies, n * (n_tiles - 1)));
    snprintf(plan->planner, sizeof plan->planner, "%.31s", name);
    plan->fingerprint = i->fingerprint;
    *out = plan, plan = NULL;
done:
    grace_plan_free(plan);
    free(rank_of_expert), free(copies);
    return st;
}

/* Ranks of a tile; 0: the name is a file's. */
static int32_t tile_of_name(const char *name, grace_cluster cluster) {
    int32_t tile = 0;
    char end;
    if (strcmp(name, "contiguous") == 0) return grace_cluster_ranks(cluster);
    if (strcmp(name, "replicate-node") == 0) return cluster.gpus_per_node;
    return sscanf(name, "tiled:%9d%c", &tile, &end) == 1 ? tile : 0;
}

static bool is_file(const char *name) { return strcmp(name, "contiguous") && strcmp(name, "replicate-node") && strncmp(name, "tiled:", 6); }

static grace_status open_plan(const grace_trace_info *i, grace_cluster cluster, const char *name, grace_plan **out) {
    grace_status st = GRACE_OK;
    int32_t n_ranks = grace_cluster_ranks(cluster), tile = tile_of_name(name, cluster);
    if (is_file(name)) return grace_plan_load(name, out);
    GR_CHECK(tile >= 1 && n_ranks % tile == 0 && tile <= i->n_experts, GRACE_ERR_ARG,
             "%s: expected all %d experts on every R ranks, R a divisor of the %d ranks and at most as many", name, i->n_experts, n_ranks);
    GR_TRY(make_tiled(i, cluster, tile, name, out));
done:
    return st;
}

/* ---- all ---- */

typedef struct world { grace_trace *trace; grace_routing *routing; grace_shape shape; grace_rates rates; gr_sim_plan plans[PLANS_MAX]; } world;

static grace_status choose_shape(const arguments *a, const grace_trace_info *i, grace_shape *out) {
    grace_status st = GRACE_OK;
    grace_model *model = NULL;
    *out = grace_shape_assumed(i->n_layers, i->n_experts, i->top_k);
    if (a->shape) GR_TRY(grace_shape_parse(a->shape, i, out));
    if (!a->model) goto done;
    GR_TRY(grace_model_open(a->model, &model));
    const grace_model_info *m = grace_model_describe(model);
    GR_CHECK(!i->fingerprint || i->fingerprint == m->fingerprint, GRACE_ERR_MISMATCH, "%s has fingerprint %016llx, the routing is of %016llx", a->model,
             (unsigned long long)m->fingerprint, (unsigned long long)i->fingerprint);
    *out = grace_shape_of_model(m);
done:
    grace_model_close(model);
    return st;
}

static grace_status open_world(const arguments *a, world *w) {
    grace_status st = GRACE_OK;
    if (a->trace) {
        GR_TRY(gr_foreign_trace(a->trace, &(gr_foreign_options){0}, &w->trace));
        GR_TRY(grace_routing_of_trace(w->trace, &a->tokens, &w->routing));
    } else GR_TRY(grace_routing_made_up(&a->made_up, &w->routing));
    GR_TRY(choose_shape(a, grace_routing_info(w->routing), &w->shape));
    GR_TRY(grace_rates_load(a->rates, &w->rates));
done:
    return st;
}

static grace_status open_plans(const arguments *a, world *w, grace_cluster *cluster) {
    grace_status st = GRACE_OK;
    *cluster = a->cluster;
    for (int32_t i = 0; i < a->n_plans; i++) {
        if (!is_file(a->plans[i])) continue;
        GR_TRY(grace_plan_load(a->plans[i], &w->plans[i].plan));
        grace_cluster c = w->plans[i].plan->cluster;
        GR_CHECK(!a->cluster.n_nodes || (c.n_nodes == a->cluster.n_nodes && c.gpus_per_node == a->cluster.gpus_per_node), GRACE_ERR_MISMATCH,
                 "%s is for %dx%d, --cluster says %dx%d", a->plans[i], c.n_nodes, c.gpus_per_node, a->cluster.n_nodes, a->cluster.gpus_per_node);
        if (!cluster->n_nodes) *cluster = c;
    }
    if (!cluster->n_nodes) *cluster = (grace_cluster){2, 2};
    for (int32_t i = 0; i < a->n_plans; i++) {
        w->plans[i].name = a->plans[i];
        if (!w->plans[i].plan) GR_TRY(open_plan(grace_routing_info(w->routing), *cluster, a->plans[i], &w->plans[i].plan));
    }
done:
    return st;
}

static grace_status simulate(const arguments *a, world *w) {
    grace_status st = GRACE_OK;
    grace_workload usual = {256, 128, 16, 0};
    gr_sim_output out = {.trace = a->trace, .plans = w->plans, .n_plans = a->n_plans};
    GR_TRY(open_plans(a, w, &out.cluster));
    out.synthetic = grace_routing_info(w->routing)->synthetic;
    out.workload = a->workload.sequences ? &a->workload : grace_routing_has_steps(w->routing) ? NULL : &usual;
    out.options = (grace_sim_options){.route = a->route, .exchange = a->exchange, .exact = a->exact, .workload = out.workload,
                                      .shape = &w->shape, .rates = &w->rates};
    grace_selection_format(&a->tokens, out.tokens, sizeof out.tokens);
    for (int32_t i = 0; i < a->n_plans; i++) {
        grace_sim_options opt = out.options;
        opt.plan = w->plans[i].plan;
        GR_TRY(grace_sim_run(w->routing, &opt, &w->plans[i].sim));
    }
    out.has_others = out.workload != NULL;
    if (out.has_others) GR_TRY(grace_price_others(w->routing, out.cluster, out.workload, &w->shape, &w->rates, out.others));
    if (a->json) st = gr_print_json(gr_sim_json(&out));
    else gr_sim_print(&out);
done:
    return st;
}

int gr_cmd_sim(int argc, char **argv) {
    static const struct argp argp = {options, parse, "[TRACE]", "Replay routing through plans: rows, loads and predicted times on any cluster.", 0, 0, 0};
    arguments a = {.rates = "h200-25g", .route = GRACE_ROUTE_TAR, .exchange = GRACE_EXCHANGE_HSC};
    world w = {0};
    gr_arg_parse(&argp, 2, argc, argv, &a);
    grace_status st = open_world(&a, &w);
    if (!st) st = simulate(&a, &w);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    for (int32_t i = 0; i < a.n_plans; i++) grace_sim_free(w.plans[i].sim), grace_plan_free(w.plans[i].plan);
    grace_routing_free(w.routing);
    grace_trace_close(w.trace);
    return st ? 1 : 0;
}
