#include "interop/placement.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "plan/cluster.h"
#include "plan/layer_ids.h"
#include "plan/tables.h"

grace_status gr_placement_alloc(int32_t n_layers, int32_t n_ranks, int64_t n_slots, gr_placement *out) {
    grace_status st = GRACE_OK;
    gr_placement p = {.n_layers = n_layers, .n_ranks = n_ranks};
    GR_CALLOC(p.first, (size_t)n_layers * (size_t)n_ranks + 1);
    GR_CALLOC(p.expert, n_slots);
    *out = p, p = (gr_placement){0};
done:
    gr_placement_free(&p);
    return st;
}

void gr_placement_free(gr_placement *placement) {
    free(placement->first), free(placement->expert);
    *placement = (gr_placement){0};
}

grace_status gr_placement_of_table(const char *where, const int32_t *table, int32_t n_layers, int32_t n_slots, int32_t n_ranks, gr_placement *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(n_ranks >= 1 && n_ranks <= GRACE_RANKS_MAX, GRACE_ERR_ARG, "%s: expected 1 to %d ranks, found %d", where, GRACE_RANKS_MAX, n_ranks);
    GR_CHECK(n_slots % n_ranks == 0, GRACE_ERR_MISMATCH, "%s: %d slots cannot be shared equally by %d ranks", where, n_slots, n_ranks);
    GR_TRY(gr_placement_alloc(n_layers, n_ranks, (int64_t)n_layers * n_slots, out));
    for (int64_t i = 0; i <= (int64_t)n_layers * n_ranks; i++) out->first[i] = i * (n_slots / n_ranks);
    memcpy(out->expert, table, (size_t)n_layers * (size_t)n_slots * sizeof *table);
done:
    return st;
}

/* ---- placement -> plan ---- */

static grace_status count_experts(const char *where, const gr_placement *p, int32_t *out) {
    grace_status st = GRACE_OK;
    int32_t most = -1;
    for (int64_t i = 0; i < p->first[(int64_t)p->n_layers * p->n_ranks]; i++) {
        GR_CHECK(p->expert[i] >= 0 && p->expert[i] < GR_PLAN_EXPERTS_MAX, GRACE_ERR_FORMAT, "%s: expected experts 0 to %d, found %d", where,
                 GR_PLAN_EXPERTS_MAX - 1, p->expert[i]);
        if (p->expert[i] > most) most = p->expert[i];
    }
    GR_CHECK(most >= 0, GRACE_ERR_FORMAT, "%s: no experts in it", where);
    *out = most + 1;
done:
    return st;
}

/* last_rank [n_experts] is scratch. copies has room for the layer's slots. */
static grace_status sort_out(const char *where, const gr_placement *p, int32_t layer, int32_t n_experts, int32_t *rank_of_expert, int32_t *last_rank,
                             gr_copy *copies, int32_t *n_copies) {
    grace_status st = GRACE_OK;
    *n_copies = 0;
    for (int32_t e = 0; e < n_experts; e++) rank_of_expert[e] = last_rank[e] = -1;
    for (int32_t r = 0; r < p->n_ranks; r++) {
        int64_t row = (int64_t)layer * p->n_ranks + r;
        for (int64_t i = p->first[row]; i < p->first[row + 1]; i++) {
            int32_t e = p->expert[i];
            GR_CHECK(last_rank[e] != r, GRACE_ERR_FORMAT, "%s: layer %d: expert %d is twice on rank %d", where, layer, e, r);
            if (rank_of_expert[e] < 0) rank_of_expert[e] = r;
            else copies[(*n_copies)++] = (gr_copy){e, r};
            last_rank[e] = r;
        }
    }
    for (int32_t e = 0; e < n_experts; e++)
        GR_CHECK(rank_of_expert[e] >= 0, GRACE_ERR_FORMAT, "%s: layer %d: no rank holds expert %d", where, layer, e);
done:
    return st;
}

