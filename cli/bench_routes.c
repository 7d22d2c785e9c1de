/* grace bench routes: rows and loads under each routing policy, replayed token by token. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "bench.h"
#include "cli.h"
#include "plan_cases.h"
#include "run/router.h"

enum { FIRST_ROUTE = GRACE_ROUTE_WRR, N_PLANS = 3 };

static const struct argp_option options[] = {
    {"clusters", GR_CASE_CLUSTERS, "LIST", 0, "shapes, separated by commas (default 2x2,2x4,4x4)", 0},
    {"seed", GR_CASE_SEED, "N", 0, "of the planners (default 0)", 0},
    {"output", 'o', "FILE", 0, "write the document there (bench/results/routes.json is made so)", 0},
    {"commit", GR_CASE_COMMIT, "ID", 0, "commit to name in the document", 0},
    {"json", GR_CASE_JSON, 0, 0, "print the document instead of a table", 0},
    {0},
};

static const gr_recipe_id plans[N_PLANS] = {GR_RECIPE_GRACE, GR_RECIPE_AUTO, GR_RECIPE_EPLB_150};

/* ---- replay ---- */

typedef struct replay {
    const grace_plan *plan;
    gr_router *routers[GRACE_RANKS_MAX];    /* of every home */
    double *load;                           /* [n_layers, n_ranks] */
    int64_t cross, intra, n_tokens;
} replay;

static void count_token(replay *p, int32_t layer, int32_t home, const int32_t *slots) {
    bool node[GRACE_RANKS_MAX] = {false}, gpu[GRACE_RANKS_MAX] = {false};
    const int32_t *rank_of_slot = p->plan->layers[layer].rank_of_slot;
    int32_t g = p->plan->cluster.gpus_per_node, n_ranks = grace_cluster_ranks(p->plan->cluster);
    for (int32_t j = 0; j < p->plan->top_k; j++) {
        int32_t rank = rank_of_slot[slots[j]];
        p->cross += rank / g != home / g && !node[rank / g];
        p->intra += rank % g != home % g && !gpu[rank];
        node[rank / g] = gpu[rank] = true;
        p->load[layer * n_ranks + rank]++;
    }
}

static void replay_token(replay *p, int32_t sequence, int32_t position, const uint16_t *experts) {
    int32_t home = sequence % grace_cluster_ranks(p->plan->cluster), k = p->plan->top_k, chosen[GR_JOINT_TOP_K_MAX], slots[GR_JOINT_TOP_K_MAX];
    p->n_tokens++;
    for (int32_t l = 0; l < p->plan->n_layers; l++, experts += k) {
        for (int32_t j = 0; j < k; j++) chosen[j] = experts[j];
        gr_router_place(p->routers[home], l, 1, k, chosen, &sequence, &position, slots);
        count_token(p, l, home, slots);
    }
}

/* The odd sequences, on homes by turns of their number among them. */
static grace_status replay_trace(replay *p, grace_trace_reader *r) {
    grace_status st = GRACE_OK;
    const grace_trace *piece = NULL;
    size_t width = (size_t)p->plan->n_layers * (size_t)p->plan->top_k;
    grace_trace_reader_rewind(r);
    for (;;) {
        GR_TRY(grace_trace_reader_next(r, &piece));
        if (!piece) break;
        const uint16_t *experts = grace_trace_experts(piece);
        for (int32_t i = 0; i < grace_trace_n_segments(piece); i++) {
            grace_trace_segment s = grace_trace_segment_at(piece, i);
            for (int32_t j = 0; j < s.n_tokens && s.sequence % 2 == 1; j++) replay_token(p, s.sequence / 2, s.position + j, experts + (size_t)j * width);
            experts += (size_t)s.n_tokens * width;
        }
    }
done:
    return st;
}

static void replay_close(replay *p) {
    for (int32_t r = 0; r < grace_cluster_ranks(p->plan->cluster); r++) gr_router_free(p->routers[r]);
    free(p->load);
}

typedef struct result { double cross, intra, load; } result;

static grace_status run_route(const grace_plan *plan, grace_trace_reader *r, grace_route route, result *out) {
    grace_status st = GRACE_OK;
    replay p = {.plan = plan};
    int32_t n_ranks = grace_cluster_ranks(plan->cluster);
    *out = (result){0, 0, 0};
    GR_CALLOC(p.load, plan->n_layers * n_ranks);
    for (int32_t rank = 0; rank < n_ranks; rank++) GR_TRY(gr_router_build(plan, rank, route, &p.routers[rank]));
    GR_TRY(replay_trace(&p, r));
    for (int32_t l = 0; l < plan->n_layers; l++) out->load += gr_max_over_mean(p.load + l * n_ranks, n_ranks) / plan->n_layers;
    out->cross = (double)p.cross / (double)(p.n_tokens * plan->n_layers), out->intra = (double)p.intra / (double)(p.n_tokens * plan->n_layers);
done:
    replay_close(&p);
    return st;
}

/* ---- cases ---- */

typedef struct change { double cross, intra; int32_t n; } change;
typedef struct bench { const gr_case_arguments *a; gr_json *doc, *cases; change sums[N_PLANS][GR_CASES_CLUSTERS_MAX]; } bench;

