/* What holds for every plan, whoever made it; and random plans. */
#ifndef GR_TESTS_PLAN_CLAIMS_H
#define GR_TESTS_PLAN_CLAIMS_H
#include <math.h>

#include "plan/planner_cases.h"
#include "plan/tables.h"

/* Slots: by rank without gaps; within a rank primaries by expert, then secondaries by expert; no expert twice on a rank. */
static inline void claim_slots(const grace_plan *plan, const grace_plan_layer *pl, uint64_t seed) {
    int32_t n_ranks = grace_cluster_ranks(plan->cluster);
    claim(pl->first_slot[0] == 0 && pl->first_slot[n_ranks] == pl->n_slots, seed);
    for (int32_t r = 0; r < n_ranks; r++)
        for (int32_t s = pl->first_slot[r]; s < pl->first_slot[r + 1]; s++) {
            int32_t e = pl->expert_of_slot[s];
            claim(pl->rank_of_slot[s] == r && e >= 0 && e < plan->n_experts, seed);
            for (int32_t t = pl->first_slot[r]; t < s; t++) {
                bool earlier_is_copy = gr_plan_home(pl, pl->expert_of_slot[t]) != r, is_copy = gr_plan_home(pl, e) != r;
                claim(pl->expert_of_slot[t] != e, seed);
                claim(earlier_is_copy == is_copy ? pl->expert_of_slot[t] < e : is_copy, seed);
            }
        }
}

/* The CSR lists every slot once, under its expert, the primary first, then by rank; weights of an expert sum to 1. */
static inline void claim_experts(const grace_plan *plan, const grace_plan_layer *pl, uint64_t seed) {
    int32_t *seen = new_ints((size_t)pl->n_slots);
    claim(pl->slots_first[0] == 0 && pl->slots_first[plan->n_experts] == pl->n_slots, seed);
    for (int32_t e = 0; e < plan->n_experts; e++) {
        double sum = 0;
        claim(pl->slots_first[e + 1] > pl->slots_first[e], seed);
        for (int32_t i = pl->slots_first[e]; i < pl->slots_first[e + 1]; i++) {
            int32_t s = pl->slots_of_expert[i];
            claim(s >= 0 && s < pl->n_slots && pl->expert_of_slot[s] == e && !seen[s]++, seed);
            claim(i < pl->slots_first[e] + 2 || pl->rank_of_slot[s] > pl->rank_of_slot[pl->slots_of_expert[i - 1]], seed);
            claim(pl->poll_weight[s] >= 0 && pl->poll_weight[s] <= 1, seed);
            sum += (double)pl->poll_weight[s];
        }
        claim(fabs(sum - 1) < 1e-6, seed);
    }
    free(seen);
}

static inline void claim_plan(const grace_plan *plan, uint64_t seed) {
    for (int32_t l = 0; l < plan->n_layers; l++) {
        claim_slots(plan, &plan->layers[l], seed);
        claim_experts(plan, &plan->layers[l], seed);
    }
}

/* Primaries anywhere, also leaving ranks empty; each expert gets a copy on each other rank with the given chance. */
static inline grace_status place_at_random(gr_rng *rng, grace_plan *plan, int32_t layer, double chance, int32_t *rank_of_expert) {
    int32_t n_ranks = grace_cluster_ranks(plan->cluster), n_copies = 0;
    gr_copy *copies = calloc((size_t)plan->n_experts * (size_t)n_ranks, sizeof *copies);
    if (!copies) abort();
    for (int32_t e = 0; e < plan->n_experts; e++) {
        rank_of_expert[e] = (int32_t)gr_rng_below(rng, (uint32_t)n_ranks);
        for (int32_t r = n_ranks - 1; r >= 0; r--)
            if (r != rank_of_expert[e] && gr_rng_uniform(rng) < chance) copies[n_copies++] = (gr_copy){e, r};
    }
    grace_status st = gr_plan_place(plan, layer, rank_of_expert, copies, n_copies);
    free(copies);
    return st;
}

static inline bool same_layers(const grace_plan_layer *a, const grace_plan_layer *b, int32_t n_experts, int32_t n_ranks) {
    size_t n = (size_t)a->n_slots, loads = (size_t)n_ranks * sizeof(double);
    return a->n_slots == b->n_slots && a->n_replica == b->n_replica && !memcmp(a->expert_of_slot, b->expert_of_slot, n * 4) &&
           !memcmp(a->rank_of_slot, b->rank_of_slot, n * 4) && !memcmp(a->first_slot, b->first_slot, ((size_t)n_ranks + 1) * 4) &&
           !memcmp(a->slots_first, b->slots_first, ((size_t)n_experts + 1) * 4) && !memcmp(a->slots_of_expert, b->slots_of_expert, n * 4) &&
           !memcmp(a->poll_weight, b->poll_weight, n * 4) && !memcmp(a->load_before, b->load_before, loads) &&
           !memcmp(a->load_after, b->load_after, loads) && !a->serve_decode == !b->serve_decode &&
           (!a->serve_decode || !memcmp(a->serve_decode, b->serve_decode, n * sizeof(bool)));
}

/* Equal in every table, floats bit by bit. */
static inline bool same_plans(const grace_plan *a, const grace_plan *b) {
    bool same = !strcmp(a->planner, b->planner) && !strcmp(a->grouping, b->grouping) && !strcmp(a->replication, b->replication) &&
                a->fingerprint == b->fingerprint && a->seed == b->seed && a->cluster.n_nodes == b->cluster.n_nodes &&
                a->cluster.gpus_per_node == b->cluster.gpus_per_node && a->n_layers == b->n_layers && a->n_experts == b->n_experts &&
                a->top_k == b->top_k && !memcmp(&a->r, &b->r, sizeof a->r) && a->n_knee == b->n_knee && a->knee_chosen == b->knee_chosen;
    for (int32_t i = 0; same && i < a->n_knee; i++)
        same = a->knee[i].delta == b->knee[i].delta && a->knee[i].r == b->knee[i].r && a->knee[i].size_std == b->knee[i].size_std &&
               a->knee[i].utility == b->knee[i].utility;
    for (int32_t l = 0; same && l < a->n_layers; l++)
        same = same_layers(&a->layers[l], &b->layers[l], a->n_experts, grace_cluster_ranks(a->cluster));
    return same;
}

#endif
