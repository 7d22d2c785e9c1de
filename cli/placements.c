#include "placements.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "plan/budget.h"
#include "plan/layer_ids.h"

/* ---- the routing ---- */

static gr_json *load_matrix(const double *load, int32_t n_layers, int32_t n) {
    gr_json *rows = gr_json_new_array();
    for (int32_t l = 0; l < n_layers; l++) {
        gr_json *row = gr_json_new_array();
        for (int32_t i = 0; i < n; i++) gr_json_push_int(row, (int64_t)(load[(int64_t)l * n + i] + 0.5));
        gr_json_push(rows, row);
    }
    return rows;
}

void gr_placements_open(gr_placements *p, const char *title, const char *tested_on) {
    const grace_profile *profile = p->unit->test.profile;
    gr_json *trace = gr_json_new_object(), *cluster = gr_json_new_object();
    p->doc = gr_json_new_object(), p->plans = gr_json_new_array();
    gr_json_set_int(p->doc, "grace_placements", 1);
    gr_json_set_string(p->doc, "title", title);
    gr_json_set_string(trace, "name", p->unit->name);
    gr_json_set_int(trace, "layers", profile->info.n_layers);
    gr_json_set_int(trace, "experts", profile->info.n_experts);
    gr_json_set_int(trace, "top_k", profile->info.top_k);
    gr_json_set_int(trace, "tokens", profile->n_tokens);
    gr_json_set_bool(trace, "synthetic", profile->info.synthetic);
    gr_json_set_string(trace, "tested_on", tested_on);
    gr_json_set_int(cluster, "nodes", p->cluster.n_nodes);
    gr_json_set_int(cluster, "gpus_per_node", p->cluster.gpus_per_node);
    gr_json_set(p->doc, "trace", trace);
    gr_json_set(p->doc, "cluster", cluster);
    gr_json_set(p->doc, "expert_load", load_matrix(profile->load, profile->info.n_layers, profile->info.n_experts));
    gr_json_set(p->doc, "plans", gr_json_share(p->plans));
}

void gr_placements_close(gr_placements *p) {
    gr_json_free(p->plans);
    gr_json_free(p->doc);
    p->doc = p->plans = NULL;
}

/* ---- a plan ---- */

static gr_json *int_matrix(const int64_t *values, int32_t n_rows, int32_t n_cols) {
    gr_json *rows = gr_json_new_array();
    for (int32_t i = 0; i < n_rows; i++) {
        gr_json *row = gr_json_new_array();
        for (int32_t j = 0; j < n_cols; j++) gr_json_push_int(row, values[(int64_t)i * n_cols + j]);
        gr_json_push(rows, row);
    }
    return rows;
}

/* Rows between GPUs, their loads, and the memory of copies, as a run of the workload would count them. */
static grace_status replay(const gr_placements *p, const grace_plan *plan, gr_json *o) {
    grace_status st = GRACE_OK;
    grace_sim *sim = NULL;
    grace_sim_options opt = {.plan = plan, .route = GRACE_ROUTE_TAR, .exchange = GRACE_EXCHANGE_HSC, .workload = &p->workload, .shape = &p->shape,
            .rates = &p->rates};
    GR_TRY(grace_sim_run(p->routing, &opt, &sim));
    if (sim->pair_rows) gr_json_set(o, "pair_rows", int_matrix(sim->pair_rows, sim->n_ranks, sim->n_ranks));
    gr_json_set(o, "load", int_matrix(sim->load, sim->n_layers, sim->n_ranks));
    gr_json_set_int(o, "replica_bytes", sim->replica_bytes_max);
    gr_json_set_int(o, "kv_tokens_displaced", sim->kv_tokens_displaced);
done:
    grace_sim_free(sim);
    return st;
}