static grace_status place_layers(const char *where, const gr_placement *p, grace_plan *plan) {
    grace_status st = GRACE_OK;
    int32_t *rank_of_expert = NULL, *last_rank = NULL, n_copies = 0;
    gr_copy *copies = NULL;
    GR_CALLOC(rank_of_expert, plan->n_experts);
    GR_CALLOC(last_rank, plan->n_experts);
    GR_CALLOC(copies, p->first[(int64_t)p->n_layers * p->n_ranks]);
    for (int32_t l = 0; l < p->n_layers; l++) {
        GR_TRY(sort_out(where, p, l, plan->n_experts, rank_of_expert, last_rank, copies, &n_copies));
        GR_TRY(gr_plan_place(plan, l, rank_of_expert, copies, n_copies));
    }
done:
    free(rank_of_expert), free(last_rank), free(copies);
    return st;
}

grace_status gr_placement_plan(const char *where, const gr_placement *p, grace_cluster cluster, int32_t top_k, grace_plan **out) {
    grace_status st = GRACE_OK;
    grace_plan *plan = NULL;
    int32_t n_experts = 0;
    GR_TRY(gr_cluster_check(cluster));
    GR_CHECK(grace_cluster_ranks(cluster) == p->n_ranks, GRACE_ERR_MISMATCH, "%s: the placement is for %d ranks, %s has %d", where, p->n_ranks,
             gr_cluster_text(cluster).text, grace_cluster_ranks(cluster));
    GR_TRY(count_experts(where, p, &n_experts));
    GR_TRY(gr_plan_new(p->n_layers, n_experts, top_k ? top_k : 1, cluster, &plan));
    GR_TRY(place_layers(where, p, plan));
    snprintf(plan->planner, sizeof plan->planner, "imported");
    *out = plan, plan = NULL;
done:
    grace_plan_free(plan);
    return st;
}

/* ---- plan -> tables ---- */

grace_status gr_slots_per_rank(const grace_plan *plan, int32_t *out) {
    grace_status st = GRACE_OK;
    int32_t n = plan->layers[0].first_slot[1] - plan->layers[0].first_slot[0];
    for (int32_t l = 0; l < plan->n_layers; l++)
        for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
            int32_t found = plan->layers[l].first_slot[r + 1] - plan->layers[l].first_slot[r];
            GR_CHECK(found == n, GRACE_ERR_MISMATCH,
                     "this format has as many slots on every rank of every layer: rank 0 of layer 0 has %d, rank %d of layer %d has %d", n, r, l, found);
        }
    *out = n;
done:
    return st;
}

grace_status gr_layer_map_ids(const gr_layer_map *map, const int32_t *known, int32_t n_layers, int32_t *ids, int32_t *n_model_layers) {
    grace_status st = GRACE_OK;
    const int32_t *given = map && map->model_layer ? map->model_layer : known;
    int32_t n = map && map->n_model_layers ? map->n_model_layers : given ? given[n_layers - 1] + 1 : n_layers, before = -1;
    GR_CHECK(given || (map && map->n_model_layers), GRACE_ERR_ARG,
             "which layers of the model these %d are is not known: expected --model-layers N, all its layers, of which these are then the last", n_layers);
    GR_TRY(gr_layer_ids_agree("plan", known, given, n_layers));
    GR_CHECK(!known || n > known[n_layers - 1], GRACE_ERR_ARG, "a model of %d layers, but the plan is for layers %s of it", n,
             gr_layer_ids_text(known, n_layers).text);
    GR_CHECK(n >= n_layers && n <= GR_PLAN_LAYERS_MAX, GRACE_ERR_ARG, "a model of %d layers, a plan of %d: expected %d to %d layers of the model", n,
             n_layers, n_layers, GR_PLAN_LAYERS_MAX);
    for (int32_t l = 0; l < n_layers; l++) {
        ids[l] = given ? given[l] : n - n_layers + l;
        GR_CHECK(ids[l] > before && ids[l] < n, GRACE_ERR_ARG, "layer %d of the plan is layer %d of the model: expected %d to %d", l, ids[l], before + 1,
                 n - 1);
        before = ids[l];
    }
    *n_model_layers = n;
done:
    return st;
}
