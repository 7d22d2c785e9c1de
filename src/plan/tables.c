#include "plan/tables.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "plan/cluster.h"
#include "plan/replicate.h"

typedef struct slot { int32_t rank, secondary, expert; } slot;

const char *gr_grouping_name(grace_grouping grouping) {
    static const char *const names[] = {"controlled", "free", "uniform"};
    return names[grouping];
}

const char *gr_replication_name(grace_replication replication) {
    static const char *const names[] = {"none", "fixed", "dynamic"};
    return names[replication];
}

static grace_status check_numbers(int32_t n_layers, int32_t n_experts, int32_t top_k, grace_cluster cluster) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_cluster_check(cluster));
    GR_CHECK(n_layers >= 1 && n_experts >= 1 && top_k >= 1, GRACE_ERR_ARG, "plan: expected at least 1 layer, 1 expert and top-1, found %d, %d and %d",
             n_layers, n_experts, top_k);
    GR_CHECK(top_k <= n_experts, GRACE_ERR_ARG, "plan: top-%d of %d experts cannot be", top_k, n_experts);
    GR_CHECK(n_layers <= GR_PLAN_LAYERS_MAX, GRACE_ERR_LIMIT, "plan: %d MoE layers, the limit is %d", n_layers, GR_PLAN_LAYERS_MAX);
    GR_CHECK(n_experts <= GR_PLAN_EXPERTS_MAX, GRACE_ERR_LIMIT, "plan: %d experts, the limit is %d", n_experts, GR_PLAN_EXPERTS_MAX);
done:
    return st;
}

static void name_nothing(grace_plan *plan) {
    snprintf(plan->planner, sizeof plan->planner, "none");
    snprintf(plan->grouping, sizeof plan->grouping, "none");
    snprintf(plan->replication, sizeof plan->replication, "none");
    plan->r = -1;
}

grace_status gr_plan_new(int32_t n_layers, int32_t n_experts, int32_t top_k, grace_cluster cluster, grace_plan **out) {
    grace_status st = GRACE_OK;
    grace_plan *plan = NULL;
    GR_TRY(check_numbers(n_layers, n_experts, top_k, cluster));
    GR_CALLOC(plan, 1);
    GR_CHECK((plan->memory = gr_arena_new()), GRACE_ERR_MEMORY, "no memory for a plan");
    plan->n_layers = n_layers;
    plan->n_experts = n_experts;
    plan->top_k = top_k;
    plan->cluster = cluster;
    name_nothing(plan);
    GR_ARENA_ARRAY(plan->memory, plan->layers, n_layers);
    *out = plan, plan = NULL;
done:
    grace_plan_free(plan);
    return st;
}

grace_status gr_plan_set_layer_ids(grace_plan *plan, const int32_t *ids) {
    grace_status st = GRACE_OK;
    int32_t *own = NULL;
    if (ids) GR_ARENA_ARRAY(plan->memory, own, plan->n_layers);
    if (ids) memcpy(own, ids, (size_t)plan->n_layers * sizeof *own);
    plan->layer_ids = own;
done:
    return st;
}

void grace_plan_free(grace_plan *plan) {
    if (!plan) return;
    gr_arena_free(plan->memory);
    free(plan);
}