static grace_status predict(const gr_placements *p, const grace_plan *plan, bool decode, double *us) {
    grace_prediction expected;
    double sequences = p->workload.sequences, prompt = p->workload.prefill;
    grace_batch batch = decode ? grace_batch_decode(sequences, prompt) : grace_batch_prefill(sequences, prompt);
    grace_status st = grace_plan_predict(plan, p->unit->test.bundles, &p->shape, &p->rates, &batch, &expected);
    *us = st ? 0 : expected.step.total * 1e6;
    return st;
}

grace_status gr_placements_add(gr_placements *p, const char *name, const grace_plan *plan, bool strong) {
    grace_status st = GRACE_OK;
    const grace_profile *profile = p->unit->test.profile;
    gr_json *o = gr_json_new_object();
    gr_quality q;
    double prefill_us, decode_us;
    GR_TRY(grace_plan_check(plan, profile->info.fingerprint, profile->info.n_layers, gr_layer_ids_of(&profile->info), profile->info.n_experts,
                            profile->info.top_k, p->cluster));
    GR_TRY(gr_quality_measure(plan, GRACE_ROUTE_TAR, p->unit->test.bundles, profile, &q));
    GR_TRY(predict(p, plan, false, &prefill_us));
    GR_TRY(predict(p, plan, true, &decode_us));
    gr_json_set_string(o, "name", name);
    gr_json_set_string(o, "planner", plan->planner);
    gr_json_set_bool(o, "strong", strong);
    gr_json_set_real(o, "rows_cross", q.rows.cross);
    gr_json_set_real(o, "rows_intra", q.rows.intra);
    gr_json_set_real(o, "load_max_over_mean", q.load);
    gr_json_set_real(o, "load_std", q.load_std);
    gr_json_set_real(o, "load_floor", q.load_floor);
    gr_json_set_real(o, "prefill_us", prefill_us);
    gr_json_set_real(o, "decode_us", decode_us);
    gr_json_set_real(o, "memory", q.fullest);
    gr_json_set_int(o, "slots_fullest", gr_fullest_rank(plan));
    gr_json_set_int(o, "slots_total", (int64_t)(q.total * plan->n_layers * plan->n_experts + 0.5));
    GR_TRY(replay(p, plan, o));
    gr_plan_parts(o, plan, profile);
    gr_json_push(p->plans, o), o = NULL;
done:
    gr_json_free(o);
    return st;
}

/* ---- what memory buys ---- */

static grace_status add_point(const gr_placements *p, const grace_plan *plan, gr_json *points) {
    grace_status st = GRACE_OK;
    gr_quality q;
    double us;
    GR_TRY(gr_quality_measure(plan, GRACE_ROUTE_TAR, p->unit->test.bundles, p->unit->test.profile, &q));
    GR_TRY(predict(p, plan, false, &us));
    gr_json *o = gr_json_new_object();
    gr_json_set_real(o, "memory", q.fullest);
    gr_json_set_real(o, "rows_cross", q.rows.cross);
    gr_json_set_real(o, "step_us", us);
    gr_json_push(points, o);
done:
    return st;
}

/* A planner's plans for every memory; memory that cannot hold what the planner wants is left out. */
static grace_status add_series(const gr_placements *p, grace_planner planner, const double *memory, int32_t n,
                               gr_json *series) {
    grace_status st = GRACE_OK;
    gr_json *o = gr_json_new_object(), *points = gr_json_new_array();
    grace_plan *plan = NULL;
    for (int32_t i = 0; i < n; i++) {
        gr_recipe recipe = {grace_planner_name(planner), planner, memory[i], 1.1};
        GR_TRY(gr_recipe_plan(&recipe, &p->unit->train, p->cluster, p->seed, &plan));
        GR_TRY(add_point(p, plan, points));
        grace_plan_free(plan), plan = NULL;
    }
    gr_json_set_string(o, "planner", grace_planner_name(planner));
    gr_json_set(o, "points", gr_json_share(points));
    gr_json_push(series, gr_json_share(o));
done:
    grace_plan_free(plan);
    gr_json_free(points), gr_json_free(o);
    return st;
}

