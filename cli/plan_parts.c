/* What a plan looks like, for reports (docs/report.md): the choice of r, who has copies where, affinity in the order of the groups. */
#include "placements.h"

static gr_json *knee_json(const grace_plan *plan) {
    gr_json *o = gr_json_new_object(), *points = gr_json_new_array();
    gr_json_set_int(o, "chosen", plan->knee_chosen);
    for (int32_t i = 0; i < plan->n_knee; i++) {
        gr_json *p = gr_json_new_object();
        gr_json_set_int(p, "delta", plan->knee[i].delta);
        gr_json_set_real(p, "r", plan->knee[i].r);
        gr_json_set_real(p, "size_std", plan->knee[i].size_std);
        gr_json_set_real(p, "utility", plan->knee[i].utility);
        gr_json_push(points, p);
    }
    gr_json_set(o, "points", points);
    return o;
}

static int32_t primary_rank(const grace_plan_layer *pl, int32_t expert) { return pl->rank_of_slot[pl->slots_of_expert[pl->slots_first[expert]]]; }

/* Experts of `rank` in a layer that have copies elsewhere; NULL when there are none. */
static gr_json *replicas_of_rank(const grace_plan *plan, int32_t layer, int32_t rank) {
    const grace_plan_layer *pl = &plan->layers[layer];
    gr_json *o = gr_json_new_object(), *experts = gr_json_new_array(), *all_hosts = gr_json_new_array();
    for (int32_t e = 0; e < plan->n_experts; e++) {
        if (primary_rank(pl, e) != rank || pl->slots_first[e + 1] - pl->slots_first[e] == 1) continue;
        gr_json *hosts = gr_json_new_array();
        for (int32_t i = pl->slots_first[e] + 1; i < pl->slots_first[e + 1]; i++) gr_json_push_int(hosts, pl->rank_of_slot[pl->slots_of_expert[i]]);
        gr_json_push_int(experts, e);
        gr_json_push(all_hosts, hosts);
    }
    bool any = gr_json_length(experts) > 0;
    gr_json_set_int(o, "layer", layer);
    gr_json_set_int(o, "primary_rank", rank);
    gr_json_set(o, "experts", experts);
    gr_json_set(o, "hosts", all_hosts);
    if (any) return o;
    gr_json_free(o);
    return NULL;
}

static gr_json *replicas_json(const grace_plan *plan) {
    gr_json *all = gr_json_new_array();
    for (int32_t l = 0; l < plan->n_layers; l++)
        for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
            gr_json *one = replicas_of_rank(plan, l, r);
            if (one) gr_json_push(all, one);
        }
    return all;
}

static gr_json *affinity_json(const grace_plan *plan, const grace_profile *profile) {
    int32_t layer = plan->n_layers / 2, n = plan->n_experts;
    const grace_plan_layer *pl = &plan->layers[layer];
    const double *affinity = profile->affinity + (int64_t)layer * n * n;
    gr_json *o = gr_json_new_object(), *order = gr_json_new_array(), *groups = gr_json_new_array(), *ranks = gr_json_new_array(), *values = gr_json_new_array();
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
        int32_t size = 0;
        for (int32_t e = 0; e < n; e++) {
            if (primary_rank(pl, e) != r) continue;
            gr_json_push_int(order, e);
            size++;
        }
        gr_json_push_int(groups, size);
        gr_json_push_int(ranks, r);
    }
    for (int64_t i = 0; i < (int64_t)n * n; i++) gr_json_push_int(values, (int64_t)affinity[i]);
    gr_json_set_int(o, "layer", layer);
    gr_json_set_int(o, "n", n);
    gr_json_set(o, "order", order);
    gr_json_set(o, "groups", groups);
    gr_json_set(o, "ranks", ranks);
    gr_json_set(o, "values", values);
    return o;
}

void gr_plan_parts(gr_json *o, const grace_plan *plan, const grace_profile *profile) {
    if (plan->n_knee > 0) gr_json_set(o, "knee", knee_json(plan));
    gr_json_set(o, "replicas", replicas_json(plan));
    gr_json_set(o, "affinity", affinity_json(plan, profile));
}