static int by_rank_kind_expert(const void *a, const void *b) {
    const slot *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    if (x->secondary != y->secondary) return x->secondary - y->secondary;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

static grace_status list_slots(const grace_plan *plan, const int32_t *rank_of_expert, const gr_copy *copies, int32_t n_copies, slot **out) {
    grace_status st = GRACE_OK;
    slot *slots = NULL;
    GR_CALLOC(slots, (size_t)plan->n_experts + n_copies);
    for (int32_t e = 0; e < plan->n_experts; e++) slots[e] = (slot){rank_of_expert[e], 0, e};
    for (int32_t c = 0; c < n_copies; c++) slots[plan->n_experts + c] = (slot){copies[c].rank, 1, copies[c].expert};
    qsort(slots, (size_t)plan->n_experts + n_copies, sizeof *slots, by_rank_kind_expert);
    *out = slots;
done:
    return st;
}

static grace_status alloc_layer(grace_plan *plan, grace_plan_layer *pl) {
    grace_status st = GRACE_OK;
    int32_t n_ranks = grace_cluster_ranks(plan->cluster);
    GR_ARENA_ARRAY(plan->memory, pl->expert_of_slot, pl->n_slots);
    GR_ARENA_ARRAY(plan->memory, pl->rank_of_slot, pl->n_slots);
    GR_ARENA_ARRAY(plan->memory, pl->first_slot, (size_t)n_ranks + 1);
    GR_ARENA_ARRAY(plan->memory, pl->slots_first, (size_t)plan->n_experts + 1);
    GR_ARENA_ARRAY(plan->memory, pl->slots_of_expert, pl->n_slots);
    GR_ARENA_ARRAY(plan->memory, pl->poll_weight, pl->n_slots);
    GR_ARENA_ARRAY(plan->memory, pl->load_before, n_ranks);
    GR_ARENA_ARRAY(plan->memory, pl->load_after, n_ranks);
done:
    return st;
}

/* Counts in first[key + 1] become starts in first[key]. */
static void starts_from_counts(int32_t *first, int32_t n) {
    for (int32_t i = 0; i < n; i++) first[i + 1] += first[i];
}

static void fill_slots(grace_plan_layer *pl, const slot *slots, int32_t n_ranks) {
    for (int32_t s = 0; s < pl->n_slots; s++) {
        GR_ASSERT(slots[s].rank >= 0 && slots[s].rank < n_ranks);
        pl->expert_of_slot[s] = slots[s].expert;
        pl->rank_of_slot[s] = slots[s].rank;
        pl->first_slot[slots[s].rank + 1]++;
    }
    starts_from_counts(pl->first_slot, n_ranks);
}

/* Primaries take the first place of their expert, secondaries follow in order of slot, which is order of rank. taken [n_experts] zeros. */
static void fill_experts(grace_plan_layer *pl, const slot *slots, int32_t n_experts, int32_t *taken) {
    for (int32_t s = 0; s < pl->n_slots; s++) {
        GR_ASSERT(slots[s].expert >= 0 && slots[s].expert < n_experts);
        pl->slots_first[slots[s].expert + 1]++;
    }
    starts_from_counts(pl->slots_first, n_experts);
    for (int32_t s = 0; s < pl->n_slots; s++) {
        int32_t e = slots[s].expert;
        pl->slots_of_expert[pl->slots_first[e] + (slots[s].secondary ? ++taken[e] : 0)] = s;
    }
}

/* Copies come in order of rank, so that a rank that holds an expert twice shows up twice in a row, or as the primary's. */
static void assert_once_per_rank(const grace_plan_layer *pl, int32_t n_experts) {
    for (int32_t e = 0; e < n_experts; e++) {
        const int32_t *slot_of = pl->slots_of_expert + pl->slots_first[e];
        for (int32_t i = 1; i < pl->slots_first[e + 1] - pl->slots_first[e]; i++) {
            GR_ASSERT(pl->rank_of_slot[slot_of[i]] != pl->rank_of_slot[slot_of[0]]);
            GR_ASSERT(i == 1 || pl->rank_of_slot[slot_of[i]] > pl->rank_of_slot[slot_of[i - 1]]);
        }
    }
}

void gr_plan_weigh(const grace_plan *plan, int32_t layer) {
    const grace_plan_layer *pl = &plan->layers[layer];
    double load[GRACE_RANKS_MAX];
    float weight[GRACE_RANKS_MAX];
    for (int32_t e = 0; e < plan->n_experts; e++) {
        const int32_t *slot_of = pl->slots_of_expert + pl->slots_first[e];
        int32_t n = pl->slots_first[e + 1] - pl->slots_first[e];
        for (int32_t i = 0; i < n; i++) load[i] = pl->load_after[pl->rank_of_slot[slot_of[i]]];
        gr_poll_weights(load, n, weight);
        for (int32_t i = 0; i < n; i++) pl->poll_weight[slot_of[i]] = weight[i];
    }
}

grace_status gr_plan_place(grace_plan *plan, int32_t layer, const int32_t *rank_of_expert, const gr_copy *copies, int32_t n_copies) {
    grace_status st = GRACE_OK;
    grace_plan_layer pl = {.n_slots = plan->n_experts + n_copies};
    slot *slots = NULL;
    int32_t *taken = NULL;
    GR_TRY(list_slots(plan, rank_of_expert, copies, n_copies, &slots));
    GR_TRY(alloc_layer(plan, &pl));
    GR_CALLOC(taken, plan->n_experts);
    fill_slots(&pl, slots, grace_cluster_ranks(plan->cluster));
    fill_experts(&pl, slots, plan->n_experts, taken);
    assert_once_per_rank(&pl, plan->n_experts);
    plan->layers[layer] = pl;
    gr_plan_weigh(plan, layer);
done:
    free(slots), free(taken);
    return st;
}

int32_t gr_plan_home(const grace_plan_layer *layer, int32_t expert) {
    return layer->rank_of_slot[layer->slots_of_expert[layer->slots_first[expert]]];
}

grace_status grace_plan_contiguous(int32_t n_layers, int32_t n_experts, int32_t top_k, grace_cluster cluster, grace_plan **out) {
    grace_status st = GRACE_OK;
    grace_plan *plan = NULL;
    int32_t *rank_of_expert = NULL, n_ranks;
    GR_TRY(gr_plan_new(n_layers, n_experts, top_k, cluster, &plan));
    n_ranks = grace_cluster_ranks(cluster);
    GR_CHECK(n_ranks <= n_experts, GRACE_ERR_LIMIT, "%d ranks for %d experts: expected at least one for each; a plan may leave ranks empty", n_ranks,
             n_experts);
    GR_CALLOC(rank_of_expert, n_experts);
    for (int32_t e = 0; e < n_experts; e++) rank_of_expert[e] = (int32_t)((int64_t)e * n_ranks / n_experts);
    for (int32_t l = 0; l < n_layers; l++) GR_TRY(gr_plan_place(plan, l, rank_of_expert, NULL, 0));
    snprintf(plan->planner, sizeof plan->planner, "contiguous");
    *out = plan, plan = NULL;
done:
    grace_plan_free(plan);
    free(rank_of_expert);
    return st;
}
