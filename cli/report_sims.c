/* A placements document of what `grace sim --json` wrote (docs/simulator.md). */
#include <string.h>

#include "base/status.h"
#include "grace/plan.h"
#include "report_plans.h"

/* What both documents have under one name. */
static void share(gr_json *to, const gr_json *from, const char *name, const char *as) {
    const gr_json *value = gr_json_get(from, name);
    if (value) gr_json_set(to, as, gr_json_share(value));
}

static grace_status add_plan(const gr_json *plan, const char *file, gr_json *plans) {
    grace_status st = GRACE_OK;
    gr_json *o = gr_json_new_object(), *load = gr_json_new_array();
    const gr_json *rows, *memory, *layers, *seconds, *part, *steps;
    double total;
    int64_t n_steps;
    share(o, plan, "plan", "name"), share(o, plan, "planner", "planner"), share(o, plan, "pair_rows", "pair_rows");
    share(o, plan, "load_max_over_mean", "load_max_over_mean"), share(o, plan, "load_std", "load_std"), share(o, plan, "load_floor", "load_floor");
    GR_TRY(gr_json_object_in(plan, file, "rows_per_token", &rows));
    share(o, rows, "cross", "rows_cross"), share(o, rows, "intra", "rows_intra");
    GR_TRY(gr_json_object_in(plan, file, "memory", &memory));
    share(o, memory, "slots_max", "slots_fullest"), share(o, memory, "replica_bytes_max", "replica_bytes");
    share(o, memory, "kv_tokens_displaced", "kv_tokens_displaced");
    GR_TRY(gr_json_object_in(plan, file, "seconds", &seconds));
    GR_TRY(gr_json_object_in(seconds, file, "prefill", &part));
    GR_TRY(gr_json_real(part, file, "total", &total));
    GR_TRY(gr_json_object_in(plan, file, "steps", &steps));
    GR_TRY(gr_json_int(steps, file, "prefill", 0, INT64_MAX, &n_steps));
    if (n_steps > 0) gr_json_set_real(o, "prefill_us", total / (double)n_steps * 1e6);
    GR_TRY(gr_json_real_or(plan, file, "decode_step_s", -1, &total));
    if (total >= 0) gr_json_set_real(o, "decode_us", total * 1e6);
    GR_TRY(gr_json_array(plan, file, "layers", &layers));
    for (size_t l = 0; l < gr_json_length(layers); l++) {
        const gr_json *of_layer = gr_json_get(gr_json_at(layers, l), "load");
        if (gr_json_length(of_layer) > 0) gr_json_push(load, gr_json_share(of_layer));
    }
    if (gr_json_length(load) > 0) gr_json_set(o, "load", gr_json_share(load));
    gr_json_push(plans, gr_json_share(o));
done:
    gr_json_free(load), gr_json_free(o);
    return st;
}

/* The routing and the cluster of the first plan; those of the others must be the same. */
static grace_status set_head(const gr_json *sim, const char *file, gr_json *doc) {
    grace_status st = GRACE_OK;
    gr_json *trace = gr_json_new_object(), *shape = gr_json_new_object();
    const gr_json *plans, *layers;
    const char *name, *cluster, *tokens;
    grace_cluster c;
    GR_TRY(gr_json_array(sim, file, "plans", &plans));
    GR_TRY(gr_json_string(gr_json_at(plans, 0), file, "cluster", &cluster));
    GR_TRY(grace_cluster_parse(cluster, &c));
    GR_TRY(gr_json_array(gr_json_at(plans, 0), file, "layers", &layers));
    GR_TRY(gr_json_string_or(sim, file, "trace", "made-up routing", &name));
    GR_TRY(gr_json_string_or(sim, file, "tokens", NULL, &tokens));
    gr_json_set_string(trace, "name", name);
    gr_json_set_int(trace, "layers", (int64_t)gr_json_length(layers));
    share(trace, sim, "experts", "experts"), share(trace, sim, "top_k", "top_k"), share(trace, sim, "synthetic", "synthetic");
    if (tokens) gr_json_set_string(trace, "tested_on", tokens);
    gr_json_set_int(shape, "nodes", c.n_nodes);
    gr_json_set_int(shape, "gpus_per_node", c.gpus_per_node);
    gr_json_set_int(doc, "grace_placements", 1);
    gr_json_set_string(doc, "title", "Placements, replayed");
    gr_json_set(doc, "trace", gr_json_share(trace));
    gr_json_set(doc, "cluster", gr_json_share(shape));
done:
    gr_json_free(trace), gr_json_free(shape);
    return st;
}

static grace_status add_sim(const gr_json *sim, const char *file, const char *cluster, gr_json *plans) {
    grace_status st = GRACE_OK;
    const gr_json *list;
    const char *other;
    GR_TRY(gr_json_array(sim, file, "plans", &list));
    for (size_t i = 0; i < gr_json_length(list); i++) {
        GR_TRY(gr_json_string(gr_json_at(list, i), file, "cluster", &other));
        GR_CHECK(strcmp(cluster, other) == 0, GRACE_ERR_MISMATCH, "%s: a plan for %s beside one for %s", file, other, cluster);
        GR_TRY(add_plan(gr_json_at(list, i), file, plans));
    }
done:
    return st;
}

grace_status gr_report_sims_build(const char *const *files, int32_t n, gr_json **out) {
    grace_status st = GRACE_OK;
    gr_json *doc = gr_json_new_object(), *plans = gr_json_new_array(), *sim = NULL, *first = NULL;
    const char *cluster = NULL;
    for (int32_t i = 0; i < n; i++) {
        GR_TRY(gr_json_load(files[i], &sim));
        GR_CHECK(gr_json_get(sim, "grace_sim"), GRACE_ERR_FORMAT, "%s: expected what 'grace sim --json' prints beside %s", files[i], files[0]);
        if (i == 0) {
            GR_TRY(set_head(sim, files[0], doc));
            GR_TRY(gr_json_string(gr_json_at(gr_json_get(sim, "plans"), 0), files[0], "cluster", &cluster));
        }
        GR_TRY(add_sim(sim, files[i], cluster, plans));
        if (i == 0) first = sim;        /* cluster is borrowed from it */
        else gr_json_free(sim);
        sim = NULL;
    }
    gr_json_set(doc, "plans", gr_json_share(plans));
    *out = gr_json_share(doc);
done:
    gr_json_free(sim), gr_json_free(first), gr_json_free(plans), gr_json_free(doc);
    return st;
}