static void add_case(bench *b, const char *trace, grace_cluster c, const gr_recipe *recipe, grace_route route, const result *r) {
    gr_json *o = gr_json_new_object();
    char shape[32];
    snprintf(shape, sizeof shape, "%dx%d", c.n_nodes, c.gpus_per_node);
    gr_json_set_string(o, "trace", trace);
    gr_json_set_string(o, "cluster", shape);
    gr_json_set_string(o, "planner", recipe->name);
    gr_json_set_real(o, "memory_asked", recipe->memory);
    gr_json_set_string(o, "route", gr_route_name(route));
    gr_json_set_real(o, "rows_cross", r->cross);
    gr_json_set_real(o, "rows_intra", r->intra);
    gr_json_set_real(o, "load_max_over_mean", r->load);
    gr_json_push(b->cases, o);
    if (!b->a->json)
        printf("%-32.32s %-4s %-5s %4.2f  %-9s | %6.4f %6.4f | %5.3f\n", trace, shape, recipe->name, recipe->memory, gr_route_name(route), r->cross, r->intra,
               r->load);
    fflush(stdout);
}

static grace_status run_plan(bench *b, const gr_unit *u, grace_trace_reader *r, int32_t cluster, int32_t index) {
    grace_status st = GRACE_OK;
    grace_cluster c = b->a->clusters[cluster];
    result results[GRACE_N_ROUTES];
    grace_plan *plan = NULL;
    change *sum = &b->sums[index][cluster];
    GR_TRY(gr_recipe_plan(&gr_recipes[plans[index]], &u->train, c, b->a->seed, &plan));
    for (int route = FIRST_ROUTE; route < GRACE_N_ROUTES; route++) {
        GR_TRY(run_route(plan, r, (grace_route)route, &results[route]));
        add_case(b, u->name, c, &gr_recipes[plans[index]], (grace_route)route, &results[route]);
    }
    sum->cross += results[GRACE_ROUTE_JOINT].cross / results[GRACE_ROUTE_TAR].cross - 1;
    sum->intra += results[GRACE_ROUTE_JOINT].intra / results[GRACE_ROUTE_TAR].intra - 1;
    sum->n++;
done:
    grace_plan_free(plan);
    return st;
}

static grace_status run_trace(bench *b, const char *path) {
    grace_status st = GRACE_OK;
    gr_unit u = {0};
    grace_trace_reader *r = NULL;
    GR_TRY(gr_unit_open(path, "", &u));
    GR_TRY(grace_trace_reader_open(path, &r));
    for (int32_t c = 0; c < b->a->n_clusters; c++)
        for (int32_t i = 0; i < N_PLANS && grace_cluster_ranks(b->a->clusters[c]) <= u.train.profile->info.n_experts; i++) GR_TRY(run_plan(b, &u, r, c, i));
done:
    grace_trace_reader_close(r);
    gr_unit_close(&u);
    return st;
}

static void summarise(bench *b) {
    gr_json *list = gr_json_new_array();
    if (!b->a->json) printf("\njoint against tar: rows between nodes and inside them, mean over the traces, in percent\n");
    for (int32_t i = 0; i < N_PLANS; i++)
        for (int32_t c = 0; c < b->a->n_clusters; c++) {
            const change *s = &b->sums[i][c];
            char shape[32];
            if (s->n == 0) continue;
            snprintf(shape, sizeof shape, "%dx%d", b->a->clusters[c].n_nodes, b->a->clusters[c].gpus_per_node);
            gr_json *o = gr_json_new_object();
            gr_json_set_string(o, "planner", gr_recipes[plans[i]].name);
            gr_json_set_string(o, "cluster", shape);
            gr_json_set_real(o, "cross", s->cross / s->n);
            gr_json_set_real(o, "intra", s->intra / s->n);
            gr_json_push(list, o);
            if (!b->a->json)
                printf("  %-5s %4.2f %-4s %+7.2f %+7.2f  (%d traces)\n", gr_recipes[plans[i]].name, gr_recipes[plans[i]].memory, shape, 100 * s->cross / s->n,
                       100 * s->intra / s->n, s->n);
        }
    gr_json_set(b->doc, "joint_against_tar", list);
}

static grace_status measure_all(const gr_case_arguments *a, gr_json *doc) {
    grace_status st = GRACE_OK;
    bench b = {.a = a, .doc = doc, .cases = gr_json_new_array()};
    if (!a->json)
        printf("Planned on even sequences, replayed on odd ones, homes by turns; rows a token and layer, dispatched\n"
               "%-32s cl.  plan  mem.  route     |  cross  intra | max/mean\n", "trace");
    for (int32_t t = 0; t < a->n_traces; t++) GR_TRY(run_trace(&b, a->traces[t]));
    gr_json_set(b.doc, "cases", gr_json_share(b.cases));
    summarise(&b);
done:
    gr_json_free(b.cases);
    return st;
}

int gr_bench_routes_main(int argc, char **argv) {
    static const struct argp argp = {options, gr_case_parse, "[TRACE...]", "Rows and loads under the policies wrr, tar, tar-entry and joint: plans of grace, "
                                     "auto and eplb (memory 1.5) made on the even sequences of each trace, replayed on the odd ones through the engine's "
                                     "router. Without traces: those of tests/golden/tiny-olmoe/traces.", 0, 0, 0};
    gr_case_arguments a = {.argc = argc, .argv = argv, .n_clusters = 3, .clusters = {{2, 2}, {2, 4}, {4, 4}}};
    return gr_case_main(&argp, "routes", &a, measure_all);
}