grace_status gr_placements_curves(gr_placements *p) {
    grace_status st = GRACE_OK;
    gr_json *curve = gr_json_new_object(), *series = gr_json_new_array(), *curves = gr_json_new_array();
    double steps[8] = {1, 1.125, 1.25, 1.5, 1.75}, none = 0;
    int32_t n = 5, nodes = p->cluster.n_nodes;
    char shape[32];
    if (nodes > 2) steps[n++] = (1.75 + nodes) / 2;
    if (nodes > 1) steps[n++] = nodes;
    snprintf(shape, sizeof shape, "%dx%d", nodes, p->cluster.gpus_per_node);
    GR_TRY(add_series(p, GRACE_PLANNER_EPLB, steps, n, series));
    GR_TRY(add_series(p, GRACE_PLANNER_GRACE, &none, 1, series));
    GR_TRY(add_series(p, GRACE_PLANNER_AUTO, steps, n, series));
    GR_TRY(add_series(p, GRACE_PLANNER_CONTIGUOUS, &none, 1, series));
    GR_TRY(add_series(p, GRACE_PLANNER_REPLICATE_NODE, &none, 1, series));
    GR_TRY(add_series(p, GRACE_PLANNER_UNIFORM, &none, 1, series));
    gr_json_set_string(curve, "trace", p->unit->name);
    gr_json_set_string(curve, "cluster", shape);
    gr_json_set(curve, "series", gr_json_share(series));
    gr_json_push(curves, gr_json_share(curve));
    gr_json_set(p->doc, "curves", gr_json_share(curves));
done:
    gr_json_free(series), gr_json_free(curve), gr_json_free(curves);
    return st;
}

/* ---- planned on one domain, run on another ---- */

static grace_status rows_on(const grace_plan *plan, const gr_unit *u, double *rows) {
    gr_quality q;
    grace_status st = gr_quality_measure(plan, GRACE_ROUTE_TAR, u->test.bundles, u->test.profile, &q);
    *rows = st ? 0 : q.rows.cross;
    return st;
}

static grace_status transfer_row(const gr_placements *p, const gr_recipe *recipe, const gr_unit *from, const gr_unit *units, int32_t n,
                                 double *rows) {
    grace_status st = GRACE_OK;
    grace_plan *plan = NULL;
    GR_TRY(gr_recipe_plan(recipe, &from->train, p->cluster, p->seed, &plan));
    for (int32_t i = 0; i < n; i++) GR_TRY(rows_on(plan, &units[i], &rows[i]));
done:
    grace_plan_free(plan);
    return st;
}

grace_status gr_placements_transfer(gr_placements *p, const gr_unit *units, int32_t n) {
    grace_status st = GRACE_OK;
    gr_json *o = gr_json_new_object(), *domains = gr_json_new_array(), *matrix = gr_json_new_array();
    double *rows = NULL;
    GR_CALLOC(rows, n);
    for (int32_t i = 0; i < n; i++) {
        gr_json *row = gr_json_new_array();
        GR_TRY(transfer_row(p, &gr_recipes[GR_RECIPE_AUTO], &units[i], units, n, rows));
        for (int32_t j = 0; j < n; j++) gr_json_push_real(row, rows[j]);
        gr_json_push(matrix, row);
        gr_json_push_string(domains, units[i].name);
    }
    GR_TRY(transfer_row(p, &gr_recipes[GR_RECIPE_CONTIGUOUS], &units[0], units, n, rows));
    gr_json_set_string(o, "planner", "auto");
    gr_json_set(o, "domains", gr_json_share(domains));
    gr_json_set(o, "rows", gr_json_share(matrix));
    gr_json_set_reals(o, "contiguous", rows, (size_t)n);
    gr_json_set(p->doc, "transfer", gr_json_share(o));
done:
    gr_json_free(o), gr_json_free(domains), gr_json_free(matrix);
    free(rows);
    return st;
}
